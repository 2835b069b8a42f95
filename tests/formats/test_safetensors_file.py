"""Safetensors: read and written as by the reference, and refused where the header lies."""

import contextlib
import json
import os
import struct
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tandem.formats import BFloat16, Later, SafetensorsFile, write_safetensors
from tandem.formats.safetensors_file import file_writing
from tandem.kit.errors import IntegrityError, NotFound, StorageFull
from tests.kit.full_disk import small_disk


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
        ({**one(), "b": {**one()["a"], "data_offsets": [4, 12]}}, bytes(12)),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)),
        (one(shape=(True, 2)), bytes(8)),
        (one(shape=(2.0,)), bytes(8)),
        (one(shape=[1] * 33), bytes(4)),
        (one(offsets=(0, 2**64)), bytes(8)),
        (one(offsets=(0, 8, 8)), bytes(8)),
        ({"x" * 2000: one()["a"]}, bytes(8)),
        ({**one(), "__metadata__": {"format": 1}}, bytes(8)),
        ({**one(), "__metadata__": []}, bytes(8)),
        (b'{"\xff":1}', b""),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    with pytest.raises(IntegrityError, match="made.safetensors") as caught:
        SafetensorsFile(written(tmp_path, header, data))
    assert caught.value.remedy


def test_a_header_of_absurdly_many_words_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = b'{"__metadata__":{' + b",".join(b'"%d":""' % number for number in range(400_000)) + b"}}"
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="more than 65536 tensors"):
            SafetensorsFile(written(tmp_path, header))
        assert tracemalloc.get_traced_memory()[1] < 3 * len(header)
    finally:
        tracemalloc.stop()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(NotFound, match="no regular file"):
        SafetensorsFile(tmp_path / "pipe.safetensors")


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_accepted_of_a_damaged_file_fills_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    write_safetensors(path, every_type(), {"format": "pt"})
    content = bytearray(path.read_bytes())
    header_end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.one_of(st.none(), st.integers(0, len(content))))])
    with contextlib.suppress(IntegrityError):
        file = SafetensorsFile(path)
        sizes = {name: _size(file, name) for name in file.entries}
        assert all(file.entries[name].offset + size <= path.stat().st_size for name, size in sizes.items())
        assert sum(sizes.values()) < path.stat().st_size


def _size(file: SafetensorsFile, name: str) -> int:
    with contextlib.suppress(IntegrityError):
        return file.array(name).nbytes
    return 0  # of a type that numpy does not know


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


def every_type() -> dict[str, Any]:
    random = np.random.default_rng(0)
    floats = {f"f{size}": random.standard_normal((3, 5)).astype(f"f{size // 8}") for size in (16, 32, 64)}
    integers = {f"i{size}": random.integers(-9, 9, (2, 3)).astype(f"i{size // 8}") for size in (32, 64)}
    bytes_ = {"u8": random.integers(0, 255, 7).astype(np.uint8), "b": np.float32(random.random((1, 1)))}
    return {**floats, **integers, **bytes_, "empty": np.empty((0, 4), np.float32), "scalar": np.array(2, np.int64)}


def test_what_is_written_is_what_the_reference_writes(tmp_path: Path) -> None:
    tensors = every_type()
    path = write_safetensors(tmp_path / "ours", tensors, {"format": "pt"})
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
    write_safetensors(path, tensors)
    save_file(tensors, tmp_path / "theirs")
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes(), "a file is replaced"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ours", "theirs"]


def test_arrays_come_back_in_their_own_type(tmp_path: Path) -> None:
    tensors = every_type()
    file = SafetensorsFile(write_safetensors(tmp_path / "ours", tensors))
    assert set(file.entries) == set(tensors)
    for name, tensor in tensors.items():
        found = file.array(name)
        assert (found.dtype, found.shape, found.flags.writeable or found.size == 0) == (
            tensor.dtype,
            tensor.shape,
            tensor.size == 0,
        )
        np.testing.assert_array_equal(found, tensor)


def test_torch_reads_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save_torch

    bits = np.array([[0x3F80, 0xC000], [0x7F80, 0x8000]], np.uint16)
    path = write_safetensors(tmp_path / "ours", {"a": BFloat16(bits), "b": bits.astype(np.float16)})
    found = load_file(path)
    assert found["a"].dtype == torch.bfloat16
    assert found["a"].tolist() == [[1.0, -2.0], [float("inf"), -0.0]]
    save_torch(found, tmp_path / "theirs")
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
    np.testing.assert_array_equal(SafetensorsFile(path).array("a"), bits)


@pytest.mark.parametrize("made", [lambda x: x.T, lambda x: x[::2, ::-1], lambda x: x.astype(">f4"), np.asfortranarray])
def test_any_order_in_memory_is_written(tmp_path: Path, made: Any) -> None:
    tensor = made(np.arange(1_200_000, dtype=np.float32).reshape(1000, 1200))  # more than one piece
    file = SafetensorsFile(write_safetensors(tmp_path / "ours", {"é": tensor}))
    np.testing.assert_array_equal(file.array("é"), tensor)


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    big = np.zeros(2**24, np.float32)  # 64 MiB, of which no page is touched
    tracemalloc.start()
    try:
        write_safetensors(tmp_path / "ours", {"a": big, "b": big[::-1]})
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_tensor_is_made_when_it_is_written(tmp_path: Path) -> None:
    made = []

    def make(value: float) -> Any:
        made.append(value)
        return np.full((2, 3), value, np.float32)

    later = {name: Later(shape=(2, 3), make=partial(make, value)) for name, value in (("b", 2.0), ("a", 1.0))}
    path = write_safetensors(tmp_path / "ours", later)
    assert made == [1.0, 2.0]
    save_file({"a": np.full((2, 3), 1, np.float32), "b": np.full((2, 3), 2, np.float32)}, tmp_path / "theirs")
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
    with pytest.raises(AssertionError, match="promised"):
        write_safetensors(path, {"a": Later(shape=(3, 2), make=partial(make, 3.0))})


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "ours", every_type())
    before = path.read_bytes()
    with pytest.raises(AssertionError, match="complex"):
        write_safetensors(path, {"a": np.array([1j])})
    with contextlib.suppress(KeyError), file_writing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull, match="No space"):
            write_safetensors(disk / "ours", {"a": np.zeros(2**22, np.float32)})
        assert list(disk.iterdir()) == []
