"""Deploy: a released version becomes a name that clients call, comes in beside another one, or goes back."""

from dataclasses import dataclass
from typing import Protocol

from tandem.kit.errors import NotFound
from tandem.registry import Registry
from tandem.serve import Binding, Deployment, Deployments, DeployOptions, Files, Plan, Rollout, Rollouts
from tandem.spec import Version


class Gate(Protocol):
    """The release gate, as far as this story asks it."""

    def permit(self, version_ref: str, digest: str, *, base: str = "") -> object: ...


class Rooms(Protocol):
    """What the story stands on."""

    @property
    def registry(self) -> Registry: ...
    @property
    def releases(self) -> Gate: ...
    @property
    def deployments(self) -> Deployments: ...
    @property
    def rollouts(self) -> Rollouts: ...


@dataclass(frozen=True, slots=True)
class WentBack:
    """What `roll_back` did: it ended a rollout, or bound the deployment to its version before."""

    deployment: Deployment
    rollout: Rollout | None = None


def deploy_version(
    house: Rooms, name: str, *, ref: str, engine: str, options: DeployOptions, owner: str = ""
) -> Deployment:
    """Bind the deployment `name` to the version that `ref` (`starter`, `starter@2`) means now.

    With `owner`, the id of a key, it is a development deployment: it needs no release, and only that key sees it.

    Raises:
        NotFound: the registry has no such version.
        Forbidden: the version has no release in force.
        InvalidRequest: the name or an option cannot be used.
        Conflict: a rollout of the deployment is under way, or other clients have the name.
        IntegrityError: the version's file is missing or is not what its digest says.
    """
    version = _servable(house, ref, owner=owner)
    return house.deployments.bind(name, version=version, options=options, engine=engine, owner=owner)


def start_rollout(house: Rooms, name: str, *, ref: str, plan: Plan) -> Rollout:
    """Put the version that `ref` means now beside the one that the deployment serves.

    Raises:
        NotFound: there is no such deployment or version.
        Forbidden: the version has no release in force.
        InvalidRequest: the plan or the version cannot be used.
        Conflict: it has a rollout already, or serves this version.
        IntegrityError: the version's file is missing or is not what its digest says.
    """
    version = _servable(house, ref, owner=house.deployments.get(name).owner)
    return house.rollouts.start(name, version=version, plan=plan)


def promote(house: Rooms, name: str) -> Deployment:
    """Bind the deployment to its rollout's candidate, without waiting for the steps that are left.

    Raises:
        NotFound: no rollout of this name, or of this id, is under way.
        Forbidden: the candidate has no release in force any more.
    """
    rollout = house.rollouts.of(name)
    owner = house.deployments.get(rollout.deployment).owner
    permit(house.releases, Binding(rollout.version, rollout.digest, owner, rollout.base))
    return house.rollouts.promote(rollout, "Promoted by hand.")


def roll_back(house: Rooms, name: str) -> WentBack:
    """End the rollout that is under way; where none is, bind the deployment to its version before.

    Raises:
        NotFound: there is no such deployment, or it never had another version.
        Forbidden: the version before has no release in force any more.
    """
    deployment = house.deployments.get(name)
    try:
        rollout = house.rollouts.of(name)
    except NotFound:
        revision, binding = house.deployments.previous(name)
        permit(house.releases, binding)
        return WentBack(house.deployments.restore(name, revision))
    return WentBack(deployment, house.rollouts.roll_back(rollout, "Rolled back by hand."))


def permit(gate: Gate, binding: Binding) -> None:
    """Let pass what may be served: what has a release in force, and what one key alone sees.

    Raises:
        Forbidden: it has no release in force, or the charter does not let it be served here.
        Unavailable: the gate cannot be asked.
    """
    if not binding.owner:
        gate.permit(binding.version, binding.digest, base=binding.base)


def files_of(binding: Binding, registry: Registry) -> Files:
    """The files of a binding, each read and found to be what its digest says.

    Raises:
        IntegrityError: one is missing or is not.
    """
    if binding.base:
        return Files(registry.file(binding.base), registry.file(binding.digest))
    return Files(registry.file(binding.digest))


def _servable(house: Rooms, ref: str, *, owner: str) -> Version:
    version = house.registry.resolve(ref)
    permit(house.releases, Binding(version.ref, version.artifact.digest, owner, version.artifact.base))
    house.registry.path(version)
    return version
