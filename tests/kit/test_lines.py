"""JSON lines: several writers do not mix, what a crash tore is passed over, and a file is replaced whole."""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import IntegrityError
from tandem.kit.lines import append_line, read_lines, write_whole


class Record(msgspec.Struct):
    """A line."""

    number: int
    text: str = ""


def numbers(path: Path) -> list[int]:
    return [record.number for record in read_lines(path, Record)]


@pytest.mark.parametrize("durable", [True, False])
def test_lines_come_back_in_order(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "log.jsonl"
    assert list(read_lines(path, Record)) == []
    for number in range(5):
        append_line(path, Record(number, "a\nb\u2028c"), durable=durable)
    assert list(read_lines(path, Record)) == [Record(number, "a\nb\u2028c") for number in range(5)]
    assert path.read_bytes().count(b"\n") == 5


@given(st.integers(0, 200))
def test_a_line_that_was_torn_anywhere_harms_no_other(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        append_line(path, Record(1))
        whole = path.stat().st_size
        append_line(path, Record(2, "x" * 100))
        data = path.read_bytes()
        kept = data[: min(whole + cut, len(data))]
        path.write_bytes(kept)
        append_line(path, Record(3))
        found = numbers(path)
        # the bytes of a line may all be there but its end; the next writer ends it
        second = [2] if len(kept) >= len(data) - 1 else []
        assert found == [1, *second, 3]


def test_a_torn_end_is_passed_over_until_somebody_writes(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"number":1}\n\n{"number":2}')
    assert numbers(path) == [1]


def test_a_line_of_another_kind_is_no_accident(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"number":1}\n{"number":"two"}\n')
    with pytest.raises(IntegrityError, match=r"log\.jsonl, line 2: .*int"):
        numbers(path)


def test_lines_of_threads_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_line(path, Record(number, "x" * 5000), durable=False), range(200)))
    assert sorted(numbers(path)) == list(range(200))


FULL = """
import resource, sys
from pathlib import Path
from tandem.kit.lines import append_line
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    for number in range(100):
        append_line(Path(sys.argv[1]), {"number": number})
except OSError as error:
    print(number, error.strerror)
"""


def test_a_full_disk_is_an_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    number, _, cause = done.stdout.strip().partition(" ")
    assert cause in {"No space left on device", "File too large"}
    assert numbers(path) == list(range(int(number)))
    append_line(path, Record(99))
    assert numbers(path) == [*range(int(number)), 99]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_whole(path, b"first")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tandem.kit.lines.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
