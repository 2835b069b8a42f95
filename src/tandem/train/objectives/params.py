"""Parameters of an objective: checked once, with an error that names the objective and the parameter."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from tandem.kit.errors import InvalidRequest
from tandem.spec.recipe import Parameter

Kind = TypeVar("Kind", bound=msgspec.Struct)


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of an objective: a subclass has a field with a default for each."""


def checked(params: Mapping[str, Parameter], kind: type[Kind], *, objective: str) -> Kind:
    """The parameters of a recipe as the struct `kind` of the named objective.

    Raises:
        InvalidRequest: one is unknown, of the wrong type or out of bounds.
    """
    known = [field.name for field in msgspec.structs.fields(kind)]
    takes = f"It takes {', '.join(known)}." if known else "It takes none."
    for name in params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidRequest(
                f"The objective {objective!r} has no parameter {name!r}.{hint}",
                remedy=takes,
                param=f"objective.params.{name}",
            )
    try:
        return msgspec.convert(dict(params), kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`")
        raise InvalidRequest(
            f"The parameter {name!r} of the objective {objective!r} is wrong: {problem}.",
            remedy=takes,
            param=f"objective.params.{name}",
        ) from error
