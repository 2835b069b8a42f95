"""The routing table: who answers, and what is said when nobody does."""

from collections import Counter
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import NotFound, Unavailable
from tandem.serve import Capabilities, Route, Routes, State, Upstream
from tandem.spec import Task

_CAPABILITIES = Capabilities(features=frozenset(), context_tokens=256, parallel=2)


def _route(name: str, *, state: State = State.READY, last_error: str = "") -> Route:
    return Route(
        name=name,
        version="tiny@1",
        task=Task.GENERATE,
        created=1,
        facts=MappingProxyType({}),
        capabilities=None,
        state=state,
        last_error=last_error,
    )


def _upstream(index: int, *, inflight: int = 0) -> Upstream:
    return Upstream(f"chat.1.{index}", f"http://127.0.0.1:{index}", "key", _CAPABILITIES, inflight)


def _table(*loads: int) -> Routes:
    routes = Routes()
    routes.publish(_route("chat"))
    routes.attach("chat", tuple(_upstream(index, inflight=load) for index, load in enumerate(loads)))
    return routes


def test_names_are_sorted() -> None:
    routes = Routes()
    for name in ("b", "a", "c"):
        routes.publish(_route(name))
    assert [route.name for route in routes.names()] == ["a", "b", "c"]


def test_unknown_name_is_told_the_known_ones() -> None:
    routes = _table(0)
    for ask in (routes.get, routes.pick):
        with pytest.raises(NotFound, match=r"'chta'.*Deployed are: chat") as caught:
            ask("chta")
        assert caught.value.code == "model_not_found"
    with pytest.raises(NotFound, match="tandem deploy"):
        Routes().get("chat")


@pytest.mark.parametrize(("state", "retry_after_s"), [(State.STARTING, 2.0), (State.FAILED, 30.0)])
def test_no_ready_replica_tells_the_state_and_no_path_of_the_machine(state: State, retry_after_s: float) -> None:
    routes = Routes()
    routes.publish(_route("chat", state=state, last_error="/secret/place burnt."))
    with pytest.raises(Unavailable, match=f"'chat'.*{state}") as caught:
        routes.pick("chat")
    assert caught.value.retry_after_s == retry_after_s
    assert "/secret" not in str(caught.value)


def test_withdrawn_is_unknown() -> None:
    routes = _table(0)
    routes.withdraw("chat")
    routes.withdraw("chat")
    with pytest.raises(NotFound):
        routes.pick("chat")
    assert routes.names() == ()


def test_publishing_again_keeps_the_replicas() -> None:
    routes = _table(0)
    routes.publish(_route("chat", last_error="one of two burnt"))
    assert routes.pick("chat").id == "chat.1.0"


def test_least_loaded_without_affinity() -> None:
    assert _table(3, 1, 2).pick("chat").id == "chat.1.1"


def test_load_spreads() -> None:
    routes = _table(0, 0, 0)
    for _ in range(9):
        routes.pick("chat").acquire()
    assert [upstream.inflight for upstream in routes._ready["chat"]] == [3, 3, 3]


def test_acquire_and_release_are_paired() -> None:
    upstream = _upstream(0)
    upstream.acquire()
    upstream.release()
    assert upstream.inflight == 0
    with pytest.raises(AssertionError):
        upstream.release()


def test_the_key_is_not_shown() -> None:
    assert "key" not in repr(Upstream("a", "http://127.0.0.1:1", "hidden", _CAPABILITIES)).replace("api_key", "")
    assert "hidden" not in repr(Upstream("a", "http://127.0.0.1:1", "hidden", _CAPABILITIES))


@given(st.integers(0, 2**64), st.integers(2, 8), st.data())
def test_a_replica_that_leaves_moves_only_its_own_prefixes(affinity: int, count: int, data: st.DataObject) -> None:
    routes = _table(*[0] * count)
    before = routes.pick("chat", affinity=affinity)
    gone = data.draw(st.integers(0, count - 1))
    kept = tuple(upstream for index, upstream in enumerate(routes._ready["chat"]) if index != gone)
    routes.attach("chat", kept)
    after = routes.pick("chat", affinity=affinity)
    assert after in kept
    assert after is before or before not in kept


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 2**64))
def test_affinity_never_overloads(loads: list[int], affinity: int) -> None:
    picked = _table(*loads).pick("chat", affinity=affinity)
    assert picked.inflight <= 2 * max(min(loads), 1)


def test_affinity_is_fair() -> None:
    routes = _table(0, 0, 0, 0)
    counts = Counter(routes.pick("chat", affinity=prefix * 7919).id for prefix in range(4000))
    assert len(counts) == 4
    assert min(counts.values()) > 800  # 1000 each on average, standard deviation 27


def test_overloaded_favourite_is_passed_over() -> None:
    routes = _table(0, 0)
    favourite = routes.pick("chat", affinity=42)
    for _ in range(2):
        favourite.acquire()
    assert routes.pick("chat", affinity=42) is favourite
    favourite.acquire()
    assert routes.pick("chat", affinity=42) is not favourite
