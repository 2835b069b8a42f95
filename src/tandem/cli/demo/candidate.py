"""A version on its way to clients: trained, measured, judged and signed, each only if that was not done before."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from tandem.cli.context import notes
from tandem.cli.demo.rules import CODER
from tandem.cli.releasing.evaluate import watching
from tandem.cli.training.train import follow, read_recipe, recipes_folder
from tandem.evals import find_suite
from tandem.flows import Asking, Listener, evaluate, resume, train
from tandem.kit.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tandem.registry import ReleaseState, Standing, Verdict
from tandem.server import House
from tandem.spec import Placement, Recipe, Run, RunState, Version

_LOOKS = 4  # at the held-out loss, in a training
_NEWEST = 50  # runs among which one that was left unfinished is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a version; `reasons` says why it is not released."""

    version: Version
    released: bool
    reasons: tuple[str, ...] = ()


def trained(house: House, steps: int, *, hidden: bool) -> Version:
    """The version that the smallest code recipe makes in so many steps.

    What was trained before is used again, and a run that was left unfinished goes on.

    Raises:
        Conflict: it was paused or has failed.
    """
    # The suite `quality-code` says what it is worth, so the run's own task and more looks would only take time.
    every = max(1, steps // _LOOKS)
    changes = [f"name={CODER}", f"budget.steps={steps}", f"evaluation.every={every}", "evaluation.tasks=[]"]
    recipe = read_recipe(recipes_folder() / "code-fim-tiny.toml", changes)
    unfinished = _unfinished(house, recipe)

    async def story(listener: Listener) -> Run:
        if unfinished is not None:
            return await resume(unfinished.run_id, house=house, listener=listener)
        return await train(recipe, Placement(), house=house, listener=listener)

    run = follow(house, story, hidden=hidden, plain=False)
    if run.state is not RunState.SUCCEEDED:
        raise Conflict(f"The training is {run.state}: {run.reason}.", remedy="Run this again: it goes on from there.")
    notes.print(
        f"{run.version}: held-out loss {run.evaluation['loss']:.2f} nats a token at step {steps}. "
        f"Its report is {house.runs.folder(run.run_id).report}",
        soft_wrap=True,
    )
    return house.registry.resolve(run.version)


def judged(house: House, version: Version, *, hidden: bool) -> Outcome:
    """Measure a version as its class of the charter asks, ask the gate, and sign; all of it in words.

    Raises:
        TandemError: it cannot be measured, or nobody here may sign evidence.
    """
    if is_released(house, version):
        notes.print(f"{version.ref} is released already.")
        return Outcome(version=version, released=True)
    if (ended := _ended(house, version)) is not None:
        notes.print(f"The release of {version.ref} is {ended.state}, and the demo leaves it at that: {ended.why}.")
        return Outcome(version=version, released=False, reasons=(ended.why,))
    _measure(house, version, hidden=hidden)
    verdict = house.releases.review(version.ref)
    notes.print(Text("\n").join(_told(verdict)), soft_wrap=True)
    if not verdict.met:
        return Outcome(version=version, released=False, reasons=tuple(verdict.reasons))
    standing = _signed(house, house.releases.request(version.ref, by="tandem demo"))
    released = standing.state is ReleaseState.IN_FORCE
    return Outcome(version=version, released=released, reasons=() if released else (standing.why,))


def is_released(house: House, version: Version) -> bool:
    """Whether a release in force lets it out here."""
    try:
        house.releases.permit(version.ref, version.artifact.digest, base=version.artifact.base)
    except Forbidden:
        return False
    return True


def _ended(house: House, version: Version) -> Standing | None:
    """The newest release of a version, if somebody refused or withdrew it."""
    try:
        standing = house.releases.find(version.ref)
    except NotFound:
        return None
    return standing if standing.state in {ReleaseState.REFUSED, ReleaseState.WITHDRAWN} else None


def _unfinished(house: House, recipe: Recipe) -> Run | None:
    """The newest run of this recipe that is not over."""
    for run in house.runs.newest(limit=_NEWEST):
        if run.name == recipe.name and not run.state.over:
            other = house.runs.recipe(run.run_id)
            if (other.budget, other.model, other.seed) == (recipe.budget, recipe.model, recipe.seed):
                return run
    return None


def _measure(house: House, version: Version, *, hidden: bool) -> None:
    """Have the suites make evidence of which there is none of their present edition."""
    one = house.charters.current().charter.class_of(version)
    wanted = dict.fromkeys(clause.suite for clause in one.clauses) if one is not None else {}
    held = {(known.suite, known.suite_digest) for known in house.evidence.of(version.artifact.digest).values()}
    suites = [find_suite(name, house.settings.home) for name in wanted]
    missing = tuple(suite.name for suite in suites if (suite.name, suite.digest) not in held)
    if suites and not missing:
        notes.print(f"{version.ref} was measured before; the evidence is used again.")
    if missing:
        with watching(hidden=hidden) as watcher:
            asyncio.run(evaluate(version.ref, house, asking=Asking(suites=missing), watcher=watcher))


def _told(verdict: Verdict) -> Iterator[Text]:
    said = "lets it through" if verdict.met else "refuses it"
    yield Text.assemble((f"The gate {said}", "bold green" if verdict.met else "bold red"), f": {verdict.version}")
    if not verdict.findings:
        yield Text(f"  The charter asks nothing of models of its class, {verdict.model_class}, but the signatures.")
    for finding in verdict.findings:
        mark = ("  yes  ", "green") if finding.met else ("  no   ", "red")
        yield Text.assemble(mark, f"{finding.clause}: {finding.why}")


def _signed(house: House, standing: Standing) -> Standing:
    """Sign a release with what keys are here, and say who has signed and who has not."""
    release = standing.release
    try:
        signers = house.members.signers(house.charters.current().charter, "sign")
    except (NotFound, InvalidRequest) as error:
        notes.print(f"Nobody signs it now: {error.message} {error.remedy}")
        return standing
    standing = house.releases.sign(standing.digest, [one.key for one in signers])
    solo = "; one person holds all keys, and the release says so" if release.mode == "solo" else ""
    notes.print(f"Signed by {' and '.join(standing.signed_by)}{solo}.")
    if standing.missing:
        waiting = " and ".join(sorted(standing.missing))
        notes.print(f"It waits for {waiting}: `tandem release export {release.version} FILE` hands it over.")
    return standing
