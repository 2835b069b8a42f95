"""`tandem demo`: a model is trained, measured, refused, bettered, signed, let in beside another, and traced back."""

import asyncio
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tandem.accounts import Keyring
from tandem.cli.context import AsJson, Quiet, emit, notes, open_house
from tandem.cli.demo.candidate import Outcome, is_released, judged, trained
from tandem.cli.demo.rules import CODER, agree
from tandem.cli.models import pull_with_progress
from tandem.cli.training.train import check_workshop
from tandem.cli.up import Host, Port, run_server
from tandem.flows import deploy_version, lineage
from tandem.kit.errors import Conflict, EngineFailed, MissingPrerequisite, NotFound
from tandem.kit.lines import write_whole
from tandem.kit.log import setup_logging
from tandem.registry import lineage_html, outline
from tandem.serve import DeployOptions, RolloutState, State, Wanted
from tandem.server import House
from tandem.spec import Version

if TYPE_CHECKING:  # openai is no dependency of Tandem's; the demo says so before it needs it
    from tandem.cli.demo.incoming import Traffic

_KEY_NAME = "demo"
_PULLED = ("starter", "encoder")
_CODER_CONTEXT = 256
_STEPS = 400  # about two minutes on two cores
_SHARES = (0.05, 0.4, 1.0)  # of the steps, for one model after the other
_PAGE = "demo-lineage.html"
_PARTS = 8


def demo(
    host: Host = None,
    port: Port = None,
    steps: Annotated[
        int, typer.Option(min=3, help="Steps of the longest training; the two before it take fewer.")
    ] = _STEPS,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The whole loop in ten minutes: train, measure, refuse, better, sign, roll out, ask, trace. Then it keeps serving.

    Ctrl-C stops it at any moment; run again, it goes on, and what is done is not done again.
    """
    _check_prerequisites()
    house = open_house(host=host, port=port)
    setup_logging("warning", house.settings.log_format, secrets=house.settings.secrets)
    hidden = as_json or quiet
    _part(1, "Agree on rules: what a model must show before anybody can call it")
    agree(house)
    outcomes = _candidates(house, steps, hidden=hidden)
    names = [CODER] if _deploy_coder(house, outcomes) else []
    _part(5, "Get a language model and an encoder; what others trained needs a release, too")
    names += [name for name in _PULLED if _deploy_pulled(house, name, hidden=hidden)]
    if not names:
        raise Conflict(
            "Nothing was released, so there is nothing to serve.",
            remedy="`tandem release list` and the lines above say what each model waits for.",
        )
    key = _fresh_key(house.keyring)

    async def started(url: str) -> None:
        await _until_ready(house, names)
        traffic = await _let_in(house, outcomes, url=url, key=key)
        await _ask(house, outcomes, names, traffic, url=url, key=key, as_json=as_json, quiet=quiet)

    _part(6, "Start the engines and the gateway; each engine asks for its model's release before it loads a weight")
    run_server(house, started)
    notes.print("Stopped; no process is left behind.")


def _check_prerequisites() -> None:
    """Say what is missing before anything is downloaded or trained."""
    if importlib.util.find_spec("openai") is None:
        raise MissingPrerequisite("The demo talks through the openai package.", remedy="pip install openai")
    if importlib.util.find_spec("inspect_ai") is None:
        raise MissingPrerequisite(
            "The demo measures its models with Inspect AI.", remedy="pip install 'tandem-platform[evals]'"
        )
    check_workshop()


def _candidates(house: House, steps: int, *, hidden: bool) -> list[Outcome]:
    """The code model three times, each trained longer; what was released of it."""
    words = (
        "Train a small model on this Python's standard library, for a moment only, and ask the gate; Ctrl-C pauses it",
        "Train it longer, and ask again",
        "Train a better one: it is held against the one that is released",
    )
    outcomes, before = [], 0
    for number, (word, share) in enumerate(zip(words, _SHARES, strict=True), start=2):
        _part(number, word)
        before = max(before + 1, round(steps * share))
        outcomes.append(judged(house, trained(house, before, hidden=hidden), hidden=hidden))
    return outcomes


def _deploy_coder(house: House, outcomes: Sequence[Outcome]) -> bool:
    """Bind the name that clients call to a released version; says whether there is one.

    What it serves already stays, be it that one or a later one. Else it is the last but one, so that the last can
    come in beside it.
    """
    released = [one.version for one in outcomes if one.released]
    if not released:
        notes.print(f"No {CODER} is released, so the demo goes on without it.")
        return False
    if not any(_serves(house, CODER, version) for version in released):
        _bind(house, CODER, released[-2:][0], context=_CODER_CONTEXT)
    notes.print(f"Clients call it `{CODER}`; now that is {house.deployments.get(CODER).version}.")
    return True


def _deploy_pulled(house: House, name: str, *, hidden: bool) -> bool:
    version = pull_with_progress(house, name, hidden=hidden)
    if not judged(house, version, hidden=hidden).released:
        return False
    if not _serves(house, name, version):
        _bind(house, name, version, context=DeployOptions().context_tokens)
    return True


def _serves(house: House, name: str, version: Version) -> bool:
    """Whether clients reach this version under the name."""
    try:
        bound = house.deployments.get(name)
    except NotFound:
        return False
    same = (bound.version, bound.digest, bound.owner) == (version.ref, version.artifact.digest, "")
    return same and bound.wanted is Wanted.SERVING and is_released(house, version)


def _bind(house: House, name: str, version: Version, *, context: int) -> None:
    options = DeployOptions(context_tokens=context)
    deploy_version(house, name, ref=version.ref, engine="llamacpp", options=options)


def _fresh_key(keyring: Keyring) -> str:
    try:
        keyring.revoke(_KEY_NAME)
    except NotFound:
        pass  # the first demo in this home
    return keyring.create(_KEY_NAME)[1]


async def _until_ready(house: House, names: Sequence[str]) -> None:
    while True:
        ours = [await asyncio.to_thread(house.deployments.get, name) for name in names]
        for deployment in ours:
            if deployment.state in {State.FAILED, State.UNRELEASED}:
                raise EngineFailed(
                    f"{deployment.name} did not start: {deployment.last_error}", remedy="`tandem doctor` looks closer."
                )
        if all(deployment.state is State.READY for deployment in ours):
            return
        await asyncio.sleep(0.2)


async def _let_in(house: House, outcomes: Sequence[Outcome], *, url: str, key: str) -> "Traffic | None":
    """Roll the last version out, if it is released and something else is served; what clients saw meanwhile."""
    from tandem.cli.demo.incoming import let_in

    _part(7, "Let the better one in beside the one that serves, while clients ask")
    better = outcomes[-1]
    if not better.released:
        notes.print(f"{better.version.ref} is not released: {'; '.join(better.reasons)}.", soft_wrap=True)
        return None
    if await asyncio.to_thread(_serves, house, CODER, better.version):
        notes.print(f"{CODER} serves {better.version.ref} already.")
        return None
    rollout, traffic = await let_in(house, CODER, ref=better.version.ref, url=url, key=key)
    failed = f"{len(traffic.failed)} failed: {traffic.failed[0]}" if traffic.failed else "none failed"
    notes.print(f"  {traffic.answered:,} requests were answered meanwhile, {failed}.")
    if rollout.state is not RolloutState.PROMOTED:
        notes.print(f"  {rollout.stable} serves on.")
    return traffic


async def _ask(
    house: House,
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    traffic: "Traffic | None",
    *,
    url: str,
    key: str,
    **how: bool,
) -> None:
    """Ask, trace the last answer back, and print all there is to know."""
    from tandem.cli.demo.answers import QUESTION, ask_both, explanation

    _part(8, f"Ask through both official clients: {QUESTION}")
    asked = await asyncio.to_thread(ask_both, url, key, names=names)
    # An answer of the encoder has no id to ask for.
    start = asked.response or f"deployment:{names[0]}"
    graph = await asyncio.to_thread(lineage, start, house=house)
    page = house.settings.home / _PAGE
    await asyncio.to_thread(write_whole, page, lineage_html(graph).encode())
    result: dict[str, Any] = {
        "url": url,
        "key": key,
        "answers": asked.answers,
        "response": asked.response,
        "lineage": str(page),
        "versions": [
            {"version": one.version.ref, "released": one.released, "reasons": one.reasons} for one in outcomes
        ],
        "rollout": {"answered": traffic.answered, "failed": len(traffic.failed)} if traffic is not None else None,
    }
    shown = explanation(asked, url=url, key=key, lineage="\n".join(outline(graph)), page=str(page))
    emit(result, bare=key, shown=shown, **how)


def _part(number: int, text: str) -> None:
    notes.print(Text(f"\n[{number}/{_PARTS}]", style="bold"), text)
