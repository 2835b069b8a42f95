"""`tandem demo`: from nothing to a served model that both official clients have talked to."""

import asyncio
import importlib.util

from rich.text import Text

from tandem.accounts import Keyring
from tandem.cli.context import AsJson, Quiet, emit, notes, open_house
from tandem.cli.models import pull_with_progress
from tandem.cli.up import Host, Port, run_server
from tandem.flows import deploy_version
from tandem.kit.errors import EngineFailed, MissingPrerequisite, NotFound
from tandem.kit.log import setup_logging
from tandem.serve import DeployOptions, State
from tandem.server import House

QUESTION = "What is the capital of France?"
# Without a system message the starter's template adds one of its own, under which its 4-bit weights answer nonsense.
_SYSTEM = "You are a helpful assistant."
_KEY_NAME = "demo"
_MODELS = ("starter", "encoder")


def demo(host: Host = None, port: Port = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Pull the starter model, serve it, ask it something through both official clients, and keep serving."""
    if importlib.util.find_spec("openai") is None:  # said before anything is downloaded
        raise MissingPrerequisite("The demo talks through the openai package.", remedy="pip install openai")
    house = open_house(host=host, port=port)
    setup_logging("warning", house.settings.log_format, secrets=[house.settings.hub_token])
    _step(1, "Get a language model and an encoder for embeddings")
    for name in _MODELS:
        version = pull_with_progress(house, name, hidden=as_json or quiet)
        deploy_version(
            house.registry, house.deployments, name, ref=version.ref, engine="llamacpp", options=DeployOptions()
        )
    _step(2, "Make a key; it is shown once and stored as a digest")
    key = _fresh_key(house.keyring)
    _step(3, "Start the engines and the gateway")

    async def started(url: str) -> None:
        await _until_ready(house)
        _step(4, f"Ask through both official clients: {QUESTION}")
        answers = await asyncio.to_thread(_ask_both, url, key)
        result = {"url": url, "key": key, "answers": answers}
        emit(result, as_json=as_json, quiet=quiet, bare=key, shown=_explanation(url, key, answers))

    run_server(house, started)
    notes.print("Stopped; no process is left behind.")


def _step(number: int, text: str) -> None:
    notes.print(Text(f"\n[{number}/4]", style="bold"), text)


def _fresh_key(keyring: Keyring) -> str:
    try:
        keyring.revoke(_KEY_NAME)
    except NotFound:
        pass  # the first demo in this home
    return keyring.create(_KEY_NAME)[1]


async def _until_ready(house: House) -> None:
    while True:
        ours = [await asyncio.to_thread(house.deployments.get, name) for name in _MODELS]
        for deployment in ours:
            if deployment.state is State.FAILED:
                raise EngineFailed(
                    f"{deployment.name} did not start: {deployment.last_error}", remedy="`tandem doctor` looks closer."
                )
        if all(deployment.state is State.READY for deployment in ours):
            return
        await asyncio.sleep(0.2)


def _ask_both(url: str, key: str) -> dict[str, str]:
    from openai import AzureOpenAI, OpenAI
    from openai.types.chat import ChatCompletionMessageParam

    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": QUESTION},
    ]
    openai = OpenAI(base_url=f"{url}/v1", api_key=key)
    azure = AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key=key)
    answers = {}
    for name, client in (("OpenAI", openai), ("AzureOpenAI", azure)):
        answer = client.chat.completions.create(model="starter", messages=messages, temperature=0, max_tokens=32)
        usage = answer.usage
        assert usage is not None, "the gateway always sends usage"
        counts = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
        answers[name] = f"{answer.choices[0].message.content}  ({counts})"
    vector = openai.embeddings.create(model="encoder", input=QUESTION).data[0].embedding
    answers["embeddings"] = f"a vector of {len(vector)} numbers"
    return answers


_EXPLANATION = """
{answers}

Tandem serves at {url} with the key {key}
Call it:

  curl {url}/v1/chat/completions \\
    -H "Authorization: Bearer {key}" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "starter", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  OpenAI(base_url="{url}/v1", api_key=KEY)
  AzureOpenAI(azure_endpoint="{url}", api_version="2024-10-21", api_key=KEY)

Ctrl-C stops it."""


def _explanation(url: str, key: str, answers: dict[str, str]) -> Text:
    said = "\n".join(f"  {name:12} {answer}" for name, answer in answers.items())
    return Text(_EXPLANATION.format(answers=said, url=url, key=key), no_wrap=True, overflow="ignore")
