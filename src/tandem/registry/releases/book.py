"""The charter book: every revision of the charter as a signed file, each naming the one before, checked on reading."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tandem.kit.errors import Conflict, Forbidden, IntegrityError, InvalidRequest, NotFound, TandemError
from tandem.kit.lines import write_whole
from tandem.kit.signing import MOST_BYTES, Envelope, decode, encode, merged, public_text, signed, signers
from tandem.registry.charter import CHARTER_TYPE, Charter, Right, loosened, parse_charter

_FILE = re.compile(r"\d{4,}\.json")
_REMEDY = "Restore the folder `charter` of the home folder from a copy; nothing is released or served meanwhile."


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One revision of the charter, and the envelope that holds its text and signatures."""

    charter: Charter
    envelope: Envelope

    @property
    def digest(self) -> str:
        """Of the text: what releases and the next revision name it by."""
        return self.envelope.digest

    @property
    def text(self) -> str:
        """The charter as TOML."""
        return self.envelope.payload.decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """A revision that somebody proposes: what it loosens, and which parties have yet to sign it."""

    revision: Revision
    loosens: tuple[str, ...]
    missing: frozenset[str]

    @property
    def holds(self) -> bool:
        """Whether it needs nobody's signature any more."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class Chain:
    """All revisions from the first on; empty where there is no charter."""

    revisions: tuple[Revision, ...] = ()

    @property
    def current(self) -> Revision | None:
        """The revision that holds now."""
        return self.revisions[-1] if self.revisions else None

    def of(self, digest: str) -> Revision | None:
        """The revision with this digest."""
        return next((one for one in self.revisions if one.digest == digest), None)

    def ever(self, keys: frozenset[str], right: Right) -> bool:
        """Whether one of these keys may do this, or might once."""
        return any(one.charter.parties_of(keys, right) for one in self.revisions)


class CharterBook:
    """The charter's revisions in `charter` of the home folder. Its methods read files.

    A folder from which the newest revision was taken away is a chain too: what protects its end is who may write it.
    `anchor` pins the beginning: the digest of revision 1.
    """

    def __init__(self, home: Path, *, anchor: str = "") -> None:
        self.folder = home / "charter"
        self._anchor = anchor
        self._read: tuple[object, Chain] = (None, Chain())

    def chain(self) -> Chain:
        """The revisions; all are checked again as soon as a file was touched.

        Raises:
            IntegrityError: a file is missing between others, is no signed charter, does not follow the one before,
                or lacks signatures.
        """
        paths = self._files()
        seen = [_look(path) for path in paths]
        known, chain = self._read
        if known != seen:
            chain = self._checked(paths)
            self._read = (seen, chain)
        return chain

    def current(self) -> Revision:
        """The charter that holds now.

        Raises:
            NotFound: there is none yet.
            IntegrityError: as `chain`.
        """
        current = self.chain().current
        if current is None:
            raise NotFound(
                "There is no charter yet.",
                remedy="`tandem charter init --solo` makes one for one person, `--party NAME=MEMBER` for several.",
            )
        return current

    def revision(self, number: int) -> Revision:
        """One revision by its number.

        Raises:
            NotFound: the charter has fewer.
        """
        revisions = self.chain().revisions
        if not 1 <= number <= len(revisions):
            raise NotFound(
                f"The charter has no revision {number}.", remedy=f"It has {len(revisions)}: `tandem charter show`."
            )
        return revisions[number - 1]

    def pending(self) -> Amendment | None:
        """The revision that waits for signatures, if there is one.

        Raises:
            IntegrityError: its file is none.
        """
        if not self._pending.exists():
            return None
        return self._amendment(_revision(self._pending), self.chain())

    def propose(self, text: str, keys: Sequence[Ed25519PrivateKey]) -> Amendment:
        """Sign a next revision, or the first; it holds at once if these signatures are enough, else it waits.

        Raises:
            InvalidRequest: the text is no charter.
            Conflict: it does not follow the current revision, or another one waits already.
            Forbidden: a key may not amend the charter.
        """
        envelope = Envelope(payload_type=CHARTER_TYPE, payload=text.encode())
        parse_charter(text, where="of this proposal")
        return self.offer(self._signed(envelope, keys))

    def sign(self, keys: Sequence[Ed25519PrivateKey]) -> Amendment:
        """Sign the revision that waits.

        Raises:
            NotFound: none waits.
            Forbidden: a key may not amend the charter.
        """
        return self.offer(self._signed(self._waiting().revision.envelope, keys))

    def offer(self, envelope: Envelope) -> Amendment:
        """Take a revision that others signed, or their signatures on the one that waits.

        Raises:
            InvalidRequest: it is no charter.
            Conflict: it does not follow the current revision, or another one waits already.
            Forbidden: nobody who may amend the charter signed it.
        """
        with self._alone():
            chain = self.chain()
            waiting = self.pending()
            if waiting is not None and waiting.revision.digest != envelope.digest:
                raise Conflict(
                    f"Revision {waiting.revision.charter.revision} waits for {_names(waiting.missing)} already.",
                    remedy="Sign it with `tandem charter sign`, or drop it with `tandem charter drop`.",
                )
            if waiting is not None:
                envelope = merged(waiting.revision.envelope, envelope.signatures)
            revision = Revision(charter=_parsed(envelope, "The proposal"), envelope=envelope)
            if (fault := _out_of_line(revision, chain.current)) is not None:
                raise Conflict(
                    f"This revision {fault}.", remedy="Begin again from the text that `tandem charter show` prints."
                )
            self._check_anchor(revision)
            amendment = self._amendment(revision, chain)
            judges = _judging(chain.current, revision)
            if not judges.parties_of(signers(envelope), "amend"):
                raise Forbidden("Nobody who may amend the charter signed this.", remedy="`tandem charter sign` does.")
            self._store(amendment)
            return amendment

    def drop(self) -> Amendment:
        """Give up the revision that waits; returns it.

        Raises:
            NotFound: none waits.
        """
        with self._alone():
            waiting = self._waiting()
            self._pending.unlink()
            return waiting

    @property
    def _pending(self) -> Path:
        return self.folder / "pending.json"

    def _waiting(self) -> Amendment:
        waiting = self.pending()
        if waiting is None:
            raise NotFound("No change of the charter waits.", remedy="`tandem charter change FILE` proposes one.")
        return waiting

    def _signed(self, envelope: Envelope, keys: Sequence[Ed25519PrivateKey]) -> Envelope:
        revision = Revision(charter=_parsed(envelope, "The proposal"), envelope=envelope)
        judges = _judging(self.chain().current, revision)
        for key in keys:
            if not judges.parties_of(frozenset({public_text(key)}), "amend"):
                raise Forbidden(
                    f"The key {public_text(key)} may not amend the charter.",
                    remedy="`tandem charter show` lists who may.",
                )
            envelope = signed(envelope, key)
        return envelope

    def _store(self, amendment: Amendment) -> None:
        data = encode(amendment.revision.envelope)
        if not amendment.holds:
            write_whole(self._pending, data)
            return
        write_whole(self.folder / f"{amendment.revision.charter.revision:04}.json", data)
        _sync(self.folder)
        self._pending.unlink(missing_ok=True)

    def _amendment(self, revision: Revision, chain: Chain) -> Amendment:
        before = chain.current.charter if chain.current is not None else None
        keys = signers(revision.envelope)
        missing = missing_parties(before, revision.charter, keys)
        if before is None:
            return Amendment(revision=revision, loosens=(), missing=missing)
        parties = before.parties_of(keys, "amend")
        by = next(iter(parties)) if len(parties) == 1 else ""
        return Amendment(revision=revision, loosens=tuple(loosened(before, revision.charter, by=by)), missing=missing)

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            (path for path in self.folder.iterdir() if _FILE.fullmatch(path.name)), key=lambda path: int(path.stem)
        )

    def _checked(self, paths: Sequence[Path]) -> Chain:
        revisions: list[Revision] = []
        for number, path in enumerate(paths, start=1):
            if path.name != f"{number:04}.json":
                _broken(f"{number:04}.json", "is missing")
            revision = _revision(path)
            before = revisions[-1] if revisions else None
            if (fault := _out_of_line(revision, before)) is not None:
                _broken(path.name, fault)
            judges = before.charter if before is not None else None
            if missing := missing_parties(judges, revision.charter, signers(revision.envelope)):
                _broken(path.name, f"lacks the signature of {_names(missing)}")
            self._check_anchor(revision)
            revisions.append(revision)
        return Chain(tuple(revisions))

    def _check_anchor(self, revision: Revision) -> None:
        if revision.charter.revision == 1 and self._anchor not in {"", revision.digest}:
            raise IntegrityError(
                f"Revision 1 of the charter is {revision.digest}, not the one that the setting charter_anchor names.",
                remedy=_REMEDY,
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the book's lock, so that two who sign at the same moment do not lose a signature."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def missing_parties(before: Charter | None, new: Charter, keys: frozenset[str]) -> frozenset[str]:
    """The parties that must still sign a revision. None, if it only tightens and the party that signed may do so."""
    judges = before or new
    parties = judges.parties_of(keys, "amend")
    if before is not None and any(not loosened(before, new, by=party) for party in parties):
        return frozenset()
    return frozenset(party.name for party in judges.parties) - parties


def succeeding(text: str, current: Revision | None) -> str:
    """A charter's text with the `revision` and `previous` that it needs to follow the current one."""
    number = current.charter.revision + 1 if current is not None else 1
    previous = current.digest if current is not None else ""
    head, table, rest = text.partition("\n[")
    kept = [line for line in head.splitlines() if not re.match(r"\s*(revision|previous)\s*=", line)]
    said = [f"revision = {number}", *([f'previous = "{previous}"'] if previous else [])]
    return "\n".join([*said, *kept]).rstrip("\n") + ("\n" + table + rest if table else "\n")


def _judging(current: Revision | None, revision: Revision) -> Charter:
    return current.charter if current is not None else revision.charter


def _out_of_line(revision: Revision, before: Revision | None) -> str | None:
    """How a revision does not follow the one before, or None if it does."""
    number = before.charter.revision + 1 if before is not None else 1
    if revision.charter.revision != number:
        return f"says that it is revision {revision.charter.revision}, where {number} belongs"
    if revision.charter.previous != (before.digest if before is not None else ""):
        return "does not name the one before it"
    return None


def _revision(path: Path) -> Revision:
    """The revision in a file; who signed it is not checked here.

    Raises:
        IntegrityError: it is none.
    """
    try:
        if path.stat().st_size > 2 * MOST_BYTES:
            _broken(path.name, "is far too large")
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"charter/{path.name} cannot be read: {error.strerror}.", remedy=_REMEDY) from error
    what = f"charter/{path.name}"
    envelope = decode(data, what=what)
    try:
        return Revision(charter=_parsed(envelope, what), envelope=envelope)
    except TandemError as error:
        raise IntegrityError(error.message, remedy=_REMEDY) from error


def _parsed(envelope: Envelope, what: str) -> Charter:
    if envelope.payload_type != CHARTER_TYPE:
        raise InvalidRequest(f"{what} is no charter but {envelope.payload_type[:80]!r}.", remedy="Choose another file.")
    try:
        text = envelope.payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} is no text: {error}.", remedy="Save it as UTF-8.") from error
    return parse_charter(text, where=f"in {what}" if what.startswith("charter/") else "of this proposal")


def _look(path: Path) -> tuple[str, int, int, int, int]:
    try:
        seen = path.stat()
    except FileNotFoundError:
        return (path.name, -1, 0, 0, 0)  # taken away this moment: reading it will say so
    return (path.name, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)


def _broken(name: str, fault: str) -> NoReturn:
    raise IntegrityError(f"charter/{name} {fault}.", remedy=_REMEDY)


def _names(parties: frozenset[str]) -> str:
    return " and ".join(sorted(parties))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
