"""The baseline without a model: the gap is filled as the most similar earlier line goes on."""

from tandem.evals.cases import Gap
from tandem.spec.scores import edit_similarity

BASELINE = "the most similar earlier line"


def most_similar_line(case: Gap) -> str:
    """What stands behind the place in an earlier line that is most like this one; nothing where there is none.

    Alike is what precedes: the line before, and this line up to the gap. Of several the nearest is taken.
    """
    *earlier, head = case.prefix.split("\n")
    here = f"{earlier[-1].strip() if earlier else ''}\n{head.strip()}"
    best, guess = -1.0, ""
    for number, line in enumerate(earlier):
        if not line.strip():
            continue
        begun = len(line) - len(line.lstrip()) + len(head.lstrip())
        before = earlier[number - 1].strip() if number else ""
        alike = edit_similarity(here, f"{before}\n{line[:begun].strip()}")
        if alike >= best and line[begun:].strip():
            best, guess = alike, line[begun:]
    return guess
