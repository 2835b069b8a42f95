"""GGUF headers: what is sound is read, and nothing that is not does more than an IntegrityError."""

import contextlib
import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.formats import TensorInfo, facts, gguf_file, read_header, write_tiny_gguf
from tandem.kit.errors import IntegrityError, NotFound


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", fim=True)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, *, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def made(
    *,
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes | None = None,
    version: int = 3,
) -> bytes:
    """A file; without `data` with 32 bytes for each tensor, which is what four fp32 weights fill with padding."""
    keys, tensors = keys or [], tensors or []
    data = bytes(32 * len(tensors)) if data is None else data
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys + tensors)
    return header + bytes(-len(header) % 32) + data


def read(folder: Path, data: bytes) -> None:
    path = folder / "made.gguf"
    path.write_bytes(data)
    facts(read_header(path))


def numbers(key: str, kind: int, code: str, *values: float) -> bytes:
    return entry(key, 9, struct.pack(f"<IQ{len(values)}{code}", kind, len(values), *values))


def words(key: str, *values: str | bytes) -> bytes:
    return entry(key, 9, struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values)))


ARCHITECTURE = entry("general.architecture", 8, text("llama"))
TOKENS = words("tokenizer.ggml.tokens", "a", "b", "c")


def test_it_reads_what_the_reference_reads(tiny: Path) -> None:
    header, reference = read_header(tiny), GGUFReader(tiny)
    ours = {tensor.name: (tensor.shape, tensor.type, tensor.offset, tensor.size) for tensor in header.tensors}
    assert ours == {
        tensor.name: (
            tuple(int(extent) for extent in reversed(tensor.shape)),
            tensor.tensor_type,
            tensor.data_offset,
            tensor.n_bytes,
        )
        for tensor in reference.tensors
    }
    assert header.version == 3
    for key, value in header.metadata.items():
        expected = reference.fields[key].contents()
        assert value == (tuple(expected) if isinstance(expected, list) else expected), key


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path: Path, version: int) -> None:
    read(tmp_path, made(keys=[ARCHITECTURE], tensors=[tensor("a")], version=version))


def test_every_type_of_value_is_read(tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    scalars = {0: ("B", 200), 1: ("b", -2), 2: ("H", 60000), 3: ("h", -300), 4: ("I", 2**31), 5: ("i", -9)} | {
        6: ("f", 0.5),
        10: ("Q", 2**40),
        11: ("q", -(2**40)),
        12: ("d", 0.1),
    }
    keys = [entry(str(kind), kind, struct.pack(f"<{code}", value)) for kind, (code, value) in scalars.items()]
    keys += [entry("7", 7, b"\1"), entry("8", 8, text("é"))]
    keys += [entry("list", 9, struct.pack("<IQ", 7, 2) + b"\0\1")]
    keys += [entry("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text(b"\xff"))]
    path.write_bytes(made(keys=keys))
    expected = {str(kind): value for kind, (_, value) in scalars.items()}
    expected |= {"7": True, "8": "é", "list": (False, True), "words": ("a", "\N{REPLACEMENT CHARACTER}")}
    assert read_header(path).metadata == expected


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "begin"),
        (b"GGUF", "begin"),
        (b"PK\3\4" + bytes(100), "begin"),
        (made(version=1), "version 1"),
        (made(version=3 << 24), "version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60), "bytes of text"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 100) + b"x", "cut short"),
        (made(keys=[entry("a", 99, b"")]), "unknown type 99"),
        (made(keys=[entry("a", 7, b"\2")]), "truth"),
        (made(keys=[entry("a", 9, struct.pack("<IQ", 0, 2**50))]), "items in a list"),
        (made(keys=[entry("a", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 0, 0))]), "unknown type 9"),
        (made(keys=[ARCHITECTURE, ARCHITECTURE]), "twice"),
        (made(keys=[entry("general.alignment", 4, struct.pack("<I", 24))]), "alignment"),
        (made(keys=[entry("general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
        (made(keys=[entry("general.alignment", 8, text("32"))]), "alignment"),
        (made(tensors=[tensor("a"), tensor("a")]), "twice"),
        (made(tensors=[tensor("a" * 64)]), "bytes of text"),
        (made(tensors=[tensor("a", shape=(1,) * 5)]), "dimensions"),
        (made(tensors=[tensor("a", shape=(0,))]), "shape"),
        (made(tensors=[tensor("a", shape=(2**62, 2**62))]), "weights in a row"),
        (made(tensors=[tensor("a", shape=(2**40, 2**40, 2**40))]), "cut short"),
        (made(tensors=[tensor("a", kind=5)]), "unknown type 5"),
        (made(tensors=[tensor("a", shape=(4,), kind=8)]), "Q8_0"),
        (made(tensors=[tensor("a", offset=7)]), "at 7"),
        (made(tensors=[tensor("a", offset=64)]), "cut short"),
        (made(tensors=[tensor("a", offset=2**64 - 32)]), "cut short"),
        (made(tensors=[tensor("a"), tensor("b")]), "inside another"),
        (made(tensors=[tensor("a", shape=(16,)), tensor("b", offset=32)]), "inside another"),
        (made(tensors=[tensor("b", offset=32), tensor("a", shape=(9,))]), "inside another"),
        (made(tensors=[tensor("a"), tensor("b", offset=64)], data=bytes(96)), "48 bytes before tensor 'b'"),
        (made(tensors=[tensor("a", offset=32)], data=bytes(64)), "32 bytes before tensor 'a'"),
        (made(tensors=[tensor("a")], data=bytes(32) + b"PK\3\4" + bytes(100)), "120 bytes after its last tensor"),
        (made(data=bytes(32)), "32 bytes after its last tensor"),
        (made(tensors=[tensor("a\0x")]), "no name"),
        (made(tensors=[tensor("a\nx")]), "no name"),
        (made(tensors=[tensor("")]), "no name"),
        (made(tensors=[text(b"\xff") + tensor("a")[9:]]), "no name"),
        (made(keys=[entry("a\0b", 4, struct.pack("<I", 1))]), "no name"),
        (made(keys=[entry("a\x1b[2J", 4, struct.pack("<I", 1))]), "no name"),
        (made(keys=[entry("general.alignment", 7, b"\1")]), "alignment"),
        (made(keys=[TOKENS, numbers("tokenizer.ggml.token_type", 5, "i", 1, 1)]), "for all of its 3 tokens"),
        (made(keys=[TOKENS, numbers("tokenizer.ggml.scores", 6, "f", 1)]), "for all of its 3 tokens"),
        (made(keys=[TOKENS, words("tokenizer.ggml.scores", "1", "2", "3")]), "for all of its 3 tokens"),
        (made(keys=[TOKENS, entry("tokenizer.ggml.scores", 4, struct.pack("<I", 1))]), "for all of its 3 tokens"),
        (made(keys=[entry("general.architecture", 8, text("lla ma"))]), "architecture"),
        (made(keys=[entry("general.architecture", 8, text("x" * 65))]), "architecture"),
        (made(keys=[ARCHITECTURE, entry("llama.context_length", 5, struct.pack("<i", -5))]), "is -5"),
        (made(keys=[ARCHITECTURE, entry("llama.embedding_length", 10, struct.pack("<Q", 2**40))]), "is 1099511627776"),
        (made(keys=[]), "architecture"),
        (made(keys=[entry("general.architecture", 4, struct.pack("<I", 1))]), "not a string"),
        (made(keys=[ARCHITECTURE, entry("llama.context_length", 8, text("x"))]), "whole number"),
        (made(keys=[ARCHITECTURE, entry("tokenizer.ggml.tokens", 8, text("x"))]), "list of strings"),
        (made(keys=[ARCHITECTURE, entry("tokenizer.ggml.tokens", 9, struct.pack("<IQB", 0, 1, 1))]), "of strings"),
    ],
)
def test_what_is_not_sound_is_refused_with_its_cause(tmp_path: Path, data: bytes, cause: str) -> None:
    with pytest.raises(IntegrityError, match=cause) as caught:
        read(tmp_path, data)
    assert "made.gguf" in caught.value.message
    assert caught.value.remedy


def test_what_lies_behind_each_other_is_read(tmp_path: Path) -> None:
    keys = [TOKENS, numbers("tokenizer.ggml.token_type", 5, "i", 1, 1, 1), ARCHITECTURE]
    read(tmp_path, made(keys=keys, tensors=[tensor("b", offset=32), tensor("a")]))


def test_words_for_people_are_short_and_cannot_take_over_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    keys = [entry("general.name", 8, text("\x1b[31mred\n" + "x" * 10_000)), entry("general.license", 8, text("m\0it"))]
    path.write_bytes(made(keys=[ARCHITECTURE, *keys], tensors=[tensor("a")]))
    found = facts(read_header(path))
    assert str(found["name"]).startswith("[31mred xxx")
    assert len(str(found["name"])) == 200
    assert found["license"] == "m it"


def test_lists_have_a_bound_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "MAX_ITEMS", 100)
    keys = [numbers(f"a{number}", 0, "B", *range(30)) for number in range(4)]
    read(tmp_path, made(keys=[ARCHITECTURE, *keys[:3]]))
    with pytest.raises(IntegrityError, match="claims 30 items in a list; at most 10"):
        read(tmp_path, made(keys=[ARCHITECTURE, *keys]))


def test_the_largest_list_of_numbers_stays_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    values = struct.pack("<IQ", 2, gguf_file.MAX_ITEMS) + os.urandom(2 * gguf_file.MAX_ITEMS)
    path.write_bytes(made(keys=[ARCHITECTURE, entry("a", 9, values)]))
    tracemalloc.start()
    try:
        read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path / "pipe.gguf", tmp_path):
        with pytest.raises(NotFound, match="no regular file|directory"):
            read_header(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        read_header(tmp_path / "nowhere")


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_accepted_of_a_damaged_file_is_inside_it(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(tiny.read_bytes())
    header_end = min(tensor.offset for tensor in read_header(tiny).tensors)
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    path.write_bytes(content[:cut])
    tracemalloc.start()
    try:
        with contextlib.suppress(IntegrityError):
            header = read_header(path)
            _check_places(header.tensors, path.stat().st_size)
            facts(header)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def _check_places(tensors: tuple[TensorInfo, ...], size: int) -> None:
    end = 0
    for one in sorted(tensors, key=lambda one: one.offset):
        assert end <= one.offset < one.offset + one.size <= size
        end = one.offset + one.size


@given(field=st.sampled_from(["offset", "extent", "type", "dimensions"]), value=st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_no_number_of_a_tensor_leads_out_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: int
) -> None:
    odd = text("odd") + struct.pack("<I", value % 2**32 if field == "dimensions" else 1)
    odd += struct.pack("<Q", value if field == "extent" else 4)
    odd += struct.pack("<IQ", value % 2**32 if field == "type" else 0, value if field == "offset" else 32)
    path = tmp_path_factory.getbasetemp() / "odd.gguf"
    path.write_bytes(made(keys=[ARCHITECTURE], tensors=[tensor("a"), odd]))
    with contextlib.suppress(IntegrityError):
        _check_places(read_header(path).tensors, path.stat().st_size)


@given(tail=st.binary(max_size=300), counts=st.tuples(st.integers(0, 5), st.integers(0, 5)))
@settings(max_examples=150, deadline=None)
def test_random_bytes_do_no_more_than_an_integrity_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, counts: tuple[int, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + tail)
    with contextlib.suppress(IntegrityError):
        facts(read_header(path))


def test_a_cut_off_end_is_noticed_without_reading_the_weights(tiny: Path, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    with pytest.raises(IntegrityError, match="cut short"):
        read(tmp_path, content[:-100])
