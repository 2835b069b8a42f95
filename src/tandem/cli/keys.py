"""`tandem keys`: make, list and revoke keys."""

from datetime import datetime
from typing import Annotated, Any

import typer

from tandem.accounts import Key, Limits, Role
from tandem.cli.context import AsJson, Quiet, emit, open_house, table

app = typer.Typer(help="Make, list and revoke the keys that clients call with.", no_args_is_help=True)

_PAGE = 1000


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="Name of the key, unique among the active ones.")],
    role: Annotated[Role, typer.Option(help="`admin` may also deploy, make keys and read all usage.")] = Role.USER,
    rpm: Annotated[int | None, typer.Option(help="Requests per minute.", show_default="no limit")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens per minute.", show_default="no limit")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once.", show_default="no limit")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a key. It is shown this once and stored as a digest."""
    limits = Limits(requests_per_minute=rpm, tokens_per_minute=tpm, concurrency=concurrency)
    key, secret = open_house().keyring.create(name, role=role, limits=limits)
    emit(
        {**_fields(key), "key": secret},
        as_json=as_json,
        quiet=quiet,
        bare=secret,
        shown=f"{secret}\nKeep it: it is not shown again. ({key.role} key {key.name})",
    )


@app.command("list")
def list_keys(
    everything: Annotated[bool, typer.Option("--all", help="Also those that were revoked.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the keys."""
    keyring = open_house().keyring
    found: list[Key] = []
    page = keyring.keys(limit=_PAGE)
    while page:
        found += (key for key in page if everything or key.is_active)
        page = keyring.keys(limit=_PAGE, after=page[-1].id)
    rows = [
        (key.name, key.prefix, key.role, _shown(key.limits), _day(key.created_at), _day(key.revoked_at))
        for key in found
    ]
    emit(
        [_fields(key) for key in found],
        as_json=as_json,
        quiet=quiet,
        bare=[key.name for key in found],
        shown=table(
            ("name", "key", "role", "limits", "created", "revoked"),
            rows,
            empty="There are no keys yet: `tandem keys create --name NAME` makes one.",
        ),
    )


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the key.")], as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Revoke a key. Gateways that run notice within the setting `key_cache_s`."""
    key = open_house().keyring.revoke(name)
    emit(
        _fields(key),
        as_json=as_json,
        quiet=quiet,
        bare=key.id,
        shown=f"The key {key.name} ({key.id}) is revoked.",
    )


def _fields(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "prefix": key.prefix,
        "role": key.role.value,
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "concurrency": key.limits.concurrency,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at and key.revoked_at.isoformat(),
    }


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else ""


def _shown(limits: Limits) -> str:
    parts = (
        (limits.requests_per_minute, "rpm"),
        (limits.tokens_per_minute, "tpm"),
        (limits.concurrency, "at once"),
    )
    return ", ".join(f"{value} {unit}" for value, unit in parts if value is not None) or "none"
