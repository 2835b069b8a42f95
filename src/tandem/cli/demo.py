"""`tandem demo`: from nothing to a served model that both official clients have talked to."""

import asyncio
import importlib.util
from collections.abc import Callable

from tandem.accounts import Keyring
from tandem.cli.context import notes, open_house, screen
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


def demo(host: Host = None, port: Port = None) -> None:
    """Pull the starter model, serve it, ask it something through both official clients, and keep serving."""
    if importlib.util.find_spec("openai") is None:  # said before anything is downloaded
        raise MissingPrerequisite("The demo talks through the openai package.", remedy="pip install openai")
    house = open_house(host=host, port=port)
    setup_logging("warning", house.settings.log_format, secrets=[house.settings.hub_token])
    _step("1/4", "Get a language model and an encoder for embeddings")
    for name in _MODELS:
        version = pull_with_progress(house, name)
        deploy_version(
            house.registry, house.deployments, name, ref=version.ref, engine="llamacpp", options=DeployOptions()
        )
    _step("2/4", "Make a key; it is shown once and stored as a digest")
    key = _fresh_key(house.keyring)
    screen.print(f"  {key}")
    _step("3/4", "Start the engines and the gateway")

    async def started(url: str) -> None:
        await _until_ready(house)
        _step("4/4", f"Ask through both official clients: {QUESTION}")
        await asyncio.to_thread(_ask_both, url, key)
        _explain(url, key)

    run_server(house, started)
    notes.print("Stopped; no process is left behind.")


def _step(number: str, text: str) -> None:
    screen.print(f"\n[bold][{number}][/] {text}".replace(f"[{number}]", rf"\[{number}]"))


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


def _ask_both(url: str, key: str) -> None:
    from openai import AzureOpenAI, OpenAI
    from openai.types.chat import ChatCompletionMessageParam

    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": QUESTION},
    ]
    openai = OpenAI(base_url=f"{url}/v1", api_key=key)
    azure = AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key=key)
    for name, client in (("OpenAI", openai), ("AzureOpenAI", azure)):
        answer = client.chat.completions.create(model="starter", messages=messages, temperature=0, max_tokens=32)
        usage = answer.usage
        assert usage is not None, "the gateway always sends usage"
        screen.print(
            f"  {name:12} {answer.choices[0].message.content}  "
            f"({usage.prompt_tokens} + {usage.completion_tokens} tokens)",
            markup=False,
        )
    vector = openai.embeddings.create(model="encoder", input=QUESTION).data[0].embedding
    screen.print(f"  {'embeddings':12} a vector of {len(vector)} numbers", markup=False)


def _explain(url: str, key: str) -> None:
    show: Callable[..., None] = screen.print
    show(f"\nTandem serves at {url}. Call it:\n", markup=False)
    show(f'  curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" \\', markup=False, soft_wrap=True)
    show('    -H "Content-Type: application/json" \\', markup=False)
    show(
        '    -d \'{"model": "starter", "messages": [{"role": "user", "content": "Hello"}]}\'\n',
        markup=False,
        soft_wrap=True,
    )
    show(f'  OpenAI(base_url="{url}/v1", api_key=KEY)', markup=False)
    show(f'  AzureOpenAI(azure_endpoint="{url}", api_version="2024-10-21", api_key=KEY)', markup=False)
    show("\nCtrl-C stops it.", markup=False)
