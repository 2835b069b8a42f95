"""`tandem deploy`, `undeploy` and `status`: which names clients call, and what runs for them."""

import contextlib
import http.client
import json
import os
import time
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, table
from tandem.flows import deploy_version
from tandem.kit.config import Settings
from tandem.kit.errors import EngineFailed, InvalidRequest
from tandem.serve import Deployment, DeployOptions, State, check_engine
from tandem.server import House

_DEFAULTS = DeployOptions()

Name = Annotated[str, typer.Argument(help="The name that clients call.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="A version, such as starter or starter@2. Default: NAME.")
]
Engine = Annotated[str, typer.Option(help="The engine that runs it.")]
Context = Annotated[int, typer.Option(help="Tokens of one request, prompt and answer together.")]
Parallel = Annotated[int, typer.Option(help="Requests that one replica answers at once.")]
Threads = Annotated[int, typer.Option(help="Threads of one replica; 0 takes all cores, or one for a tiny model.")]
Replicas = Annotated[int, typer.Option(help="Engines that share the load.")]
Development = Annotated[bool, typer.Option("--development", help="Without a release, for one key alone; needs --key.")]
OfKey = Annotated[str | None, typer.Option("--key", help="Name or id of the one key that sees it.")]
Wait = Annotated[bool, typer.Option(help="Wait until it answers, if a server runs.")]


def deploy(
    name: Name,
    model: Model = None,
    engine: Engine = "llamacpp",
    context: Context = _DEFAULTS.context_tokens,
    parallel: Parallel = _DEFAULTS.parallel,
    threads: Threads = _DEFAULTS.threads,
    replicas: Replicas = _DEFAULTS.replicas,
    development: Development = False,
    key: OfKey = None,
    wait: Wait = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Let clients reach a released version under a name; deploying again changes the version without a gap."""
    check_engine(engine)
    house = open_house()
    owner = _owner(house, development=development, key=key)
    options = DeployOptions(context_tokens=context, parallel=parallel, threads=threads, replicas=replicas)
    deployment = deploy_version(house, name, ref=model or name, engine=engine, options=options, owner=owner)
    shown = f"{name} is bound to {deployment.version}{', for one key alone' if owner else ''}."
    if running_server(house.settings) is None:
        deployment = replace(deployment, replicas=())  # the last word of a server that was killed
        shown += " `tandem up` serves it."
    elif wait:
        deployment = _wait_until_ready(house, deployment)
        shown = f"{name} serves {deployment.version}."
    emit(_fields(deployment), as_json=as_json, quiet=quiet, bare=deployment.name, shown=shown)


def undeploy(name: Name, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Take a name away from clients; answers that are running are finished, the version stays in the registry."""
    open_house().deployments.remove(name)
    emit({"name": name, "removed": True}, as_json=as_json, quiet=quiet, bare=name, shown=f"{name} is gone.")


def status(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show whether a server runs, and each deployment with its replicas."""
    house = open_house()
    url = running_server(house.settings)
    deployments = house.deployments.deployments()
    if url is None:  # what the table says of replicas is the last word of a server that was killed
        deployments = [replace(deployment, replicas=()) for deployment in deployments]
    rollouts = {rollout.deployment: rollout.words for rollout in house.rollouts.active()}
    rows = [
        (
            f"{deployment.name}{' (development)' if deployment.owner else ''}",
            deployment.version,
            rollouts.get(deployment.name, ""),
            deployment.engine + (_shared(deployment) if url else ""),
            deployment.state if url else "not running",
            f"{_ready(deployment)}/{deployment.options.replicas}",
            sum(replica.restarts for replica in deployment.replicas) if url else "",
            deployment.last_error,
        )
        for deployment in deployments
    ]
    headings = ("deployment", "version", "rollout", "engine", "state", "ready", "restarts", "last error")
    notes.print(f"Serving at {url}" if url else "No server runs here; `tandem up` starts one.")
    emit(
        {
            "url": url,
            "deployments": [
                {**_fields(deployment), "rollout": rollouts.get(deployment.name)} for deployment in deployments
            ],
        },
        as_json=as_json,
        quiet=quiet,
        bare=[f"{deployment.name} {row[4]}" for deployment, row in zip(deployments, rows, strict=True)],
        shown=table(headings, rows, empty="Nothing is deployed: `tandem deploy starter` does it."),
    )


def _owner(house: House, *, development: bool, key: str | None) -> str:
    """The id of the key that a development deployment is for; empty for one that all clients see."""
    if development != (key is not None):
        raise InvalidRequest(
            "--development and --key need each other.",
            remedy="`--development --key NAME` serves a version without a release to one key alone.",
        )
    return house.keyring.get(key).id if key is not None else ""


def _ready(deployment: Deployment) -> int:
    """How many of its replicas answer, without those of a rollout's candidate."""
    ours = [replica for replica in deployment.replicas if replica.revision <= deployment.revision]
    return sum(replica.state is State.READY for replica in ours)


def _shared(deployment: Deployment) -> str:
    """The processes that answer for others, too."""
    return "".join(f", {one.pid} shared by {one.sharing}" for one in deployment.replicas if one.sharing > 1)


def running_server(settings: Settings) -> str | None:
    """The base URL of the server that runs from this home, or None."""
    try:
        noted = json.loads((settings.home / "server.json").read_text())
        if not _is_alive(int(noted["pid"])):
            return None  # it was killed, and another program may have its port by now
        url = str(noted["url"])
        with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)) as connection:
            connection.request("GET", "/health")
            return url if connection.getresponse().status == 200 else None
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _wait_until_ready(house: House, wanted: Deployment) -> Deployment:
    stop_s = time.monotonic() + house.settings.engine_start_timeout_s
    with notes.status(f"Starting {wanted.version} ..."):
        while True:
            deployment = house.deployments.get(wanted.name)
            ours = [replica for replica in deployment.replicas if replica.revision == wanted.revision]
            if ours and all(replica.state is State.READY for replica in ours):
                return deployment
            failed = next((one for one in ours if one.state in {State.FAILED, State.UNRELEASED}), None)
            if failed is not None or time.monotonic() > stop_s:
                reason = failed.last_error if failed else "it is still starting"
                raise EngineFailed(
                    f"{wanted.name} does not serve {wanted.version}: {reason}",
                    remedy="It is tried again by itself; `tandem status` shows its state, logs/engines/ in the "
                    "home folder what it said.",
                )
            time.sleep(0.2)


def _fields(deployment: Deployment) -> dict[str, Any]:
    return {**asdict(deployment), "state": deployment.state}
