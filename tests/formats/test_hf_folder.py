"""Hugging Face folders: what is read of them is bounded, and what would run code is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tandem.formats import convert_folder, hf_folder
from tandem.formats.hf_folder import HFFolder
from tandem.kit.errors import IntegrityError, NotFound, UnsupportedFeature

CODE = {"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}


def folder(path: Path, **files: Any) -> HFFolder:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return HFFolder(path)


@pytest.mark.parametrize(
    "files",
    [
        {"config": {"architectures": ["LlamaForCausalLM"], "auto_map": CODE}},
        {
            "config": {"architectures": ["LlamaForCausalLM"]},
            "tokenizer_config": {"auto_map": {"AutoTokenizer": ["x.Y"]}},
        },
        {"config": {"architectures": ["LlamaForCausalLM"], "custom_pipelines": {"evil": {"impl": "evil.Pipeline"}}}},
    ],
)
def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path, files: Any) -> None:
    made = folder(tmp_path, **files)
    with pytest.raises(UnsupportedFeature, match=r"auto_map.* never run") as caught:
        convert_folder(made.path, tmp_path / "x.gguf", name="x")
    assert caught.value.remedy
    assert not (tmp_path / "x.gguf").exists()


def test_an_empty_map_is_no_code(tmp_path: Path) -> None:
    folder(tmp_path, config={"auto_map": {}}, tokenizer_config={"auto_map": None}).refuse_code()


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["pytorch_model.bin"], "only there as a pickle, which runs code"),
        (["a.joblib"], "only there as a pickle"),
        (["model-00001-of-00002.safetensors", "pytorch_model.bin"], "in several files"),
        ([], "has no model.safetensors"),
    ],
)
def test_weights_in_another_form_are_named(tmp_path: Path, names: list[str], cause: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UnsupportedFeature, match=cause):
        _ = HFFolder(tmp_path).weights


def test_only_so_much_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_folder, "MAX_JSON_BYTES", 100)
    made = folder(tmp_path, small={"a": 1}, large={"a": "x" * 100})
    assert made.text("small.json") == '{"a": 1}'
    with pytest.raises(IntegrityError, match="more than 100 bytes"):
        made.text("large.json")


def test_what_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe.json")
    made = HFFolder(tmp_path)
    with pytest.raises(IntegrityError, match="not UTF-8"):
        made.text("a.json")
    for name in ("pipe.json", "nowhere.json"):
        with pytest.raises(NotFound, match=name) as caught:
            made.text(name)
        assert "folder again" in caught.value.remedy
