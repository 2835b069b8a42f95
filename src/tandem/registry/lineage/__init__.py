"""Lineage: what came from what, in both directions, drawn for people, and the card that tells it of a model."""

from tandem.registry.lineage.card import Card
from tandem.registry.lineage.describe import Dossier, describe
from tandem.registry.lineage.drawing import lineage_html, lineage_svg
from tandem.registry.lineage.graph import Edge, Graph, Kind, Node, Reader, Step, explore
from tandem.registry.lineage.origins import Origins
from tandem.registry.lineage.outline import outline
from tandem.registry.lineage.papers import Papers

__all__ = [
    "Card",
    "Dossier",
    "Edge",
    "Graph",
    "Kind",
    "Node",
    "Origins",
    "Papers",
    "Reader",
    "Step",
    "describe",
    "explore",
    "lineage_html",
    "lineage_svg",
    "outline",
]
