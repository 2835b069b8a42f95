"""The routing table: who answers, and what is said when nobody does."""

from collections import Counter
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import NotFound, Unavailable
from tandem.serve import Capabilities, Route, Routes, Split, State, Upstream
from tandem.spec import Task

_CAPABILITIES = Capabilities(features=frozenset(), context_tokens=256, parallel=2)


def _route(name: str, *, state: State = State.READY, last_error: str = "", owner: str = "") -> Route:
    return Route(
        name=name,
        version="tiny@1",
        task=Task.GENERATE,
        created=1,
        facts=MappingProxyType({}),
        capabilities=None,
        state=state,
        last_error=last_error,
        owner=owner,
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


def test_a_cut_ends_what_is_under_way_and_nothing_else() -> None:
    upstream, cut = _upstream(0), []
    with upstream.cuttable(lambda: cut.append("over")):
        pass
    with upstream.cuttable(lambda: cut.append("one")), upstream.cuttable(lambda: cut.append("two")):
        assert not upstream.is_cut
        upstream.cut()
    assert sorted(cut) == ["one", "two"]
    assert upstream.is_cut
    upstream.cut()
    assert len(cut) == 2


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


def test_a_development_deployment_exists_for_its_owner_alone() -> None:
    routes = _table(0)
    routes.publish(_route("mine", owner="key_1"))
    assert [route.name for route in routes.names("key_1")] == ["chat", "mine"]
    assert [route.name for route in routes.names("key_2")] == [route.name for route in routes.names()] == ["chat"]
    assert routes.get("mine", "key_1").owner == "key_1"
    for key in ("key_2", ""):
        with pytest.raises(NotFound, match=r"'mine'\. Deployed are: chat\.$"):
            routes.get("mine", key)


def test_what_is_not_released_is_told_apart() -> None:
    routes = Routes()
    routes.publish(_route("chat", state=State.UNRELEASED, last_error="withdrawn by ada"))
    with pytest.raises(Unavailable, match="'chat' is not served: tiny@1 has no release in force") as caught:
        routes.pick("chat")
    assert "ada" not in str(caught.value)


def _split(share: float, **changes: bool) -> Routes:
    routes = _table(0, 0)
    routes.split("chat", Split(salt="roll_1", upstreams=(_upstream(9),), share=share, **changes))
    return routes


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_a_share_of_the_requests_is_the_candidates(share: float) -> None:
    routes = _split(share)
    picked = [routes.pick("chat", key="key_1", request=f"req_{number}").id for number in range(4000)]
    assert abs(picked.count("chat.1.9") / 4000 - share) < 0.04  # four standard deviations


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_growing_share_takes_nobody_back(client: str, one: float, other: float) -> None:
    smaller, larger = (Split(salt="roll_1", upstreams=(), share=share, sticky=True) for share in sorted((one, other)))
    assert larger.takes(client, "") or not smaller.takes(client, "")


def test_a_sticky_client_stays_on_its_side() -> None:
    routes = _split(0.5, sticky=True)
    sides = {
        client: {routes.pick("chat", key=client, request=f"req_{number}").id == "chat.1.9" for number in range(20)}
        for client in map(str, range(50))
    }
    assert all(len(side) == 1 for side in sides.values())
    assert {next(iter(side)) for side in sides.values()} == {True, False}


def test_each_side_answers_for_the_other_that_is_not_there() -> None:
    routes = _split(0.0)
    routes.attach("chat", ())
    assert routes.pick("chat", request="x").id == "chat.1.9", "the candidate is better than nobody"
    routes = _split(1.0)
    routes.split("chat", Split(salt="roll_1", upstreams=(), share=1.0))
    assert routes.pick("chat", request="x").id != "chat.1.9"


def test_the_stable_version_answers_instead_of_a_failed_candidate() -> None:
    routes = _split(1.0)
    candidate = routes.pick("chat", request="x")
    instead = routes.instead("chat", candidate)
    assert instead is not None
    assert instead.id in {"chat.1.0", "chat.1.1"}
    assert routes.instead("chat", instead) is None
    routes.attach("chat", ())
    assert routes.instead("chat", candidate) is None


def test_a_shadow_takes_nothing() -> None:
    routes = _split(1.0, shadow=True)
    assert [upstream.id for upstream in routes.shadow("chat")] == ["chat.1.9"]
    assert routes.pick("chat", request="x").id != "chat.1.9"
    routes.split("chat", None)
    assert routes.shadow("chat") == () == _split(1.0).shadow("chat")
