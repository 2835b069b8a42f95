"""Placements: their defaults, their errors, and that they come back from JSON as they were."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.spec import Placement, load_placement, parse_placement

SECONDS = st.floats(0, 1e9)
TABLES = st.fixed_dictionaries(
    {},
    optional={
        "system": st.text(max_size=10),
        "workers": st.integers(1, 64),
        "sharding": st.sampled_from(["ddp", "fsdp"]),
        "micro_samples": st.integers(0, 64),
        "checkpoints": st.fixed_dictionaries({}, optional={"every_s": SECONDS, "keep": st.integers(1, 9)}),
        "limits": st.fixed_dictionaries({}, optional={"wall_s": SECONDS, "usd": SECONDS}),
    },
)


@given(TABLES)
def test_a_placement_comes_back_from_json_as_it_was(table: dict[str, object]) -> None:
    placement = parse_placement(table, where="here")
    assert msgspec.json.decode(msgspec.json.encode(placement), type=Placement) == placement


def test_an_empty_table_is_this_machine() -> None:
    placement = parse_placement({}, where="here")
    assert placement == Placement()
    assert (placement.system, placement.workers) == ("local", 1)


@pytest.mark.parametrize(
    ("table", "key", "problem"),
    [
        ({"workers": 0}, "workers", ">= 1"),
        ({"worker": 1}, "the top", "unknown field `worker`"),
        ({"checkpoints": {"keep": 0}}, "checkpoints.keep", ">= 1"),
        ({"limits": {"hang_s": 0}}, "limits.hang_s", "> 0"),
        ({"limits": {"wall_s": float("inf")}}, "limits.wall_s", "<= 1e+30"),
        ({"sharding": "tp"}, "sharding", "tp"),
        ([], "the top", "array"),
    ],
)
def test_an_error_names_the_key_and_the_problem(table: object, key: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_placement(table, where="two.toml")
    assert raised.value.param == key
    assert f"The placement two.toml is wrong at {key}: " in raised.value.message
    assert problem in raised.value.message


def test_a_placement_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text("workers = 2\n[limits]\nusd = 5\n")
    assert load_placement(path) == Placement(workers=2, limits=msgspec.structs.replace(Placement().limits, usd=5.0))


@pytest.mark.parametrize(
    ("written", "problem"), [(b"workers =", "is not TOML"), (b"\xff", "is not TOML"), (None, "Cannot read")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, written: bytes | None, problem: str) -> None:
    path = tmp_path / "broken.toml"
    if written is not None:
        path.write_bytes(written)
    with pytest.raises(InvalidRequest, match=problem):
        load_placement(path)
