"""The one source of ids and secrets: sortable ids with a prefix, random tokens, digests."""

import hashlib
import os
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no i, l, o, u


def _base32(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_id(prefix: str) -> str:
    """A unique id such as `req_01k...`: 48 bits of milliseconds, then 80 random bits (the ULID layout).

    Ids made later sort later, to the millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    return f"{prefix}_{_base32(number, 26)}"


def new_secret(prefix: str) -> str:
    """A token of 256 random bits for a person or a program to keep."""
    return f"{prefix}-{secrets.token_urlsafe(32)}"


def sha256_hex(text: str | bytes) -> str:
    """The SHA-256 of the text (as UTF-8) or the bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
