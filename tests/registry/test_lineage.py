"""Lineage graphs: what is found in both directions, told in lines, and drawn so that any browser takes it."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.registry import Graph, Kind, Node, Step, explore, lineage_html, lineage_svg, outline
from tandem.registry.lineage.drawing import _layers
from tandem.registry.lineage.graph import WORDS
from tandem.registry.lineage.origins import public_source
from tests.history import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"
WORD = "made by"


class Written:
    """A reader of edges that a test wrote down, from what came to what it came from."""

    def __init__(self, edges: Iterable[tuple[str, str]], *, facts: Mapping[str, object] | None = None) -> None:
        self._edges = list(edges)
        self._facts = facts or {}

    def node(self, name: str) -> Node:
        return Node(kind=Kind.VERSION, id=name, title=name, facts=self._facts)

    def sources(self, node: Node) -> list[Step]:
        return [Step(WORD, self.node(source)) for result, source in self._edges if result == node.id]

    def results(self, node: Node) -> list[Step]:
        return [Step(WORD, self.node(result)) for result, source in self._edges if source == node.id]


def explored(edges: Iterable[tuple[str, str]], start: str, *, most: int = 400) -> Graph:
    reader = Written(edges)
    return explore(reader.node(start), [reader], most=most)


def reachable(edges: Iterable[tuple[int, int]], start: int) -> set[int]:
    found, pairs = {start}, list(edges)
    for _ in pairs:
        found |= {there for here, there in pairs if here in found}
    return found


EDGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] > pair[1]), max_size=25)


@given(EDGES, st.integers(0, 9))
def test_exactly_what_led_here_and_what_came_of_it_is_found(edges: list[tuple[int, int]], start: int) -> None:
    graph = explored([(str(one), str(other)) for one, other in edges], str(start))
    above = reachable(edges, start)
    below = reachable([(other, one) for one, other in edges], start)
    assert {int(node.id) for node in graph.nodes.values()} == above | below
    wanted = {pair for pair in edges for side in (above, below) if set(pair) <= side}
    assert {(int(edge.target.split(":")[1]), int(edge.source.split(":")[1])) for edge in graph.edges} == wanted
    assert not graph.truncated


@given(EDGES, st.integers(0, 9))
def test_each_node_is_drawn_once_below_all_that_it_came_from(edges: list[tuple[int, int]], start: int) -> None:
    graph = explored([(str(one), str(other)) for one, other in edges], str(start))
    layers = _layers(graph)
    depth = {key: number for number, layer in enumerate(layers) for key in layer}
    assert sorted(key for layer in layers for key in layer) == sorted(graph.nodes)
    assert all(depth[edge.source] < depth[edge.target] for edge in graph.edges)
    drawn = ET.fromstring(lineage_svg(graph))
    assert len(drawn.findall(f"{SVG}g")) == len(graph.nodes)
    assert len(drawn.findall(f"{SVG}path")) == len(graph.edges)


def test_boxes_do_not_overlap_and_stay_in_the_picture() -> None:
    graph = explored([("x", f"{number}") for number in range(7)], "x")
    drawn = ET.fromstring(lineage_svg(graph))
    _, _, width, height = (float(number) for number in drawn.attrib["viewBox"].split())
    boxes = [tuple(float(box.attrib[key]) for key in ("x", "y", "width", "height")) for box in drawn.iter(f"{SVG}rect")]
    assert len(boxes) == 8
    for number, (x, y, wide, high) in enumerate(boxes):
        assert x >= 0
        assert y >= 0
        assert x + wide <= width
        assert y + high <= height
        for other_x, other_y, other_wide, other_high in boxes[:number]:
            beside = x + wide <= other_x or other_x + other_wide <= x
            assert beside or y + high <= other_y or other_y + other_high <= y


def test_a_ring_ends() -> None:
    graph = explored([("a", "b"), ("b", "a")], "a")
    assert len(graph.nodes) == 2
    assert ET.fromstring(lineage_svg(graph)).tag == f"{SVG}svg"
    assert outline(graph)[0] == "version a"


def test_what_is_too_much_is_cut_and_said() -> None:
    graph = explored([("x", f"{number}") for number in range(50)], "x", most=10)
    assert (len(graph.nodes), graph.truncated) == (10, True)
    assert "more than these 10" in outline(graph)[-1]
    assert "more than these 10" in lineage_html(graph)
    assert all(edge.source in graph.nodes for edge in graph.edges)


def test_the_outline_reads_in_both_directions() -> None:
    graph = explored([("x", "run"), ("run", "recipe"), ("x", "recipe"), ("y", "x")], "x")
    assert outline(graph) == [
        "version x",
        "",
        "came from:",
        "├─ made by version run",
        "│  └─ made by version recipe",
        "└─ made by version recipe",
        "",
        "became:",
        "└─ made version y",
    ]


def test_what_was_told_is_not_told_again() -> None:
    graph = explored([("x", "a"), ("x", "b"), ("a", "c"), ("b", "c"), ("c", "d")], "x")
    assert outline(graph)[3:] == [
        "├─ made by version a",
        "│  └─ made by version c",
        "│     └─ made by version d",
        "└─ made by version b",
        "   └─ made by version c (see above)",
    ]


def test_each_word_has_one_for_the_way_back() -> None:
    assert len(set(WORDS) | set(WORDS.values())) == 2 * len(WORDS)


@pytest.mark.parametrize("kind", Kind)
def test_pages_are_well_formed_whatever_the_texts_are(kind: Kind) -> None:
    node = Node(kind=kind, id=HOSTILE, title=HOSTILE, facts={HOSTILE: HOSTILE, "state": HOSTILE, "n": [1.5, True]})
    graph = Graph(start=node, nodes={node.key: node}, edges=())
    page = lineage_html(graph)
    tree = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert "<script" not in page
    assert not [one for one in tree.iter() if one.tag.endswith("}script") or one.tag.endswith("}a")]
    assert "alert" in "".join(tree.itertext())
    assert ET.fromstring(lineage_svg(graph)).tag == f"{SVG}svg"


def test_a_page_needs_nothing_beside_it() -> None:
    page = lineage_html(explored([("x", "y")], "x"))
    assert not [word for word in ("src=", "url(", "@import", "<link", "href=") if word in page]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("stdlib:", "stdlib:"),
        ("hf:org/name", "hf:org/name"),
        ("file:/secret/place/notes.txt", "file:notes.txt"),
        ("folder:/secret/place/corpus", "folder:corpus"),
        ("folder:corpus/", "folder:corpus"),
        ("", ""),
    ],
)
def test_a_source_does_not_tell_where_it_lies(source: str, shown: str) -> None:
    assert public_source(source) == shown
