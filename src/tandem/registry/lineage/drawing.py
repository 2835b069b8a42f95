"""A lineage graph as a picture: SVG in layers, the data at the top and the answer at the bottom, and a page of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tandem.registry.lineage import page
from tandem.registry.lineage.graph import Edge, Graph, Kind, Node

_WIDTH = 440  # of the picture: a phone's 360 pixels show its texts at 10
_BOX = (206, 54)
_GAP = (12, 12)
_BETWEEN = 34  # layers
_MARGIN = 8
_TITLE, _FACT = 24, 30  # characters that fit into a box
_SWEEPS = 4

# Which colour a kind has: what happens, what was decided, what was made, and what it was made of.
_HUES: Mapping[Kind, str] = {
    Kind.RESPONSE: "served",
    Kind.DEPLOYMENT: "served",
    Kind.RELEASE: "decided",
    Kind.EVIDENCE: "decided",
    Kind.CHARTER: "decided",
    Kind.LESSON: "decided",
    Kind.VERSION: "made",
    Kind.ARTIFACT: "made",
    Kind.RUN: "made",
    Kind.RECIPE: "given",
    Kind.DATASET: "given",
    Kind.TOKENIZER: "given",
}
_STYLE = """
.lineage text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#1d2330}
.lineage .kind{font-size:9.5px;fill:#667085}.lineage .fact{font-size:10px;fill:#667085}
.lineage .title{font-weight:600}
.lineage rect{fill:#fff;stroke-width:1.4}.lineage .start rect{stroke-width:3}
.lineage .missing rect{stroke-dasharray:4 3}
.lineage path{fill:none;stroke:#98a2b3;stroke-width:1.2}
.lineage .served rect{stroke:#2f6fed}.lineage .decided rect{stroke:#d9480f}
.lineage .made rect{stroke:#2b8a3e}.lineage .given rect{stroke:#7950f2}
@media(prefers-color-scheme:dark){.lineage text{fill:#e7e9ee}.lineage .kind,.lineage .fact{fill:#98a2b3}
.lineage rect{fill:#1b1f27}.lineage path{stroke:#667085}}
"""
_SHOWN = ("outcome", "license", "state", "origin", "verdict", "suite", "objective", "from", "engine")


@dataclass(frozen=True, slots=True)
class _Place:
    """The upper left corner of a box."""

    x: float
    y: float


def lineage_svg(graph: Graph) -> str:
    """The graph as an SVG file."""
    places, height = _placed(_layers(graph))
    drawn = [_edge(edge, places) for edge in graph.edges]
    drawn += [_box(graph.nodes[key], place, start=key == graph.start.key) for key, place in places.items()]
    title = f"Lineage of {graph.start.kind} {graph.start.title}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" viewBox="0 0 {_WIDTH} {height:g}" role="img" '
        f'aria-label="{page.text(title)}"><style>{_STYLE}</style>{"".join(drawn)}</svg>\n'
    )


def lineage_html(graph: Graph) -> str:
    """The graph as a page: the picture, and below it all that is known of each node."""
    start = graph.start
    more = f'<p class="soft">There is more than these {len(graph.nodes)}.</p>' if graph.truncated else ""
    told = "".join(_told(graph, graph.nodes[key]) for layer in reversed(_layers(graph)) for key in layer)
    heading = f"Lineage of {start.title}"
    body = f'<h1>{page.text(heading)}</h1><p class="soft">{start.kind}</p>{lineage_svg(graph)}{more}{told}'
    return page.page(heading, body)


def _told(graph: Graph, node: Node) -> str:
    facts = [(key.replace("_", " "), _written(value)) for key, value in node.facts.items()]
    near = [(edge.word, graph.nodes[edge.source].title) for edge in graph.sources(node.key)]
    note = '<p class="soft">Not here any more.</p>' if node.missing else ""
    known = page.rows([("id", node.id), *facts, *near])
    return f"<section><h2>{node.kind} {page.text(node.title)}</h2>{note}{known}</section>"


def _layers(graph: Graph) -> list[list[str]]:
    """Keys by layer: each node below all that it came from, and in each layer near those that it belongs to."""
    depths = _depths(graph)
    layers: list[list[str]] = [[] for _ in range(max(depths.values()) + 1)]
    for key in graph.nodes:
        layers[depths[key]].append(key)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near = _neighbours(graph.edges, down=down)
        for layer, others in pairwise(layers if down else layers[::-1]):
            others[:] = _ordered(others, layer, near)
    return layers


def _depths(graph: Graph) -> dict[str, int]:
    """The longest way to each node from one that came from nothing; an edge that would close a ring is passed over."""
    depths: dict[str, int] = {}
    waiting = [(key, False) for key in reversed(list(graph.nodes))]
    entered: set[str] = set()
    above = _neighbours(graph.edges, down=True)
    while waiting:
        key, ready = waiting.pop()
        if ready:
            depths[key] = 1 + max((depths[other] for other in above.get(key, ()) if other in depths), default=-1)
        elif key not in entered:
            entered.add(key)
            waiting.append((key, True))
            waiting += [(other, False) for other in above.get(key, ())]
    return depths


def _neighbours(edges: Sequence[Edge], *, down: bool) -> dict[str, list[str]]:
    """By key, the keys of the sources, or with `down` false of the results."""
    found: dict[str, list[str]] = {}
    for edge in edges:
        key, other = (edge.target, edge.source) if down else (edge.source, edge.target)
        found.setdefault(key, []).append(other)
    return found


def _ordered(keys: Sequence[str], beside: Sequence[str], near: Mapping[str, Sequence[str]]) -> list[str]:
    """Keys of a layer, each where the middle of its neighbours in the layer beside it is."""
    ranks = {key: rank for rank, key in enumerate(beside)}

    def middle(key: str) -> float:
        places = [ranks[other] for other in near.get(key, ()) if other in ranks]
        return sum(places) / len(places) if places else len(ranks) / 2

    return sorted(keys, key=middle)


def _placed(layers: Sequence[Sequence[str]]) -> tuple[dict[str, _Place], float]:
    """A place for each key, and the height of the picture. A layer with more boxes than fit goes on below itself."""
    width, height = _BOX
    beside = (_WIDTH - 2 * _MARGIN + _GAP[0]) // (width + _GAP[0])
    places: dict[str, _Place] = {}
    y = float(_MARGIN)
    for layer in layers:
        for begin in range(0, len(layer), beside):
            row = layer[begin : begin + beside]
            x = (_WIDTH - len(row) * width - (len(row) - 1) * _GAP[0]) / 2
            places |= {key: _Place(x + number * (width + _GAP[0]), y) for number, key in enumerate(row)}
            y += height + _GAP[1]
        y += _BETWEEN - _GAP[1]
    return places, y - _BETWEEN + _MARGIN


def _edge(edge: Edge, places: Mapping[str, _Place]) -> str:
    width, height = _BOX
    begin, end = places[edge.source], places[edge.target]
    x, y, to_x, to_y = begin.x + width / 2, begin.y + height, end.x + width / 2, end.y
    bend = max(12.0, (to_y - y) / 2)
    return f'<path d="M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}"/>'


def _box(node: Node, place: _Place, *, start: bool) -> str:
    width, height = _BOX
    styles = " ".join([_HUES[node.kind], *(["start"] if start else []), *(["missing"] if node.missing else [])])
    told = (str(node.facts.get(key) or "") for key in _SHOWN)
    fact = next((one for one in told if one and not one.startswith("run:")), "not here" if node.missing else "")
    lines = (("kind", 14, node.kind), ("title", 31, _cut(node.title, _TITLE)), ("fact", 46, _cut(fact, _FACT)))
    texts = "".join(
        f'<text class="{style}" x="{place.x + 9:g}" y="{place.y + down:g}">{page.text(said)}</text>'
        for style, down, said in lines
    )
    return (
        f'<g class="{styles}"><title>{page.text(f"{node.kind} {node.title}")}</title>'
        f'<rect x="{place.x:g}" y="{place.y:g}" width="{width}" height="{height}" rx="7"/>{texts}</g>'
    )


def _cut(said: str, most: int) -> str:
    """A text in so many characters; of a long one the beginning and the end."""
    if len(said) <= most:
        return said
    return f"{said[: most - 8]}…{said[-7:]}"


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_written, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value)
