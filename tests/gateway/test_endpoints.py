"""Decoding at the edge: wrong types name the field, unknown fields pass, nothing else gets through as a 500."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.gateway.requests import ChatRequest, CompletionRequest
from tandem.gateway.surfaces.endpoints import decoded
from tandem.kit.errors import InvalidRequest

decode_chat = msgspec.json.Decoder(ChatRequest).decode
decode_completion = msgspec.json.Decoder(CompletionRequest).decode
HELLO = '"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ("{" + HELLO.replace('"hi"', "3") + "}", "messages[0].content", "invalid_type"),
        ("{" + HELLO + ',"temperature":"hot"}', "temperature", "invalid_type"),
        ("{" + HELLO + ',"temperature":2.5}', "temperature", "invalid_type"),
        ("{" + HELLO + ',"n":0}', "n", "invalid_type"),
        ("{" + HELLO + ',"max_tokens":1.5}', "max_tokens", "invalid_type"),
        ("{" + HELLO + ',"stop":["1","2","3","4","5"]}', "stop", "invalid_type"),
        ("{" + HELLO + ',"response_format":{"type":"xml"}}', "response_format.type", "invalid_type"),
        ('{"messages":[]}', "messages", "invalid_type"),
        ('{"messages":[{"content":"x"}]}', "messages[0].role", "missing_required_parameter"),
        ("{}", "messages", "missing_required_parameter"),
        ("[]", None, "invalid_type"),
        ("{", None, "invalid_json"),
        ("", None, "invalid_json"),
    ],
)
def test_a_wrong_body_names_the_field(body: str, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded(decode_chat, body.encode())
    assert (caught.value.param, caught.value.code) == (param, code)


def test_unknown_fields_and_nulls_are_ignored() -> None:
    request = decoded(decode_chat, b'{%b,"brand_new":{"a":1},"n":null,"tools":null}' % HELLO.encode())
    assert isinstance(request, ChatRequest)
    assert request.n is None


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    try:
        decoded(decode_chat, body)
    except InvalidRequest:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    ["prompt", "n", "stop", "logit_bias", "stream", "stream_options", "seed", "suffix", "logprobs"]
)


@given(st.dictionaries(fields, json_values))
def test_no_json_breaks_the_decoder(body: dict[str, object]) -> None:
    try:
        decoded(decode_completion, msgspec.json.encode(body))
    except InvalidRequest:
        pass
