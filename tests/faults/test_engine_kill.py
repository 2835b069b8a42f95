"""kill -9 of engines: clients get an error that says to try again, and the deployment serves again by itself."""

import os
import re
import signal
from typing import Any

import pytest

from tests.faults.program import PATIENCE_S, Home, Prepared, Server
from tests.faults.traffic import Answer, asked, chat, fetched, ledger, sent, streaming
from tests.serving import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def replica(server: Server, key: str, name: str) -> Any:
    """The one replica of a deployment, as the control API tells it."""
    found = fetched(server.url, f"/api/v1/deployments/{name}", key=key)["replicas"]
    return found[0] if found else {"pid": None, "state": "pending"}


def kill(server: Server, key: str, name: str) -> Any:
    """Kill the engine of a deployment once it is ready; its replica as it is told when that was noticed."""
    told: list[Any] = []

    def is_without(pid: int) -> bool:
        told.append(replica(server, key, name))
        return bool(told[-1]["pid"] != pid)

    wait_until(lambda: replica(server, key, name)["state"] == "ready", seconds=PATIENCE_S)
    pid = replica(server, key, name)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_without(pid))
    return told[-1]


def metric(server: Server, name: str) -> float:
    """One number of the server's metrics."""
    lines = asked(server.url, "/metrics", method="GET").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))


def assert_says_to_come_back(answer: Answer) -> None:
    assert answer.status == 503
    assert float(answer.headers["retry-after"]) > 0
    assert float(answer.headers["retry-after-ms"]) > 0
    assert answer.headers["x-should-retry"] == "true"


def test_a_stream_ends_with_an_error_and_the_deployment_comes_back(tandem: Home, prepared: Prepared) -> None:
    key = prepared.key
    with tandem.serving() as server:
        server.wait_until_ready()
        stream = streaming(server.url, key=key, tokens=3000)
        os.kill(replica(server, key, "slow")["pid"], signal.SIGKILL)
        answer = stream.read()
        assert answer.whole, "it ends as HTTP wants"
        assert not answer.is_finished_stream
        assert answer.events[-1]["error"]["code"] == "engine_failed"

        def at_once() -> Answer:
            return asked(server.url, "/v1/chat/completions", chat("slow", tokens=2), key=key)

        then = at_once()
        if then.status != 200:  # who comes late finds it back already
            assert_says_to_come_back(then)
        other = asked(server.url, "/v1/chat/completions", chat("quick", tokens=2), key=key)
        assert other.status == 200, "its neighbours keep serving"
        wait_until(lambda: at_once().status == 200, seconds=PATIENCE_S)
        rows = {row["id"]: row for row in ledger(server.url, prepared.admin_key)}
    assert rows[answer.id]["outcome"] == "engine_failed"
    assert 0 < rows[answer.id]["completion_tokens"] < 3000, "what arrived is counted"


def test_a_plain_request_fails_with_503(tandem: Home, prepared: Prepared) -> None:
    key = prepared.key
    with tandem.serving() as server:
        server.wait_until_ready()
        before = streaming(server.url, key=key, tokens=3000)  # so that the engine certainly works when it is killed
        request = sent(server.url, "/v1/chat/completions", chat("slow", tokens=3000), key=key)
        wait_until(lambda: metric(server, "tandem_requests_in_flight") >= 2)
        os.kill(replica(server, key, "slow")["pid"], signal.SIGKILL)
        answer = request.read()
        before.read()
    assert_says_to_come_back(answer)
    assert answer.json()["error"]["code"] == "engine_failed"
    assert "again" in answer.json()["error"]["message"]


def test_an_engine_that_keeps_dying_is_started_with_growing_pauses(tandem: Home, prepared: Prepared) -> None:
    with tandem.serving() as server:
        for _ in range(3):
            told = kill(server, prepared.key, "quick")
            assert told["state"] == "restarting" or told["pid"], "who comes late finds it back already"
        wait_until(lambda: replica(server, prepared.key, "quick")["state"] == "ready", seconds=PATIENCE_S)
        assert tandem.deployment("quick")["replicas"][0]["restarts"] == 3
        assert tandem.deployment("slow")["replicas"][0]["restarts"] == 0
        pauses = [float(number) for number in re.findall(r"replica=quick.*next_start_s=([\d.]+)", server.said())]
    assert len(re.findall(r"replica=quick.*SIGKILL", server.said())) == 3
    assert len(pauses) == 3
    assert pauses[0] < 0.8
    assert pauses[2] >= 1.0


def test_a_stopped_engine_is_replaced(tandem: Home, prepared: Prepared) -> None:
    """An engine that hangs answers no health check; it is killed, and another one starts."""
    with tandem.serving() as server:
        server.wait_until_ready()
        pid = replica(server, prepared.key, "quick")["pid"]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: replica(server, prepared.key, "quick")["pid"] not in {pid, None}, seconds=2 * PATIENCE_S)
        assert pid not in tandem.engines()
        answer = asked(server.url, "/v1/chat/completions", chat("quick", tokens=2), key=prepared.key)
        assert answer.status == 200
