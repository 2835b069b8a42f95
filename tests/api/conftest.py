"""A platform in front of the fake engine, with two tenants."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tandem.accounts import Role
from tandem.accounts.tables import tenants
from tandem.kit import clock
from tandem.kit.config import load_settings
from tests.serving import Served, served, tiny_model


@dataclass(frozen=True, slots=True)
class Keys:
    """A key of each role in each of two tenants."""

    admin: str
    user: str
    other_admin: str
    other_user: str


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The fake engine behind `embedder` and `tiny`; new for each module, so that tests may count."""
    folder = tmp_path_factory.mktemp("api")
    settings = load_settings({}, home=folder / "home", port=0)
    embedders = {"embedder": tiny_model(folder, "embedder")}
    with served(settings, models={"tiny": tiny_model(folder)}, embedders=embedders) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def keys(fake: Served) -> Keys:
    """Keys of the default tenant and of a second one."""
    row = {"id": "tenant_b", "name": "b", "created_at": clock.now()}
    fake.house.db.run_sync(lambda connection: connection.execute(tenants.insert().values(**row)))
    create = fake.house.keyring.create
    return Keys(
        create("a-admin", role=Role.ADMIN).secret,
        create("a-user").secret,
        create("b-admin", role=Role.ADMIN, tenant="tenant_b").secret,
        create("b-user", tenant="tenant_b").secret,
    )
