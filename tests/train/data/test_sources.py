"""Sources: what is found where, in which order, under which licence, and what is refused."""

import gzip
import json
import sys
import types
from pathlib import Path

import pytest

from tandem.kit.errors import InvalidRequest, MissingPrerequisite, NotFound, TooLarge, Unavailable
from tandem.spec import Data
from tandem.train.data import sources
from tandem.train.data.sources import find_source
from tests.train.data.corpora import write_tree

MIT = "Permission is hereby granted, free of charge, to any person\n  obtaining a copy of this software"


def found(data: Data) -> list[tuple[str, int, bytes]]:
    return [(raw.file, raw.line, raw.data or raw.flaw.encode()) for raw in find_source(data)]


def test_the_standard_library_is_code_of_python_under_its_licence() -> None:
    source = find_source(Data(format="code", source="stdlib:"))
    names = list(source.inputs() or {})
    assert source.licenses == ("PSF-2.0",)
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert names == sorted(names)
    assert all(name.endswith(".py") for name in names)
    assert not [name for name in names if "site-packages" in name or name.startswith("_sysconfigdata")]


def test_a_folder_gives_its_files_by_pattern_without_hidden_and_generated_ones(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "b.py": "b",
            "a/z.py": "z",
            "a/y.txt": "y",
            ".git/config.py": "hidden",
            "a/.hidden.py": "hidden",
            "node_modules/x.js": "generated",
            "LICENSE": MIT,
            "a/COPYING.md": "strange",
        },
    )
    data = Data(format="code", source=f"folder:{tmp_path}")
    assert found(data) == [("a/z.py", 1, b"z"), ("b.py", 1, b"b")]
    assert find_source(data).licenses == ("MIT (LICENSE)", "unknown licence (a/COPYING.md)")
    assert [name for name, *_ in found(Data(format="text", source=data.source))] == ["a/COPYING.md", "a/y.txt"]
    chosen = Data(format="code", source=data.source, include=("a/*.py", "*.txt"))
    assert [name for name, *_ in found(chosen)] == ["a/y.txt", "a/z.py"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.data"])
def test_lines_are_records_by_their_number(tmp_path: Path, name: str) -> None:
    content = b'{"a": 1}\n\n{"b": 2}'
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    data = Data(format="chat", source=f"file:{tmp_path / name}")
    assert found(data) == [(name, 1, b'{"a": 1}\n'), (name, 3, b'{"b": 2}')]


def test_an_array_is_records_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"a": 1}, 2], indent=1))
    data = Data(format="chat", source=f"file:{tmp_path / 'x.json'}")
    assert [(line, json.loads(raw)) for _, line, raw in found(data)] == [(1, {"a": 1}), (2, 2)]
    (tmp_path / "x.json").write_text('[{"a": 1}, ')
    assert [raw.flaw.partition(":")[0] for raw in find_source(data)] == ["not a JSON array"]


def test_a_text_file_is_one_document_and_json_among_code_too(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x.txt": "a\nb", "x.json": '[{"a": 1}]'})
    assert found(Data(format="text", source=f"file:{tmp_path / 'x.txt'}")) == [("x.txt", 1, b"a\nb")]
    assert found(Data(format="code", source=f"file:{tmp_path / 'x.json'}")) == [("x.json", 1, b'[{"a": 1}]')]


def test_too_large_records_are_flawed_and_the_next_line_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_RECORD_BYTES", 10)
    write_tree(tmp_path, {"x.jsonl": "1234567890123456789012345\n12345678\n", "x.txt": "12345678901"})
    lines = list(find_source(Data(format="chat", source=f"file:{tmp_path / 'x.jsonl'}")))
    assert [(raw.line, raw.data, bool(raw.flaw)) for raw in lines] == [(1, b"", True), (2, b"12345678\n", False)]
    (document,) = find_source(Data(format="text", source=f"file:{tmp_path / 'x.txt'}"))
    assert document.flaw.startswith("larger than")
    monkeypatch.setattr(sources, "MAX_ARRAY_BYTES", 10)
    write_tree(tmp_path, {"x.json": "[" + "1," * 20 + "1]"})
    with pytest.raises(TooLarge, match="JSON lines"):
        list(find_source(Data(format="chat", source=f"file:{tmp_path / 'x.json'}")))


@pytest.mark.parametrize("content", [gzip.compress(b'{"a": 1}\n' * 1000, mtime=0)[:-12], b"no gzip"])
def test_a_damaged_compressed_file_is_flawed_where_it_ends(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(content)
    *_, last = find_source(Data(format="chat", source=f"file:{tmp_path / 'x.jsonl.gz'}"))
    assert last.flaw.startswith("the compressed file is damaged")


@pytest.mark.parametrize(
    "source",
    [
        "",
        "stdlib",
        "stdlib:x",
        "file:",
        "ftp:x",
        "folder:",
        "hf:",
        "hf:/etc",
        "hf:../x",
        "hf:a/..",
        "hf:~/x",
        "hf:a/b/c",
        "x.txt",
    ],
)
def test_no_source(source: str) -> None:
    with pytest.raises(InvalidRequest, match="no source"):
        find_source(Data(format="text", source=source))


def test_missing_places(tmp_path: Path) -> None:
    for source in (f"file:{tmp_path / 'x'}", f"folder:{tmp_path / 'x'}"):
        with pytest.raises(NotFound):
            find_source(Data(format="text", source=source))
    with pytest.raises(InvalidRequest, match="matches"):
        find_source(Data(format="text", source=f"folder:{tmp_path}"))


def test_the_hub_needs_its_package_and_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = find_source(Data(format="questions", source="hf:openai/gsm8k#main"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPrerequisite, match="datasets"):
        list(source)

    def refuse(name: str, configuration: str | None, *, split: str) -> None:
        raise ConnectionError(f"{name} {configuration} {split}")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=refuse))
    with pytest.raises(Unavailable, match="openai/gsm8k main train"):
        list(source)
    rows = [{"question": "2+2?", "answer": "4"}, {"question": object()}]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, split: rows))
    good, bad = source
    assert json.loads(good.data) == rows[0]
    assert bad.flaw.startswith("the row is not JSON")
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match="would be the file or folder openai/gsm8k of this machine"):
        list(source)
