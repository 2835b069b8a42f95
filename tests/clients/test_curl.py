"""curl, as documentation shows it."""

import json
import shutil
import subprocess

import pytest

from tests.serving import DEADLINE_S, Served

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "one two"}]})


def _curl(*arguments: str, stdin: str = "") -> str:
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    return done.stdout


def test_openai(fake: Served) -> None:
    answer = _curl(
        f"{fake.url}/v1/chat/completions",
        *("-H", f"Authorization: Bearer {fake.key}", "-H", "Content-Type: application/json", "-d", CHAT),
    )
    assert json.loads(answer)["choices"][0]["message"]["content"] == "one two"


def test_azure(fake: Served) -> None:
    url = f"{fake.url}/openai/deployments/tiny/chat/completions?api-version=2024-10-21"
    # Without a content type, curl says that it sends a form; the service takes it as JSON all the same.
    answer = _curl(url, "-H", f"api-key: {fake.key}", "-d", CHAT)
    assert json.loads(answer)["choices"][0]["message"]["content"] == "one two"


def test_a_stream(fake: Served) -> None:
    body = json.dumps({**json.loads(CHAT), "stream": True})
    answer = _curl("--no-buffer", f"{fake.url}/v1/chat/completions", "-H", f"api-key: {fake.key}", "-d", body)
    events = answer.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    texts = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert texts == ["", "one", " two", None]


def test_a_large_body_that_asks_for_leave_first(fake: Served) -> None:
    """curl waits a second for the answer to `Expect: 100-continue`, and longer than this test would for none at all."""
    body = json.dumps({"model": "tiny", "prompt": "x", "metadata": {"a": "y" * 2_000_000}})
    command = ["-H", f"api-key: {fake.key}", "-H", "Expect: 100-continue", "--expect100-timeout", "600"]
    answer = _curl(f"{fake.url}/v1/completions", *command, "--data-binary", "@-", stdin=body)
    assert json.loads(answer)["choices"][0]["text"] == " x"


def test_an_error(fake: Served) -> None:
    answer = _curl(f"{fake.url}/v1/models", "-H", "Authorization: Bearer nobody", "--write-out", "\n%{http_code}")
    body, status = answer.rsplit("\n", 1)
    assert status == "401"
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
