"""Small random LoRA adapters of a small random model, in milliseconds."""

import json
import shutil
from pathlib import Path

import numpy as np

from tandem.formats import SafetensorsFile, facts, folder_from_gguf, read_header, write_lora_gguf, write_safetensors
from tandem.registry import Registry
from tandem.spec import Artifact, Task, Version

RANK = 4
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def write_tiny_adapter(path: Path, base: Path, *, seed: int) -> Path:
    """Write an adapter of the GGUF file `base` to `path`, strong enough to change every answer."""
    folder = path.with_suffix(".peft")
    folder.mkdir()
    hf = folder_from_gguf(base, folder / "base")
    random, file = np.random.default_rng(seed), SafetensorsFile(hf / "model.safetensors")
    tensors = {}
    for key in (f"model.layers.{layer}.{module}" for layer in (0, 1) for module in MODULES):
        rows, columns = file.entries[f"{key}.weight"].shape
        for half, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
            weights = random.standard_normal(shape).astype(np.float32)
            tensors[f"base_model.model.{key}.lora_{half}.weight"] = weights / 4
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3 * RANK, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    write_lora_gguf(folder, hf, path, name=path.stem)
    shutil.rmtree(folder)
    return path


def add_adapter(registry: Registry, adapter: Path, base: Version, *, name: str = "tiny", **changes: object) -> Version:
    """An adapter as the next version of `name`."""
    stored = registry.blobs.put(adapter)
    artifact = Artifact(digest=stored.digest, size=stored.size, format="gguf", base=base.artifact.digest)
    known = facts(read_header(registry.path(base))) | changes
    return registry.add(name, task=Task.GENERATE, artifact=artifact, origin=f"file:{adapter.name}", facts=known)
