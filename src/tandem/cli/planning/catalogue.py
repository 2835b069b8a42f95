"""`tandem plan catalogue`: the hardware, prices and systems that plans rest on, with date and source."""

from tandem.cli.context import AsJson, Quiet, emit, table
from tandem.cli.planning.options import standing
from tandem.kit.pages import short, size
from tandem.plan.plain import plain


def catalogue(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show what plans rest on; catalogue.toml in the home folder replaces rows by name and adds others."""
    _, ground = standing()
    rows = ground.catalogue
    told = [
        *(
            ("system", name, f"{row.hosts:,} x {row.host}, {_allowed(name, ground.allowed)}", row.source, row.date)
            for name, row in rows.systems.items()
        ),
        *(
            ("price", name, f"{row.host}: {row.usd_per_hour:g} USD/h, {row.kind}", row.source, row.date)
            for name, row in rows.prices.items()
        ),
        *(
            ("host", name, f"{row.devices} x {row.accelerator}", row.source, row.date)
            for name, row in rows.hosts.items()
        ),
        *(
            (
                "device",
                name,
                f"{size(row.memory_bytes)}, {short(row.peak_flops.get('bf16', max(row.peak_flops.values())))}FLOP/s",
                row.source,
                row.date,
            )
            for name, row in rows.accelerators.items()
        ),
    ]
    emit(
        plain(rows),
        as_json=as_json,
        quiet=quiet,
        bare=[name for _, name, *_ in told],
        shown=table(("row", "name", "is", "known from", "date"), told, empty="The catalogue is empty."),
    )


def _allowed(name: str, allowed: tuple[str, ...]) -> str:
    return "may train" if name in allowed else "the charter does not let it train"
