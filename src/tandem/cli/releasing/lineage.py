"""`tandem lineage`: what an answer, a model or data came from, and what came of it."""

from pathlib import Path
from typing import Annotated

import typer

from tandem import flows
from tandem.cli.context import AsJson, Quiet, emit, notes, open_house, save
from tandem.registry import lineage_html, lineage_svg, outline

Ref = Annotated[
    str,
    typer.Argument(
        help="The id of a response (chatcmpl-..., cmpl-..., or its x-request-id), a version, a run, deployment:NAME, "
        "or the digest of a dataset, recipe, tokenizer, release, evidence or charter."
    ),
]
Html = Annotated[Path | None, typer.Option("--html", help="Also draw it as a page in this file.")]
Svg = Annotated[Path | None, typer.Option("--svg", help="Also draw it as a picture in this file.")]


def lineage(ref: Ref, html: Html = None, svg: Svg = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show what something came from and what came of it, in both directions."""
    graph = flows.lineage(ref, house=open_house())
    for path, draw in ((html, lineage_html), (svg, lineage_svg)):
        if path is not None:
            save(path, draw(graph).encode())
            notes.print(f"Drawn in {path}.", soft_wrap=True)
    bare = [node.key for node in graph.nodes.values()]
    emit(graph.record(), as_json=as_json, quiet=quiet, bare=bare, shown="\n".join(outline(graph)))
