"""Shadows alone: how answers are held against each other, and what stops them."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from tandem.gateway.exchange import Exchange, Piece
from tandem.gateway.meters import Meters
from tandem.gateway.shadow import Shadows, compare_pieces, compare_vectors
from tandem.gateway.wire import FunctionDelta, ToolCallDelta
from tandem.kit.errors import EngineFailed
from tandem.serve import Upstream, Window
from tests.gateway.stand_ins import upstream


def _call(arguments: str) -> list[ToolCallDelta]:
    return [ToolCallDelta(function=FunctionDelta(name="look", arguments=arguments))]


@pytest.mark.parametrize(
    ("client", "shadow", "equal"),
    [
        ([Piece(0, "one two")], [Piece(0, "one"), Piece(0, " two", finish_reason="stop")], True),
        ([Piece(0, "a"), Piece(1, "b")], [Piece(1, "b"), Piece(0, "a")], True),
        ([Piece(0, "a"), Piece(1, "b")], [Piece(0, "b"), Piece(1, "a")], False),
        ([Piece(0, "a")], [Piece(0, "a"), Piece(1, "b")], False),
        ([Piece(0, "", _call('{"x":1}'))], [Piece(0, "", _call('{"x":1}'))], True),
        ([Piece(0, "", _call('{"x":1}'))], [Piece(0, "", _call('{"x":2}'))], False),
        ([], [], True),
    ],
)
def test_answers_are_compared_as_texts(client: list[Piece], shadow: list[Piece], equal: bool) -> None:
    same, alike = compare_pieces(client, shadow)
    assert same is equal
    assert (alike == 1.0) is equal


def test_vectors_are_compared_by_their_angle() -> None:
    assert compare_vectors([[1.0, 0.0]], [[1.0, 0.0]]) == (True, 1.0)
    assert compare_vectors([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 0.0]]) == (False, 0.5)
    assert compare_vectors([[1.0]], [[-1.0]]) == (False, 0.0)
    assert compare_vectors([[1.0]], []) == (False, 0.0)


def _shadows() -> tuple[Shadows, Upstream, Window]:
    one = upstream()
    one.window = Window()
    return Shadows(Meters(CollectorRegistry())), one, one.window


@pytest.mark.anyio
async def test_what_goes_wrong_is_counted_and_let_go() -> None:
    shadows, one, window = _shadows()

    async def ask(_upstream: Upstream, _beside: Exchange) -> str:
        raise EngineFailed("It burnt.")

    async def broken(_upstream: Upstream, _beside: Exchange) -> str:
        raise ZeroDivisionError

    for question in (ask, broken):
        shadows.follow(Exchange("openai", "chat"), [one], ask=question, compare=lambda _: (True, 1.0))
        await asyncio.gather(*shadows._tasks)
    assert (window.numbers().failed, window.numbers().compared, one.inflight) == (2, 0, 0)


@pytest.mark.anyio
async def test_closing_gives_up_what_runs() -> None:
    shadows, one, window = _shadows()

    async def ask(_upstream: Upstream, _beside: Exchange) -> str:
        await asyncio.Event().wait()
        return "never"

    for _ in range(6):
        shadows.follow(Exchange("openai", "chat"), [one], ask=ask, compare=lambda _: (True, 1.0))
        await asyncio.sleep(0)
    assert (one.inflight, window.numbers().skipped) == (4, 2)
    await shadows.close()
    assert (one.inflight, window.numbers().requests) == (0, 0)
