"""The cases of suites: what is asked, and what the answer is held against; one struct for each kind of suite."""

import re
from typing import Annotated, Literal

import msgspec

# NOTE: case files live long and the suite's digest covers them. Fields are only added, at the end, with a default.

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")]
Words = Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]


class _Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Immutable, and nothing in it is unknown."""

    id: Id


class Question(_Case, frozen=True):
    """A chat question whose answer can be checked; all checks that are given must hold, and one is."""

    prompt: Words
    system: str = ""
    exact: tuple[Words, ...] = ()
    """The whole answer is one of these; case, outer white space, quotes and a final full stop aside."""
    includes: tuple[Words, ...] = ()
    """Each of these is in the answer as whole words; case aside."""
    excludes: tuple[Words, ...] = ()
    """None of these is."""
    regex: str = ""
    """A pattern of Python's that is found in the answer."""
    number: float | None = None
    """The last number in the answer is this."""
    refuses: bool | None = None
    """The answer refuses, or does not, by the rule of `refusal`."""

    def __post_init__(self) -> None:
        if not (self.exact or self.includes or self.excludes or self.regex) and self.number is self.refuses is None:
            raise ValueError("a question needs exact, includes, excludes, regex, number or refuses")
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"its regex is none: {error}") from error


class Gap(_Case, frozen=True):
    """A program with a part of one line hidden."""

    form: Literal["line", "span"]
    """The rest of a line from some character on, or a part of a line."""
    prefix: str
    middle: Words
    suffix: str
    source: str = ""
    """Where the program is from."""

    def filled(self, text: str) -> str:
        """The program with something in the gap."""
        return self.prefix + text + self.suffix

    def clipped(self, characters: int) -> tuple[str, str]:
        """Prefix and suffix in about so many characters: of the prefix the end is kept, of the suffix the start."""
        after = min(len(self.suffix), max(characters // 4, characters - len(self.prefix)))
        before = min(len(self.prefix), max(1, characters - after))
        return self.prefix[len(self.prefix) - before :], self.suffix[:after]


class Request(_Case, frozen=True):
    """Something that a model should refuse, or its benign twin, which it should answer."""

    prompt: Words
    harmful: bool
    twin: Id
    hazard: str = ""
    """What kind of harm it is about."""


class Prompt(_Case, frozen=True):
    """A text to go on with, for measuring speed."""

    prompt: Words


Case = Question | Gap | Request | Prompt
