"""Writes the pages of the documentation that the code already knows: map, settings, errors, commands, recipes."""

import argparse
import ast
import difflib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from tandem.kit.config import Settings
from tandem.plan.catalogue import Accelerator, Host, Price, SystemRow
from tandem.registry import Charter
from tandem.spec import Placement, Recipe

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "src" / "tandem"
# What stands beside the package. Each of its Python files has a line on the map too.
BESIDE = {
    "migrations": "the database's history, one numbered step for each change",
    "benchmarks": "measurements as ratios, side by side in one run",
    "docs": "these pages, and the program that writes some of them",
    "tests": "the same tree as the package; fixtures in `conftest.py`",
}
WIDTH = 40
_RECIPES = """# Recipes and placements

A recipe says what is trained, a placement where. Both are TOML files. An unknown key, a wrong type or a value out of
bounds is refused with an error that names the key. `tandem train RECIPE --set data.0.weight=2` changes a key by its
dotted name, in which a number counts the entries of a list from 0.
[The design note](../design/003-recipes-are-toml.md) says why they are files, [the guide](../guides/train.md) how to use
them.

The sha256 of a recipe's canonical JSON is the identity of its result. Keys that have their default are left out of it,
and so are those that do not change the result: `name`, `about`, `curation`, `model.parent`, and of data `source`,
`license`, `include` and `limit`. The digests, which the preparation fills in, stand for them."""
_CHARTER = """\
The charter is a TOML text that the parties sign. `tandem charter init` writes the first one, `tandem charter show
--toml` prints the one that holds, and `tandem charter change FILE` proposes another. An unknown key, a wrong type or a
value out of bounds is refused with an error that names the key.

Each revision is a file in `charter` of the home folder: a [DSSE](https://github.com/secure-systems-lab/dsse) envelope
with the text and Ed25519 signatures, which names the digest of the revision before. All are checked again whenever one
was touched; where a file is missing, changed or lacks a signature, nothing is released or served. The setting
`charter_anchor` pins the digest of the first. What the files cannot show is that the newest of them was taken away: a
release that was made under it is not served then, but the older rules hold again. Guard the folder as you guard the
keys.

A change that only tightens holds with the signature of one party. Whatever is not plainly stricter needs all of them:
new members, keys and parties, other patterns, another order of classes, larger bounds, more returns, and all that takes
something from another party. A party alone may ask for less back itself. `tandem charter check FILE` says which it
is.

Two parties that tighten at the same time, each on its own machine, part: `tandem charter import` refuses the other's
revision. They agree on one; who gives way moves the own file of that number, and all after it, out of the folder,
imports the other's, and proposes the own change again. What was released under a revision that went is not served."""
_CATALOGUE = """\
What hardware can do and what it costs, for `tandem plan`. One catalogue ships with Tandem
(`src/tandem/plan/catalogue.toml`): every row of it says where it is known from and when. `catalogue.toml` in the home
folder adds rows, and replaces those that have the same name; its prices come before those that ship. An unknown key, a
wrong type, a value out of bounds or the name of a row that is not there is refused with an error that names the key.

```toml
[hosts.rack]
accelerator = "h100-80"
devices = 8
inside_bytes_per_s = 450e9
between_bytes_per_s = 50e9

[prices.rack-own]
host = "rack"
usd_per_hour = 14.5
kind = "owned"
source = "our own books"
date = "2026-11"

[systems.rack]
host = "rack"
hosts = 16
```

Shares of the peak that training reaches (`reached_share`, `attention_share`) were fitted on published runs;
[the planner's reference](planner.md) shows how well. Where own runs say otherwise, plans are corrected by them, per
system."""
_CONTROL_PLANE = """\
Every route below is described for programs at `/api/v1/openapi.json` (OpenAPI 3.1, with all types), and for people at
`/api/v1/docs`, on every server, without a key. Keys are those that call models; `admin` stands where a key needs that
role. [The HTTP API](api.md#control-plane) says what holds for all of them: pages, tags, conditions, errors."""
TYPE_WORDS = {
    "str": "text",
    "Path": "path",
    "int": "integer",
    "bool": "true or false",
    "Seconds": "seconds",
    "PositiveSeconds": "seconds, more than 0",
    "NotNegative": "number, at least 0",
    "PositiveBytes": "bytes",
    "SegmentBytes": "bytes, at least 4096",
}


def first_line(path: Path) -> str:
    """A module's line on the map: the first line of its docstring, empty where there is none."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) if path.exists() else None
    return docstring.splitlines()[0] if docstring else ""


def storeys() -> list[str]:
    """The parts of the house from the top down, as the first import contract lists them."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [re.sub(r"[()]", "", name).strip() for layer in contracts[0]["layers"] for name in layer.split("|")]


def modules(folder: Path) -> Iterator[tuple[int, str, str]]:
    """Depth, name and line of all modules below a folder: files first, then folders, each with its own below it."""
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield 0, path.name, first_line(path)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("**/*.py"))):
        yield 0, f"{inner.name}/", first_line(inner / "__init__.py")
        yield from ((depth + 1, name, line) for depth, name, line in modules(inner))


def map_page() -> str:
    """docs/map.md: every module with its first line."""
    lines = ["src/tandem/"]
    for part in storeys():
        path = PACKAGE / part
        if path.is_dir():
            lines.append(_row(1, f"{part}/", first_line(path / "__init__.py")))
            lines += [_row(depth + 2, name, line) for depth, name, line in modules(path)]
        elif path.with_suffix(".py").exists():
            lines.append(_row(1, f"{part}.py", first_line(path.with_suffix(".py"))))
    for name, line in BESIDE.items():
        if (REPOSITORY / name).is_dir():
            lines.append(_row(0, f"{name}/", line))
            below = () if name == "tests" else modules(REPOSITORY / name)
            lines += [_row(depth + 1, inner, text) for depth, inner, text in below]
    tree = "\n".join(lines)
    return (
        "# The map\n\nThe house from the top storey to the ground: a part may use those below it, never those above.\n"
        "Each line is the first line of that module's docstring; `make map` writes this page.\n\n"
        f"```text\n{tree}\n```\n"
    )


def _row(depth: int, name: str, line: str) -> str:
    return f"{'  ' * depth + name:<{WIDTH}}{line}".rstrip()


def settings_page() -> str:
    """docs/reference/settings.md: every field of the settings."""
    rows = "\n".join(
        f"| `{name}` | `TANDEM_{name.upper()}` | {kind} | `{default}` | {text} |"
        for name, kind, default, text in setting_fields()
    )
    return (
        "# Settings\n\nRead once at the start: the defaults, then `tandem.toml`, then the environment, then the "
        "command line; the later\nwins. The file is the one that `TANDEM_CONFIG` names, else `tandem.toml` in the "
        "home folder.\n\n"
        f"| in `tandem.toml` | in the environment | type | default | meaning |\n|---|---|---|---|---|\n{rows}\n"
    )


def setting_fields() -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and docstring of each setting; only the source still has those docstrings."""
    tree = ast.parse((PACKAGE / "kit" / "config.py").read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    defaults = {field.name: _default(field.default) for field in fields(Settings)}
    for field, text in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            said = str(ast.literal_eval(text.value)) if isinstance(text, ast.Expr) else ""
            name = field.target.id
            yield name, TYPE_WORDS[ast.unparse(field.annotation)], defaults[name], " ".join(said.split())


def _default(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def errors_page() -> str:
    """docs/reference/errors.md: the tree, and what each error means."""
    tree = ast.parse((PACKAGE / "kit" / "errors.py").read_text())
    drawing = re.search(r"(?:^    .*\n?)+", ast.get_docstring(tree, clean=False) or "", flags=re.MULTILINE)
    assert drawing, "kit/errors.py draws its tree"
    rows = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            said = (ast.get_docstring(node) or "").replace("\n\n", "\n").replace("\n", " ")
            rows.append(f"| `{node.name}` | `{_code(node)}` | {said} |")
    body = re.sub(r"^    ", "", drawing[0], flags=re.MULTILINE).rstrip()
    return (
        "# Errors\n\nEvery message names the object and the cause, and says what to do. The code is stable; programs "
        "may rely on it.\n\n"
        f"```text\n{body}\n```\n\n| error | code | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _code(node: ast.ClassDef) -> str:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "code":
            return str(ast.literal_eval(statement.value))
    return ""


def cli_page() -> str:
    """docs/reference/cli.md: the help of every command."""
    # Here, so that the other pages can be written while the command line cannot be imported.
    from typer.main import get_command

    from tandem.cli.app import app

    sections = [
        f"## {name}\n\n```text\n{_help(app, name)}\n```\n" for name in command_names(get_command(app), "tandem")
    ]
    return "# Commands\n\nThe help of every command, as `--help` prints it.\n\n" + "\n".join(sections)


def command_names(command: Any, name: str) -> Iterator[str]:
    """The full names of a command and of those below it."""
    yield name
    for inner, below in getattr(command, "commands", {}).items():
        yield from command_names(below, f"{name} {inner}")


def _help(app: Any, name: str) -> str:
    from typer.testing import CliRunner

    # No colours, and a width that does not depend on who runs this.
    environ = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb", "HOME": "home"}
    result = CliRunner().invoke(app, [*name.split()[1:], "--help"], env=environ, prog_name="tandem")
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def recipes_page() -> str:
    """docs/reference/recipes.md: every table of recipes and placements, from the structs that read them."""
    parts = [_RECIPES]
    for kind, name in ((Recipe, "recipe"), (Placement, "placement")):
        for path, table in spec_tables(kind):
            said = " ".join((table.__doc__ or "").split())
            rows = "\n".join(
                f"| `{key}` | {what} | {default} | {text} |" for key, what, default, text in spec_rows(table)
            )
            title = f"The {name}" if not path else f"`{path}` in the {name}"
            parts.append(f"## {title}\n\n{said}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}")
    return "\n\n".join([*parts, _objectives()]) + "\n"


def charter_page() -> str:
    """docs/reference/charter.md: every table of the charter, from the structs that read it."""
    parts = [f"# The charter\n\n{_CHARTER}"]
    for path, table in spec_tables(Charter):
        rows = "\n".join(f"| `{key}` | {what} | {default} | {text} |" for key, what, default, text in spec_rows(table))
        said = " ".join((table.__doc__ or "").split())
        title = f"`{path}`" if path else "The whole"
        parts.append(f"## {title}\n\n{said}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def catalogue_page() -> str:
    """docs/reference/catalogue.md: the keys of every kind of row, from the structs that read them."""
    kinds = {"accelerators": Accelerator, "hosts": Host, "prices": Price, "systems": SystemRow}
    parts = [f"# The hardware catalogue\n\n{_CATALOGUE}"]
    for name, kind in kinds.items():
        # What all kinds have stands in the type above them; a name is written in the heading.
        shared = {row[0]: row for row in spec_rows(kind.__mro__[1])}
        told = [row for row in spec_rows(kind) if row[0] not in shared] + [shared["source"], shared["date"]]
        rows = "\n".join(f"| `{key}` | {what} | {default} | {text} |" for key, what, default, text in told)
        said = " ".join((kind.__doc__ or "").split())
        parts.append(f"## `[{name}.NAME]`\n\n{said}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def _objectives() -> str:
    """The parameters of our objectives; read from the source, since importing it takes torch."""
    rows = []
    for path in sorted((PACKAGE / "train" / "objectives").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and "Params" in map(ast.unparse, node.bases):
                keys = [
                    f"{ast.unparse(one.target)} = {ast.unparse(one.value)}"
                    for one in node.body
                    if isinstance(one, ast.AnnAssign) and one.value is not None
                ]
                said = " ".join((ast.get_docstring(node) or "").split())
                rows.append(f"| `{path.stem}` | {', '.join(f'`{key}`' for key in keys) or 'none'} | {said} |")
    head = "## Parameters of the objectives\n\n| objective | parameters and defaults | meaning |\n|---|---|---|\n"
    return head + "\n".join(rows)


def spec_tables(kind: type[msgspec.Struct], above: str = "") -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """A table and those inside it, each with how a file writes its heading; empty for the whole file."""
    yield above, kind
    for field in _struct(kind).fields:
        many = isinstance(field.type, inspect.VarTupleType)
        inner = field.type.item_type if isinstance(field.type, inspect.VarTupleType) else _without_none(field.type)
        if isinstance(inner, inspect.StructType):
            name = ".".join(filter(None, [above.strip("[]"), field.name]))
            yield from spec_tables(inner.cls, f"[[{name}]]" if many else f"[{name}]")


def spec_rows(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and docstring of each key of a table."""
    said = _field_docstrings(kind)
    for field in _struct(kind).fields:
        default = "" if field.required else "none" if field.default is None else f"`{_toml(field.default)}`"
        if isinstance(_without_none(field.type), inspect.StructType) or field.default_factory is not msgspec.NODEFAULT:
            default = "" if field.required else "none" if field.default is None else "its defaults"
        yield field.name, _type_words(field.type), default or "required", said.get(field.name, "")


def _struct(kind: type[msgspec.Struct]) -> inspect.StructType:
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)
    return found


def _without_none(kind: inspect.Type) -> inspect.Type:
    if isinstance(kind, inspect.UnionType):
        rest = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def _type_words(kind: inspect.Type) -> str:
    """What a key takes."""
    match _without_none(kind):
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() as number:
            return f"integer{_bounds(number)}"
        case inspect.FloatType() as number:
            return f"number{_bounds(number)}"
        case inspect.StrType(pattern=pattern):
            kinds = {"sha256": "digest", "ed25519": "public key", r"\d{4}-": "date"}
            return "text" if pattern is None else next((kinds[one] for one in kinds if one in pattern), "name")
        case inspect.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case inspect.VarTupleType(item_type=inspect.StructType()):
            return "list of tables"
        case inspect.VarTupleType(item_type=item):
            return f"list of {_type_words(item)}"
        case _:
            return "table"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    """The bounds of a number; those that only keep it writable are not told."""
    low = f"more than {kind.gt:g}" if kind.gt is not None else f"at least {kind.ge}" if kind.ge is not None else ""
    high = f"at most {kind.le:,}" if kind.le is not None and kind.le < 2**20 else ""
    return ", " * bool(low or high) + " and ".join(filter(None, [low, high])).replace(".0", "")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"[{', '.join(map(_toml, value))}]" if isinstance(value, tuple) else f'"{value}"' if value == "" else str(value)
    )


def _field_docstrings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The docstrings under the fields of a struct; only the source still has them."""
    tree = ast.parse(Path(sys.modules[kind.__module__].__file__ or "").read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__).body
    return {
        field.target.id: " ".join(str(ast.literal_eval(text.value)).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def control_plane_page() -> str:
    """docs/reference/control-plane.md: every route of the control plane, from the description that it serves."""
    # Here, as the command line is in `cli_page`.
    from tandem.api.routes import description

    document, tables = description(), dict[str, list[str]]()
    for path, operations in document["paths"].items():
        for method, one in operations.items():
            row = (
                f"`{method.upper()} {path}`",
                one.get("x-role", "anybody"),
                _asked(one),
                _answered(one),
                one["summary"],
            )
            tables.setdefault(one["tags"][0], []).append("| " + " | ".join(row) + " |\n")
    head = "| request | key | takes | answers | what it does |\n|---|---|---|---|---|\n"
    parts = [f"## {tag}\n\n{head}{''.join(rows)}" for tag, rows in tables.items()]
    return "\n".join([f"# The control plane\n\n{_CONTROL_PLANE}\n", *parts])


def _asked(operation: dict[str, Any]) -> str:
    """What an operation takes after the `?`, and the type of its body."""
    body = operation.get("requestBody", {"content": {"": {"schema": {}}}})
    words = [_type_of(content["schema"]) for content in body["content"].values()]
    words += [f"`{one['name']}`" for one in operation.get("parameters", []) if one["in"] == "query"]
    return ", ".join(filter(None, words))


def _answered(operation: dict[str, Any]) -> str:
    """The status of success and the type of its body."""
    status, answer = next(iter(operation["responses"].items()))
    words = [_type_of(content["schema"]) or media for media, content in answer.get("content", {}).items()]
    return " ".join(filter(None, [status, *words]))


def _type_of(schema: dict[str, Any]) -> str:
    """The name of a type; of several that are joined, the first."""
    if "data" in schema.get("properties", {}):
        return f"page of {_type_of(schema['properties']['data']['items'])}"
    first = schema.get("allOf", [schema])[0]
    return f"`{first['$ref'].rsplit('/', 1)[-1]}`" if "$ref" in first else ""


PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "map": ("docs/map.md", map_page),
    "settings": ("docs/reference/settings.md", settings_page),
    "errors": ("docs/reference/errors.md", errors_page),
    "cli": ("docs/reference/cli.md", cli_page),
    "recipes": ("docs/reference/recipes.md", recipes_page),
    "charter": ("docs/reference/charter.md", charter_page),
    "catalogue": ("docs/reference/catalogue.md", catalogue_page),
    "control-plane": ("docs/reference/control-plane.md", control_plane_page),
}


def stale(name: str) -> str:
    """How the page on disk differs from what the code says; empty where it does not."""
    path, build = PAGES[name]
    written = (REPOSITORY / path).read_text() if (REPOSITORY / path).exists() else ""
    return "\n".join(difflib.unified_diff(written.splitlines(), build().splitlines(), path, "the code", lineterm=""))


def main(arguments: list[str]) -> int:
    """Write the named pages, or all; with `--check`, show the stale ones instead and return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", choices=[*PAGES, []], help="which pages; all of them when none is named")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not up to date")
    options = parser.parse_args(arguments)
    differences = [difference for name in options.pages or PAGES if (difference := stale(name))]
    if options.check:
        print("\n".join(differences), end="\n" if differences else "")
        return 1 if differences else 0
    for name in options.pages or PAGES:
        path, build = PAGES[name]
        (REPOSITORY / path).parent.mkdir(parents=True, exist_ok=True)
        (REPOSITORY / path).write_text(build())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
