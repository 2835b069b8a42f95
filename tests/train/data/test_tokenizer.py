"""New tokenizers: the same data give the same one, GGUF can hold it, control tokens come first."""

import json
import random
import shutil
from pathlib import Path

import pytest

from tandem import spec
from tandem.formats.hf_folder import HFFolder
from tandem.formats.llama import _checked_tokenizer
from tandem.kit.errors import InvalidRequest
from tandem.spec import Curation, Data
from tandem.train.data.dataset import Dataset, make_dataset
from tandem.train.data.text import Text
from tandem.train.data.tokenizer import SPECIALS, learn, make_tokenizer
from tests.train.data.corpora import chat, document, silent, write_lines

TEXTS = [document(number, words=200) for number in range(30)] + ["a = 12345 + 'é🙂'\n" * 20]


def dataset(home: Path, path: Path, records: list[dict[str, object]], format_: spec.recipe.Format) -> Dataset:
    source = f"file:{write_lines(path, records)}"
    return make_dataset(Data(format=format_, source=source), Curation(), home=home, progress=silent)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_equal_texts_in_any_order_give_an_equal_tokenizer(pre: str) -> None:
    shuffled = random.Random(5).sample(TEXTS, len(TEXTS))
    one, other = (learn(iter(texts), vocab=500, pre=pre).to_str() for texts in (TEXTS, shuffled))
    assert one == other
    assert len(json.loads(one)["model"]["vocab"]) == 500


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_a_made_tokenizer_fits_gguf_and_has_its_control_tokens_first(home: Path, tmp_path: Path, pre: str) -> None:
    data = dataset(home, tmp_path / "x.jsonl", [{"text": text} for text in TEXTS], "text")
    folder, digest = make_tokenizer(spec.Tokenizer(vocab=400, pre=pre), [data], home=home, progress=silent)
    assert digest == f"sha256:{folder.name}"
    assert _checked_tokenizer(HFFolder(folder))[1] == pre
    text = Text(folder)
    assert [text.special(token) for token in SPECIALS] == list(range(7))
    assert text.size == 448
    assert text.end == 0
    numbers = [text.decode([number]) for number in text.encode("12345")]
    assert (numbers == list("12345")) is (pre == "smollm")


def test_the_bytes_and_control_tokens_are_a_vocabulary(home: Path, tmp_path: Path) -> None:
    data = dataset(home, tmp_path / "x.jsonl", [{"text": text} for text in TEXTS], "text")
    folder, _ = make_tokenizer(spec.Tokenizer(vocab=263), [data], home=home, progress=silent)
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["merges"] == []
    text = Text(folder)
    assert text.size == 320
    assert len(text.encode("naïve 🙂")) == len("naïve 🙂".encode())


@pytest.mark.parametrize(
    ("format_", "record", "end"),
    [("text", {"text": TEXTS[0]}, "<|endoftext|>"), ("chat", chat("Hello?", TEXTS[1]), "<|im_end|>")],
)
def test_an_answer_ends_with_its_turn_and_a_document_with_itself(
    home: Path, tmp_path: Path, format_: spec.recipe.Format, record: dict[str, object], end: str
) -> None:
    data = dataset(home, tmp_path / "x.jsonl", [record], format_)
    folder, _ = make_tokenizer(spec.Tokenizer(vocab=280), [data], home=home, progress=silent)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["eos_token"] == end
    assert "<|im_start|>" in config["chat_template"]


def test_a_tokenizer_is_learnt_once_and_a_pinned_one_is_never_another(home: Path, tmp_path: Path) -> None:
    data = dataset(home, tmp_path / "x.jsonl", [{"text": text} for text in TEXTS], "text")
    wanted, steps = spec.Tokenizer(vocab=300), list[str]()
    for _ in range(2):
        folder, digest = make_tokenizer(
            wanted, [data], home=home, progress=lambda step, done, total: steps.append(step)
        )
    assert len(steps) == 1
    shutil.rmtree(folder)
    again = make_tokenizer(spec.Tokenizer(vocab=300, sha256=digest), [data], home=home, progress=silent)
    assert again == (folder, digest)
    with pytest.raises(InvalidRequest, match="pinned"):
        make_tokenizer(spec.Tokenizer(vocab=301, sha256=f"sha256:{'0' * 64}"), [data], home=home, progress=silent)
