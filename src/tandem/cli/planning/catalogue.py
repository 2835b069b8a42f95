"""`tandem plan catalogue`: the hardware, prices and systems that plans rest on, with date and source."""

from tandem.cli.context import AsJson, Quiet, emit, table
from tandem.cli.planning.options import standing
from tandem.kit.pages import size
from tandem.plan import Accelerator, Precision
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
                f"{size(row.memory_bytes)}, {_peak(row)}",
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


def _peak(row: Accelerator) -> str:
    precision: Precision = "bf16" if "bf16" in row.peak_flops else max(row.peak_flops, key=row.peak_of)
    return f"{row.peak_of(precision) / 1e12:,.4g} TFLOP/s {precision}"


def _allowed(name: str, allowed: tuple[str, ...]) -> str:
    return "may train" if name in allowed else "the charter does not let it train"
