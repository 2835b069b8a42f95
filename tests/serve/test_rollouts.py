"""Rollouts: what is judged when, what is recorded, and who is faster when two decide."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.formats import write_tiny_gguf
from tandem.kit.db import Database
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.serve import Answered, Deployments, DeployOptions, Mode, Plan, Rollout, Rollouts, RolloutState, Window
from tandem.serve.rollouts.facts import rollout_facts
from tandem.serve.rollouts.judgement import Verb, compare, judge, most_tests
from tandem.serve.rollouts.plan import LOOKS, Progress
from tandem.serve.rollouts.window import Numbers
from tandem.spec import Task, Version
from tests.serve.launches import tiny_version

PLAN = Plan(steps=(10, 50, 100), hold_s=10, least=100)
FINE = Numbers(requests=100, first_token_s=(0.1,) * 50, token_s=(0.01,) * 50)
MANY = Numbers(requests=900, first_token_s=(0.1,) * 500, token_s=(0.01,) * 500)


def _progress(*, looks: int = 0, elapsed_s: float = 10, stable: Numbers = MANY, candidate: Numbers = FINE) -> Progress:
    return Progress(looks=looks, elapsed_s=elapsed_s, stable=stable, candidate=candidate)


@pytest.mark.parametrize(
    ("elapsed_s", "requests", "looks"), [(0, 1000, 0), (1.9, 1000, 0), (2, 1000, 1), (9.9, 1000, 4), (10, 19, 0)]
)
def test_looks_come_with_time_and_requests(elapsed_s: float, requests: int, looks: int) -> None:
    candidate = msgspec.structs.replace(FINE, requests=requests)
    decision = judge(PLAN, 0, _progress(elapsed_s=elapsed_s, candidate=candidate), paused=False)
    assert (decision.looks, decision.verb) == (looks, Verb.LOOK if looks else Verb.WAIT)


def test_a_step_that_was_held_goes_on_and_the_last_one_ends() -> None:
    assert judge(PLAN, 0, _progress(), paused=False).verb is Verb.ADVANCE
    assert judge(PLAN, 2, _progress(), paused=False).verb is Verb.FINISH
    assert judge(PLAN, 2, _progress(), paused=True).verb is Verb.LOOK
    held = _progress(looks=LOOKS)
    assert judge(PLAN, 0, held, paused=True).verb is Verb.WAIT
    assert judge(PLAN, 0, held, paused=False).verb is Verb.ADVANCE, "what was seen while it was paused counts"


@pytest.mark.parametrize(
    ("measure", "changes"),
    [
        ("error rate", {"failed": 12}),
        ("filter rate", {"filtered": 12}),
        ("abandonment", {"left": 15}),
        ("time to first token", {"first_token_s": (0.13,) * 50}),
        ("time per token", {"token_s": (0.02,) * 50}),
    ],
)
@pytest.mark.parametrize("paused", [False, True])
def test_a_regression_is_rolled_back_and_named(measure: str, changes: dict[str, Any], paused: bool) -> None:
    stable = msgspec.structs.replace(MANY, failed=9, filtered=9, left=9)
    worse = msgspec.structs.replace(FINE, **changes)
    decision = judge(PLAN, 1, _progress(elapsed_s=5, stable=stable, candidate=worse), paused=paused)
    assert decision.verb is Verb.ROLL_BACK
    assert [finding.measure for finding in decision.findings if finding.worse] == [measure]
    for words in (measure, "one-sided", "p = ", "0.05 over 75 tests"):
        assert words in decision.reason.lower()
    assert judge(PLAN, 1, _progress(elapsed_s=5, stable=stable), paused=paused).verb is Verb.LOOK


@pytest.mark.parametrize("name", ["first_token_s", "token_s"])
def test_slower_by_less_than_the_effect_is_fine_however_sure(name: str) -> None:
    slower = msgspec.structs.replace(FINE, **{name: tuple(1.19 * value for value in getattr(FINE, name))})
    findings = {finding.measure: finding for finding in compare(PLAN, 1, MANY, slower)}
    found = findings["time to first token" if name == "first_token_s" else "time per token"]
    assert found.p < found.alpha
    assert not found.worse


@pytest.mark.parametrize(("step", "mode", "measures"), [(1, "canary", 5), (2, "canary", 3), (2, "shadow", 5)])
def test_times_are_compared_where_the_load_is_no_larger(step: int, mode: str, measures: int) -> None:
    plan = msgspec.structs.replace(PLAN, mode=Mode(mode))
    slow = msgspec.structs.replace(FINE, token_s=(1.0,) * 50)
    assert len(list(compare(plan, step, MANY, slow))) == measures
    decision = judge(plan, step, _progress(candidate=slow), paused=False)
    assert decision.verb is (Verb.ROLL_BACK if measures == 5 else Verb.FINISH)


def test_without_anything_to_compare_nothing_is_worse() -> None:
    assert not any(finding.worse for finding in compare(PLAN, 1, Numbers(), Numbers(requests=50, failed=50)))


def test_looking_often_does_not_cost_honesty() -> None:
    """Of rollouts of a candidate that is no worse, at most alpha are rolled back, although all looks are held."""
    plan = Plan(steps=(10, 50), hold_s=0, least=50, alpha=0.2)
    chance = random.Random(7)
    rolled_back = sum(_rolls_back(plan, chance) for _ in range(150))
    assert rolled_back <= 0.2 * 150


def _rolls_back(plan: Plan, chance: random.Random) -> bool:
    for step in range(len(plan.steps)):
        stable, candidate = Window(), Window()
        looks = 0
        for _ in range(LOOKS):
            for window, count in ((candidate, plan.least // LOOKS), (stable, 90)):
                for _ in range(count):
                    _answer(window, chance)
            seen = Progress(looks=looks, stable=stable.numbers(), candidate=candidate.numbers())
            decision = judge(plan, step, seen, paused=False)
            looks = decision.looks
            if decision.verb is Verb.ROLL_BACK:
                return True
    return False


def _answer(window: Window, chance: random.Random) -> None:
    answered = Answered.FAILED if chance.random() < 0.1 else Answered.OK
    window.record(answered, duration_s=chance.expovariate(1), first_token_s=chance.random(), completion_tokens=3)


def test_alpha_is_shared_by_all_tests() -> None:
    findings = list(compare(PLAN, 1, MANY, FINE))
    assert len(findings) * LOOKS * len(PLAN.steps) == most_tests(PLAN)
    assert sum(finding.alpha for finding in findings) * LOOKS * len(PLAN.steps) == pytest.approx(PLAN.alpha)


@given(st.lists(st.tuples(st.sampled_from(Answered), st.integers(0, 50)), max_size=60))
def test_a_window_counts_and_goes_on_from_its_numbers(answers: list[tuple[Answered, int]]) -> None:
    whole, part = Window(), Window()
    for answered, tokens in answers:
        whole.record(answered, duration_s=2.0, first_token_s=0.5, prompt_tokens=1, completion_tokens=tokens)
        part.record(answered, duration_s=2.0, first_token_s=0.5, prompt_tokens=1, completion_tokens=tokens)
        stored = msgspec.json.encode(part.numbers())
        part = Window(msgspec.json.decode(stored, type=Numbers))
    numbers = whole.numbers()
    assert part.numbers() == numbers
    assert numbers.requests + numbers.left == len(answers) == numbers.prompt_tokens
    ok = sum(answered is Answered.OK for answered, _ in answers)
    assert numbers.requests - numbers.failed - numbers.filtered == ok == len(numbers.token_s)


def test_a_window_keeps_a_bounded_number_of_times() -> None:
    window = Window()
    for number in range(2000):
        window.record(Answered.OK, duration_s=number, completion_tokens=1)
    numbers = window.numbers()
    assert (numbers.requests, len(numbers.token_s), numbers.token_s[-1]) == (2000, 500, 1999)


@pytest.fixture
def rollouts(database: Database) -> Rollouts:
    """An empty table."""
    return Rollouts(database)


@pytest.fixture
def deployments(database: Database) -> Deployments:
    """Of the same database."""
    return Deployments(database)


@pytest.fixture
def version(tmp_path: Path) -> Version:
    """A version to bind."""
    return tiny_version(write_tiny_gguf(tmp_path / "tiny.gguf"))


Begin = Callable[..., Rollout]


@pytest.fixture
def begin(deployments: Deployments, rollouts: Rollouts, version: Version) -> Begin:
    """Binds `chat` to number 1 and starts a rollout to number 2."""

    def start(**changes: Any) -> Rollout:
        deployments.bind("chat", version=version, options=DeployOptions(parallel=2), engine="fake")
        plan = msgspec.structs.replace(PLAN, **changes)
        return rollouts.start("chat", version=replace(version, number=2), plan=plan)

    return start


def test_start_and_get(rollouts: Rollouts, begin: Begin) -> None:
    rollout = begin()
    assert rollouts.get(rollout.id) == rollouts.get("chat") == rollout == rollouts.of("chat")
    assert rollouts.active() == [rollout]
    assert (rollout.stable, rollout.version, rollout.state) == ("tiny@1", "tiny@2", RolloutState.RUNNING)
    assert (rollout.share, rollout.words, rollout.is_active) == (0.1, "10 % tiny@2", True)
    facts = msgspec.to_builtins(rollout_facts(rollout))
    assert (facts["share"], facts["plan"]["least"], facts["numbers"]["candidate"]["requests"]) == (10, 100, 0)


def test_one_at_a_time_and_no_binding_beside(
    rollouts: Rollouts, deployments: Deployments, begin: Begin, version: Version
) -> None:
    begin()
    with pytest.raises(Conflict, match="under way"):
        rollouts.start("chat", version=replace(version, number=3), plan=PLAN)
    with pytest.raises(Conflict, match="to tiny@2 is under way.*tandem rollback chat"):
        deployments.bind("chat", version=replace(version, number=3), options=DeployOptions(), engine="fake")
    assert deployments.bind("chat", version=version, options=DeployOptions(parallel=2), engine="fake").revision == 1


@pytest.mark.parametrize(
    "changes", [{"steps": ()}, {"steps": (50, 5)}, {"steps": (0,)}, {"steps": (101,)}, {"least": 0}, {"hold_s": -1}]
)
def test_plans_that_are_none(begin: Begin, rollouts: Rollouts, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        begin(**changes)
    assert rollouts.active() == []


def test_what_cannot_be_rolled_out(rollouts: Rollouts, deployments: Deployments, version: Version) -> None:
    with pytest.raises(NotFound):
        rollouts.start("chat", version=version, plan=PLAN)
    deployments.bind("chat", version=version, options=DeployOptions(), engine="fake")
    with pytest.raises(Conflict, match="serves tiny@1 already"):
        rollouts.start("chat", version=version, plan=PLAN)
    with pytest.raises(InvalidRequest, match="is for embed"):
        rollouts.start("chat", version=replace(version, number=2, task=Task.EMBED), plan=PLAN)
    deployments.stop("chat")
    with pytest.raises(Conflict, match="stopped"):
        rollouts.start("chat", version=replace(version, number=2), plan=PLAN)


def test_promotion_binds_the_candidate_as_it_ran(rollouts: Rollouts, deployments: Deployments, begin: Begin) -> None:
    rollout = begin()
    bound = rollouts.promote(rollout, "It is fine.")
    assert (bound.version, bound.revision, bound.options.parallel) == ("tiny@2", 2, 2)
    ended = rollouts.get("chat")
    assert (ended.state, ended.reason, ended.share, ended.words) == ("promoted", "It is fine.", 0.0, "promoted")
    with pytest.raises(Conflict):
        rollouts.promote(rollout, "Twice.")
    with pytest.raises(Conflict):
        rollouts.roll_back(rollout, "Too late.")
    revision, binding = deployments.previous("chat")
    assert (revision, binding.version) == (1, "tiny@1")
    back = deployments.restore("chat", revision)
    assert (back.version, back.revision, back.options.parallel) == ("tiny@1", 3, 2)
    assert deployments.previous("chat")[1].version == "tiny@2", "and forth again"


def test_what_a_person_does_wins(rollouts: Rollouts, begin: Begin) -> None:
    rollout = begin()
    rollouts.pause("chat")
    assert not rollouts.advance(rollout, Progress())
    with pytest.raises(Conflict, match="paused"):
        rollouts.promote(rollout, "By itself.", by_itself=True)
    assert rollouts.get("chat").words == "10 % tiny@2, paused"
    rollouts.resume(rollout.id)
    assert rollouts.advance(rollout, Progress(stable=MANY))
    assert rollouts.get("chat").step == 1
    rollouts.roll_back(rollout, "A person said so.")
    rollouts.note(rollout, Progress(looks=3))
    assert not rollouts.advance(rollouts.get("chat"), Progress())
    assert rollouts.get("chat").progress.looks == 0
    for ask in (rollouts.of, rollouts.pause, rollouts.resume):
        with pytest.raises(NotFound, match="No rollout of 'chat'"):
            ask("chat")


def test_at_all_requests_the_step_before_is_the_measure(rollouts: Rollouts, begin: Begin) -> None:
    rollout = begin()
    assert rollouts.advance(rollout, Progress(stable=MANY, candidate=FINE))
    second = rollouts.get("chat")
    assert second.progress == Progress()
    assert rollouts.advance(second, Progress(stable=MANY, candidate=FINE))
    assert rollouts.get("chat").progress == Progress(stable=MANY)


def test_notes_are_kept(rollouts: Rollouts, begin: Begin) -> None:
    rollout = begin()
    seen = Progress(looks=2, elapsed_s=4.5, stable=MANY, candidate=FINE)
    rollouts.note(rollout, seen, findings=tuple(compare(PLAN, 1, MANY, FINE)))
    found = rollouts.get("chat")
    assert found.progress == seen
    assert found.findings == tuple(compare(PLAN, 1, MANY, FINE))
    rollouts.note(found, seen)
    assert rollouts.get("chat").findings == found.findings


def test_a_shadow_has_one_step_and_takes_nothing(rollouts: Rollouts, begin: Begin) -> None:
    rollout = begin(mode=Mode.SHADOW)
    assert (rollout.plan.steps, rollout.share, rollout.words) == ((100,), 0.0, "tiny@2 in the shadow")
    assert rollouts.finish(rollout, "Measured.").state is RolloutState.DONE


def test_removing_the_deployment_ends_it(rollouts: Rollouts, deployments: Deployments, begin: Begin) -> None:
    begin()
    deployments.remove("chat")
    ended = rollouts.get("chat")
    assert (ended.state, ended.is_active, ended.reason) == (
        RolloutState.ROLLED_BACK,
        False,
        "The deployment was removed.",
    )
    with pytest.raises(NotFound):
        deployments.previous("chat")


def test_pages_and_eyes(rollouts: Rollouts, deployments: Deployments, begin: Begin, version: Version) -> None:
    first = begin()
    rollouts.roll_back(first, "Once.")
    second = begin()
    deployments.bind("mine", version=version, options=DeployOptions(), engine="fake", owner="key_1")
    own = rollouts.start("mine", version=replace(version, number=2), plan=PLAN)
    assert [one.id for one in rollouts.rollouts()] == [own.id, second.id, first.id]
    assert [one.id for one in rollouts.rollouts(limit=1, after=own.id)] == [second.id]
    assert [one.id for one in rollouts.rollouts("chat")] == [second.id, first.id]
    assert [one.id for one in rollouts.rollouts(key="key_2")] == [second.id, first.id]
    assert rollouts.get(own.id, key="key_1").owner == "key_1"
    with pytest.raises(NotFound):
        rollouts.get(own.id, key="key_2")
