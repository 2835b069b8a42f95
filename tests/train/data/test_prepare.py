"""`prepare`: a recipe in, a pinned one out; the same one each time, and a clear word where that cannot be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tandem.formats import write_tiny_gguf
from tandem.kit.errors import IntegrityError, InvalidRequest, NotFound, StorageFull
from tandem.kit.ids import sha256_hex
from tandem.spec import Recipe, parse_recipe, recipe_id
from tandem.train.data import open_parent, open_samples, open_text, prepare, summary
from tandem.train.data.prepare import prepare_main
from tests.kit.full_disk import small_disk
from tests.train.data.corpora import BYTES, chat, document, recipe, silent, write_lines, write_tree

PROGRAM = """
import sys
from pathlib import Path
from tandem.train.data.prepare import prepare_main
status = prepare_main(Path(sys.argv[1]))
assert "torch" not in sys.modules
sys.exit(status)
"""


@pytest.fixture
def code(tmp_path: Path) -> dict[str, Any]:
    files: dict[str, str | bytes] = {f"{n}.py": document(n) for n in range(20)}
    return {"format": "code", "source": f"folder:{write_tree(tmp_path / 'code', files | {'LICENSE': 'MIT'})}"}


@pytest.fixture
def chats(tmp_path: Path) -> dict[str, Any]:
    path = write_lines(tmp_path / "chats.jsonl", [chat(f"Say {n}.", f"I say {n}!") for n in range(20)])
    return {"format": "chat", "source": f"file:{path}"}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("parent") / "tiny.gguf")


def made(wanted: Recipe, home: Path, gguf: Path | None = None) -> Recipe:
    return prepare(wanted, home=home, parent_gguf=gguf, progress=silent)


def from_parent(*data: dict[str, Any], **tables: Any) -> Recipe:
    return recipe(*data, objective="sft", model={"parent": "tiny"}, **tables)


def test_a_pinned_recipe_is_the_same_each_time_and_everywhere(tmp_path: Path, home: Path, code: dict[str, Any]) -> None:
    wanted = recipe(code, objective="fim")
    pinned = made(wanted, home)
    assert pinned.pinned
    assert pinned.data[0].license == "unknown licence (LICENSE)"
    assert made(wanted, home) == made(pinned, home) == made(wanted, tmp_path / "home2") == pinned
    elsewhere = shutil.copytree(tmp_path / "code", tmp_path / "elsewhere")
    moved = made(recipe({**code, "source": f"folder:{elsewhere}"}, objective="fim"), tmp_path / "home3")
    assert recipe_id(moved) == recipe_id(pinned)


def test_another_process_pins_the_same(tmp_path: Path, home: Path, code: dict[str, Any]) -> None:
    pinned = made(recipe(code), home)
    request = tmp_path / "request.json"
    request.write_bytes(msgspec.json.encode({"recipe": recipe(code), "home": str(tmp_path / "home2")}))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(request)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0, done.stderr
    *steps, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert parse_recipe(last["pinned"], where="the answer") == pinned
    assert {step["step"] for step in steps} >= {"learning the tokenizer", "encoding"}
    assert all(step.keys() == {"step", "done", "total"} for step in steps)


def test_the_summary_tells_what_there_is(tmp_path: Path, home: Path) -> None:
    lines = [*(chat(f"q{n}", f"a{n}") for n in range(10)), chat("q1", "a1"), b"bad", chat("long", "x" * 500)]
    path = write_lines(tmp_path / "x.jsonl", lines)
    pinned = made(
        recipe({"format": "chat", "source": f"file:{path}", "license": "CC0-1.0"}, objective="sft", tokenizer=BYTES),
        home,
    )
    told = summary(pinned, home)
    (data,) = told["data"]
    assert (data["records"], data["duplicates"], data["quarantined"], data["license"]) == (12, 1, 1, "CC0-1.0")
    assert [(bad["file"], bad["line"]) for bad in data["bad"]] == [("x.jsonl", 12)]
    assert (data["longer_than_context"], data["refused"]) == (1, 0)
    assert data["train"] + data["held_out"] == 11
    train = open_samples(home, pinned, "train")
    assert told["train"] == {
        "samples": len(train), "tokens": train.tokens, "bytes": train.bytes, "longest": train.longest
    }  # fmt: skip
    assert told["epoch_steps"] == -(-len(train) // 4)
    json.dumps(told)


@pytest.mark.parametrize(
    ("objective", "format_"),
    [("lm", "chat"), ("fim", "questions"), ("sft", "text"), ("dpo", "chat"), ("sft", "preference")],
)
def test_an_objective_refuses_data_that_it_cannot_learn_from(home: Path, objective: str, format_: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"data\.0, whose format is '{format_}'") as caught:
        made(recipe({"format": format_, "source": "file:nowhere"}, objective=objective), home)
    assert caught.value.param == "data.0.format"
    assert list(home.iterdir()) == []


def test_an_objective_of_another_package_learns_from_what_it_likes(home: Path, chats: dict[str, Any]) -> None:
    assert made(recipe(chats, objective="own"), home).pinned


def test_a_parent_brings_its_folder_and_its_tokenizer(home: Path, gguf: Path, chats: dict[str, Any]) -> None:
    pinned = made(from_parent(chats), home, gguf)
    digest = sha256_hex(gguf.read_bytes())
    assert pinned.model.parent_sha256 == f"sha256:{digest}"
    folder = open_parent(home, pinned)
    assert folder == home / "parents" / digest
    text = open_text(home, pinned)
    assert text.folder == folder
    assert text.size == json.loads((folder / "config.json").read_text())["vocab_size"]
    assert open_samples(home, pinned, "train").tokens > 0
    assert made(pinned, home) == pinned  # the file is not needed any more
    before = folder.stat().st_mtime_ns
    assert made(from_parent(chats), home, gguf) == pinned
    assert folder.stat().st_mtime_ns == before
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        open_parent(home, pinned)


def test_a_parent_that_is_missing_or_another(home: Path, gguf: Path, chats: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="tiny"):
        made(from_parent(chats), home)
    other = from_parent(chats)
    other = msgspec.structs.replace(
        other, model=msgspec.structs.replace(other.model, parent_sha256=f"sha256:{'0' * 64}")
    )
    with pytest.raises(IntegrityError, match="not the parent"):
        made(other, home, gguf)
    with pytest.raises(InvalidRequest, match=r"parent's tokenizer"):
        made(from_parent(chats, tokenizer={"sha256": f"sha256:{'0' * 64}"}), home, gguf)


def test_a_pinned_data_set_without_a_source_must_be_here(tmp_path: Path, home: Path, code: dict[str, Any]) -> None:
    pinned = made(recipe(code), home)
    bare = msgspec.structs.replace(pinned, data=(msgspec.structs.replace(pinned.data[0], source=""),))
    assert made(bare, home).data[0].sha256 == pinned.data[0].sha256
    with pytest.raises(NotFound, match="is not here"):
        made(bare, tmp_path / "home2")


def test_a_changed_data_set_is_not_trained_on(home: Path, code: dict[str, Any]) -> None:
    pinned = made(recipe(code), home)
    (path,) = (home / "datasets").glob("[0-9a-f]*/train.jsonl")
    path.write_text(path.read_text().replace("the", "teh", 1))
    for wanted in (pinned, recipe(code)):
        with pytest.raises(IntegrityError, match=r"train\.jsonl"):
            made(wanted, home)


def test_an_error_is_told_in_the_last_line(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "request.json"
    wanted = recipe({"format": "code", "source": f"folder:{tmp_path / 'nowhere'}"})
    request.write_bytes(msgspec.json.encode({"recipe": wanted, "home": str(home)}))
    assert prepare_main(request) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert told["code"] == "not_found"
    assert "nowhere" in told["message"]
    assert told["remedy"]
    request.write_text("{")
    assert prepare_main(request) == 1
    assert "error" in json.loads(capsys.readouterr().out)


def test_the_parents_digest_is_that_of_the_request(
    tmp_path: Path, home: Path, gguf: Path, chats: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    digest = f"sha256:{sha256_hex(gguf.read_bytes())}"
    request = tmp_path / "request.json"
    asked = {"recipe": from_parent(chats), "home": str(home), "parent_gguf": str(gguf), "parent_digest": digest}
    request.write_bytes(msgspec.json.encode(asked))
    assert prepare_main(request) == 0
    pinned = json.loads(capsys.readouterr().out.splitlines()[-1])["pinned"]
    assert pinned["model"]["parent_sha256"] == digest
    request.write_bytes(msgspec.json.encode({**asked, "recipe": pinned, "parent_digest": f"sha256:{'0' * 64}"}))
    assert prepare_main(request) == 1


def test_a_full_disk_is_said_and_room_lets_it_go_on(tmp_path: Path) -> None:
    text = "".join(document(n, words=2000) for n in range(40))
    (tmp_path / "x.txt").write_text(text)
    wanted = recipe({"format": "text", "source": f"file:{tmp_path / 'x.txt'}"})
    with small_disk(tmp_path / "disk") as disk:
        filler = disk / "filler"
        filler.write_bytes(b"x" * 2**19)
        with pytest.raises(StorageFull):
            made(wanted, disk)
        assert not list(disk.glob("*/.making-*"))
