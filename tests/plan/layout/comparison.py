"""What the planner predicts for published runs, as the tables of docs/reference/planner.md.

`python -m tests.plan.layout.comparison` writes them into that page.
"""

import re
from pathlib import Path
from statistics import median

from tandem.plan.layout import memory_of
from tandem.plan.units import GIB_BYTES
from tests.plan.published import Row, rows

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "planner.md"


def groups(of: list[Row]) -> dict[tuple[str, bool], list[float]]:
    """Ratios of predicted to published speed by table, fitted rows and held-out ones apart."""
    found: dict[tuple[str, bool], list[float]] = {}
    for row in of:
        found.setdefault((row.table, row.fitted), []).append(row.ratio())
    return found


def speed_table(of: list[Row]) -> str:
    """Median and worst by table."""
    lines = [
        "| runs | rows | used for | predicted / published, median | median error | worst |",
        "|---|---|---|---|---|---|",
    ]
    for (name, fitted), ratios in groups(of).items():
        errors = [abs(ratio - 1) for ratio in ratios]
        worst = max(ratios, key=lambda ratio: abs(ratio - 1))
        lines.append(
            f"| {name} | {len(ratios)} | {'fitting' if fitted else 'checking'} | {median(ratios):.2f} | "
            f"{100 * median(errors):.0f} % | {worst:.2f} |"
        )
    return "\n".join(lines)


def run_table(of: list[Row]) -> str:
    """Every run but MosaicML's, which are many."""
    lines = ["| run | used for | tokens/s a device, published | predicted | ratio |", "|---|---|---|---|---|"]
    for row in of:
        if not row.table.startswith("MosaicML"):
            ratio, used = row.ratio(), "fitting" if row.fitted else "checking"
            lines.append(
                f"| {row.table.split(',')[0]}: {row.name}, {row.job.precision} | {used} | "
                f"{row.device_tokens_per_s:,.0f} | {ratio * row.device_tokens_per_s:,.0f} | {ratio:.2f} |"
            )
    return "\n".join(lines)


def memory_ratio(row: Row) -> float:
    """Predicted memory of a device by the published one, or by what the device has where none is published."""
    has = row.memory_gib * GIB_BYTES or row.cluster.accelerator.memory_bytes
    return memory_of(row.job, row.layouts[0], row.cluster).total_bytes / has


def memory_table(of: list[Row]) -> str:
    """torchtitan's runs, the only ones that say what they used."""
    lines = ["| run | GiB, published | predicted | ratio |", "|---|---|---|---|"]
    for row in of:
        if row.memory_gib:
            ratio = memory_ratio(row)
            lines.append(
                f"| {row.name}, {row.job.precision} | {row.memory_gib} | {ratio * row.memory_gib:.1f} | {ratio:.2f} |"
            )
    return "\n".join(lines)


def page() -> str:
    """The page with its tables as they are now."""
    found, text = rows(), PAGE.read_text()
    for name, build in (("speed", speed_table), ("runs", run_table), ("memory", memory_table)):
        mark = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        told = build(found)
        text, count = re.subn(mark, lambda match, told=told: f"{match[1]}{told}\n{match[2]}", text, flags=re.DOTALL)
        assert count == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
