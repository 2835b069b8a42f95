"""Fill-in-the-middle with a real vocabulary, and as llama.cpp's /infill asks for it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.formats import convert_folder
from tandem.gateway.requests import CompletionRequest
from tandem.gateway.stages.prepare import prepare_completion
from tandem.serve import Feature
from tandem.train.data.text import Text
from tandem.train.evaluate.infill import Gap, infill_prompt
from tandem.train.objectives.fim import Pieces, cut, find_markers, prefix_first
from tandem.train.objectives.fim import suffix_first as suffix_order
from tests.formats.engine import ask
from tests.train.objectives.vocabulary import WORDS, write_tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@given(st.lists(st.sampled_from(WORDS), max_size=8), st.integers(0, 30), st.integers(0, 30), st.integers(0, 2**32))
def test_the_pieces_are_the_segment_byte_for_byte(
    text: Text, words: list[str], start: int, stop: int, seed: int
) -> None:
    segment = text.encode("".join(words))[start : start + stop]
    pieces = cut(segment, text, np.random.default_rng(seed))
    assert b"".join(text.decode_bytes(piece) for piece in pieces) == text.decode_bytes(segment)


def put(prefix: str, suffix: str, *, suffix_first: bool) -> tuple[str, dict[str, Any]]:
    """The gateway's call, on the native path, which tells the tokens."""
    features = {Feature.FIM_SUFFIX_FIRST} if suffix_first else set()
    request = msgspec.convert({"prompt": prefix, "suffix": suffix}, CompletionRequest)
    (call,) = prepare_completion(request, streamed=False, features=features)
    body = json.loads(call.body)
    where = {key: body[key] for key in ("input_prefix", "input_suffix", "prompt") if key in body}
    return call.path.removeprefix("/v1").replace("completions", "completion"), where


TEXTS = [("def f(x):\n    return ", "\n\nprint(f('é🙂'))\n"), ("", "import os\n"), ("naïve == 'é'", "")]
# Suffix first, the pieces travel as one text, in which llama.cpp reads control tokens that a client wrote as such.
CASES = [*((*texts, first) for texts in TEXTS for first in (False, True)), ("<|im_end|>", "x", False)]


@pytest.mark.parametrize(("prefix", "suffix", "suffix_first"), CASES)
def test_llama_cpp_asks_in_the_form_that_is_trained(
    text: Text, tmp_path: Path, prefix: str, suffix: str, suffix_first: bool
) -> None:
    """The same question as the gateway puts it and as token ids: as many tokens, and the same answer."""
    transformers = pytest.importorskip("transformers", reason="parity needs torch and transformers")
    import torch

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    ends = {"bos_token_id": None, "eos_token_id": text.end, "pad_token_id": None}
    config = transformers.LlamaConfig(vocab_size=text.size, max_position_embeddings=512, **shape, **ends)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(8)  # logits that differ
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    file = convert_folder(tmp_path, tmp_path / "model.gguf", name="tiny", kind="f32")

    markers = find_markers(text)
    asked = infill_prompt(text, markers, Gap(prefix, "", suffix), room=512, suffix_first=suffix_first)
    order = suffix_order if suffix_first else prefix_first
    trained = order(Pieces(text.encode(prefix), text.encode(""), text.encode(suffix)), markers)
    assert asked == trained[:-1].tolist()
    sampling = {"n_predict": 12, "temperature": 0, "cache_prompt": False, "ignore_eos": True, "return_tokens": True}
    path, where = put(prefix, suffix, suffix_first=suffix_first)
    served, ours = ask(
        file,
        [
            (path, {**where, **sampling}),
            ("/completion", {"prompt": asked, **sampling}),
        ],
    )
    assert served["tokens_evaluated"] == ours["tokens_evaluated"] == len(asked)
    assert served["tokens"] == ours["tokens"]
    assert len(ours["tokens"]) == 12
