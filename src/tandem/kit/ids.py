"""The one source of ids and secrets: sortable ids with a prefix, random tokens, digests."""

import hashlib
import os
import secrets
import time


def new_id(prefix: str) -> str:
    """A unique id such as `req_019a...`: 48 bits of milliseconds, then 80 random bits, as 32 hexadecimal digits.

    Ids made later sort later, to the millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000
    return f"{prefix}_{milliseconds:012x}{os.urandom(10).hex()}"


def new_secret(prefix: str) -> str:
    """A token of 256 random bits for a person or a program to keep."""
    return f"{prefix}-{secrets.token_urlsafe(32)}"


def sha256_hex(text: str | bytes) -> str:
    """The SHA-256 of the text (as UTF-8) or the bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
