"""`tandem doctor`: what is missing here, and how to mend it."""

import importlib.util
import shutil
import socket
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

import typer
from sqlalchemy import text

from tandem.cli.context import AsJson, Quiet, emit, table
from tandem.cli.deploy import running_server
from tandem.kit.config import Settings, load_settings
from tandem.kit.db import Database
from tandem.kit.errors import TandemError
from tandem.server import House

_GIB = 1024**3
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
        [(_SIGNS[finding.state], finding.check, finding.found, finding.remedy) for finding in findings],
        empty="",
    )
    broken = [finding for finding in findings if finding.state == "broken"]
    bare = [f"{finding.check}: {finding.remedy}" for finding in findings if finding.state != "ok"]
    emit([finding._asdict() for finding in findings], as_json=as_json, quiet=quiet, bare=bare, shown=shown)
    if broken:
        raise typer.Exit(1)


_SIGNS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "broken": "[red]broken[/]"}


def look() -> list[Finding]:
    """All findings; none of the checks changes anything."""
    findings = [_python(), _engine()]
    try:
        settings = load_settings()
    except TandemError as error:
        return [*findings, Finding("settings", "broken", error.message, error.remedy)]
    findings.append(Finding("settings", "ok", f"home is {settings.home}"))
    checks: tuple[Callable[[Settings], Finding], ...] = (_disk, _database, _port, _deployments)
    return [*findings, *(check(settings) for check in checks)]


def _python() -> Finding:
    return Finding("python", "ok", sys.version.split()[0])


def _engine() -> Finding:
    if importlib.util.find_spec("xllamacpp") is None:
        return Finding(
            "llama.cpp engine", "warning", "xllamacpp is not installed", "pip install 'tandem-platform[llamacpp]'"
        )
    return Finding("llama.cpp engine", "ok", "xllamacpp is installed")


def _disk(settings: Settings) -> Finding:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free at {folder}"
    if free < _LOW_DISK_BYTES:
        return Finding("disk", "warning", found, "Free some space, or set TANDEM_HOME to a folder on another disk.")
    return Finding("disk", "ok", found)


def _database(settings: Settings) -> Finding:
    if settings.sqlalchemy_url.startswith("sqlite") and not (settings.home / "tandem.db").exists():
        return Finding("database", "ok", "SQLite, not made yet")
    try:
        db = Database(settings.sqlalchemy_url)
        db.run_sync(lambda connection: connection.execute(text("SELECT 1")))
    except TandemError as error:
        return Finding("database", "broken", error.message, error.remedy)
    return Finding("database", "ok", "SQLite" if db.is_sqlite else "answers")


def _port(settings: Settings) -> Finding:
    if url := running_server(settings):
        return Finding("server", "ok", f"serves at {url}")
    with socket.socket() as probe:
        if probe.connect_ex((settings.host, settings.port)) == 0:
            return Finding(
                "server",
                "warning",
                f"another program has port {settings.port}",
                "Use `tandem up --port 0`, or set port in tandem.toml.",
            )
    return Finding("server", "ok", "not running; `tandem up` starts it")


def _deployments(settings: Settings) -> Finding:
    try:
        house = House.open(settings)
        bound = house.deployments.deployments()
        for deployment in bound:
            house.registry.path(house.registry.resolve(deployment.version))
    except TandemError as error:
        return Finding("deployments", "broken", error.message, error.remedy)
    return Finding("deployments", "ok", f"{len(bound)} bound, their files are whole")
