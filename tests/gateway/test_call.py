"""The engine call: events are cut out of the byte stream however it arrives."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.gateway.stages.call import MAX_EVENT_BYTES, EventSplitter
from tandem.kit.errors import EngineFailed

payloads = st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"").strip()))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(payloads, st.lists(st.integers(0, 400)), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_events_do_not_depend_on_how_the_bytes_arrive(events: list[bytes], places: list[int], end: bytes) -> None:
    wire = b"".join(b": ping\n\ndata: " + event + end for event in events)
    splitter = EventSplitter()
    arrived = [payload for part in cut(wire, places) for payload in splitter.feed(part)]
    assert arrived == events


def test_an_endless_event_is_refused() -> None:
    splitter = EventSplitter()
    list(splitter.feed(b"x" * MAX_EVENT_BYTES))
    with pytest.raises(EngineFailed, match="more than"):
        list(splitter.feed(b"x"))
