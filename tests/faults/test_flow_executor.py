"""The executor of flows beside a real server: it comes with the first flow, goes with the server, and may break."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.program import Home, Prepared, Server
from tests.faults.traffic import asked
from tests.serving import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def executors(tandem: Home) -> list[int]:
    """The living executors of this home."""
    return [pid for pid in tandem.processes() if b"--until-eof" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it is gone
        return b""


def begun(server: Server, prepared: Prepared, *, model: str = "quick@1") -> str:
    answer = asked(
        server.url, "/api/v1/flows", key=prepared.admin_key, body={"story": "release", "arguments": {"model": model}}
    )
    assert answer.status == 201, answer.body
    return str(answer.json()["id"])


def state(tandem: Home, flow: str) -> Any:
    return tandem.json("flows", "show", flow)["state"]


def test_it_comes_with_the_first_flow_and_goes_with_the_server(tandem: Home, prepared: Prepared) -> None:
    with tandem.serving() as server:
        assert not executors(tandem)
        flow = begun(server, prepared)
        wait_until(lambda: state(tandem, flow) == "succeeded")
        assert len(executors(tandem)) == 1
        assert server.stop(signal.SIGTERM) == 0
        assert not tandem.processes()


def test_it_is_begun_again_where_it_is_killed(tandem: Home, prepared: Prepared) -> None:
    with tandem.serving() as server:
        begun(server, prepared)
        wait_until(lambda: executors(tandem))
        [first] = executors(tandem)
        os.kill(first, signal.SIGKILL)
        flow = begun(server, prepared, model="slow@1")
        wait_until(lambda: state(tandem, flow) == "succeeded")
        assert executors(tandem) != [first]


def test_it_does_not_outlive_a_server_that_is_killed(tandem: Home, prepared: Prepared) -> None:
    server = tandem.start()
    try:
        begun(server, prepared)
        wait_until(lambda: executors(tandem))
        server.process.kill()
        wait_until(lambda: not executors(tandem))
    finally:
        server.close()


def test_a_damaged_record_of_flows_stops_no_server(tandem: Home, prepared: Prepared) -> None:
    (tandem.folder / "flows.db").write_bytes(b"nothing" * 1000)
    with tandem.serving() as server:
        server.wait_until_ready()
        wait_until(lambda: "flows wait: flows.db in the home folder is damaged" in server.said())
        answer = asked(server.url, "/api/v1/flows", method="GET", key=prepared.admin_key)
        assert (answer.status, answer.json()["error"]["code"]) == (500, "integrity")
        body = {"model": "quick", "prompt": "one two", "max_tokens": 3}
        assert asked(server.url, "/v1/completions", key=prepared.key, body=body).status == 200
        assert server.stop(signal.SIGTERM) == 0
