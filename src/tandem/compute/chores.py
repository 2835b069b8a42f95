"""The workshop's chores in child processes: data made ready with progress and errors, reports, measured machines."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tandem.kit import errors
from tandem.kit.config import child_environment
from tandem.kit.errors import MissingPrerequisite, TandemError
from tandem.kit.ids import new_id
from tandem.kit.lines import write_whole
from tandem.kit.log import get_logger
from tandem.spec import Recipe, RunFolder, parse_recipe

Progress = Callable[[str, int, int | None], None]
"""Called with a step's name, how much of it is done, and of how much; None where that is not known."""

PROGRAM = ("-m", "tandem.train", "prepare")
"""The workshop's program, as Python takes it; the path of the request follows."""

REPORT = ("-m", "tandem.train", "report")
"""The same, for the report of a run whose folder follows."""

PROBE = ("-m", "tandem.train", "probe")
"""The same, for a measurement of this machine."""

_log = get_logger(__name__)
_LINE_BYTES = 16 * 2**20  # the last line holds the whole recipe
_COMPLAINT_BYTES = 64 * 1024


async def prepare(
    recipe: Recipe,
    *,
    home: Path,
    parent: tuple[Path, str] | None,
    progress: Progress,
    program: Sequence[str] = PROGRAM,
) -> Recipe:
    """Make the recipe's data and tokenizer in the home folder; returns the recipe with all digests in it.

    `parent` is the GGUF file of the parent and its digest.

    Raises:
        TandemError: the recipe cannot be prepared; the error that the child met.
    """
    request = home / "requests" / f"{new_id('prepare')}.json"
    request.parent.mkdir(parents=True, exist_ok=True)
    path, digest = parent if parent is not None else (None, "")
    word = {"recipe": recipe, "home": str(home), "parent_gguf": path and str(path), "parent_digest": digest}
    write_whole(request, msgspec.json.encode(word))
    try:
        last = await _run([*program, str(request)], progress)
    finally:
        request.unlink()
    if "error" in last:
        raise error_of(last["error"])
    return parse_recipe(last["pinned"], where=recipe.name)


async def write_report(run: RunFolder) -> None:
    """Have the workshop write the report of a run as it stands. One that cannot be written is no failure of the run."""
    status, _, complaint = await _ended([*REPORT, str(run.path)])
    if status != 0:
        _log.warning("a report could not be written", extra={"run": run.path.name, "cause": complaint})


async def probe(*, program: Sequence[str] = PROBE) -> dict[str, Any]:
    """What the workshop measures of this machine in a second: device, peak_flops and peak_name, bf16_gain, threads.

    Raises:
        MissingPrerequisite: the workshop's packages are not installed, or it cannot measure; says what it complained.
    """
    status, said, complaint = await _ended(program)
    if status == 0:
        found: dict[str, Any] = msgspec.json.decode(said)
        return found
    raise MissingPrerequisite(
        f"This machine could not be measured: {complaint or f'exit status {status}'}",
        remedy="`tandem doctor` says what training here needs.",
    )


async def _ended(words: Sequence[str]) -> tuple[int | None, bytes, str]:
    """A child that has ended: its exit status, what it said, and the last line of what it complained."""
    async with _child(words, child_environment()) as child:
        said, complaint = await child.communicate()
    return child.returncode, said, "".join(complaint.decode(errors="replace").strip().splitlines()[-1:])


async def _run(words: Sequence[str], progress: Progress) -> dict[str, Any]:
    """The last thing that the child says."""
    last: dict[str, Any] = {}
    async with _child(words, child_environment(hub=True)) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        complaining = asyncio.create_task(_tail(child.stderr))
        try:
            async for line in child.stdout:
                last = msgspec.json.decode(line)
                if "step" in last:
                    progress(last["step"], last["done"], last.get("total"))
            await child.wait()
            complaint = await complaining
        finally:
            complaining.cancel()
            await asyncio.gather(complaining, return_exceptions=True)
    if last.keys() & {"pinned", "error"}:
        return last
    lines = complaint.decode(errors="replace").strip().splitlines() or [f"exit status {child.returncode}"]
    return {"error": {"message": f"The data could not be prepared: {lines[-1]}", "remedy": "", "code": "error"}}


@contextlib.asynccontextmanager
async def _child(words: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child that has ended when the block has, however that does."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        start_new_session=True,  # Ctrl-C is ours to pass on
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The end of what a child complains of, all of which is read so that it never waits for us."""
    kept = b""
    while chunk := await stream.read(_COMPLAINT_BYTES):
        kept = (kept + chunk)[-_COMPLAINT_BYTES:]
    return kept


def error_of(told: dict[str, str]) -> TandemError:
    """The error that another process told: of the kind that has its code, else of the root kind."""
    message, remedy, code = told["message"], told.get("remedy", ""), told.get("code", "error")
    kinds = {
        kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TandemError)
    }
    kind = kinds.get(code, TandemError)
    if issubclass(kind, errors.LimitExceeded):
        return kind(message, remedy=remedy, retry_after_s=1.0)
    error = kind(message, remedy=remedy)
    error.code = code
    return error
