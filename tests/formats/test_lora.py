"""Converted adapters: base and adapter together compute what the merged model computes, or a clear refusal."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from tandem.formats import SafetensorsFile, convert_folder, read_header, write_lora_gguf, write_safetensors
from tandem.kit.errors import IntegrityError, NotFound, StorageFull, UnsupportedFeature
from tests.formats.engine import ask
from tests.formats.hf_models import change, write_llama
from tests.kit.full_disk import small_disk

pytest.importorskip("torch", reason="the base model is made by transformers")

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MODULES = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
RANK, ALPHA = 4, 12
PROMPTS = ["def the number of", "return 12", "naïve 🙂 World (x)"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("base"))


def write_adapter(folder: Path, base: Path, *, layers: tuple[int, ...] = (0, 1), **config: Any) -> Path:
    """A PEFT folder with random halves for all linear layers of some blocks."""
    folder.mkdir()
    random, file = np.random.default_rng(1), SafetensorsFile(base / "model.safetensors")
    tensors = {}
    for key in (f"model.layers.{layer}.{module}" for layer in layers for module in MODULES):
        rows, columns = file.entries[f"{key}.weight"].shape
        for half, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
            weights = random.standard_normal(shape).astype(np.float32)
            tensors[f"base_model.model.{key}.lora_{half}.weight"] = weights / 4
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "task_type": "CAUSAL_LM", "bias": "none"}
    names = [module.rpartition(".")[2] for module in MODULES]
    settings |= {"base_model_name_or_path": "base", "target_modules": names, "rank_pattern": {}, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def merge(base: Path, adapter: Path, dest: Path, *, factor: float) -> Path:
    """The base with the adapter's products added to its weights, computed in float64."""
    shutil.copytree(base, dest)
    weights, halves = (
        SafetensorsFile(path) for path in (base / "model.safetensors", adapter / "adapter_model.safetensors")
    )
    merged = {}
    for key in weights.entries:
        stem = f"base_model.model.{key.removesuffix('.weight')}.lora_"
        merged[key] = weights.array(key)
        if f"{stem}A.weight" in halves.entries:
            first, second = (halves.array(f"{stem}{half}.weight").astype(np.float64) for half in "AB")
            merged[key] = (merged[key] + factor * (second @ first)).astype(np.float32)
    write_safetensors(dest / "model.safetensors", merged, {"format": "pt"})
    return dest


@pytest.mark.parametrize(
    ("config", "layers", "factor"),
    [({}, (0, 1), ALPHA / RANK), ({"use_rslora": True}, (1,), ALPHA / RANK**0.5)],
    ids=["plain", "rslora"],
)
def test_base_and_adapter_answer_as_the_merged_model(
    base: Path, tmp_path: Path, config: dict[str, Any], layers: tuple[int, ...], factor: float
) -> None:
    adapter = write_adapter(tmp_path / "adapter", base, layers=layers, **config)
    lora = write_lora_gguf(adapter, base, tmp_path / "lora.gguf", name="x")
    alone = convert_folder(base, tmp_path / "base.gguf", name="x", kind="f32")
    merged = merge(base, adapter, tmp_path / "merged", factor=factor)
    whole = convert_folder(merged, tmp_path / "merged.gguf", name="x", kind="f32")
    asked = {"n_predict": 16, "temperature": 0, "n_probs": 5, "return_tokens": True}
    calls = [("/completion", {"prompt": prompt, **asked}) for prompt in PROMPTS]
    with_adapter, without, expected = ask(alone, calls, lora=lora), ask(alone, calls), ask(whole, calls)
    assert [answer["tokens"] for answer in with_adapter] == [answer["tokens"] for answer in expected]
    assert [answer["tokens"] for answer in with_adapter] != [answer["tokens"] for answer in without]
    for one, two in zip(with_adapter, expected, strict=True):
        first, second = (answer["completion_probabilities"][0]["top_logprobs"] for answer in (one, two))
        assert [entry["id"] for entry in first] == [entry["id"] for entry in second]
        for left, right in zip(first, second, strict=True):
            assert left["logprob"] == pytest.approx(right["logprob"], abs=2e-3)


@pytest.mark.parametrize(("kind", "types"), [("f32", {"F32"}), ("f16", {"F16"}), ("q8_0", {"Q8_0", "F16"})])
def test_the_file_says_what_it_is(base: Path, tmp_path: Path, kind: str, types: set[str]) -> None:
    adapter = write_adapter(tmp_path / "adapter", base, layers=(1,))
    path = write_lora_gguf(adapter, base, tmp_path / "lora.gguf", name="mine", kind=kind)
    header = read_header(path)
    expected = {"general.type": "adapter", "general.architecture": "llama", "general.name": "mine"}
    expected |= {"adapter.type": "lora", "adapter.lora.alpha": float(ALPHA)}
    assert header.metadata == expected
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert len(shapes) == 2 * len(MODULES)
    assert (shapes["blk.1.attn_k.weight.lora_a"], shapes["blk.1.attn_k.weight.lora_b"]) == ((4, 64), (32, 4))
    assert {tensor.type.name for tensor in header.tensors} == types


def test_the_rows_of_queries_and_keys_are_in_the_order_of_rope(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    source = SafetensorsFile(adapter / "adapter_model.safetensors")
    written = GGUFReader(write_lora_gguf(adapter, base, tmp_path / "lora.gguf", name="x"))
    found = {tensor.name: tensor.data for tensor in written.tensors}
    for name, module, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        stem = f"base_model.model.model.layers.0.self_attn.{module}.lora_"
        # Row 2i + j of a head is row 8j + i: neighbours are turned together, where transformers has halves of 8.
        rows = [16 * head + 8 * half + pair for head in range(heads) for pair in range(8) for half in (0, 1)]
        np.testing.assert_array_equal(found[f"blk.0.{name}.weight.lora_b"], source.array(f"{stem}B.weight")[rows])
        np.testing.assert_array_equal(found[f"blk.0.{name}.weight.lora_a"], source.array(f"{stem}A.weight"))


def refused(adapter: Path, base: Path, dest: Path) -> str:
    with pytest.raises((UnsupportedFeature, IntegrityError, NotFound)) as caught:
        write_lora_gguf(adapter, base, dest, name="x")
    assert caught.value.remedy
    assert not list(dest.parent.glob("*.gguf*")), "nothing is left behind"
    return caught.value.message


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "use_dora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"r": None}, "`r`"),
        ({"r": 8}, "(4, 64) and (64, 4) for 'model.layers.0.self_attn.q_proj.weight', where (8, 64) and (64, 8)"),
    ],
)
def test_an_unsuitable_adapter_is_refused(base: Path, tmp_path: Path, values: dict[str, Any], cause: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    change(adapter, "adapter_config.json", **values)
    assert cause in refused(adapter, base, tmp_path / "lora.gguf")


A = np.ones((RANK, 64), np.float32)


@pytest.mark.parametrize(
    ("tensors", "cause"),
    [
        ({}, "no tensors"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": A}, "lora_embedding_A"),
        ({"base_model.model.model.embed_tokens.lora_A.weight": A}, "no linear layer for 'model.embed_tokens"),
        ({"base_model.model.model.norm.weight": A[0]}, "no half"),
        ({"base_model.model.model.norm.lora_A.weight": A}, "no linear layer for 'model.norm.weight'"),
        ({"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": A}, "model.layers.7.mlp.up_proj.weight"),
        ({"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": A}, "(4, 64) and nothing for"),
        ({"base_model.model.lm_head.lora_B.weight": A}, "nothing and (4, 64) for 'lm_head.weight'"),
    ],
)
def test_unsuitable_tensors_are_refused(base: Path, tmp_path: Path, tensors: dict[str, Any], cause: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    write_safetensors(adapter / "adapter_model.safetensors", tensors)
    assert cause in refused(adapter, base, tmp_path / "lora.gguf")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(base: Path, tmp_path: Path, name: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    (adapter / name).unlink()
    assert name in refused(adapter, base, tmp_path / "lora.gguf")


def test_another_base_is_refused(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    other = Path(shutil.copytree(base, tmp_path / "other"))
    change(other, "config.json", num_key_value_heads=4)
    assert "k_proj" in refused(adapter, other, tmp_path / "lora.gguf")


@pytest.mark.fault
def test_a_full_disk_is_said_and_leaves_nothing(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    with small_disk(tmp_path / "disk") as disk:
        (disk / "other").write_bytes(bytes(1_030_000))
        with pytest.raises(StorageFull, match="No space"):
            write_lora_gguf(adapter, base, disk / "lora.gguf", name="x")
        assert [path.name for path in disk.iterdir()] == ["other"]
