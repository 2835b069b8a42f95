"""LoRA adapters: from a PEFT folder to the GGUF that llama.cpp adds to a model, and whether such a file fits one."""

import math
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from gguf import MODEL_ARCH, GGUFType, Keys, get_tensor_name_map
from numpy.typing import NDArray

from tandem.formats.gguf_file import GGUFHeader
from tandem.formats.gguf_writing import add_weights, gguf_writing
from tandem.formats.hf_folder import Count, HFFolder
from tandem.formats.llama import LlamaConfig, checked_config, in_rope_order, tensor_shapes
from tandem.formats.safetensors_file import SafetensorsFile
from tandem.kit.errors import IntegrityError, UnsupportedFeature

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG, WEIGHTS)
"""The files of a PEFT folder that a conversion reads."""

# What decides how a text is read, put to the model and ended. Two files that say the same here differ in weights alone.
_MANNERS = (
    *("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"),
    *("tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
    *("tokenizer.chat_template", "llama.context_length"),
)
_HALF = re.compile(r"(?P<weight>.+\.weight)\.lora_(?P<half>[ab])")

_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


class _Adapter(msgspec.Struct):
    """`adapter_config.json` as far as a conversion needs it."""

    peft_type: str
    r: Count
    lora_alpha: Annotated[float, msgspec.Meta(gt=0)]
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    lora_bias: bool = False
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, Any] | None = None

    @property
    def alpha(self) -> float:
        """What llama.cpp divides by the rank, to get the factor of the product."""
        return self.lora_alpha * math.sqrt(self.r) if self.use_rslora else self.lora_alpha


def write_lora_gguf(adapter: Path, base: Path, dest: Path, *, name: str, kind: str = "f32") -> Path:
    """Write the adapter in the PEFT folder `adapter` to the GGUF file `dest`, for the model in the folder `base`.

    Of `base` only config.json is read. `kind` is the type of the weights, as for `convert_folder`.

    Raises:
        UnsupportedFeature: the base is no Llama that Tandem converts, or the adapter is more than plain LoRA.
        NotFound, IntegrityError: a file is missing or damaged, or the adapter belongs to another base.
        StorageFull: the disk under `dest` is full; nothing is left behind.
    """
    folder = HFFolder(adapter)
    settings = _checked_settings(folder)
    config = checked_config(HFFolder(base))
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    pairs = _pairs(folder, SafetensorsFile(adapter / WEIGHTS), config, rank=settings.r)
    with gguf_writing(dest, architecture="llama") as writer:
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_name(name)
        writer.add_float32(Keys.Adapter.LORA_ALPHA, settings.alpha)
        for key, (first, second) in pairs.items():
            new_name = names.get_name(key, try_suffixes=(".weight",))
            assert new_name is not None, key
            add_weights(writer, f"{new_name}.lora_a", first, kind=kind)
            add_weights(writer, f"{new_name}.lora_b", in_rope_order(second, key, config), kind=kind)
    return dest


def check_adapter(adapter: GGUFHeader, base: GGUFHeader) -> None:
    """Refuse an adapter that does not go with this model, before an engine is given both.

    Raises:
        IntegrityError: it is no plain LoRA adapter, is of another architecture, or has halves [rank, inputs] and
            [outputs, rank] for which the model has no weights.
    """
    said = (adapter.text("general.type"), adapter.text("adapter.type"), adapter.text("general.architecture"))
    if said != ("adapter", "lora", base.text("general.architecture")):
        raise _unfit(adapter, base, f"it says that it is {' '.join(str(word)[:80] for word in said)}")
    # An activated LoRA, which has keys of its own, makes llama.cpp keep what other adapters computed.
    more = {key for key in adapter.metadata if key.startswith("adapter.")} - {"adapter.type", Keys.Adapter.LORA_ALPHA}
    alpha = adapter.metadata.get(Keys.Adapter.LORA_ALPHA)
    if more or not isinstance(alpha, float) or not 0 < alpha < math.inf:
        raise _unfit(adapter, base, f"{min(more)} is unknown" if more else f"its alpha is {alpha!r}"[:80])
    weights = {tensor.name: tensor.shape for tensor in base.tensors}
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in adapter.tensors:
        match = _HALF.fullmatch(tensor.name)
        if match is None or match["weight"] not in weights:
            raise _unfit(adapter, base, f"its tensor {tensor.name!r} is half of nothing in it")
        halves.setdefault(match["weight"], {})[match["half"]] = tensor.shape
    for name, pair in halves.items():
        first, second = pair.get("a", ()), pair.get("b", ())
        if len(first) != 2 or len(second) != 2 or first[0] != second[1] or (second[0], first[1]) != weights[name]:
            raise _unfit(adapter, base, f"it has {first} and {second} for {name!r} of the shape {weights[name]}")
    if not halves:
        raise _unfit(adapter, base, "it has no tensors")


def same_manners(one: GGUFHeader, other: GGUFHeader) -> bool:
    """Whether two models read, are asked and end alike, so that one's adapter on the other gives what one was."""
    return all(one.metadata.get(key) == other.metadata.get(key) for key in _MANNERS)


def _unfit(adapter: GGUFHeader, base: GGUFHeader, cause: str) -> IntegrityError:
    return IntegrityError(
        f"{adapter.path} is no LoRA adapter for {base.path}: {cause}.",
        remedy="Use the base model that the adapter was trained on, or train it again.",
    )


def _checked_settings(folder: HFFolder) -> _Adapter:
    settings = folder.read(CONFIG, _Adapter)
    for found, what in (
        (settings.peft_type != "LORA", f"it is {settings.peft_type}, not LORA"),
        (settings.use_dora, "it scales the weights (use_dora)"),
        (settings.fan_in_fan_out, "its weights are transposed (fan_in_fan_out)"),
        (settings.bias != "none" or settings.lora_bias, "it has biases"),
        (settings.rank_pattern, "its layers have different ranks (rank_pattern)"),
        (settings.alpha_pattern, "its layers have different factors (alpha_pattern)"),
    ):
        if found:
            raise _refused(folder, what)
    return settings


def _pairs(folder: HFFolder, file: SafetensorsFile, config: LlamaConfig, *, rank: int) -> dict[str, Pair]:
    """A [rank, inputs] and B [outputs, rank] of each adapted weight, by its name in transformers, in its order."""
    halves: dict[tuple[str, str], NDArray[np.float32]] = {}
    for key in file.entries:
        match = _KEY.fullmatch(key)
        if match is None:
            raise _refused(folder, f"its tensor {key!r} is no half of a linear layer's LoRA")
        halves[f"{match['layer']}.weight", match["half"]] = file.weights(key)
    pairs: dict[str, Pair] = {}
    for layer, shape in tensor_shapes(config).items():
        if len(shape) != 2 or layer == "model.embed_tokens.weight":
            continue
        first, second = halves.pop((layer, "A"), None), halves.pop((layer, "B"), None)
        if first is None and second is None:
            continue
        if first is None or second is None or (first.shape, second.shape) != ((rank, shape[1]), (shape[0], rank)):
            sizes = " and ".join("nothing" if half is None else str(half.shape) for half in (first, second))
            raise IntegrityError(
                f"{file.path} has {sizes} for {layer!r}, where {(rank, shape[1])} and {(shape[0], rank)} are needed.",
                remedy="Use the base model that the adapter was trained on, and the whole adapter.",
            )
        pairs[layer] = first, second
    if halves:
        raise _refused(folder, f"its base model has no linear layer for {min(halves)[0]!r}")
    if not pairs:
        raise _refused(folder, "it has no tensors")
    return pairs


def _refused(folder: HFFolder, what: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"The adapter {folder.path} cannot be converted to GGUF: {what}.",
        remedy="Train plain LoRA on linear layers, or merge the adapter into its base model and convert that.",
    )
