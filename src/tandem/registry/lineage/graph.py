"""The lineage graph: nodes, what each came from and what came of it, explored from one node in both directions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

MOST_NODES = 400
"""Where exploring stops: nobody reads more, and a dataset may have taught thousands of runs."""


class Kind(StrEnum):
    """What a node is."""

    RESPONSE = "response"
    DEPLOYMENT = "deployment"
    RELEASE = "release"
    EVIDENCE = "evidence"
    CHARTER = "charter"
    VERSION = "version"
    RUN = "run"
    RECIPE = "recipe"
    DATASET = "dataset"
    TOKENIZER = "tokenizer"
    ARTIFACT = "artifact"
    """Bytes that are known by their digest alone."""
    LESSON = "lesson"


WORDS: Mapping[str, str] = {
    "answered by": "answered",
    "serves": "served as",
    "releases": "released as",
    "rests on": "supports",
    "follows": "governs",
    "measures": "measured as",
    "made by": "made",
    "executes": "executed as",
    "learns from": "taught",
    "reads with": "is the vocabulary of",
    "begins from": "is the parent of",
}
"""How an edge reads from what came to what it came from, and the other way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One thing with an identity; `facts` are values of JSON. A `missing` one is known by its id alone."""

    kind: Kind
    id: str
    title: str
    facts: Mapping[str, object] = field(default_factory=dict)
    missing: bool = False

    @property
    def key(self) -> str:
        """Its name in the graph."""
        return f"{self.kind}:{self.id}"


class Step(NamedTuple):
    """A neighbour, and a key of `WORDS`."""

    word: str
    node: Node


class Edge(NamedTuple):
    """Keys of nodes: `source` is what `target` came from; `word` reads from the target to the source."""

    source: str
    target: str
    word: str


class Reader(Protocol):
    """Who knows neighbours of some kinds of nodes; of others it says nothing."""

    def sources(self, node: Node) -> Iterable[Step]:
        """What a node came from."""
        ...

    def results(self, node: Node) -> Iterable[Step]:
        """What came of a node."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What `start` came from and what came of it. `truncated` says that there is more."""

    start: Node
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    truncated: bool = False

    def sources(self, key: str) -> list[Edge]:
        """The edges to what a node came from."""
        return [edge for edge in self.edges if edge.target == key]

    def results(self, key: str) -> list[Edge]:
        """The edges to what came of a node."""
        return [edge for edge in self.edges if edge.source == key]

    def record(self) -> dict[str, Any]:
        """The graph as plain values of JSON."""
        return {
            "start": self.start.key,
            "nodes": [
                {
                    "key": node.key,
                    "kind": node.kind.value,
                    "id": node.id,
                    "title": node.title,
                    "missing": node.missing,
                    "facts": dict(node.facts),
                }
                for node in self.nodes.values()
            ],
            "edges": [edge._asdict() for edge in self.edges],
            "truncated": self.truncated,
        }


def explore(start: Node, readers: Sequence[Reader], *, most: int = MOST_NODES) -> Graph:
    """Everything that `start` came from, and everything that came of it; not what merely shares an origin."""
    nodes, edges = {start.key: start}, dict[Edge, None]()
    complete = [_closure(start, readers, up=up, nodes=nodes, edges=edges, most=most) for up in (True, False)]
    return Graph(start=start, nodes=nodes, edges=tuple(edges), truncated=not all(complete))


def _closure(
    start: Node,
    readers: Sequence[Reader],
    *,
    up: bool,
    nodes: dict[str, Node],
    edges: dict[Edge, None],
    most: int,
) -> bool:
    """Add one direction to the nodes and edges; returns whether that is all of it."""
    waiting, seen, complete = [start], {start.key}, True
    for node in waiting:  # grows meanwhile: breadth first
        for step in _steps(node, readers, up=up):
            other = step.node
            if other.key not in nodes and len(nodes) >= most:
                complete = False
                continue
            nodes.setdefault(other.key, other)
            source, target = (other, node) if up else (node, other)
            edges[Edge(source.key, target.key, step.word)] = None
            if other.key not in seen:
                seen.add(other.key)
                waiting.append(other)
    return complete


def _steps(node: Node, readers: Sequence[Reader], *, up: bool) -> Iterator[Step]:
    for reader in readers:
        yield from reader.sources(node) if up else reader.results(node)
