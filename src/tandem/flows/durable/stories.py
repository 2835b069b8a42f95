"""The durable stories, step by step: train, evaluate, release, deploy, and ship, which is all of them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tandem.flows.durable import releasing, training
from tandem.flows.durable.flow import Order
from tandem.flows.durable.work import Work
from tandem.kit.errors import InvalidRequest
from tandem.kit.typed import converted
from tandem.serve import check_plan, check_wanted

# NOTE: the names and the order of a story's steps are recorded with each flow. A step is only added at the end, with
# a condition that no older order meets; anything else is a new story.


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: what it does becomes facts, which are recorded when it is done. It may run twice, and acts once."""

    name: str
    work: Callable[[Work], Awaitable[dict[str, Any]]]
    when: Callable[[Order], bool] = lambda _order: True
    """Which orders need it."""
    again_from: str = ""
    """The earlier step that has to come again before this one is retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A story: its steps in order, what an order for it must say, and what it may say besides."""

    name: str
    about: str
    steps: tuple[Step, ...]
    needs: frozenset[str]
    takes: frozenset[str]

    def steps_of(self, order: Order) -> list[Step]:
        """The steps that an order needs."""
        return [step for step in self.steps if step.when(order)]


_PREPARE = Step(name="prepare", work=training.prepare, when=lambda order: order.recipe is not None)
_TRAIN = Step(name="train", work=training.train, when=lambda order: order.recipe is not None)
_EVALUATE = Step(name="evaluate", work=training.evaluate)
_REQUEST = Step(name="request", work=releasing.request)
_SIGNATURES = Step(name="signatures", work=releasing.signatures, again_from="request")
_DEPLOY = Step(name="deploy", work=releasing.deploy)
_ROLLOUT = Step(name="rollout", work=releasing.rollout, when=lambda order: order.plan is not None, again_from="deploy")

_TRAINING = frozenset({"recipe", "placement", "again"})
_MEASURING = frozenset({"suites", "member"})
_SERVING = frozenset({"name", "engine", "options", "plan"})

STORIES: Mapping[str, Story] = {
    story.name: story
    for story in (
        Story(
            name="train",
            about="A recipe becomes a version.",
            steps=(_PREPARE, _TRAIN),
            needs=frozenset({"recipe"}),
            takes=_TRAINING,
        ),
        Story(
            name="evaluate",
            about="A version gets evidence.",
            steps=(_EVALUATE,),
            needs=frozenset({"model"}),
            takes=_MEASURING,
        ),
        Story(
            name="release",
            about="A version passes the gate and gets its signatures.",
            steps=(_REQUEST, _SIGNATURES),
            needs=frozenset({"model"}),
            takes=frozenset(),
        ),
        Story(
            name="deploy",
            about="A released version takes a name, at once or by a rollout.",
            steps=(_DEPLOY, _ROLLOUT),
            needs=frozenset({"model", "name"}),
            takes=_SERVING,
        ),
        Story(
            name="ship",
            about="A recipe, or a version, comes to clients: trained, evaluated, released, deployed.",
            steps=(_PREPARE, _TRAIN, _EVALUATE, _REQUEST, _SIGNATURES, _DEPLOY, _ROLLOUT),
            needs=frozenset({"name"}),
            takes=_TRAINING | _MEASURING | _SERVING | {"model"},
        ),
    )
}
"""All stories, by name."""


def parse_order(table: object) -> Order:
    """An order from plain JSON.

    Raises:
        InvalidRequest: it is none; the message names the key.
    """
    return converted(table, Order, what="the order", where="of the flow", page="docs/concepts/flow.md")


def check_order(story: str, order: Order) -> None:
    """Refuse an order that the story cannot carry out.

    Raises:
        InvalidRequest: there is no such story, something is missing, or something has no place in it.
    """
    known = STORIES.get(story)
    if known is None:
        raise InvalidRequest(f"There is no story {story[:80]!r}.", remedy=f"Use {', '.join(STORIES)}.", param="story")
    told = "docs/concepts/flow.md lists what each story needs and takes."
    said = set(msgspec.to_builtins(order))  # what has its default is left out
    if missing := known.needs - said:
        raise InvalidRequest(f"{story} needs {' and '.join(sorted(missing))}.", remedy=told, param=min(missing))
    if foreign := said - known.needs - known.takes:
        message = f"{story} has no use for {' and '.join(sorted(foreign))}."
        raise InvalidRequest(message, remedy=told, param=min(foreign))
    if "model" in known.takes and (order.recipe is None) == (not order.model):
        raise InvalidRequest(f"{story} takes either a recipe to train or a model.", remedy=told, param="recipe")
    if "name" in known.needs:
        check_wanted(order.name, order.options)
    if order.plan is not None:
        check_plan(order.plan)
