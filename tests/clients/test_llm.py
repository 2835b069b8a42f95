"""The `llm` command-line tool, unmodified, with Tandem as an extra OpenAI model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import DEADLINE_S, Served

MODELS = """
- model_id: tandem
  model_name: tiny
  api_base: {url}/v1
  api_key_name: tandem
- model_id: tandem-completion
  model_name: tiny
  api_base: {url}/v1
  api_key_name: tandem
  completion: true
- model_id: tandem-tools
  model_name: tools
  api_base: {url}/v1
  api_key_name: tandem
  supports_tools: true
  supports_schema: true
"""


@pytest.fixture(scope="module")
def user_path(fake: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llm's own folder, configured as its manual says."""
    folder = tmp_path_factory.mktemp("llm")
    (folder / "extra-openai-models.yaml").write_text(MODELS.format(url=fake.url))
    (folder / "keys.json").write_text(json.dumps({"tandem": fake.key}))
    return folder


def _llm(user_path: Path, *arguments: str) -> str:
    environment = {**os.environ, "LLM_USER_PATH": str(user_path), "LLM_LOAD_PLUGINS": ""}
    program = Path(sys.executable).with_name("llm")
    done = subprocess.run(
        [program, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_stream(user_path: Path) -> None:
    assert _llm(user_path, "-m", "tandem", "one two three") == "one two three"


def test_a_whole_answer(user_path: Path) -> None:
    options = ("--no-stream", "-s", "Be brief.", "-o", "max_tokens", "2")
    assert _llm(user_path, "-m", "tandem", *options, "one two three") == "one two"


def test_a_completion(user_path: Path) -> None:
    assert _llm(user_path, "-m", "tandem-completion", "one two") == "one two"


def test_a_schema(user_path: Path) -> None:
    assert json.loads(_llm(user_path, "-m", "tandem-tools", "--schema", "name, age int", "who")) == {
        "name": "text",
        "age": 1,
    }


def test_an_error_is_shown(user_path: Path) -> None:
    with pytest.raises(AssertionError, match="maximum context length"):
        _llm(user_path, "-m", "tandem", "word " * 600)
