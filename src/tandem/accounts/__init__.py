"""Who may do how much, and who did: tenants, principals, keys, limits, usage."""

from tandem.accounts.journal import Outcome
from tandem.accounts.keys import Issued, Key, Keyring
from tandem.accounts.ledger import Entry, Ledger
from tandem.accounts.limits import Lease, Limiter
from tandem.accounts.principals import NO_LIMITS, Limits, Principal, Role
from tandem.accounts.traces import Trace, find_request, request_id
from tandem.accounts.usage import GroupBy, Page, UsageEvent, UsageRow, events, summarise

__all__ = [
    "NO_LIMITS",
    "Entry",
    "GroupBy",
    "Issued",
    "Key",
    "Keyring",
    "Lease",
    "Ledger",
    "Limiter",
    "Limits",
    "Outcome",
    "Page",
    "Principal",
    "Role",
    "Trace",
    "UsageEvent",
    "UsageRow",
    "events",
    "find_request",
    "request_id",
    "summarise",
]
