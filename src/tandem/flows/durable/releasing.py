"""The steps of flows that release and deploy: request, signatures, deploy, rollout."""

import asyncio
from typing import Any

from tandem.flows.deploy import deploy_version, start_rollout
from tandem.flows.durable.flow import made_at
from tandem.flows.durable.work import Work
from tandem.kit.errors import Conflict, NotFound
from tandem.registry import ReleaseState, Standing
from tandem.serve import Rollout, RolloutState
from tandem.spec import Version


async def request(work: Work) -> dict[str, Any]:
    """Ask for the version's release as soon as the gate lets it through; until then say which clauses do not."""
    version, releases = await work.version(), work.house.releases
    while True:
        verdict = await asyncio.to_thread(releases.review, version.ref)
        if verdict.met:
            break
        work.tell(f"the gate refuses: {'; '.join(verdict.reasons)}", waits=True)
        await work.look_again()
    standing = await asyncio.to_thread(releases.request, version.ref, by=work.flow.by)
    return {"version": version.ref, "release": standing.digest}


async def signatures(work: Work) -> dict[str, Any]:
    """Wait until a release of the version is in force.

    Raises:
        Conflict: it was refused, withdrawn, or cannot come into force any more.
    """
    version, releases = await work.version(), work.house.releases
    while True:
        standing = await asyncio.to_thread(releases.find, version.ref)
        if standing.state is ReleaseState.IN_FORCE:
            return {"release": standing.digest}
        if standing.state is not ReleaseState.PENDING:
            raise _requested_again(work, f"The release of {version.ref} is {standing.state}: {standing.why}.")
        current = await asyncio.to_thread(work.house.charters.current)
        if standing.release.charter != current.digest:
            raise _requested_again(work, f"The charter changed after the release of {version.ref} was requested.")
        work.tell(_awaited(standing), waits=True)
        await work.look_again()


async def deploy(work: Work) -> dict[str, Any]:
    """Bind the name to the version, or begin the rollout that the order asks for; wait where another one goes on.

    Raises:
        Forbidden: the version has no release in force.
        InvalidRequest: the name, an option or the plan cannot be used.
    """
    version = await work.version()
    while True:
        try:
            return await asyncio.to_thread(_deployed, work, version)
        except Conflict as error:
            work.tell(error.message, waits=True)
        await work.look_again()


async def rollout(work: Work) -> dict[str, Any]:
    """Wait until the rollout has ended, which the server leads.

    Raises:
        Conflict: it was rolled back.
    """
    own = str(work.facts.get("rollout", ""))
    while own:
        found = await asyncio.to_thread(work.house.rollouts.get, own)
        if found.state is RolloutState.ROLLED_BACK:
            raise Conflict(
                f"{found.version} was rolled back: {found.reason}",
                remedy=f"`tandem flows retry {work.flow.id}` tries again.",
            )
        if not found.is_active:
            break
        work.tell(f"rollout: {found.words}", waits=True)
        await work.look_again()
    return {}


def rollout_of(work: Work, version: Version) -> Rollout | None:
    """The rollout that this try of the flow began: known even to who was killed right after."""
    found = work.house.rollouts.rollouts(work.order.name, limit=20)
    mine = (one for one in found if one.digest == version.artifact.digest and one.version == version.ref)
    return next((one for one in mine if made_at(one.id) >= work.flow.since), None)


def _deployed(work: Work, version: Version) -> dict[str, Any]:
    order, house = work.order, work.house
    made = {"version": version.ref, "deployment": order.name}
    if order.plan is not None:
        if (begun := rollout_of(work, version)) is not None:
            return made | {"rollout": begun.id}
        try:
            bound = house.deployments.get(order.name)
        except NotFound:
            pass  # with nobody to come in beside, it takes the name at once
        else:
            if (bound.version, bound.digest) == (version.ref, version.artifact.digest):
                return made
            return made | {"rollout": start_rollout(house, order.name, ref=version.ref, plan=order.plan).id}
    deploy_version(house, order.name, ref=version.ref, engine=order.engine, options=order.options)
    return made


def _awaited(standing: Standing) -> str:
    return f"waits for a signature of {' and of '.join(sorted(standing.missing))}"


def _requested_again(work: Work, message: str) -> Conflict:
    return Conflict(message, remedy=f"`tandem flows retry {work.flow.id}` requests it again.")
