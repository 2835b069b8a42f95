"""How answers of the planner are printed: facts in two columns, and what an answer rests on."""

from collections.abc import Iterable, Iterator

from tandem.plan import Derivation


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns; what has no value is left out."""
    told = [(name, value) for name, value in pairs if value]
    wide = max((len(name) for name, _ in told), default=0)
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in told)


def basis(derivation: Derivation, *, explain: bool) -> str:
    """What an answer rests on: with `explain` each step; always the warnings, the rows and the conventions."""
    return "\n".join(_basis(derivation, explain=explain))


def _basis(derivation: Derivation, *, explain: bool) -> Iterator[str]:
    if explain:
        yield "How it was found"
        for place, step in enumerate(derivation.steps, start=1):
            source = f"  [{step.source}]" if step.source else ""
            yield f"{place:>3}. {step.what}: {step.value}"
            yield f"     by {step.formula}{source}"
        yield ""
    for warning in derivation.warnings:
        yield f"Mind: {warning}"
    yield "Rests on"
    yield from (f"  {row}" for row in derivation.rows)
    yield from (f"  {convention}" for convention in derivation.conventions)
