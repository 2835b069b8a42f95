"""Designs: each differs from plain in what it says, and knobs without meaning are refused."""

import math
from typing import Any

import pytest

from tandem.kit.errors import InvalidRequest
from tandem.plan.simulation import DESIGNS, Design


def test_names_and_knobs() -> None:
    assert all(name == design.name and design.about for name, design in DESIGNS.items())
    knobs = {
        (d.restart_s, d.storage_bytes_per_s, d.background, d.in_memory, d.spares, d.elastic) for d in DESIGNS.values()
    }
    assert len(knobs) == len(DESIGNS)


@pytest.mark.parametrize(
    "knob", [{"restart_s": -1.0}, {"stall_s": math.nan}, {"storage_bytes_per_s": 0.0}, {"spares": -1}, {"find_s": 1e12}]
)
def test_nonsense_is_refused(knob: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="mine"):
        Design(name="mine", about="", **knob)
