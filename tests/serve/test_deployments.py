"""Deployments in the database: names, bindings, revisions and what was seen running."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.formats import write_tiny_gguf
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.serve import Binding, Deployment, Deployments, DeployOptions, Observation, State, Wanted
from tandem.spec import Task, Version
from tests.serve.launches import tiny_version


@pytest.fixture
def deployments(database: Database) -> Deployments:
    """An empty table."""
    return Deployments(database)


@pytest.fixture
def version(tmp_path: Path) -> Version:
    """A version to bind."""
    return tiny_version(write_tiny_gguf(tmp_path / "tiny.gguf"))


def _bind(deployments: Deployments, version: Version, name: str = "chat", **options: int) -> Deployment:
    return deployments.bind(name, version=version, options=DeployOptions(**options), engine="llamacpp")


def test_bind_and_get(deployments: Deployments, version: Version) -> None:
    bound = _bind(deployments, version, context_tokens=512, replicas=2)
    assert deployments.get("chat") == bound
    assert bound.version == "tiny@1"
    assert bound.digest == version.artifact.digest
    assert bound.size == version.artifact.size
    assert bound.task is Task.GENERATE
    assert bound.facts == version.facts
    assert bound.options == DeployOptions(context_tokens=512, replicas=2)
    assert bound.wanted is Wanted.SERVING
    assert bound.revision == 1
    assert bound.state is State.PENDING


def test_binding_the_same_changes_nothing(deployments: Deployments, version: Version) -> None:
    first = _bind(deployments, version)
    assert _bind(deployments, version) == first


def test_any_difference_is_a_new_revision(deployments: Deployments, version: Version) -> None:
    first = _bind(deployments, version)
    assert _bind(deployments, version, parallel=8).revision == 2
    bound = _bind(deployments, replace(version, number=2), parallel=8)
    assert bound.revision == 3
    assert bound.version == "tiny@2"
    assert bound.created_at == first.created_at
    again = deployments.bind("chat", version=version, options=DeployOptions(), engine="other")
    assert (again.revision, again.engine) == (4, "other")


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "x" * 64])
def test_names_that_can_be_used(deployments: Deployments, version: Version, name: str) -> None:
    assert _bind(deployments, version, name).name == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "ä", "x" * 65, "a\n", "../a"])
def test_names_that_cannot(deployments: Deployments, version: Version, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a deployment") as caught:
        _bind(deployments, version, name)
    assert caught.value.param == "name"
    assert deployments.deployments() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("context_tokens", 15), ("parallel", 0), ("parallel", 257), ("threads", -1), ("replicas", 0)],
)
def test_options_out_of_bounds(deployments: Deployments, version: Version, option: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{option} is {value}.*Use ") as caught:
        _bind(deployments, version, **{option: value})
    assert caught.value.param == option


def test_other_file_formats_are_refused(deployments: Deployments, version: Version) -> None:
    odd = replace(version, artifact=replace(version.artifact, format="safetensors"))
    with pytest.raises(InvalidRequest, match="safetensors"):
        _bind(deployments, odd)


def test_stop_and_bind_again(deployments: Deployments, version: Version) -> None:
    _bind(deployments, version)
    stopped = deployments.stop("chat")
    assert stopped.wanted is Wanted.STOPPED
    assert stopped.state is State.STOPPED
    assert stopped.revision == 1
    again = _bind(deployments, version)
    assert (again.wanted, again.revision) == (Wanted.SERVING, 1)


def test_remove(deployments: Deployments, version: Version) -> None:
    _bind(deployments, version)
    _bind(deployments, version, "code")
    deployments.remove("chat")
    for ask in (deployments.get, deployments.remove, deployments.stop):
        with pytest.raises(NotFound, match=r"'chat'.*Deployed are: code"):
            ask("chat")


def test_pages(deployments: Deployments, version: Version) -> None:
    for name in ("c", "a", "b"):
        _bind(deployments, version, name)
    assert [found.name for found in deployments.deployments()] == ["a", "b", "c"]
    assert [found.name for found in deployments.deployments(limit=2)] == ["a", "b"]
    assert [found.name for found in deployments.deployments(after="b")] == ["c"]


def test_observations_belong_to_their_deployment(deployments: Deployments, version: Version) -> None:
    for name in ("chat", "code"):
        _bind(deployments, version, name)
    ready = Observation(
        id="chat.1.0", deployment="chat", revision=1, state=State.READY, pid=7, address="http://127.0.0.1:1", restarts=2
    )
    failed = Observation(id="chat.1.1", deployment="chat", revision=1, state=State.FAILED, last_error="It burnt.")
    gone = Observation(id="gone.1.0", deployment="gone", revision=1, state=State.READY)
    deployments.observe([failed, gone, ready])
    chat, code = deployments.deployments()
    assert chat.replicas == (ready, failed)
    assert chat.state is State.READY
    assert chat.last_error == "It burnt."
    assert code.state is State.PENDING
    deployments.observe([failed])
    assert deployments.get("chat").state is State.FAILED
    deployments.observe([])
    assert deployments.get("chat").replicas == ()


def test_bindings_at_the_same_time_are_counted_one_by_one(deployments: Deployments, version: Version) -> None:
    threads = [
        threading.Thread(target=_bind, args=(deployments, replace(version, number=number))) for number in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert deployments.get("chat").revision == 8


def test_a_development_deployment_is_for_its_owner(deployments: Deployments, version: Version) -> None:
    _bind(deployments, version)
    own = deployments.bind("mine", version=version, options=DeployOptions(), engine="llamacpp", owner="key_1")
    assert own.binding == Binding("tiny@1", version.artifact.digest, "key_1")
    assert [found.name for found in deployments.deployments()] == ["chat", "mine"]
    assert [found.name for found in deployments.deployments(key="key_1")] == ["chat", "mine"]
    assert [found.name for found in deployments.deployments(key="key_2")] == ["chat"]
    assert deployments.get("mine", key="key_1") == deployments.get("mine") == own
    with pytest.raises(NotFound) as unseen:
        deployments.get("mine", key="key_2")
    with pytest.raises(NotFound) as unknown:
        deployments.get("none", key="key_2")
    assert str(unseen.value).replace("mine", "none") == str(unknown.value)


def test_a_name_does_not_change_hands(deployments: Deployments, version: Version) -> None:
    _bind(deployments, version)
    deployments.bind("mine", version=version, options=DeployOptions(), engine="llamacpp", owner="key_1")
    for name, owner in (("chat", "key_1"), ("mine", ""), ("mine", "key_2")):
        with pytest.raises(Conflict, match=f"'{name}' is"):
            deployments.bind(name, version=version, options=DeployOptions(), engine="llamacpp", owner=owner)


def test_the_binding_before_is_remembered(deployments: Deployments, version: Version) -> None:
    _bind(deployments, version)
    with pytest.raises(NotFound, match="never had another version"):
        deployments.previous("chat")
    _bind(deployments, version, parallel=8)
    _bind(deployments, replace(version, number=2), parallel=9)
    revision, binding = deployments.previous("chat")
    assert (revision, binding.version) == (2, "tiny@1")
    assert deployments.restore("chat", revision).options.parallel == 8
    with pytest.raises(NotFound, match="no revision 7"):
        deployments.restore("chat", 7)
    with pytest.raises(NotFound):
        deployments.restore("none", 1)


def test_an_adapter_is_bound_with_its_base(deployments: Deployments, version: Version) -> None:
    base = f"sha256:{'b' * 64}"
    adapter = replace(version, artifact=replace(version.artifact, base=base))
    bound = Binding("tiny@1", version.artifact.digest, "", base)
    assert _bind(deployments, adapter).binding == bound
    assert _bind(deployments, version).revision == 2, "the same bytes as a whole model are something else"
    revision, binding = deployments.previous("chat")
    assert (revision, binding) == (1, bound)
    assert deployments.restore("chat", revision).binding == bound
