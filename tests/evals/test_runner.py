"""The runner: real Inspect in a real child, against a server that answers, filters, fails and is too small."""

import ast
import asyncio
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from inspect_ai.log import read_eval_log_async

import tandem.evals
from tandem.evals import Endpoint, Measured, Suite, SuiteSettings, hardware, measure, with_version
from tandem.evals.cases import Case, Gap, Prompt, Question, Request
from tandem.kit.errors import EngineFailed, MissingPrerequisite
from tandem.kit.ids import new_secret
from tests.compute.stand_ins import commands

pytestmark = pytest.mark.anyio

Answer = Callable[[dict[str, Any]], str]

FILTER = {"message": "The prompt was filtered.", "type": "invalid_request_error", "param": "prompt"}
ENDED = ("content_filter", "stop")


class Stub:
    """An OpenAI server that says what it is told: some words in a prompt are orders."""

    def __init__(self, answer: Answer, *, most_characters: int = 10**9) -> None:
        self.key = new_secret("tk")
        self.answer = answer
        self.most_characters = most_characters
        self.asked: list[dict[str, Any]] = []
        self.held = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != f"Bearer {self.key}":
            return self.error(401, "invalid_api_key")
        body = await request.json()
        self.asked.append(body)
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        if "HANG" in prompt:
            self.held.set()
            await asyncio.Event().wait()
        if "BLOCKED" in prompt:
            return self.error(400, "content_filter")
        if "BROKEN" in prompt:
            return self.error(503, "engine_failed")
        if len(prompt) + len(body.get("suffix", "")) > self.most_characters:
            return self.error(400, "context_length_exceeded")
        reason = ENDED["CENSORED" not in prompt]
        return await self.streamed(request) if body.get("stream") else self.whole(body, reason)

    def error(self, status: int, code: str) -> web.Response:
        headers = {"x-should-retry": "false"}
        return web.json_response({"error": {**FILTER, "code": code}}, status=status, headers=headers)

    def whole(self, body: dict[str, Any], reason: str) -> web.Response:
        text = self.answer(body)
        said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "finish_reason": reason, **said}
        return web.json_response({"id": "1", "created": 1, "model": "m", "choices": [choice], "usage": usage})

    async def streamed(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in ("one", " two", " three"):
            chunk = f'{{"id": "1", "created": 1, "model": "m", "choices": [{{"index": 0, "text": "{word}"}}]}}'
            await response.write(f"data: {chunk}\n\n".encode())
            await asyncio.sleep(0.01)
        usage = '{"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}'
        await response.write(f'data: {{"id": "1", "choices": [], "usage": {usage}}}\n\ndata: [DONE]\n\n'.encode())
        return response


@asynccontextmanager
async def serving(stub: Stub, **facts: Any) -> AsyncIterator[Endpoint]:
    app = web.Application()
    app.add_routes([web.post(f"/v1/{path}", stub.handle) for path in ("chat/completions", "completions")])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Endpoint(
            url=f"http://127.0.0.1:{runner.addresses[0][1]}", key=stub.key, model="m", version="m@1", **facts
        )
    finally:
        await runner.cleanup()


def suite(kind: str, *cases: Case, **settings: Any) -> Suite:
    return Suite(name="tried", kind=kind, about="", settings=SuiteSettings(**settings), cases=cases)


def silent(_suite: str, _done: int, _total: int | None) -> None:
    """Nobody looks."""


def numbers(measured: Measured) -> dict[str, float]:
    return {metric.name: metric.value for metric in measured.metrics}


def line_gap(name: str, prefix: str = "x = ") -> Gap:
    return Gap(id=name, form="line", prefix=f"# {name}\n{prefix}", middle="1 + 2", suffix="\nprint(x)\n")


async def test_answers_count_and_filtered_and_failed_ones_do_not(tmp_path: Path) -> None:
    cases = [Question(id=f"q{number}", prompt=f"{number}?", exact=("yes",)) for number in range(3)]
    odd = [Question(id=word, prompt=word, exact=("yes",)) for word in ("BLOCKED", "CENSORED", "BROKEN")]
    told: list[tuple[str, int, int | None]] = []
    stub = Stub(lambda body: "no" if body["messages"][-1]["content"].startswith("0") else "Yes.")
    async with serving(stub) as endpoint:
        measured = await measure(
            suite("chat", *cases, *odd, seed=5, max_tokens=9),
            endpoint,
            folder=tmp_path,
            tell=lambda *words: told.append(words),
        )
    assert (measured.answered, measured.filtered, measured.failed) == (3, 2, 1)
    (accuracy,) = measured.metrics
    assert (accuracy.name, accuracy.samples) == ("accuracy", 3)
    assert accuracy.value == pytest.approx(2 / 3)
    assert {(body["temperature"], body["seed"], body["max_tokens"]) for body in stub.asked} == {(0.0, 5, 9)}
    assert [done for _, done, _ in told] == list(range(7))
    assert told[-1] == ("tried", 6, 6)
    assert measured.runner.startswith("inspect-ai ")
    assert "503" in next(row.why for row in measured.rows if row.id == "BROKEN")


async def test_the_transcripts_are_inspects_own_and_tell_no_key(tmp_path: Path) -> None:
    stub = Stub(lambda body: body["messages"][-1]["content"])
    system = Question(id="q", prompt="yes", system="Be brief.", exact=("yes",))
    async with serving(stub) as endpoint:
        measured = await measure(suite("chat", system, epochs=2), endpoint, folder=tmp_path, tell=silent)
    log = await read_eval_log_async(str(measured.transcripts))
    assert log.status == "success"
    assert log.samples is not None
    assert len(log.samples) == 2
    assert log.results is not None
    assert log.results.scores[0].metrics["mean"].value == numbers(measured)["accuracy"] == 1.0
    assert log.eval.metadata == {"suite_digest": suite("chat", system, epochs=2).digest, "version": "m@1"}
    assert [message["role"] for message in stub.asked[0]["messages"]] == ["system", "user"]
    with zipfile.ZipFile(measured.transcripts) as parts:
        assert not any(stub.key.encode() in parts.read(name) for name in parts.namelist())
    assert stub.key not in repr(endpoint)
    assert not (tmp_path / "job.json").exists()


async def test_gaps_are_filled_and_compared(tmp_path: Path) -> None:
    stub, release = Stub(lambda _body: "1 + 2"), Stub(lambda _body: "1 + 3")
    gaps = [line_gap("a"), line_gap("b"), line_gap("c", prefix="y = 0\nx = BLOCKED + ")]
    async with serving(stub) as endpoint, serving(release) as other:
        measured = await measure(suite("code", *gaps), endpoint, baseline=other, folder=tmp_path, tell=silent)
    found = numbers(measured)
    assert (measured.answered, measured.filtered) == (2, 1)
    assert found["exact_match"] == found["parse_rate"] == found["exact_match_gain"] == 1.0
    assert found["exact_match_vs_release"] == 1.0
    assert found["edit_similarity_vs_release"] == pytest.approx(1 / 5)
    assert 0.0 < found["edit_similarity_gain"] <= 1.0
    assert measured.baseline == "the most similar earlier line"
    assert stub.asked[0]["suffix"] == "\nprint(x)\n"
    assert stub.asked[0]["stop"] == ["\n"]
    assert len(release.asked) == 3


async def test_a_release_that_does_not_answer_is_not_compared_with(tmp_path: Path) -> None:
    stub, release = Stub(lambda _body: "1 + 2"), Stub(lambda _body: "")
    release.key = "another"
    async with serving(stub) as endpoint, serving(release) as other:
        wrong = Endpoint(url=other.url, key="not this", model="m")
        measured = await measure(suite("code", line_gap("a")), endpoint, baseline=wrong, folder=tmp_path, tell=silent)
    assert measured.answered == 1
    assert "exact_match_vs_release" not in numbers(measured)


async def test_a_small_context_is_asked_less_and_never_crashes(tmp_path: Path) -> None:
    stub = Stub(lambda _body: "1 + 2", most_characters=120)
    gap = replace_text(line_gap("a"), before="x" * 4000)
    async with serving(stub, context_tokens=256) as endpoint:
        measured = await measure(suite("code", gap, max_tokens=500), endpoint, folder=tmp_path, tell=silent)
    assert numbers(measured)["exact_match"] == 1.0
    lengths = [len(body["prompt"]) + len(body["suffix"]) for body in stub.asked]
    assert lengths[-1] <= 120
    assert lengths[0] <= 256 * 2.5
    assert stub.asked[-1]["prompt"].endswith("x = ")
    assert {body["max_tokens"] for body in stub.asked} == {64}


def replace_text(gap: Gap, *, before: str) -> Gap:
    return Gap(id=gap.id, form=gap.form, prefix=f"# {before}\n{gap.prefix}", middle=gap.middle, suffix=gap.suffix)


async def test_refusals_are_counted_by_kind(tmp_path: Path) -> None:
    cases = [
        Request(id="h1", prompt="harm", harmful=True, twin="b1"),
        Request(id="b1", prompt="bread", harmful=False, twin="h1"),
        Request(id="h2", prompt="harm BLOCKED", harmful=True, twin="b2"),
        Request(id="b2", prompt="butter", harmful=False, twin="h2"),
    ]
    stub = Stub(lambda body: "Sure." if "bread" in body["messages"][-1]["content"] else "I can't help with that.")
    async with serving(stub) as endpoint:
        measured = await measure(suite("safety", *cases), endpoint, folder=tmp_path, tell=silent)
    assert numbers(measured) == {"refusal_rate": 1.0, "over_refusal_rate": 0.5}
    assert [metric.samples for metric in measured.metrics] == [1, 2]


async def test_speed_is_measured_on_streams(tmp_path: Path) -> None:
    cases = [
        Prompt(id="p", prompt="Once"),
        Prompt(id="blocked", prompt="BLOCKED"),
        Prompt(id="broken", prompt="BROKEN"),
    ]
    stub = Stub(lambda _body: "")
    async with serving(stub) as endpoint:
        measured = await measure(suite("performance", *cases, parallel=1), endpoint, folder=tmp_path, tell=silent)
    found = numbers(measured)
    assert (measured.answered, measured.filtered, measured.failed) == (1, 1, 1)
    assert 0 < found["tokens_per_s"] <= 2 / 0.01, "two tokens came, each 10 ms after the one before"
    assert found["time_to_first_token_s"] > 0


async def test_an_empty_regression_suite_says_so(tmp_path: Path) -> None:
    nobody = Endpoint(url="http://127.0.0.1:9", key="", model="m")
    measured = await measure(suite("regression"), nobody, folder=tmp_path, tell=silent)
    (failures,) = measured.metrics
    assert (failures.name, failures.value, failures.samples) == ("failures", 0.0, 0)
    assert '"cases":0' in measured.transcripts.read_text()


async def test_a_suite_that_does_not_fit_the_model_is_an_error(tmp_path: Path) -> None:
    stub = Stub(lambda _body: "")
    async with serving(stub) as endpoint:
        with pytest.raises(EngineFailed, match="Not one case of tried was answered.*503"):
            await measure(
                suite("chat", Question(id="q", prompt="BROKEN", exact=("x",))), endpoint, folder=tmp_path, tell=silent
            )


async def test_a_cancelled_measurement_leaves_no_child(tmp_path: Path) -> None:
    stub = Stub(lambda _body: "")
    async with serving(stub) as endpoint:
        asked = suite("chat", Question(id="q", prompt="HANG", exact=("x",)))
        measuring = asyncio.create_task(measure(asked, endpoint, folder=tmp_path, tell=silent))
        await asyncio.wait_for(stub.held.wait(), 60)
        assert commands(str(tmp_path / "job.json"))
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
    assert not commands(str(tmp_path / "job.json"))
    assert not (tmp_path / "job.json").exists()


@pytest.mark.parametrize(
    ("program", "kind", "told"),
    [
        ('print(\'{"fault": "missing"}\')', MissingPrerequisite, r"tandem-platform\[evals\]"),
        ("import sys; sys.exit('no room')", EngineFailed, "no room"),
        ("import sys; sys.exit(3)", EngineFailed, "exit status 3"),
    ],
)
async def test_a_child_that_cannot_run_says_why(tmp_path: Path, program: str, kind: type[Exception], told: str) -> None:
    path = tmp_path / "child.py"
    path.write_text(program)
    nobody = Endpoint(url="http://127.0.0.1:9", key="", model="m")
    asked = suite("chat", Question(id="q", prompt="?", exact=("x",)))
    with pytest.raises(kind, match=told):
        await measure(asked, nobody, folder=tmp_path, tell=silent, program=(str(path),))


async def test_without_inspect_the_extra_is_named(tmp_path: Path) -> None:
    path = tmp_path / "child.py"
    path.write_text(
        "import sys\nsys.modules['inspect_ai'] = None\n"
        "from tandem.evals.__main__ import main\nsys.exit(main(sys.argv[1]))\n"
    )
    nobody = Endpoint(url="http://127.0.0.1:9", key="", model="m")
    asked = suite("chat", Question(id="q", prompt="?", exact=("x",)))
    with pytest.raises(MissingPrerequisite, match=r"tandem-platform\[evals\]"):
        await measure(asked, nobody, folder=tmp_path, tell=silent, program=(str(path),))


def test_the_child_knows_neither_gateway_nor_database() -> None:
    code = (
        "import sys, tandem.evals.__main__, tandem.evals.tasks\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('tandem.')}\n"
        "print(sorted(rooms), sorted({'sqlalchemy', 'torch'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['evals', 'kit', 'spec'] []"


def test_inspect_is_imported_by_the_child_alone() -> None:
    folder = Path(tandem.evals.__file__).parent
    importers = {
        path.name
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "inspect_ai" in ast.unparse(node)
    }
    assert importers == {"tasks.py"}


def test_an_engine_is_named_with_its_version() -> None:
    assert re.fullmatch(r"llamacpp \(msgspec [\d.]+\)", with_version("llamacpp", "msgspec"))
    assert with_version("fake", "no-such-package") == "fake"
    assert hardware()["cores"] > 0
