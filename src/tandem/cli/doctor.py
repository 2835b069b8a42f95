"""`tandem doctor`: what is missing here, and how to mend it."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import typer
from rich.text import Text
from sqlalchemy import make_url

from tandem.cli.context import AsJson, Quiet, emit, table
from tandem.cli.deploy import running_server
from tandem.cli.training.train import EXTRA, TORCH, check_workshop
from tandem.flows import files_of, permit
from tandem.kit.config import Settings, load_settings
from tandem.kit.errors import Conflict, MissingPrerequisite, TandemError
from tandem.server import House, listening

_GIB = 1024**3
_CPU_FLAGS = Path("/proc/cpuinfo")
_FLAGS = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)
_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON"))
_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
_LOW_DISK_BYTES = 2 * _GIB  # the starter, the encoder and a day's logs fit in less


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    state: Literal["ok", "warning", "broken"]
    found: str
    remedy: str = ""


def doctor(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Say what is missing on this machine and how to mend it; exit status 1 if something is broken."""
    findings = look()
    shown = table(
        ("", "check", "found", "remedy"),
        [(_SIGNS[state], check, found, remedy) for check, state, found, remedy in findings],
        empty="",
    )
    broken = [finding for finding in findings if finding.state == "broken"]
    bare = [f"{finding.check}: {finding.remedy}" for finding in findings if finding.state != "ok"]
    emit([finding._asdict() for finding in findings], as_json=as_json, quiet=quiet, bare=bare, shown=shown)
    if broken:
        raise typer.Exit(1)


_SIGNS = {"ok": Text("ok", "green"), "warning": Text("warning", "yellow"), "broken": Text("broken", "red")}


def look() -> list[Finding]:
    """All findings; none of the checks changes anything."""
    findings = [_python(), _engine(), _workshop()]
    try:
        settings = load_settings()
    except TandemError as error:
        return [*findings, Finding("settings", "broken", error.message, error.remedy)]
    return [
        *findings,
        Finding("settings", "ok", f"home is {settings.home}"),
        _home(settings),
        _disk(settings),
        *_database(settings),
        _port(settings),
    ]


def _python() -> Finding:
    return Finding("python", "ok", sys.version.split()[0])


def _engine() -> Finding:
    if importlib.util.find_spec("xllamacpp") is None:
        return Finding(
            "llama.cpp engine", "warning", "xllamacpp is not installed", "pip install 'tandem-platform[llamacpp]'"
        )
    return Finding("llama.cpp engine", "ok", "xllamacpp is installed")


def _workshop() -> Finding:
    """What trains. Whoever only serves needs none of it, so it is no fault where all of it is missing."""
    if importlib.util.find_spec("torch") is None:
        return Finding("training", "ok", "not set up, serving does not need it", f"To train: {TORCH} && {EXTRA}")
    try:
        check_workshop()
    except MissingPrerequisite as error:
        return Finding("training", "warning", error.message, error.remedy)
    version = importlib.metadata.version("torch")
    return Finding("training", "ok", f"torch {version}; {_processor(_CPU_FLAGS)}")


def _processor(path: Path) -> str:
    """What matters for training of what the processor says of itself."""
    try:
        found = _FLAGS.search(path.read_text())
    except OSError:
        return "what this processor can do is not known"
    flags = set(found[1].split()) if found else set()
    wide = next((name for flag, name in _VECTORS if flag in flags), "no AVX2, which is slow")
    half = next((flag for flag in _BF16 if flag in flags), "")
    return f"{wide}, bf16 with {half}" if half else f"{wide}, no bf16: recipes in bf16 are computed in fp32"


def _home(settings: Settings) -> Finding:
    folder = _nearest(settings.home)
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Finding("home", "ok", "can be written" if folder == settings.home else "not made yet")
    return Finding(
        "home", "broken", f"{folder} cannot be written", "Set TANDEM_HOME to a folder that you may write to."
    )


def _disk(settings: Settings) -> Finding:
    folder = _nearest(settings.home)
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free at {folder}"
    if free < _LOW_DISK_BYTES:
        return Finding("disk", "warning", found, "Free some space, or set TANDEM_HOME to a folder on another disk.")
    return Finding("disk", "ok", found)


def _nearest(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _database(settings: Settings) -> list[Finding]:
    """The database, and what it binds."""
    try:
        if _is_to_be_made(settings.sqlalchemy_url):
            return [Finding("database", "ok", "SQLite, not made yet")]
        house = House.as_it_is(settings)
        kind = "SQLite" if house.db.is_sqlite else "PostgreSQL"
        is_migrated = house.db.is_migrated()
    except TandemError as error:
        return [Finding("database", "broken", error.message, error.remedy)]
    if not is_migrated:
        return [Finding("database", "ok", f"{kind}, of an older version; the next command brings it up to date")]
    try:
        return [Finding("database", "ok", kind), _deployments(house)]
    finally:
        house.db.close()


def _is_to_be_made(url: str) -> bool:
    """Whether it is SQLite's, without a file or with an empty one; to connect would make or fill it."""
    if not url.startswith("sqlite"):
        return False
    path = Path(make_url(url).database or "")
    return not path.exists() or path.stat().st_size == 0


def _deployments(house: House) -> Finding:
    try:
        bound = house.deployments.deployments()
        for deployment in bound:
            files_of(deployment.binding, house.registry)
            permit(house.releases, deployment.binding)
    except TandemError as error:
        return Finding("deployments", "broken", error.message, error.remedy)
    return Finding("deployments", "ok", f"{len(bound)} bound, their files are whole and released")


def _port(settings: Settings) -> Finding:
    if url := running_server(settings):
        return Finding("server", "ok", f"serves at {url}")
    try:
        with listening(settings.host, settings.port):
            return Finding("server", "ok", "not running; `tandem up` starts it")
    except Conflict as error:
        return Finding("server", "warning", error.message, error.remedy)
