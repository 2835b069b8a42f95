"""Asking over loopback: whatever answers, health never raises and metrics are numbers."""

import socket

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import Unavailable
from tandem.serve.engines import loopback
from tandem.serve.engines.loopback import ask_health, parse_metrics, read_metrics
from tandem.serve.engines.port import Address, Health

pytestmark = pytest.mark.anyio


async def _answering(status: int) -> tuple[web.AppRunner, Address]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text="x 1")

    app = web.Application()
    app.router.add_get("/{path}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, Address(url=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key="key")


@pytest.mark.parametrize(
    ("status", "health"),
    [(200, Health.READY), (503, Health.LOADING), (500, Health.FAILING), (404, Health.FAILING)],
)
async def test_health_follows_the_status(status: int, health: Health) -> None:
    runner, address = await _answering(status)
    assert await ask_health(address) is health
    await runner.cleanup()


async def test_metrics_need_an_answer() -> None:
    runner, address = await _answering(500)
    with pytest.raises(Unavailable, match="does not tell its metrics"):
        await read_metrics(address)
    await runner.cleanup()
    with pytest.raises(Unavailable):
        await read_metrics(address)


async def test_silence_is_no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "_PATIENCE", loopback.aiohttp.ClientTimeout(total=0.05))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(url=f"http://127.0.0.1:{listener.getsockname()[1]}", api_key="key")
        assert await ask_health(address) is Health.FAILING
        with pytest.raises(Unavailable):
            await read_metrics(address)


def test_samples_by_name() -> None:
    page = '# HELP a b\n# TYPE a counter\na 1\nb{c="d e"} 2.5\n\nnonsense\nf x\n'
    assert parse_metrics(page) == {"a": 1.0, 'b{c="d e"}': 2.5}


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert all(isinstance(value, float) for value in parse_metrics(text).values())
