"""Text: ids and bytes are two ways to say the same, and no text can spell a control token."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import IntegrityError, UnsupportedFeature
from tandem.train.data import text as module
from tandem.train.data.text import Text, text_digest
from tandem.train.data.tokenizer import CHATML, SPECIALS, learn
from tests.train.data.corpora import document

LEARNT = [document(number, words=200) for number in range(20)] + ["    def f(x):\n\n        return x\n" * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text")
    learn(iter(LEARNT), vocab=600, pre="smollm").save(str(path / "tokenizer.json"))
    config = {"eos_token": "<|endoftext|>", "chat_template": CHATML}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def text(folder: Path) -> Text:
    return Text(folder)


@given(words=st.text(st.characters(codec="utf-8")) | st.sampled_from(LEARNT))
def test_ids_give_back_the_text_and_its_bytes(text: Text, words: str) -> None:
    ids = text.encode(words)
    assert ids.dtype == np.int32
    assert text.decode(ids) == words
    assert text.decode_bytes(ids) == words.encode()
    assert text.byte_counts()[ids].sum() == len(words.encode())


@given(words=st.lists(st.sampled_from([*SPECIALS, "<|im_", "end|>", " ", "a"]), max_size=8).map("".join))
def test_no_text_spells_a_control_token(text: Text, words: str) -> None:
    ids = text.encode(words)
    assert not set(ids.tolist()) & set(range(len(SPECIALS)))
    assert text.decode(ids) == words


LINES = st.lists(st.sampled_from(["def", " ", "\n", "  ", "x", "é", "12", "\n\n", "\t", "'s", "\x1c"]), max_size=80)


@given(words=LINES.map("".join), size=st.integers(1, 12))
def test_a_long_text_in_pieces_has_the_same_ids(text: Text, words: str, size: int) -> None:
    whole = text.encode(words).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", size)
        assert text.encode(words).tolist() == whole


def test_many_texts_are_encoded_as_one_by_one(text: Text) -> None:
    texts = ["", "a", *LEARNT]
    assert [ids.tolist() for ids in text.encode_all(texts)] == [text.encode(one).tolist() for one in texts]


def test_control_tokens_are_known_by_name(text: Text) -> None:
    assert text.special("<|fim_middle|>") == 5
    assert text.special("the") is None
    assert text.decode([1]) == "<|im_start|>"
    assert text.byte_counts()[:7].sum() == 0
    assert text.size == 640
    assert text.decode_bytes([639]) == b""


def test_a_parents_rows_are_its_size_and_its_end_its_own(folder: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    renamed = json.dumps(tokenizer).replace("<|endoftext|>", "</s>")
    (tmp_path / "tokenizer.json").write_text(renamed)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 700}))
    text = Text(tmp_path)
    assert (text.size, text.end) == (700, 0)
    with pytest.raises(UnsupportedFeature, match="no chat template"):
        text.encode_chat([{"role": "user", "content": "x"}])
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UnsupportedFeature, match="neither"):
        Text(tmp_path)


def test_a_damaged_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"tokenizer\.json"):
        Text(tmp_path)
    with pytest.raises(IntegrityError, match="is missing"):
        text_digest(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(IntegrityError, match=r"tokenizer_config\.json"):
        Text(tmp_path)


def test_the_digest_is_of_both_files(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert text_digest(tmp_path) == text_digest(folder)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert text_digest(tmp_path) != text_digest(folder)
