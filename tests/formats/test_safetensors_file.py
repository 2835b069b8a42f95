"""Safetensors: read as the reference writes them, and refused where the header lies."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tandem.formats import SafetensorsFile
from tandem.kit.errors import IntegrityError, NotFound


def written(folder: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "made.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def one(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_what_the_reference_writes_is_read(tmp_path: Path, dtype: type) -> None:
    weights = {"a": np.arange(6, dtype=dtype).reshape(2, 3), "b": np.array([0.5], dtype=dtype)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "model.safetensors")
    assert set(file.entries) == {"a", "b"}
    for name, expected in weights.items():
        found = file.weights(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    data = np.array([0x3F80, 0xC000, 0x7F80, 0x0000], dtype="<u2").tobytes()
    file = SafetensorsFile(written(tmp_path, one("BF16", (2, 2), (0, 8)), data))
    np.testing.assert_array_equal(file.weights("a"), [[1.0, -2.0], [np.inf, 0.0]])


def test_a_scalar_is_one_number(tmp_path: Path) -> None:
    file = SafetensorsFile(written(tmp_path, one("F32", (), (0, 4)), struct.pack("<f", 3)))
    assert file.weights("a").tolist() == [3.0]


def test_integers_are_no_weights(tmp_path: Path) -> None:
    file = SafetensorsFile(written(tmp_path, one("I64", (1,)), bytes(8)))
    with pytest.raises(IntegrityError, match="I64"):
        file.weights("a")
    with pytest.raises(NotFound, match="'b'"):
        file.weights("b")


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"not json", b""),
        (b"[" * 100_000, b""),
        ([], b""),
        ({"a": 1}, b""),
        ({"a": {"dtype": "F32"}}, b""),
        (one("NONSENSE"), bytes(8)),
        (one(shape=(-1,)), bytes(8)),
        (one(shape=("2",)), bytes(8)),
        (one(shape=(3,)), bytes(8)),
        (one(shape=(2**62, 2**62)), bytes(8)),
        (one(offsets=(8, 16)), bytes(16)),
        (one(offsets=(-8, 0)), bytes(8)),
        (one(offsets=(0, 4)), bytes(8)),
        (one(), bytes(7)),
        (one(), bytes(9)),
        ({**one(), "b": one()["a"]}, bytes(8)),
        ({**one(), "b": {**one()["a"], "data_offsets": [12, 20]}}, bytes(20)),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    with pytest.raises(IntegrityError, match="made.safetensors") as caught:
        SafetensorsFile(written(tmp_path, header, data))
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 2**63), struct.pack("<Q", 10) + b"{}"])
def test_a_file_that_is_too_short_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "made.safetensors"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="claims"):
        SafetensorsFile(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        SafetensorsFile(tmp_path / "nowhere")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {"dtype": json_values | st.just("F32"), "shape": json_values, "data_offsets": json_values}
)


@given(header=json_values | st.dictionaries(st.text(max_size=3), entries, max_size=3), data=st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_header_gives_a_file_or_an_integrity_error(
    tmp_path_factory: pytest.TempPathFactory, header: Any, data: bytes
) -> None:
    with contextlib.suppress(IntegrityError):
        SafetensorsFile(written(tmp_path_factory.getbasetemp(), header, data))
