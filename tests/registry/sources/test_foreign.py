"""Files of other formats: refused by name and by content, with the remedy."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.formats import write_safetensors, write_tiny_gguf
from tandem.kit.errors import NotFound, UnsupportedFeature
from tandem.registry.sources import FileSource
from tandem.registry.sources.foreign import refuse_content, refuse_name


def zipped(**members: bytes) -> bytes:
    """A zip archive; two underscores stand for a slash, one for a dot."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return buffer.getvalue()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name",
    ["m.bin", "m.PT", "m.pth", "m.ckpt", "m.pkl", "m.pickle", "m.joblib", "m.dill", "a/b/pytorch_model.bin"],
)
def test_pickles_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedFeature, match="pickle, which runs code") as caught:
        refuse_name(name)
    assert "safetensors" in caught.value.remedy


@pytest.mark.parametrize("name", ["m.onnx", "m.h5", "m.keras", "m.npy", "m.npz", "m.tflite", "m.zip", "m.ggml"])
def test_other_formats_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedFeature, match="no engine here reads") as caught:
        refuse_name(name)
    assert "GGUF" in caught.value.remedy


@pytest.mark.parametrize("name", ["m.gguf", "m.Q4.GGUF", "model.safetensors", "folder", "a.bin.gguf", "", "m.", ".bin"])
def test_our_names_pass(name: str) -> None:
    refuse_name(name)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        *((pickle.dumps({"a": [1.0]}, protocol=protocol), "a pickle") for protocol in range(6)),
        (pickle.dumps([1, 2], protocol=0), "a pickle"),
        (b"cos\nsystem\n(S'true'\ntR.", "a pickle"),
        (zipped(archive__data_pkl=b"x", archive__data__0=b"x"), "a PyTorch archive of pickles"),
        (zipped(readme_txt=b"x"), "a zip archive"),
        (saved(np.zeros(3)), "a numpy array"),
        (saved(np.array([{}, None], dtype=object)), "a numpy file of pickled objects"),
        (b"\x89HDF\r\n\x1a\n" + bytes(10), "an HDF5 file"),
        (b"tjgg" + bytes(10), "a GGML file"),
        (b"\x1f\x8b\x08" + bytes(10), "a compressed archive"),
        (bytes(257) + b"ustar\x0000", "a tar archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><p>Not found", "a web page"),
        (b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX graph"),
    ],
)
@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors"])
def test_other_formats_are_told_by_their_content(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnsupportedFeature, match=f"{name} is in truth {kind}") as caught:
        refuse_content(path)
    assert caught.value.remedy
    assert str(tmp_path) not in caught.value.message


def test_our_formats_pass(tmp_path: Path) -> None:
    refuse_content(write_tiny_gguf(tmp_path / "model.gguf"))
    for count in range(1, 60):  # whatever the length of the header is
        arrays = {f"a{number}": np.zeros(1, np.float32) for number in range(count)}
        refuse_content(write_safetensors(tmp_path / "model.safetensors", arrays))


def test_a_header_whose_length_looks_like_a_pickle_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((0x280).to_bytes(8, "little") + b"{" + b" " * 0x27F)
    assert path.read_bytes()[:2] == pickle.dumps(0, protocol=2)[:2]
    refuse_content(path)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFound, match="no regular file"):
            refuse_content(path)


pytestmark = pytest.mark.anyio


async def test_safetensors_alone_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UnsupportedFeature, match="alone") as caught:
        await FileSource(tmp_path / "model.safetensors").describe()
    assert "folder" in caught.value.remedy


async def test_a_folder_may_be_named_like_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    assert (await FileSource(tmp_path / "model.pt").describe()).name == "model.pt"
