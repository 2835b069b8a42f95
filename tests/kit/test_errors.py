"""The error tree: every class says what it is, where it hangs, and what to do."""

import inspect
import re

import pytest

from tandem.kit import errors
from tandem.kit.errors import LimitExceeded, TandemError, Unavailable

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, TandemError)]


def _drawn() -> dict[str, str]:
    """Each class of the drawing in the module's docstring, with its parent."""
    assert errors.__doc__
    parents: dict[int, str] = {}
    drawn = {}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"^    ([│├└─ ]*)(\w+)(?:\s{2,}\S.*)?$", line):
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            drawn[match[2]] = parents.get(depth - 1, "Exception")
    return drawn


def test_the_drawing_is_the_tree() -> None:
    assert _drawn() == {kind.__name__: kind.__base__.__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_a_code_of_its_own_and_a_sentence(kind: type[TandemError]) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*", kind.code)
    assert [other for other in CLASSES if other.code == kind.code] == [kind]
    assert kind.__doc__
    assert kind.__doc__.splitlines()[0].endswith(".")


def test_an_error_reads_as_message_and_remedy() -> None:
    error = errors.NotFound("There is no deployment 'x'.", remedy="See `tandem status`.", code="no_such", param="model")
    assert str(error) == "There is no deployment 'x'. See `tandem status`."
    assert (error.code, error.param) == ("no_such", "model")
    assert errors.NotFound.code == "not_found"
    assert str(errors.NotFound("Gone.")) == "Gone."


def test_what_may_work_later_says_when() -> None:
    assert LimitExceeded("Too many requests.", retry_after_s=2.5).retry_after_s == 2.5
    assert Unavailable("Not now.").retry_after_s == 1.0
