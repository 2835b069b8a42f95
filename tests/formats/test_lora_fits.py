"""Whether an adapter's file fits a model, which is asked before an engine is given both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tandem.formats import GGUFHeader, check_adapter, read_header, same_manners, write_tiny_gguf
from tandem.formats.tiny import TinyShape
from tandem.kit.errors import IntegrityError
from tests.adapters import write_tiny_adapter


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[GGUFHeader, GGUFHeader]:
    """The headers of an adapter and of its model."""
    folder = tmp_path_factory.mktemp("lora")
    base = write_tiny_gguf(folder / "base.gguf")
    return read_header(write_tiny_adapter(folder / "adapter.gguf", base, seed=1)), read_header(base)


def saying(**more: Any) -> Callable[[GGUFHeader], GGUFHeader]:
    """The same header with other metadata; a name has dots in place of double underscores."""
    told = {key.replace("__", "."): value for key, value in more.items()}
    return lambda header: replace(header, metadata=MappingProxyType({**header.metadata, **told}))


def shaped(*shape: int, name: str = "blk.0.attn_q.weight.lora_b") -> Callable[[GGUFHeader], GGUFHeader]:
    """The same header with another shape of one tensor."""

    def change(header: GGUFHeader) -> GGUFHeader:
        return replace(
            header, tensors=tuple(replace(one, shape=shape) if one.name == name else one for one in header.tensors)
        )

    return change


def called(old: str, new: str) -> Callable[[GGUFHeader], GGUFHeader]:
    """The same header with another name of one tensor."""
    return lambda header: replace(
        header, tensors=tuple(replace(one, name=new) if one.name == old else one for one in header.tensors)
    )


def test_an_adapter_fits_its_model(files: tuple[GGUFHeader, GGUFHeader]) -> None:
    check_adapter(*files)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (saying(general__type="model"), "it says that it is model lora llama"),
        (saying(adapter__type="control_vector"), "it says that it is adapter control_vector llama"),
        (saying(general__architecture="qwen2"), "it says that it is adapter lora qwen2"),
        (saying(adapter__alora__invocation_tokens=(1, 2)), "adapter.alora.invocation_tokens is unknown"),
        (saying(adapter__lora__alpha=0.0), "its alpha is 0.0"),
        (saying(adapter__lora__alpha=float("nan")), "its alpha is nan"),
        (saying(adapter__lora__alpha=float("inf")), "its alpha is inf"),
        (saying(adapter__lora__alpha="12"), "its alpha is '12'"),
        (shaped(32, 4), "for 'blk.0.attn_q.weight' of the shape (64, 64)"),
        (shaped(64, 5), "it has (4, 64) and (64, 5)"),
        (shaped(64), "it has (4, 64) and (64,)"),
        (shaped(4, 32, name="blk.0.attn_q.weight.lora_a"), "it has (4, 32) and (64, 4)"),
        (called("blk.0.attn_q.weight.lora_a", "blk.9.attn_q.weight.lora_a"), "is half of nothing in it"),
        (called("blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight"), "is half of nothing in it"),
        (called("blk.0.attn_q.weight.lora_a", "output_norm.weight.lora_a"), "and () for"),
        (lambda header: replace(header, tensors=header.tensors[1:]), "and (64, 4) for"),
        (lambda header: replace(header, tensors=()), "it has no tensors"),
    ],
)
def test_what_does_not_fit_is_refused(
    files: tuple[GGUFHeader, GGUFHeader], change: Callable[[GGUFHeader], GGUFHeader], words: str
) -> None:
    adapter, base = files
    with pytest.raises(IntegrityError) as caught:
        check_adapter(change(adapter), base)
    assert words in caught.value.message
    assert str(adapter.path) in caught.value.message
    assert caught.value.remedy


def test_an_adapter_of_a_larger_model_does_not_fit(files: tuple[GGUFHeader, GGUFHeader], tmp_path: Path) -> None:
    wide = write_tiny_gguf(tmp_path / "wide.gguf", shape=TinyShape(width=128))
    with pytest.raises(IntegrityError, match="of the shape"):
        check_adapter(files[0], read_header(wide))


@pytest.mark.parametrize(("changes", "same"), [({"seed": 1}, True), ({"chat": False}, False), ({"fim": True}, False)])
def test_manners_are_all_but_the_weights(
    files: tuple[GGUFHeader, GGUFHeader], tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    other = read_header(write_tiny_gguf(tmp_path / "other.gguf", **changes))
    assert same_manners(files[1], other) is same
