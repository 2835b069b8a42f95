"""What a finished run leaves: a Hugging Face folder, a GGUF, and for LoRA the adapter in PEFT's form and as GGUF."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from tandem.formats import convert_folder, folder_writing, write_lora_gguf, write_safetensors
from tandem.kit.lines import write_whole
from tandem.spec import Lora, Recipe, RunFolder
from tandem.train.data import Text
from tandem.train.nets import Llama, NetConfig, adapter_state, config_json, merged_state
from tandem.train.objectives.fim import suffix_first_of

_CHATS = frozenset({"chat", "preference", "questions"})
_DOCUMENT_END = "<|endoftext|>"
_TURN_END = "<|im_end|>"
_PAD = "<|pad|>"
_PEFT = "base_model.model."  # before the names of the model that peft wraps

Files = dict[str, dict[str, str | int]]
"""sha256 (hexadecimal) and size in bytes of each file, by its path in the export folder."""


def export_run(recipe: Recipe, net: Llama, text: Text, folder: RunFolder) -> Files:
    """Write the export folder whole or not at all, in place of an earlier one: `hf/` and `model.gguf`, in which
    adapters are merged, and for a recipe with an adapter `adapter/` and `adapter.gguf`, which go with the parent.

    Raises:
        UnsupportedFeature: llama.cpp does not know this tokenizer.
        StorageFull: the disk is full; nothing is left behind.
    """
    state = {name: weights.detach().cpu() for name, weights in net.state_dict().items()}
    whole = state if recipe.adapter is None else merged_state(state, recipe.adapter)
    if folder.export.exists():  # of an attempt that ended before it could say so
        shutil.rmtree(folder.export)
    with folder_writing(folder.export) as part:
        chats = any(data.format in _CHATS for data in recipe.data)
        hf = save_folder(whole, net.config, text, part / "hf", chats=chats, suffix_first=suffix_first_of(recipe))
        convert_folder(hf, part / "model.gguf", name=recipe.name, kind=recipe.export.gguf)
        if recipe.adapter is not None:
            adapter = save_adapter(state, recipe.adapter, part / "adapter", parent=recipe.model.parent)
            write_lora_gguf(adapter, hf, part / "adapter.gguf", name=recipe.name)
        return _digests(part)


def save_folder(
    state: Mapping[str, torch.Tensor],
    config: NetConfig,
    text: Text,
    dest: Path,
    *,
    chats: bool,
    suffix_first: bool = False,
) -> Path:
    """Write a folder that transformers, vLLM and `convert_folder` read, with fp32 weights.

    A model of `chats` ends with its turn, another as its tokenizer says, or else with the document. `suffix_first` is
    noted for whoever asks it to fill a gap.
    """
    dest.mkdir()
    settings = _settings(text, chats=chats) | ({"fim_order": "suffix_first"} if suffix_first else {})
    numbers = {f"{key}_token_id": text.special(_content(settings.get(f"{key}_token"))) for key in ("bos", "eos", "pad")}
    _write_json(dest / "config.json", config_json(config) | numbers | {"dtype": "float32", "use_cache": True})
    _write_json(dest / "generation_config.json", {key: value for key, value in numbers.items() if value is not None})
    _write_json(dest / "tokenizer_config.json", settings)
    write_whole(dest / "tokenizer.json", (text.folder / "tokenizer.json").read_bytes())
    _write_weights(dest / "model.safetensors", state)
    return dest


def save_adapter(state: Mapping[str, torch.Tensor], spec: Lora, dest: Path, *, parent: str) -> Path:
    """Write the adapters of a model's state as peft saves them, for a base model that is named `parent`."""
    dest.mkdir()
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": parent,
        "r": spec.rank,
        "lora_alpha": int(spec.alpha) if spec.alpha.is_integer() else spec.alpha,
        "target_modules": sorted(spec.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    _write_json(dest / "adapter_config.json", settings)
    weights = {f"{_PEFT}{name}": weights for name, weights in adapter_state(state).items()}
    _write_weights(dest / "adapter_model.safetensors", weights)
    return dest


def _settings(text: Text, *, chats: bool) -> dict[str, Any]:
    """tokenizer_config.json with the tokens that begin, end and fill a text."""
    path = text.folder / "tokenizer_config.json"
    settings: dict[str, Any] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    separate = text.folder / "chat_template.jinja"
    if settings.get("chat_template") is None and separate.exists():
        settings["chat_template"] = separate.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    end = _content(settings.get("eos_token"))
    if chats and text.special(_TURN_END) is not None and (template is None or _TURN_END in str(template)):
        end = _TURN_END
    elif text.special(end) is None:
        end = _DOCUMENT_END
    assert text.special(end) is not None, "a Text has one of the two"
    known = {
        "bos_token": settings.get("bos_token", _DOCUMENT_END),
        "eos_token": end,
        "pad_token": settings.get("pad_token", _PAD),
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | settings
    return settings | {key: value for key, value in known.items() if text.special(_content(value)) is not None}


def _content(token: Any) -> str:
    """A token's text: some files hold it as it is, others in a table."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n")


def _write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    arrays = {name: weights.float().numpy() for name, weights in state.items()}
    write_safetensors(path, arrays, {"format": "pt"})


def _digests(folder: Path) -> Files:
    files: Files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = {"sha256": digest, "bytes": path.stat().st_size}
    return files
