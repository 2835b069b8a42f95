"""Single requests by an id that the client saw, whether the ledger has folded them yet or not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from tandem.accounts import journal
from tandem.accounts.journal import Outcome, Reserved, Settled
from tandem.accounts.principals import Principal, Role
from tandem.accounts.tables import moment, usage_events, usage_readable_by
from tandem.kit.db import Database
from tandem.kit.errors import NotFound

# What answers and headers carry: the digits are those of the ledger's own id, whatever stands before them.
_SEEN = re.compile(r"(?:req_|chatcmpl-|cmpl-)([0-9a-f]{32})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One request as the ledger knows it; without an outcome it has not ended yet."""

    id: str
    deployment: str
    version: str
    operation: str
    surface: str
    outcome: Outcome | None
    prompt_tokens: int
    completion_tokens: int
    started_at: datetime


def request_id(text: str) -> str | None:
    """The ledger's id of a request: from the `id` of an answer, or from `x-request-id` or `apim-request-id`."""
    match = _SEEN.fullmatch(text)
    return f"req_{match[1]}" if match else None


def find_request(db: Database, seen: str, principal: Principal | None = None, *, journal_folder: Path) -> Trace:
    """The request that answered with the id `seen`, if the caller may see it; `None` is the house itself.

    What has not been folded is read from the journal, whichever process writes it.

    Raises:
        NotFound: there is no such request, or it is another's; one sounds like the other.
    """
    own = request_id(seen)
    if own is not None:
        # Between the first look and the journal a file may have been folded and deleted; then it is in the database.
        for look in (_in_database, _in_journal, _in_database):
            found = look(db, own, principal, journal_folder)
            if found is not None:
                return found
    raise NotFound(
        f"There is no response {seen[:80]!r}.",
        remedy="Take the `id` of an answer, or its header `x-request-id`, from a key of yours.",
    )


def _in_database(db: Database, own: str, principal: Principal | None, _folder: Path) -> Trace | None:
    query = usage_readable_by(principal).where(usage_events.c.id == own)
    row = db.run_sync(lambda connection: connection.execute(query).mappings().one_or_none())
    return _of_row(row) if row is not None else None


def _in_journal(_db: Database, own: str, principal: Principal | None, folder: Path) -> Trace | None:
    for reserved, settled in _written(folder, own):
        if principal is None or _may_see(principal, reserved):
            return _of_records(reserved, settled)
    return None


def _written(folder: Path, own: str) -> Iterator[tuple[Reserved, Settled | None]]:
    for path in sorted(folder.glob("*-*.log")):
        try:
            if own.encode() not in path.read_bytes():
                continue
        except FileNotFoundError:
            continue  # folded meanwhile
        contents = journal.read_segment(path)
        yield from ((reserved, settled) for reserved, settled in contents.settled if reserved.id == own)
        yield from ((reserved, None) for reserved in contents.open if reserved.id == own)


def _may_see(principal: Principal, reserved: Reserved) -> bool:
    """The rule of `usage_readable_by`, for what is in no table yet."""
    return reserved.tenant == principal.tenant and (principal.role is Role.ADMIN or reserved.key == principal.key_id)


def _of_row(found: sa.RowMapping) -> Trace:
    return Trace(
        id=found["id"],
        deployment=found["deployment"],
        version=found["version"],
        operation=found["operation"],
        surface=found["surface"],
        outcome=Outcome(found["outcome"]),
        prompt_tokens=found["prompt_tokens"],
        completion_tokens=found["completion_tokens"],
        started_at=found["started_at"],
    )


def _of_records(reserved: Reserved, settled: Settled | None) -> Trace:
    return Trace(
        id=reserved.id,
        deployment=reserved.deployment,
        version=reserved.version,
        operation=reserved.operation,
        surface=reserved.surface,
        outcome=settled.outcome if settled is not None else None,
        prompt_tokens=settled.prompt_tokens if settled is not None else 0,
        completion_tokens=settled.completion_tokens if settled is not None else 0,
        started_at=moment(reserved.started_ms),
    )
