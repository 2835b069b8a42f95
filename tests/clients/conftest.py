"""A platform in front of the fake engine, for clients that other people wrote."""

from collections.abc import Iterator

import pytest

from tandem.kit.config import load_settings
from tests.serving import Served, served, tiny_model


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The fake engine behind `tiny`, `tools` and `embedder`."""
    folder = tmp_path_factory.mktemp("clients")
    models = {"tiny": tiny_model(folder), "tools": tiny_model(folder, "tools", tools=True)}
    embedders = {"embedder": tiny_model(folder, "embedder")}
    with served(load_settings({}, home=folder / "home", port=0), models=models, embedders=embedders) as running_one:
        yield running_one
