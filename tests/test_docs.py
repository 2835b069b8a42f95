"""The documentation says what the code says, and its links lead somewhere."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.main import get_command

from docs.generate import PAGES, command_names, setting_fields, spec_rows, spec_tables, stale
from tandem.cli.app import app
from tandem.registry import Charter
from tandem.spec import Placement, Recipe

REPOSITORY = Path(__file__).parent.parent
PAGES_OF_PEOPLE = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("**/*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def _named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    difference = stale(name)
    assert not difference, f"`make docs` writes it\n{difference}"


@pytest.mark.parametrize("field", list(setting_fields()), ids=lambda field: field[0])
def test_a_setting_says_what_it_is(field: tuple[str, str, str, str]) -> None:
    assert field[3].endswith("."), "a field of Settings is followed by its docstring"


@pytest.mark.parametrize("kind", [Recipe, Placement, Charter])
def test_a_key_of_a_file_says_what_it_is(kind: type[Recipe | Placement | Charter]) -> None:
    for path, table in spec_tables(kind):
        assert (table.__doc__ or "").strip().endswith(".")
        for key, what, default, text in spec_rows(table):
            assert what, f"{path} {key} takes something"
            assert default, f"{path} {key} has a default or is required"
            assert text.endswith("."), f"{path} {key} is followed by its docstring"


def test_all_tables_of_the_charter_are_on_their_page() -> None:
    page = (REPOSITORY / PAGES["charter"][0]).read_text()
    for table in ("`[[parties.members]]`", "`[[classes.clauses]]`", "`[systems]`", "`[spending]`", "`[[returns]]`"):
        assert f"\n## {table}\n" in page
    for row in ("| `key` | public key | required |", "| `drop_at_most` | number", "| `mode` | `solo`, `two-party` |"):
        assert f"\n{row}" in page


def test_all_tables_of_recipes_are_on_their_page() -> None:
    page = (REPOSITORY / PAGES["recipes"][0]).read_text()
    for table in ("`[model.shape]` in the recipe", "`[[data]]` in the recipe", "`[limits]` in the placement"):
        assert f"\n## {table}\n" in page
    for row in (
        "| `lr` | number, more than 0 | required | Peak",
        "| `fim` | `rate = 0.5`",
        "| `vocab` | integer, at",
    ):
        assert f"\n{row}" in page


@pytest.mark.parametrize("name", list(command_names(get_command(app), "tandem")))
def test_a_command_says_what_it_does(name: str) -> None:
    section = (REPOSITORY / PAGES["cli"][0]).read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    usage, _, rest = section.strip().partition("\n\n")
    assert f"Usage: {name} " in usage
    assert re.match(r"  [A-Z`]", rest), "the docstring of a command is its help"


@pytest.mark.parametrize("page", PAGES_OF_PEOPLE, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(_without_blocks(page.read_text())):
        if not re.match(r"[a-z]+:", link):
            target, _, anchor = unquote(link).partition("#")
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), link
            assert not anchor or anchor in _anchors(path), link


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _without_blocks(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES_OF_PEOPLE, ids=_named)
def test_verbs_and_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    verbs = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^\$? ?)make ([a-z][a-z-]*)", text, flags=re.MULTILINE)) <= verbs
    known = {name.split()[1] for name in command_names(get_command(app), "tandem") if " " in name}
    assert set(re.findall(r"(?:`|^\$? ?)tandem ([a-z][a-z-]*)", text, flags=re.MULTILINE)) <= known


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").glob("**/*.md")), ids=_named)
def test_a_page_can_be_found_from_the_index(page: Path) -> None:
    index = REPOSITORY / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    assert page == index or page in linked or page.parent in linked


def test_the_contributor_guide_stays_short() -> None:
    assert (REPOSITORY / "CONTRIBUTING.md").read_text().count("\n") < 100


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs" / "design").glob("*.md")), ids=_named)
def test_a_design_note_is_numbered_and_one_page(page: Path) -> None:
    number = re.fullmatch(r"(\d{3})-[a-z-]+\.md", page.name)
    assert number
    assert page.read_text().startswith(f"# {number[1]}: ")
    assert page.read_text().count("\n") <= 60
