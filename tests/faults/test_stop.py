"""Stopping with a signal: running answers first, then nothing is left but the ledger."""

import signal

import pytest

from tests.faults.program import PATIENCE_S, Home, Prepared, Server
from tests.faults.traffic import asked, ledger, streaming
from tests.serving import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def assert_nothing_left(tandem: Home, server: Server) -> None:
    assert not tandem.processes()
    assert not (tandem.folder / "server.json").exists()
    assert not list((tandem.folder / "journal").glob("*.log")), "the ledger is folded"
    assert "Traceback" not in server.said(), server.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_running_stream_is_finished(tandem: Home, prepared: Prepared, number: signal.Signals) -> None:
    with tandem.serving() as server:
        server.wait_until_ready()
        stream = streaming(server.url, key=prepared.key, tokens=100)
        server.process.send_signal(number)
        answer = stream.read()
        assert answer.is_finished_stream
        assert answer.tokens()[1] == 100
        assert server.process.wait(PATIENCE_S) == 0
        assert_nothing_left(tandem, server)
    (used,) = tandem.json("usage", "--by", "deployment")
    assert (used["group"], used["requests"], used["completion_tokens"]) == ("slow", 1, 100)


def test_new_requests_are_refused_while_it_drains(tandem: Home, prepared: Prepared) -> None:
    with tandem.serving() as server:
        server.wait_until_ready()
        stream = streaming(server.url, key=prepared.key, tokens=300)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: asked(server.url, "/health", method="GET").status == 0)
        assert stream.read().is_finished_stream
        assert server.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("how", ["drain_timeout", "second_signal"])
def test_a_stream_that_takes_too_long_is_cut_off_and_settled(tandem: Home, prepared: Prepared, how: str) -> None:
    patience = {"drain_timeout": 0.5, "second_signal": 300}
    with tandem.serving(drain_timeout_s=patience[how]) as server:
        server.wait_until_ready()
        stream = streaming(server.url, key=prepared.key, tokens=3000)
        server.process.send_signal(signal.SIGINT)
        if how == "second_signal":
            wait_until(lambda: asked(server.url, "/health", method="GET").status == 0)
            server.process.send_signal(signal.SIGINT)
        answer = stream.read()
        assert not answer.is_finished_stream
        assert server.process.wait(PATIENCE_S) == 0
        assert_nothing_left(tandem, server)
    with tandem.serving() as server:
        (row,) = ledger(server.url, prepared.admin_key)
    assert row["id"] == answer.id
    assert row["outcome"] in {"interrupted", "client_gone"}
    assert 0 < row["completion_tokens"] < 3000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_while_engines_load(tandem: Home, number: signal.Signals) -> None:
    server = tandem.start()
    try:
        wait_until(tandem.engines)
        assert server.stop(number) == 0
        assert_nothing_left(tandem, server)
    finally:
        server.close()


def test_ctrl_c_stops_the_whole_terminal_group(tandem: Home, prepared: Prepared) -> None:
    """A terminal sends SIGINT to the engines too; they must outlive the answers that they make."""
    with tandem.serving() as server:
        server.wait_until_ready()
        stream = streaming(server.url, key=prepared.key, tokens=100)
        server.interrupt_group()
        assert stream.read().is_finished_stream
        assert server.process.wait(PATIENCE_S) == 0
        assert_nothing_left(tandem, server)
