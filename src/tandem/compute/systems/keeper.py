"""The keeper: starts an attempt's program apart from the caller, waits for it, notes how it ended; imports none of us.

Run as `python keeper.py FOLDER COMMAND...`. It returns as soon as the program runs and FOLDER/process.json says so.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

_NOTE_BYTES = 64


def main() -> int:
    """Fork: the parent waits until the child has started the program; the child stays with it to its end."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    started, told = os.pipe()
    if os.fork():
        os.close(told)
        return 0 if os.read(started, 1) else 1  # nothing to read: the child has failed, and said why
    os.close(started)
    os.setsid()
    # Handlers, since ignored signals would stay ignored in the program: what is meant for it must not end its keeper.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    asyncio.run(_keep(folder, command, told))
    return 0


async def _keep(folder: Path, command: list[str], told: int) -> None:
    """Start the program, tell the parent through the pipe, wait."""
    note = folder / "exit.json"
    _write(note, " " * _NOTE_BYTES)  # its place on the disk, for a program that ends because the disk is full
    with (folder / "worker.log").open("ab") as log:
        program = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
        )
    mine, its = os.getpid(), program.pid
    word = {"pid": mine, "born": born(mine), "program": its, "program_born": born(its)}
    try:
        _write(folder / "process.json", json.dumps(word))
    except OSError:
        program.kill()
        raise
    os.write(told, b"1")
    os.close(told)
    _let_go()
    status = await program.wait()
    with note.open("r+") as file:
        file.write(json.dumps({"exit_status": status}).ljust(_NOTE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def born(pid: int) -> int:
    """When the process started, in clock ticks since the machine did; 0 where it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(words[19]) if words[0] not in {"Z", "X"} else 0


def _let_go() -> None:
    """Leave the caller's pipes."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
