"""The private keys on this machine, one file for each member, and which of them may do what under a charter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tandem.kit.errors import Conflict, Forbidden, IntegrityError, InvalidRequest, NotFound
from tandem.kit.lines import write_whole
from tandem.kit.signing import check_public, load_key, new_key, public_text, save_key
from tandem.registry.charter import Charter, Right
from tandem.registry.versions import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A member of a party whose private key is here."""

    name: str
    party: str
    key: Ed25519PrivateKey


class Members:
    """The keys in `keys` of the home folder: `ada.pem` is private, `ada.pub` its public half for telling others."""

    def __init__(self, home: Path, *, passphrase: str = "") -> None:
        self._folder = home / "keys"
        self._passphrase = passphrase

    def names(self) -> list[str]:
        """The members whose private keys are here."""
        return sorted(path.stem for path in self._folder.glob("*.pem"))

    def make(self, name: str) -> str:
        """Make a member's key pair; returns the public key, which the charter names.

        Raises:
            InvalidRequest: it cannot be a name.
            Conflict: there is a key of this name.
        """
        path = self._path(check_name(name))
        key = new_key()
        try:
            save_key(path, key, passphrase=self._passphrase)
        except Conflict as error:
            raise Conflict(f"{name} has a key here already.", remedy="Choose another name.") from error
        write_whole(path.with_suffix(".pub"), f"{public_text(key)}\n".encode())
        return public_text(key)

    def public(self, name: str) -> str:
        """The public key of a member whose private key is here.

        Raises:
            NotFound: it is not here.
            InvalidRequest: it cannot be opened.
        """
        path = self._path(check_name(name))
        told = path.with_suffix(".pub")
        if path.exists() and told.exists():
            return check_public(told.read_text().strip())
        return public_text(self.key(name))

    def key(self, name: str) -> Ed25519PrivateKey:
        """The private key of a member.

        Raises:
            NotFound: it is not here; names those that are.
            InvalidRequest: it cannot be opened.
            IntegrityError: its public half beside it is another's.
        """
        path = self._path(check_name(name))
        if not path.exists():
            here = ", ".join(self.names()) or "none"
            raise NotFound(f"The key of {name} is not on this machine.", remedy=f"Here are: {here}.")
        key = load_key(path, passphrase=self._passphrase)
        told = path.with_suffix(".pub")
        if told.exists() and told.read_text().strip() != public_text(key):
            raise IntegrityError(f"keys/{name}.pub is not the public half of keys/{name}.pem.", remedy="Remove it.")
        return key

    def signers(self, charter: Charter, right: Right, *, name: str | None = None) -> list[Signer]:
        """Who of this machine does this: the member `name`, else the only one here, in solo mode all that are here.

        Raises:
            NotFound: the key of `name` is not here, or nobody's is.
            Forbidden: `name` may not do this.
            InvalidRequest: there are several, and nobody says which.
        """
        able = self._able(charter, right)
        if name is not None:
            if name not in able:
                self.public(name)  # says so if it is not here at all
                raise Forbidden(
                    f"The key of {name} on this machine may not {right} under this charter.",
                    remedy="`tandem charter show` lists who may.",
                )
            return self._opened(charter, [name])
        if not able:
            raise NotFound(
                f"No key of a member who may {right} is on this machine.",
                remedy="`tandem charter show` lists the members, `tandem charter key NAME` makes a key.",
            )
        if len(able) > 1 and charter.mode != "solo":
            raise InvalidRequest(
                f"The keys of {' and '.join(able)} are on this machine.", remedy="Say which with --as.", param="as"
            )
        return self._opened(charter, able)

    def _able(self, charter: Charter, right: Right) -> list[str]:
        """The names of keys here that may do this."""
        return [name for name in self.names() if charter.parties_of(frozenset({self.public(name)}), right)]

    def _opened(self, charter: Charter, names: Sequence[str]) -> list[Signer]:
        found = []
        for name in names:
            key = self.key(name)
            known = charter.member(public_text(key))
            assert known is not None, "only members' keys may do something"
            found.append(Signer(name=known[1].name, party=known[0].name, key=key))
        return found

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.pem"
