"""The official JavaScript client: installed with npm into a folder of its own, and run with node."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving import Served

HERE = Path(__file__).parent
# The first Node whose fetch and streams the pinned version of the client is made for.
OLDEST_NODE = 20

pytestmark = [
    pytest.mark.npm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed"),
]


def _run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client in it."""
    version = _run("node", "--version", folder=HERE).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version} is older than {OLDEST_NODE}")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "openai_npm.mjs"):
        shutil.copy(HERE / name, folder)
    done = _run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", folder=folder)
    if done.returncode != 0:
        pytest.skip(f"npm could not install the client: {done.stderr[-300:]}")
    return folder


def test_the_javascript_client(fake: Served, installed: Path) -> None:
    assert not {"OPENAI_API_KEY", "OPENAI_BASE_URL"} & set(os.environ)
    done = _run("node", "openai_npm.mjs", fake.url, fake.key, folder=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok: ") == 12
