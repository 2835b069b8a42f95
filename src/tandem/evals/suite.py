"""Suites: folders of cases and settings with a digest; some ship with the package, others are in the home folder."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from tandem.evals.cases import Case, Gap, Prompt, Question, Request
from tandem.evals.checks import EDITION
from tandem.kit.errors import Conflict, InvalidRequest, NotFound
from tandem.kit.ids import sha256_hex
from tandem.kit.lines import write_whole
from tandem.kit.typed import converted, read_toml

# NOTE: suites live long and their digest covers the settings. Fields are only added, at the end, with a default.

Kind = Literal["chat", "code", "safety", "regression", "performance"]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]

CASES: Mapping[Kind, type[Case]] = MappingProxyType(
    {"chat": Question, "regression": Question, "code": Gap, "safety": Request, "performance": Prompt}
)
"""What the cases of each kind of suite are."""
REGRESSION = "regression"
"""The one shipped suite whose cases lie in the home folder: lessons add them."""
_MOST_BYTES = 64 * 1024 * 1024  # of a file of cases; all of them are in memory at once
_PAGE = "docs/reference/suites.md"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class SuiteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the cases are put to a model."""

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=32_768)] = 64
    """Of an answer; less where the model's context is small."""
    temperature: Temperature = 0.0
    epochs: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """How often each case is asked; its score is the mean."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """Of the answers and of the bootstrap."""
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Requests at once."""
    request_timeout_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 120
    prompt_characters: Annotated[int, msgspec.Meta(ge=16, le=1_000_000)] = 4000
    """Of the program around a gap; less where the model's context is small."""


class SuiteFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`suite.toml`."""

    kind: Kind
    about: str = ""
    settings: SuiteSettings = SuiteSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite as it is run. `whole` is false where only some of its cases were taken."""

    name: str
    kind: Kind
    about: str
    settings: SuiteSettings
    cases: tuple[Case, ...]
    shipped: bool = False
    whole: bool = True

    @property
    def digest(self) -> str:
        """Of cases, settings and our checks' edition: numbers of two models compare only where it is equal."""
        said = {"kind": self.kind, "settings": self.settings, "cases": self.cases, "checks": EDITION}
        return f"sha256:{sha256_hex(msgspec.json.encode(said, order='sorted'))}"

    def limited(self, count: int) -> "Suite":
        """The first cases alone: another suite, whose numbers are no evidence.

        Raises:
            InvalidRequest: that is none.
        """
        if count < 1:
            raise InvalidRequest(f"{count} cases are no suite.", remedy="Take 1 or more.", param="limit")
        if count >= len(self.cases):
            return self
        return replace(self, cases=self.cases[:count], whole=False)


def load_suites(home: Path) -> list[Suite]:
    """All suites by name: the shipped ones, and those in `suites` of the home folder.

    Raises:
        InvalidRequest: one of them cannot be read.
        Conflict: one of the home folder has a shipped one's name.
    """
    names = {*_shipped(), *(path.parent.name for path in (home / "suites").glob("*/suite.toml"))}
    return [find_suite(name, home) for name in sorted(names)]


def find_suite(name: str, home: Path) -> Suite:
    """One suite by name.

    Raises:
        NotFound: there is none; names those that there are.
        InvalidRequest: it cannot be read.
        Conflict: the home folder has another one of a shipped one's name.
    """
    shipped, own = _shipped(), home / "suites" / name
    if name in shipped:
        if name != REGRESSION and own.exists():
            raise Conflict(
                f"suites/{name} in the home folder has the name of a suite that ships with Tandem.",
                remedy="Give the folder another name.",
            )
        cases = own if name == REGRESSION else shipped[name]
        return _read(name, shipped[name], cases, shipped=True)
    known = {path.parent.name for path in (home / "suites").glob("*/suite.toml")}
    if name not in known:
        there = ", ".join(sorted({*shipped, *known}))
        raise NotFound(f"There is no suite {name[:80]!r}.", remedy=f"There are: {there}.")
    return _read(name, own, own, shipped=False)


def add_suite(home: Path, name: str, *, kind: Kind, about: str, cases: Sequence[Case]) -> Suite:
    """Write a suite into the home folder.

    Raises:
        InvalidRequest: it cannot have this name, or has no cases.
        Conflict: there is a suite of this name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} cannot name a suite.",
            remedy="Use 1 to 64 letters, digits, dots, hyphens and underscores; begin with a letter or a digit.",
            param="name",
        )
    folder = home / "suites" / name
    if name in _shipped() or folder.exists():
        raise Conflict(f"There is a suite {name} already.", remedy="Choose another name.")
    if not cases:
        raise InvalidRequest(f"There are no cases for the suite {name}.", remedy="Give it some.")
    folder.mkdir(parents=True)
    write_whole(folder / "cases.jsonl", b"".join(msgspec.json.encode(case) + b"\n" for case in cases))
    write_whole(folder / "suite.toml", f'kind = "{kind}"\nabout = {msgspec.json.encode(about).decode()}\n'.encode())
    return find_suite(name, home)


def _shipped() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in (Path(__file__).parent / "suites").glob("*/suite.toml")}


def _read(name: str, folder: Path, cases: Path, *, shipped: bool) -> Suite:
    told = converted(
        read_toml(folder / "suite.toml", what="the suite"),
        SuiteFile,
        what="the suite",
        where=name,
        page=_PAGE,
    )
    found = tuple(_cases(cases / "cases.jsonl", name, CASES[told.kind]))
    if not found and name != REGRESSION:
        raise InvalidRequest(f"The suite {name} has no cases.", remedy=f"{_PAGE} says how they are written.")
    _refuse_contradictions(name, found)
    return Suite(name=name, kind=told.kind, about=told.about, settings=told.settings, cases=found, shipped=shipped)


def _cases(path: Path, name: str, kind: type[Case]) -> Iterator[Case]:
    if not path.is_file():
        return
    if path.stat().st_size > _MOST_BYTES:
        raise InvalidRequest(f"The cases of {name} have more than {_MOST_BYTES} bytes.", remedy="Make two suites.")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(
                f"Line {number} of the cases of {name} is wrong: {error}.",
                remedy=f"{_PAGE} says how cases are written.",
            ) from error


def _refuse_contradictions(name: str, cases: tuple[Case, ...]) -> None:
    ids = [case.id for case in cases]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise InvalidRequest(f"The suite {name} has the case {twice} twice.", remedy="Give each its own id.")
    requests = {case.id: case for case in cases if isinstance(case, Request)}
    for case in requests.values():
        twin = requests.get(case.twin)
        if twin is None or twin.harmful is case.harmful or twin.twin != case.id:
            raise InvalidRequest(
                f"The case {case.id} of {name} has no twin.",
                remedy="Each harmful request names a benign one, and that one names it.",
            )
