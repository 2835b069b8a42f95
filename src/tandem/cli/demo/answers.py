"""What the demo asks of the served models through both official clients, and what it says of the answers."""

from collections.abc import Collection
from typing import NamedTuple

from openai import AzureOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from rich.text import Text

from tandem.cli.demo.incoming import PREFIX, SUFFIX
from tandem.cli.demo.rules import CODER

STARTER, ENCODER = "starter", "encoder"
"""Models that are pulled, by their names in the catalogue."""
QUESTION = "What is the capital of France?"

# Without a system message the starter's template adds one of its own, under which its 4-bit weights answer nonsense.
_SYSTEM = "You are a helpful assistant."


class Asked(NamedTuple):
    """Answers by what they are of, and the id of the response whose lineage is shown."""

    answers: dict[str, str]
    response: str


def ask_both(url: str, key: str, *, names: Collection[str]) -> Asked:
    """Ask those of the demo's deployments that there are."""
    answers, response = {}, ""
    azure = AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key=key)
    for kind, client in (("AzureOpenAI", azure), ("OpenAI", OpenAI(base_url=f"{url}/v1", api_key=key))):
        if STARTER in names:
            answers[f"{STARTER}, {kind}"], response = _chat(client)
        if CODER in names:
            answers[f"{CODER}, {kind}"], response = _filled(client)
        if ENCODER in names and client is not azure:
            vector = client.embeddings.create(model=ENCODER, input=QUESTION).data[0].embedding
            answers[ENCODER] = f"a vector of {len(vector)} numbers"
    return Asked(answers, response)


def _chat(client: OpenAI) -> tuple[str, str]:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": QUESTION},
    ]
    answer = client.chat.completions.create(model=STARTER, messages=messages, temperature=0, max_tokens=32)
    usage = answer.usage
    assert usage is not None, "the gateway always sends usage"
    counts = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    return f"{answer.choices[0].message.content}  ({counts})", answer.id


def _filled(client: OpenAI) -> tuple[str, str]:
    answer = client.completions.create(model=CODER, prompt=PREFIX, suffix=SUFFIX, temperature=0, max_tokens=8)
    return f"fills a gap with {answer.choices[0].text!r}", answer.id


_EXPLANATION = """
{answers}

Where {response} came from:

{lineage}

Drawn as a page: {page}

Tandem serves at {url} with the key {key}
Call it:

  curl {url}/v1/{path} \\
    -H "Authorization: Bearer {key}" \\
    -H "Content-Type: application/json" \\
    -d '{body}'

  OpenAI(base_url="{url}/v1", api_key=KEY)
  AzureOpenAI(azure_endpoint="{url}", api_version="2024-10-21", api_key=KEY)

Ctrl-C stops it."""


_CHAT = ("chat/completions", '{"model": "starter", "messages": [{"role": "user", "content": "Hello"}]}')
_COMPLETION = ("completions", '{"model": "coder", "prompt": "def add(a, b):\\n    return ", "max_tokens": 16}')


def explanation(asked: Asked, *, url: str, key: str, lineage: str, page: str) -> Text:
    """All of it for people: answers, lineage, and how to go on."""
    path, body = _CHAT if f"{STARTER}, OpenAI" in asked.answers else _COMPLETION
    text = _EXPLANATION.format(
        answers="\n".join(f"  {name:22} {answer}" for name, answer in asked.answers.items()),
        response=asked.response,
        lineage=lineage,
        page=page,
        url=url,
        key=key,
        path=path,
        body=body,
    )
    return Text(text, no_wrap=True, overflow="ignore")
