"""Chats: the ids that transformers gives, weights on what the assistant says, and nothing smuggled in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import UnsupportedFeature
from tandem.train.data.text import Text
from tandem.train.data.tokenizer import CHATML, SPECIALS, learn
from tests.train.data.corpora import chat, document

# As SmolLM2 has it: a system's words of its own where a chat has none.
WITH_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a small model.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# With blocks that swallow lines, a macro's tojson, a loop control, trimming, and the tag that marks what counts.
FANCY = """
{%- if messages[0].role == 'system' %}
    {{- bos_token + messages[0].content | tojson + '\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if message.role == 'tool' %}{{ raise_exception('No tools here.') }}{% endif %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}{{ message.content | trim + '<|im_end|>' }}{% endgeneration %}
        {{- '\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
PLAIN = (
    "{% for m in messages %}{{ m.role | upper + ':\n' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "system": WITH_SYSTEM, "fancy": FANCY, "plain": PLAIN}

CHATS = [
    chat("What is 2+2?", "It is 4."),
    chat("Hi!", "Hello 🙂, you?", "Fine\n\nthanks", "Good:\n\n    x = 12345\n"),
    {"messages": [{"role": "system", "content": 'Be "brief" & <kind>.'}, *chat("the of and", "to in is")["messages"]]},
]


def write(folder: Path, template: str) -> Path:
    learn((document(number, words=200) for number in range(20)), vocab=500, pre="smollm").save(
        str(folder / "tokenizer.json")
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Text]:
    return {name: Text(write(tmp_path_factory.mktemp(name), template)) for name, template in TEMPLATES.items()}


def counted(text: Text, messages: list[dict[str, str]]) -> str:
    ids, weights = text.encode_chat(messages)
    assert set(weights.tolist()) <= {0.0, 1.0}
    assert (ids.dtype, weights.dtype, len(ids)) == (np.int32, np.float32, len(weights))
    return text.decode(ids[weights == 1])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("record", CHATS)
def test_ids_are_those_of_transformers(texts: dict[str, Text], name: str, record: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(texts[name].folder)
    messages = record["messages"]
    expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert texts[name].encode_chat(messages)[0].tolist() == expected
    prompt = theirs.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert texts[name].encode_prompt(messages[:-1]).tolist() == prompt
    rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert texts[name].render_chat(messages, generation=True) == rendered


@pytest.mark.parametrize("name", ["chatml", "system", "fancy"])
def test_what_the_assistant_says_counts_and_the_token_that_ends_its_turn(texts: dict[str, Text], name: str) -> None:
    messages = CHATS[1]["messages"]
    last = messages[3]["content"].strip() if name == "fancy" else messages[3]["content"]
    assert counted(texts[name], messages) == f"Hello 🙂, you?<|im_end|>{last}<|im_end|>"


def test_without_a_token_for_it_the_line_feed_ends_a_turn(texts: dict[str, Text]) -> None:
    assert counted(texts["plain"], CHATS[0]["messages"]) == "It is 4.\n"


@pytest.mark.parametrize("name", ["chatml", "system", "fancy"])
def test_a_chat_may_begin_with_the_assistant(texts: dict[str, Text], name: str) -> None:
    messages = [{"role": "assistant", "content": "Hello!"}, *CHATS[0]["messages"]]
    assert counted(texts[name], messages) == "Hello!<|im_end|>It is 4.<|im_end|>"


SMUGGLED = st.lists(
    st.sampled_from([*SPECIALS, "<|im_", "end|>", "\U000f0000", "\U000f0001", "a ", "\n", "<|im_start|>assistant\n"]),
    min_size=1,
    max_size=8,
).map("".join)


@given(asked=SMUGGLED, said=SMUGGLED, name=st.sampled_from(["chatml", "system"]))
def test_messages_cannot_smuggle_control_tokens_in(texts: dict[str, Text], asked: str, said: str, name: str) -> None:
    text = texts[name]
    ids, weights = text.encode_chat(chat(asked, said)["messages"])
    plain = text.encode_chat(chat("x", "y")["messages"])[0]
    control = [number for number in ids.tolist() if number < len(SPECIALS)]
    assert control == [number for number in plain.tolist() if number < len(SPECIALS)]
    assert text.decode(ids) == text.render_chat(chat(asked, said)["messages"], generation=False)
    assert text.decode(ids[weights == 1]) == f"{said}<|im_end|>"


@given(asked=st.text(st.characters(codec="utf-8")), said=st.text(st.sampled_from(" \n\tab1.'é")))
def test_an_answer_begins_with_a_token_of_its_own_as_when_it_is_asked_for(
    texts: dict[str, Text], asked: str, said: str
) -> None:
    text = texts["system"]
    prompt = text.encode_prompt(chat(asked)["messages"]).tolist()
    ids, weights = text.encode_chat(chat(asked, said)["messages"])
    assert ids[: len(prompt)].tolist() == prompt
    assert weights[: len(prompt)].sum() == 0


def test_a_template_may_refuse_messages(texts: dict[str, Text]) -> None:
    with pytest.raises(ValueError, match="No tools here"):
        texts["fancy"].encode_chat([{"role": "tool", "content": "x"}, *CHATS[0]["messages"]])


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{% for %}", "template is none"),
        # The words of earlier turns are left out, as some templates do with thoughts.
        ("{% for m in messages %}{{ m.content if loop.last else '-' }}{% endfor %}", "another way"),
    ],
)
def test_a_template_that_hides_the_turns_is_refused(tmp_path: Path, template: str, error: str) -> None:
    with pytest.raises(UnsupportedFeature, match=error):
        Text(write(tmp_path, template)).encode_chat(CHATS[1]["messages"])


def test_templates_cannot_reach_out_of_the_sandbox(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refuses"):
        Text(write(tmp_path, "{{ messages.__class__.__mro__[1].__subclasses__() }}")).render_chat([], generation=False)


def test_a_template_in_a_file_of_its_own_or_among_several_is_found(tmp_path: Path) -> None:
    write(tmp_path, CHATML)
    path = tmp_path / "tokenizer_config.json"
    expected = Text(tmp_path).render_chat(CHATS[0]["messages"], generation=True)
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "chat_template": [{"name": "default", "template": CHATML}]}))
    assert Text(tmp_path).render_chat(CHATS[0]["messages"], generation=True) == expected
    path.write_text(json.dumps({**config, "chat_template": None}))
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert Text(tmp_path).render_chat(CHATS[0]["messages"], generation=True) == expected
