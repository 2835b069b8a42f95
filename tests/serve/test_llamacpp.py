"""The llama.cpp engine: nothing of it is left behind, and its errors say what to do."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.formats import facts, read_header, write_tiny_gguf
from tandem.kit.errors import EngineFailed, IntegrityError, MissingPrerequisite, NotFound
from tandem.serve.engines import LlamaCpp, llamacpp
from tandem.serve.engines.port import Feature
from tandem.spec import Task
from tests.serve.launches import get, post, running, tiny_launch, until

pytestmark = pytest.mark.anyio

_PARENT = """
import asyncio, pathlib, signal, sys
from tandem.serve.engines import LlamaCpp
from tandem.serve.engines.port import Launch
from tandem.spec import Task

async def main():
    model, log = map(pathlib.Path, sys.argv[1:])
    engine = LlamaCpp(Launch(model_path=model, task=Task.GENERATE, alias="tiny", log_path=log, context_tokens=64))
    await engine.start()
    print(engine.address.pid, flush=True)
    await asyncio.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background inherits "ignored"
asyncio.run(main())
"""


def _is_running(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent to notice its end does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
async def test_no_child_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(model), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with parent:
        assert parent.stdout is not None
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert _is_running(child)
        os.killpg(parent.pid, number)
    await until(lambda: not _is_running(child))


@pytest.mark.fault
async def test_child_ends_when_its_parent_died_before_the_orders(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", llamacpp.__file__.replace(".py", "_child.py"), stdin=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.close()
    assert await asyncio.wait_for(child.wait(), 30) == 0


async def test_stop_leaves_no_process(tmp_path: Path) -> None:
    async with running(LlamaCpp, tiny_launch(tmp_path)) as engine:
        pid = engine.address.pid
        assert pid is not None
        assert _is_running(pid)
    assert not _is_running(pid)


@pytest.mark.fault
async def test_stop_ends_a_child_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "_PATIENCE_S", 0.1)
    async with running(LlamaCpp, tiny_launch(tmp_path)) as engine:
        pid = engine.address.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not _is_running(pid)


async def test_a_start_that_is_given_up_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text("import sys\nsys.stdin.read()\n")  # one that never answers, so that the start is not over
    monkeypatch.setattr(llamacpp, "_CHILD", child)
    engine = LlamaCpp(tiny_launch(tmp_path))
    start = asyncio.create_task(engine.start())
    await until(lambda: engine._process is not None)
    assert engine._process is not None
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not _is_running(engine._process.pid)


async def test_slow_start_is_an_error(tmp_path: Path) -> None:
    engine = LlamaCpp(tiny_launch(tmp_path, start_timeout_s=0.001))
    with pytest.raises(EngineFailed, match="did not load its model within 0.001 s.*engine_start_timeout_s"):
        await engine.start()
    assert engine._process is not None
    assert engine._process.returncode is not None


async def test_the_key_is_nowhere_to_be_read(tmp_path: Path) -> None:
    launch = tiny_launch(tmp_path)
    async with running(LlamaCpp, launch) as engine:
        await post(engine.address, "/v1/completions", prompt="word " * 1000)
        # llama.cpp answers first; a thread of its own writes the log.
        await until(lambda: "exceeds the available context size" in launch.log_path.read_text())
        process = Path(f"/proc/{engine.address.pid}")
        key = engine.address.api_key.encode()
        assert len(key) > 32
        seen = [process / "cmdline", process / "environ", launch.log_path]
        assert not [path for path in seen if key in path.read_bytes()]


async def test_child_answers_on_loopback_only(tmp_path: Path) -> None:
    async with running(LlamaCpp, tiny_launch(tmp_path)) as engine:
        assert engine.address.url.startswith("http://127.0.0.1:")


async def test_each_request_has_the_whole_context(tmp_path: Path) -> None:
    async with running(LlamaCpp, tiny_launch(tmp_path, context_length=1024, context_tokens=300, parallel=3)) as engine:
        slots = await get(engine.address, "/slots")
    assert [slot["n_ctx"] for slot in slots] == [512] * 3
    assert engine.capabilities.context_tokens == 512


async def test_embeddings(tmp_path: Path) -> None:
    async with running(LlamaCpp, tiny_launch(tmp_path, task=Task.EMBED, context_tokens=512)) as engine:
        assert engine.capabilities.features == {Feature.EMBEDDINGS}
        status, answer = await post(engine.address, "/v1/embeddings", input=["one two", "three " * 60])
        assert status == 200
        assert [item["index"] for item in answer["data"]] == [0, 1]
        for item in answer["data"]:
            assert sum(value * value for value in item["embedding"]) == pytest.approx(1, abs=1e-3)
        assert answer["usage"]["prompt_tokens"] > 60


async def test_tools_are_declared_where_they_are_enforced(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tools.gguf", tools=True, context_length=2048)
    launch = tiny_launch(tmp_path, model_path=path, facts=facts(read_header(path)), context_tokens=2048)
    parameters = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    tool = {"type": "function", "function": {"name": "answer", "parameters": parameters}}
    body = {"messages": [{"role": "user", "content": "go"}], "tools": [tool], "tool_choice": "required"}
    async with running(LlamaCpp, launch) as engine:
        assert Feature.TOOLS in engine.capabilities.features
        status, answer = await post(engine.address, "/v1/chat/completions", **body, seed=1, max_tokens=1024)
    assert status == 200
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "answer"
    assert json.loads(call["arguments"])["ok"] in {True, False}


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _no_header(data: bytes) -> bytes:
    return b"PK\3\4" + data[4:]


@pytest.mark.parametrize("spoil", [_truncated, _no_header, lambda data: b"", lambda data: data[:100]])
async def test_broken_model_file(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = write_tiny_gguf(tmp_path / "whole.gguf")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(IntegrityError, match="whole.gguf") as caught:
        await LlamaCpp(tiny_launch(tmp_path, model_path=path)).start()
    assert caught.value.remedy


async def test_model_that_llamacpp_does_not_know(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "odd.gguf")
    data = path.read_bytes()
    assert data.count(b"general.architecture") == 1
    path.write_bytes(data.replace(b"llama", b"lhama"))
    engine = LlamaCpp(tiny_launch(tmp_path, model_path=path))
    with pytest.raises(IntegrityError, match=r"odd.gguf cannot be read as a model: .*lhama"):
        await engine.start()
    assert engine._process is not None
    assert engine._process.returncode is not None


async def test_missing_model_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="absent.gguf"):
        await LlamaCpp(tiny_launch(tmp_path, model_path=tmp_path / "absent.gguf")).start()


_LITTLE_MEMORY = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
runpy.run_path({child!r}, run_name="__main__")
"""


async def test_too_little_memory_quotes_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text(_LITTLE_MEMORY.format(child=str(llamacpp._CHILD)))
    monkeypatch.setattr(llamacpp, "_CHILD", child)
    # 2^24 tokens with 256 bytes in the cache each: 4 GiB.
    launch = tiny_launch(tmp_path, context_length=2**21, context_tokens=2**21, parallel=8)
    with pytest.raises(EngineFailed, match=r"did not start: .*The end of its log: .*alloc") as caught:
        await LlamaCpp(launch).start()
    assert "less memory" in caught.value.remedy


async def test_more_context_than_llamacpp_can_count(tmp_path: Path) -> None:
    launch = tiny_launch(tmp_path, context_length=2**24, context_tokens=2**24, parallel=256)
    with pytest.raises(EngineFailed, match="did not start"):
        await LlamaCpp(launch).start()


async def test_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    source = Path(llamacpp.__file__).with_name("llamacpp_child.py").read_text()
    child.write_text(source.replace("import xllamacpp\n", "import xllamacpp_that_is_not_installed\n"))
    monkeypatch.setattr(llamacpp, "_CHILD", child)
    with pytest.raises(MissingPrerequisite, match="pip install"):
        await LlamaCpp(tiny_launch(tmp_path)).start()


async def test_child_that_crashes_while_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text("import os, sys\nprint('about to abort', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setattr(llamacpp, "_CHILD", child)
    with pytest.raises(EngineFailed, match="was killed by SIGABRT.*about to abort"):
        await LlamaCpp(tiny_launch(tmp_path)).start()


def test_log_is_moved_aside_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "logs" / "engine.log"
    assert llamacpp.rotated(path) == 0
    path.write_text("a" * 10)
    assert llamacpp.rotated(path) == 10
    monkeypatch.setattr(llamacpp, "_LOG_BYTES", 9)
    assert llamacpp.rotated(path) == 0
    assert not path.exists()
    assert path.with_name("engine.log.1").read_text() == "a" * 10


async def test_log_is_kept_over_starts(tmp_path: Path) -> None:
    launch = tiny_launch(tmp_path)
    launch.log_path.parent.mkdir()
    launch.log_path.write_text("from before\n")
    async with running(LlamaCpp, launch) as engine:
        await post(engine.address, "/v1/completions", prompt="word " * 1000)
        # llama.cpp answers first; a thread of its own writes the log.
        await until(lambda: "exceeds the available context size" in launch.log_path.read_text())
    assert launch.log_path.read_text().startswith("from before\n")


def test_orders_are_one_line_of_json(tmp_path: Path) -> None:
    line = json.dumps(LlamaCpp(tiny_launch(tmp_path, alias="a\nb"))._orders("key"))
    assert "\n" not in line


def test_a_tiny_model_gets_one_thread_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    large = tmp_path / "large.gguf"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    given = {
        (name, threads): LlamaCpp(tiny_launch(tmp_path, threads=threads, **model))._orders("key")["threads"]
        for name, model in (("tiny", {}), ("large", {"model_path": large}))
        for threads in (0, 3)
    }
    assert given == {("tiny", 0): 1, ("tiny", 3): 3, ("large", 0): 0, ("large", 3): 3}
