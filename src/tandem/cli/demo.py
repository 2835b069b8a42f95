"""`tandem demo`: a model trained from nothing and one pulled, both served, and asked through both official clients."""

import asyncio
import importlib.util
from typing import Annotated

import typer
from rich.text import Text

from tandem.accounts import Keyring
from tandem.cli.context import AsJson, Quiet, emit, notes, open_house
from tandem.cli.models import pull_with_progress
from tandem.cli.training.train import check_workshop, follow, read_recipe, recipes_folder
from tandem.cli.up import Host, Port, run_server
from tandem.flows import Listener, deploy_version, train
from tandem.kit.errors import Conflict, EngineFailed, MissingPrerequisite, NotFound
from tandem.kit.log import setup_logging
from tandem.serve import DeployOptions, State
from tandem.server import House
from tandem.spec import Placement, Run, RunState

QUESTION = "What is the capital of France?"
# Without a system message the starter's template adds one of its own, under which its 4-bit weights answer nonsense.
_SYSTEM = "You are a helpful assistant."
_KEY_NAME = "demo"
_MODELS = ("starter", "encoder")
_CODER, _CODER_CONTEXT = "coder", 256
_STEPS = 300  # about two minutes on two cores: enough to see it learn, not to get good code
_PREFIX, _SUFFIX = "import os\n\ndef read(path):\n    with open(path) as file:\n        return ", "\n\nread('a')\n"


def demo(
    host: Host = None,
    port: Port = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that the small code model is trained for.")] = _STEPS,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a small code model, pull the starter, serve both, ask them through both official clients, keep serving."""
    if importlib.util.find_spec("openai") is None:  # said before anything is downloaded
        raise MissingPrerequisite("The demo talks through the openai package.", remedy="pip install openai")
    check_workshop()
    house = open_house(host=host, port=port)
    setup_logging("warning", house.settings.log_format, secrets=[house.settings.hub_token])
    _step(1, "Train a small model on this Python's standard library, from nothing; Ctrl-C pauses it")
    trained = _train(house, steps, hidden=as_json or quiet)
    _step(2, "Get a language model and an encoder for embeddings")
    for name in _MODELS:
        version = pull_with_progress(house, name, hidden=as_json or quiet)
        _deploy(house, name, ref=version.ref, context=DeployOptions().context_tokens)
    _deploy(house, _CODER, ref=trained, context=_CODER_CONTEXT)
    _step(3, "Make a key; it is shown once and stored as a digest")
    key = _fresh_key(house.keyring)
    _step(4, "Start the engines and the gateway")

    async def started(url: str) -> None:
        await _until_ready(house)
        _step(5, f"Ask through both official clients: {QUESTION}")
        answers = await asyncio.to_thread(_ask_both, url, key)
        result = {"url": url, "key": key, "answers": answers}
        emit(result, as_json=as_json, quiet=quiet, bare=key, shown=_explanation(url, key, answers))

    run_server(house, started)
    notes.print("Stopped; no process is left behind.")


def _train(house: House, steps: int, *, hidden: bool) -> str:
    """The version that the smallest code recipe makes; one that was made before is used again."""
    recipe = read_recipe(recipes_folder() / "code-fim-tiny.toml", [f"budget.steps={steps}"])

    async def story(listener: Listener) -> Run:
        return await train(recipe, Placement(), house=house, listener=listener)

    run = follow(house, story, hidden=hidden, plain=False)
    if run.state is not RunState.SUCCEEDED:
        raise Conflict(
            f"The training is {run.state}: {run.reason}.",
            remedy=f"`tandem runs resume {run.run_id}`, then run this again.",
        )
    notes.print(f"{run.version} is trained: held-out loss {run.evaluation['loss']:.2f} nats a token. The report:")
    notes.print(str(house.runs.folder(run.run_id).report), soft_wrap=True)
    return run.version


def _deploy(house: House, name: str, *, ref: str, context: int) -> None:
    options = DeployOptions(context_tokens=context)
    deploy_version(house.registry, house.deployments, name, ref=ref, engine="llamacpp", options=options)


def _step(number: int, text: str) -> None:
    notes.print(Text(f"\n[{number}/5]", style="bold"), text)


def _fresh_key(keyring: Keyring) -> str:
    try:
        keyring.revoke(_KEY_NAME)
    except NotFound:
        pass  # the first demo in this home
    return keyring.create(_KEY_NAME)[1]


async def _until_ready(house: House) -> None:
    while True:
        ours = [await asyncio.to_thread(house.deployments.get, name) for name in (*_MODELS, _CODER)]
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
    filled = openai.completions.create(model=_CODER, prompt=_PREFIX, suffix=_SUFFIX, temperature=0, max_tokens=8)
    answers["coder"] = f"fills a gap with {filled.choices[0].text!r}; it has seen a million tokens in its life"
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
