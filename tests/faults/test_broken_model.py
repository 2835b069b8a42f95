"""Broken model files: refused where that can be seen, contained where not, and healed by deploying a good one."""

from pathlib import Path
from typing import Any

import pytest

from tandem.formats.tiny import write_tiny_gguf
from tests.faults.program import PATIENCE_S, Home, Prepared
from tests.faults.traffic import Answer, Traffic, asked, chat
from tests.serving import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def blob(tandem: Home, digest: str) -> Path:
    """Where the bytes of a model lie."""
    (path,) = (tandem.folder / "blobs").rglob(digest.removeprefix("sha256:"))
    return path


def without_a_tensor(path: Path) -> Path:
    """A file whose header is whole and in which llama.cpp misses a tensor."""
    data = write_tiny_gguf(path).read_bytes()
    assert data.count(b"blk.1.attn_q.weight") == 1
    path.write_bytes(data.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"))
    return path


def state(tandem: Home, name: str) -> str:
    return str(tandem.deployment(name)["state"])


def test_a_damaged_file_is_not_deployed(tandem: Home) -> None:
    digest = tandem.json("models", "show", "quick")["digest"]
    path = blob(tandem, digest)
    path.write_bytes(path.read_bytes()[:-4096])
    said = tandem.refused("deploy", "other", "--model", "quick")
    assert digest in said
    assert "tandem models pull file:quick.gguf --name quick" in said
    assert [found["name"] for found in tandem.json("status")["deployments"]] == ["quick", "slow"]
    found = {finding["check"]: finding for finding in tandem.json("doctor", status=1)}
    assert found["deployments"]["state"] == "broken"
    assert "tandem models pull" in found["deployments"]["remedy"]


def test_a_file_that_vanished_is_contained_and_said(tandem: Home, prepared: Prepared) -> None:
    blob(tandem, tandem.json("models", "show", "quick")["digest"]).unlink()
    with tandem.serving() as server:
        wait_until(lambda: state(tandem, "quick") == "failed", seconds=PATIENCE_S)
        assert "tandem models pull" in tandem.deployment("quick")["replicas"][0]["last_error"]
        wait_until(lambda: state(tandem, "slow") == "ready", seconds=PATIENCE_S)
        refused = asked(server.url, "/v1/chat/completions", chat("quick", tokens=2), key=prepared.key)
        assert refused.status == 503
        assert "failed" in refused.json()["error"]["message"]


def test_a_file_that_does_not_load_is_contained_and_healed_by_another(
    tandem: Home, prepared: Prepared, tmp_path: Path
) -> None:
    bad = without_a_tensor(tmp_path / "broken.gguf")
    good = write_tiny_gguf(tmp_path / "good.gguf", seed=1)
    assert tandem.bare("models", "pull", f"file:{bad}", "--name", "mended") == "mended@1"
    tandem.release("mended@1")
    with tandem.serving() as server:

        def chatted(name: str) -> Any:
            return asked(server.url, "/v1/chat/completions", chat(name, tokens=2), key=prepared.key)

        server.wait_until_ready()
        said = tandem.refused("deploy", "mended")
        assert "attn_q" in said
        known = tandem.deployment("mended")
        assert known["state"] == "failed"
        assert "attn_q" in known["replicas"][0]["last_error"]
        refused = chatted("mended")
        assert refused.status == 503
        assert "failed" in refused.json()["error"]["message"]
        assert "tandem status" in refused.json()["error"]["message"], "the cause may name paths of this machine"
        assert float(refused.headers["retry-after"]) > 0
        assert chatted("quick").status == 200, "its neighbours keep serving"

        assert tandem.bare("models", "pull", f"file:{good}", "--name", "mended") == "mended@2"
        tandem.release("mended@2")
        assert tandem.bare("deploy", "mended") == "mended"
        assert state(tandem, "mended") == "ready"
        assert chatted("mended").status == 200


def test_a_broken_version_never_replaces_a_good_one(tandem: Home, prepared: Prepared, tmp_path: Path) -> None:
    bad = without_a_tensor(tmp_path / "broken.gguf")
    assert tandem.bare("models", "pull", f"file:{bad}", "--name", "quick") == "quick@2"
    tandem.release("quick@2")
    with tandem.serving() as server:
        server.wait_until_ready()
        with Traffic(server.url, key=prepared.key, requests=[chat("quick", tokens=3)]).flowing() as traffic:
            assert "quick@2" in tandem.refused("deploy", "quick")
        assert {answer.status for answer in traffic.answers} == {200}
        assert {answer.json()["system_fingerprint"] for answer in traffic.answers} == {"fp_quick@1"}


def test_a_new_version_under_load_loses_no_request(tandem: Home, prepared: Prepared, tmp_path: Path) -> None:
    good = write_tiny_gguf(tmp_path / "good.gguf", seed=1)
    assert tandem.bare("models", "pull", f"file:{good}", "--name", "quick") == "quick@2"
    tandem.release("quick@2")
    requests = [chat("quick", tokens=3), chat("quick", tokens=40, stream=True), chat("slow", tokens=20, stream=True)]
    with tandem.serving() as server:
        server.wait_until_ready()
        with Traffic(server.url, key=prepared.key, requests=requests).flowing() as traffic:
            wait_until(lambda: answered_by(traffic.answers))
            assert tandem.bare("deploy", "quick") == "quick"
            enough = len(traffic.answers) + 10
            wait_until(lambda: len(traffic.answers) >= enough and "fp_quick@2" in answered_by(traffic.answers))
    assert all(answer.whole for answer in traffic.answers)
    assert {answer.status for answer in traffic.answers} == {200}
    assert all(answer.is_finished_stream for answer in traffic.answers if is_stream(answer))
    assert answered_by(traffic.answers) == {"fp_quick@1", "fp_quick@2"}


def is_stream(answer: Answer) -> bool:
    return answer.headers.get("content-type", "").startswith("text/event-stream")


def answered_by(answers: list[Answer]) -> set[str]:
    """The versions that gave the plain answers so far."""
    plain = [answer for answer in list(answers) if answer.status == 200 and not is_stream(answer)]
    return {answer.json()["system_fingerprint"] for answer in plain}
