"""The rules of the house that a linter does not know, read from the source as data."""

import ast
import importlib
import inspect
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import tandem
from docs.generate import first_line
from tandem.kit import errors
from tandem.kit.errors import TandemError

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "src" / "tandem"

MODULES = sorted(PACKAGE.glob("**/*.py"))
PACKAGES = sorted(path.parent for path in PACKAGE.glob("*/**/__init__.py"))
PROGRAMS = [
    *MODULES,
    *(path for name in ("benchmarks", "docs", "migrations") for path in (REPOSITORY / name).glob("**/*.py")),
]
PYTHON_FILES = [*PROGRAMS, *(REPOSITORY / "tests").glob("**/*.py")]
MIGRATIONS = sorted((REPOSITORY / "migrations" / "versions").glob("*.py"))

# Suppressions may only get fewer. Whoever removes one lowers the number.
SUPPRESSIONS = {"noqa": 0, "type: ignore": 0, "no cover": 0}

LEFTOVER_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "managers", "misc"}

# kit holds tools and cli holds commands; each is imported by the name of its module.
ROOMS = [path for path in PACKAGES if path.parent == PACKAGE and path.name not in {"kit", "cli"}]


def _named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _tracked() -> list[Path]:
    """All files that are in the repository or about to be."""
    # In a container a checkout often belongs to somebody else, whose files git would not list.
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    return [REPOSITORY / name for name in listed if (REPOSITORY / name).is_file()]


@pytest.mark.parametrize("path", PROGRAMS, ids=_named)
def test_sizes(path: Path) -> None:
    assert path.read_text().count("\n") <= 500
    too_long = [node.name for node in _functions(path) if (node.end_lineno or 0) - node.lineno >= 60]
    assert not too_long, "a function has at most 60 lines"


@pytest.mark.parametrize("folder", [PACKAGE, *PACKAGES], ids=_named)
def test_a_folder_has_at_most_twelve_files(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= 12


@pytest.mark.parametrize("path", sorted((PACKAGE / "flows").glob("*.py")), ids=_named)
def test_a_story_stays_short(path: Path) -> None:
    assert path.read_text().count("\n") <= 200, "what is reusable sinks into a room, what is a noun into spec"


@pytest.mark.parametrize("path", PROGRAMS, ids=_named)
def test_the_first_line_is_a_line_on_the_map(path: Path) -> None:
    line = first_line(path)
    assert line, "every module says in its first line what it is"
    assert line.endswith("."), "the first line is one whole sentence or noun phrase"
    rest = (ast.get_docstring(_tree(path)) or "").splitlines()[1:2]
    assert rest in ([], [""]), "the first line stands alone"


def test_no_two_modules_say_the_same_of_themselves() -> None:
    lines = Counter(first_line(path) for path in MODULES)
    assert not [line for line, count in lines.items() if count > 1]


@pytest.mark.parametrize("room", ROOMS, ids=_named)
def test_a_room_names_its_public_words(room: Path) -> None:
    """`__all__` is what the face of the room exports, no more and no less; ruff keeps it sorted (RUF022)."""
    module = importlib.import_module(f"tandem.{room.name}")
    face = _tree(room / "__init__.py")
    exported = {name for node in face.body for name in _bound(node) if not name.startswith("_")}
    assert set(module.__all__) == exported
    assert len(module.__all__) == len(set(module.__all__))


def _bound(node: ast.stmt) -> list[str]:
    """The names of ours that a statement of a face binds; what it takes from elsewhere is not its to export."""
    if isinstance(node, ast.ImportFrom):
        ours = (node.module or "").startswith("tandem.")
        return [alias.asname or alias.name for alias in node.names] if ours else []
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [ast.unparse(target) for target in targets]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []


@pytest.mark.parametrize("folder", ROOMS, ids=_named)
def test_a_face_imports_only_from_its_own_folder_and_no_tables(folder: Path) -> None:
    own = ".".join(("tandem", *folder.relative_to(PACKAGE).parts))
    for node in ast.walk(_tree(folder / "__init__.py")):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("tandem."):
            assert f"{node.module}.".startswith(f"{own}."), f"a face names what its folder holds, not {node.module}"
            assert node.module != f"{own}.tables", "tables are private to their room"


@pytest.mark.parametrize("port", sorted(PACKAGE.glob("**/port.py")), ids=_named)
def test_a_port_is_narrow_and_has_a_fake(port: Path) -> None:
    assert port.with_name("fake.py").exists(), "a port ships with a fake"
    for node in ast.walk(_tree(port)):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).split("[")[0] == "Protocol" for base in node.bases):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            verbs = [part.name for part in methods if not part.name.startswith("_") and not _is_property(part)]
            assert len(verbs) <= 6, f"{node.name} has the verbs {verbs}"


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)


@pytest.mark.parametrize("path", MODULES, ids=_named)
def test_no_leftover_names(path: Path) -> None:
    words = {word for part in path.relative_to(PACKAGE).with_suffix("").parts for word in part.split("_")}
    assert not words & LEFTOVER_NAMES, "a module is named for what it is about"


def test_suppressions_only_get_fewer() -> None:
    found = dict.fromkeys(SUPPRESSIONS, 0)
    places = []
    for path in PYTHON_FILES:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            for kind in found:
                if token.type == tokenize.COMMENT and re.search(rf"#\s*(?:pragma: )?{kind}\b", token.string):
                    found[kind] += 1
                    places.append(f"{_named(path)}:{token.start[0]} {kind}")
    assert found == SUPPRESSIONS, "more is not allowed; with fewer, lower the number here\n" + "\n".join(places)


@pytest.mark.parametrize("path", MODULES, ids=_named)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    readers = {"environ", "getenv", "environb", "getenvb"}
    found = [
        node.lineno
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.Attribute) and node.attr in readers and ast.unparse(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and readers & {name.name for name in node.names})
    ]
    assert not found or path == PACKAGE / "kit" / "config.py", "settings are read once, in kit/config.py"


def test_every_error_is_in_the_one_tree() -> None:
    """Errors that a person reads are made in kit/errors.py and nowhere else."""
    known = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, TandemError)}
    for path in MODULES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef) and path != PACKAGE / "kit" / "errors.py":
                assert not known & {ast.unparse(base).split(".")[-1] for base in node.bases}, (
                    f"{_named(path)}: {node.name}"
                )


def test_the_repository_knows_no_machine_and_no_registry() -> None:
    machine = re.compile(r"(?<![\w.~}])/(?:work|root|tmp|mnt|opt|Users)/|(?<![\w.~}])/home/\w")
    host = re.compile(r"\b(?:pypi|pythonhosted|npmjs|crates|rubygems)\.(?:org|io)\b")
    found = []
    for path in _tracked():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if machine.search(line) or host.search(line):
                found.append(f"{_named(path)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_migrations_are_numbered_and_each_follows_the_one_before() -> None:
    numbers = [path.name.split("_", 1)[0] for path in MIGRATIONS]
    assert numbers == [f"{number:04}" for number in range(1, len(MIGRATIONS) + 1)]
    values = [_assigned(path) for path in MIGRATIONS]
    assert [value["revision"] for value in values] == numbers
    assert [value["down_revision"] for value in values] == [None, *numbers[:-1]]


def _assigned(path: Path) -> dict[str, object]:
    simple = [
        node for node in _tree(path).body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in simple}


@pytest.mark.parametrize("path", MIGRATIONS, ids=_named)
def test_a_migration_tells_its_story(path: Path) -> None:
    assert re.fullmatch(r"\d{4}_[a-z][a-z_]*\.py", path.name)
    story = (ast.get_docstring(_tree(path)) or "").partition("\n\n")[2]
    assert story, "below its first line a migration says what was wrong, and why this repairs it"


def test_version_and_changelog_agree() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == tandem.__version__
    assert len(versions) == len(set(versions))
    parsed = [tuple(int(part) for part in version.split(".")) for version in versions]
    assert all(newer > older for newer, older in pairwise(parsed))


IMPORT_EVERYTHING = """
import importlib, logging, sys, threading
faults = []
forbidden = {"socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.mkdir", "os.remove"}

def watch(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if event in forbidden or writes:
        faults.append((event, str(args)))

sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not faults, faults
assert threading.active_count() == 1, threading.enumerate()
assert not logging.root.handlers, logging.root.handlers
heavy = {"torch", "transformers", "xllamacpp", "psycopg", "pytest"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_does_no_work() -> None:
    """No file is written, no socket opened, no thread or process started, no optional package loaded."""
    names = [".".join(("tandem", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in MODULES]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    # The workshop may load torch, whose own import does all sorts of work; but its data side is without it.
    names = [name for name in names if not name.startswith("tandem.train.") or name.startswith("tandem.train.data")]
    # Without bytecode: a fresh checkout has none yet, and Python would write it.
    command = [sys.executable, "-B", "-c", IMPORT_EVERYTHING, *names]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
