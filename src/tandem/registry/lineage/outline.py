"""A lineage graph as lines of text: a tree of what the start came from, and one of what came of it."""

from collections.abc import Iterator

from tandem.kit.pages import is_number
from tandem.registry.lineage.graph import WORDS, Edge, Graph, Node

# What is told of a node beside its name, and in which words.
_SHOWN = {
    "outcome": "{}",
    "license": "{}",
    "state": "{}",
    "origin": "{}",
    "objective": "{}",
    "loss": "loss {:.4g}",
    "records": "{:,} records",
}


def outline(graph: Graph) -> list[str]:
    """The lines. What has been told above is named again, without what is under it."""
    lines = [name(graph.start)]
    for heading, up in (("came from", True), ("became", False)):
        below = graph.sources(graph.start.key) if up else graph.results(graph.start.key)
        if below:
            lines += ["", f"{heading}:", *_branches(graph, below, up=up, indent="", told={graph.start.key})]
    if graph.truncated:
        lines += ["", f"There is more than these {len(graph.nodes)}."]
    return lines


def name(node: Node) -> str:
    """A node in a line."""
    told = [_fact(key, value) for key, value in node.facts.items() if key in _SHOWN and value not in ("", None)]
    told = [one for one in told if not one.startswith("run:")]  # it is the next line
    facts = f"  ({', '.join(told)})" if told else ""
    return f"{node.kind} {node.title}{facts}{'  [not here]' if node.missing else ''}"


def _fact(key: str, value: object) -> str:
    return _SHOWN[key].format(value) if is_number(value) else str(value)


def _branches(graph: Graph, edges: list[Edge], *, up: bool, indent: str, told: set[str]) -> Iterator[str]:
    for place, edge in enumerate(edges, start=1):
        last = place == len(edges)
        node = graph.nodes[edge.source if up else edge.target]
        word = edge.word if up else WORDS[edge.word]
        below = graph.sources(node.key) if up else graph.results(node.key)
        again = node.key in told and bool(below)
        yield f"{indent}{'└─' if last else '├─'} {word} {name(node)}{' (see above)' if again else ''}"
        if node.key not in told:
            told.add(node.key)
            yield from _branches(graph, below, up=up, indent=f"{indent}{'   ' if last else '│  '}", told=told)
