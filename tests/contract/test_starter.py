"""The starter model, a real one, answers a question through each family."""

import openai
import pytest

from tests.contract.clients import FAMILIES, joined, said, sync_client
from tests.serving import Served

pytestmark = pytest.mark.starter

QUESTION = said("What is the capital of France? Answer in one short sentence.")


@pytest.mark.timeout(600)  # the first test downloads 93 MB
@pytest.mark.parametrize("family", FAMILIES)
def test_it_knows_the_capital_of_france(starter: Served, family: str) -> None:
    fields = {"model": "starter", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    with sync_client(starter, family) as client:
        answer = client.chat.completions.create(**fields)
        assert "Paris" in (answer.choices[0].message.content or "")
        assert answer.choices[0].finish_reason == "stop"
        streamed = joined(client.chat.completions.create(**fields, stream=True))
        assert streamed == {0: answer.choices[0].message.content}


def test_it_says_that_it_has_no_place_for_tools(starter: Served) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    with sync_client(starter) as client, pytest.raises(openai.BadRequestError, match="no place"):
        client.chat.completions.create(model="starter", messages=QUESTION, tools=[tool])
