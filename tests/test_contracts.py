"""The import contracts: they hold, and each catches the fault it is there for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"

# A small house with every room that the contracts speak of: module, then the imports that are allowed there.
HOUSE = {
    "cli": "tandem.server",
    "server": "tandem.api tandem.gateway tandem.serve",
    "api": "tandem.accounts",
    "apps.copilot": "tandem.kit.http",
    "apps.designer": "tandem.kit.http",
    "flows.release": "tandem.registry tandem.serve",
    "gateway.surfaces": "tandem.gateway.pipeline",
    "gateway.pipeline": "tandem.gateway.stages.call",
    "gateway.stages.call": "tandem.gateway.exchange tandem.serve",
    "gateway.stages.check": "tandem.gateway.exchange",
    "gateway.exchange": "",
    "accounts.keys": "tandem.accounts.tables tandem.spec",
    "accounts.tables": "tandem.kit.db",
    "plan.memory": "tandem.spec math",
    "registry.gates": "tandem.spec tandem.kit.errors",
    "registry.models": "tandem.formats",
    "serve.routes": "tandem.spec",
    "formats.gguf": "tandem.kit.errors gguf",
    "train.loop": "tandem.spec torch",
    "spec.recipe": "tandem.kit.errors",
    "kit.db": "sqlalchemy",
    "kit.clock": "time",
    "kit.http": "aiohttp",
    "kit.errors": "",
}

# importer, what it imports and must not, a word of the contract that has to say so
FAULTS = [
    ("kit.errors", "tandem.spec", "Storeys"),
    ("spec.recipe", "tandem.serve.routes", "Storeys"),
    ("serve.routes", "tandem.accounts.keys", "Storeys"),
    ("accounts.keys", "tandem.gateway.exchange", "Storeys"),
    ("gateway.pipeline", "tandem.server", "Storeys"),
    ("api", "tandem.apps.copilot", "Storeys"),
    ("server", "tandem.train.loop", "Storeys"),
    ("helpers", "", "Storeys"),
    ("serve.routes", "torch", "Torch wall"),
    ("gateway.exchange", "transformers", "Torch wall"),
    ("registry.models", "gguf", "Foreign weights"),
    ("train.loop", "tandem.kit.db", "Bare workshop"),
    ("train", "starlette", "Bare workshop"),
    ("train.loop", "tandem.kit.http", "Bare workshop"),
    ("apps.copilot", "tandem.spec.recipe", "Apps outside: apps know the kit"),
    ("apps", "tandem.accounts", "Apps outside: apps know the kit"),
    ("apps.designer", "tandem.apps.copilot", "Apps outside: apps do not know each other"),
    ("gateway.pipeline", "tandem.accounts.tables", "Own tables"),
    ("api", "tandem.accounts.tables", "Own tables"),
    ("plan.memory", "tandem.kit.clock", "Pure plan"),
    ("plan", "pathlib", "Pure plan"),
    ("registry.gates", "tandem.kit.db", "Pure plan"),
    ("gateway.stages.check", "tandem.gateway.pipeline", "Gateway inside: surfaces"),
    ("gateway.exchange", "tandem.gateway.surfaces", "Gateway inside: surfaces"),
    ("gateway.helpers", "", "Gateway inside: surfaces"),
    ("gateway.stages.check", "tandem.gateway.stages.call", "Gateway inside: stages"),
    ("formats.gguf", "tandem.formats.folder", "No rings"),
]


def _broken(folder: Path, house: dict[str, str]) -> str:
    """Build the house in the folder, run the linter on it, and return its report."""
    for module, imports in house.items():
        path = folder / "tandem" / Path(*module.split("."))
        is_package = any(other.startswith(f"{module}.") for other in house)
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"import {name}\n" for name in imports.split()))
    for package in {path.parent for path in folder.glob("tandem/**/*.py")} | {folder / "tandem"}:
        (package / "__init__.py").touch()
    command = [LINT_IMPORTS, "--config", REPOSITORY / "pyproject.toml", "--no-cache"]
    report = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return re.sub(r"\x1b\[[0-9;]*m", "", report.stdout + report.stderr)


def test_contracts_hold() -> None:
    report = subprocess.run([LINT_IMPORTS], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert report.returncode == 0, report.stdout


def test_a_sound_house_breaks_no_contract(tmp_path: Path) -> None:
    report = _broken(tmp_path, HOUSE)
    assert " 0 broken" in report, report


@pytest.mark.parametrize(("importer", "imported", "contract"), FAULTS, ids=lambda word: word.replace("tandem.", ""))
def test_a_planted_fault_is_caught(tmp_path: Path, importer: str, imported: str, contract: str) -> None:
    house = HOUSE | {importer: f"{HOUSE.get(importer, '')} {imported}"}
    if contract == "No rings":
        house["formats.folder"] = "tandem.formats.gguf"
    broken = re.findall(r"^(.+) BROKEN", _broken(tmp_path, house), flags=re.MULTILINE)
    assert any(name.startswith(contract) for name in broken), broken
