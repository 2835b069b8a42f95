"""Platforms that all contract tests share: in front of the fake engine, of tiny models, and of a real one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tandem.kit.config import load_settings
from tandem.registry import pull
from tandem.serve import DeployOptions
from tandem.server import House
from tests.contract.clients import FAMILIES, sync_client
from tests.serving import Served, released, running, served, tiny_model


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The fake engine behind `tiny` (chat), `tools`, `fim`, `plain` (no chat template), `fragile` and `embedder`."""
    folder = tmp_path_factory.mktemp("fake")
    models = {
        "tiny": tiny_model(folder),
        "tools": tiny_model(folder, "tools", tools=True),
        "fim": tiny_model(folder, "fim", fim=True),
        "plain": tiny_model(folder, "plain", chat=False),
        "fragile": tiny_model(folder, "fragile"),
    }
    embedders = {"embedder": tiny_model(folder, "embedder")}
    with served(load_settings({}, home=folder / "home", port=0), models=models, embedders=embedders) as running_one:
        yield running_one


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """llama.cpp behind `tiny`, `tools`, `fim` and `embedder`: random weights, real behaviour."""
    pytest.importorskip("xllamacpp", reason="the CPU engine is not installed")
    folder = tmp_path_factory.mktemp("real")
    models = {
        "tiny": tiny_model(folder),
        "tools": tiny_model(folder, "tools", tools=True, context_length=2048),
        "fim": tiny_model(folder, "fim", fim=True),
    }
    embedders = {"embedder": tiny_model(folder, "embedder")}
    settings = load_settings({}, home=folder / "home", port=0)
    options = DeployOptions(threads=1)
    with served(settings, models=models, embedders=embedders, engine="llamacpp", options=options) as running_one:
        yield running_one


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The starter model on llama.cpp; downloaded once."""
    pytest.importorskip("xllamacpp", reason="the CPU engine is not installed")
    home: Path = tmp_path_factory.mktemp("starter") / "home"
    settings = load_settings({}, home=home, port=0)
    house = House.open(settings)
    version = asyncio.run(pull("starter", registry=house.registry, settings=settings))
    released(house, version)
    house.deployments.bind("starter", version=version, options=DeployOptions(context_tokens=1024), engine="llamacpp")
    with running(house) as running_one:
        yield running_one


@pytest.fixture(scope="module", params=FAMILIES)
def client(request: pytest.FixtureRequest, fake: Served) -> Iterator[openai.OpenAI]:
    """The official client of each URL family, in front of the fake engine; it does not try again."""
    with sync_client(fake, request.param) as opened:
        yield opened
