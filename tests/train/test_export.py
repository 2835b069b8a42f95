"""Exports: transformers, llama.cpp and ours say the same, adapters go both ways, and the files are whole."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.formats import SafetensorsFile, facts, folder_from_gguf, read_header
from tandem.kit.errors import StorageFull
from tandem.spec import Recipe, RunFolder, parse_recipe
from tandem.train.data import Text
from tandem.train.export import export_run
from tandem.train.nets import Llama, NetConfig, add_lora, greedy, load_folder
from tests.formats.engine import ask
from tests.kit.full_disk import small_disk

pytest.importorskip("tokenizers", reason="exports need a tokenizer")

CORPUS = [
    "def add(first, second):\n    return first + second\n",
    "def largest(numbers):\n    best = numbers[0]\n    for number in numbers:\n        best = max(best, number)\n",
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LORA = {"rank": 4, "alpha": 8.0}


def write_text(folder: Path, *, specials: Sequence[str] = SPECIALS, **settings: Any) -> Text:
    """A byte-level BPE vocabulary, learnt from the corpus, with holes up to a multiple of 64."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Text(folder)


def recipe(*, adapter: bool = False, **changes: Any) -> Recipe:
    shape = {"width": 64, "layers": 2, "heads": 1, "kv_heads": 1, "ffn": 96}
    table = {
        "name": "tiny",
        "model": {"parent": "starter@1"} if adapter else {"shape": shape},
        "data": [{"format": "code"}],
        "objective": {"name": "fim"},
        "optimizer": {"lr": 1e-3},
        "batch": {"samples": 1, "context": 64},
        "budget": {"steps": 1},
        "export": {"gguf": "f32"},
    }
    return parse_recipe(table | ({"adapter": LORA} if adapter else {}) | changes, where="test")


def net(*, steps: int = 0, text: Text | None = None, **changes: Any) -> Llama:
    """A net, trained for some steps on the corpus, so that it is sure of what comes next."""
    sizes = {"width": 64, "layers": 2, "heads": 1, "kv_heads": 1, "ffn": 96, "vocab": 320, "context": 64}
    made = Llama(NetConfig(**{**sizes, **changes}))
    made.init_weights(0)
    if text is not None:
        learn(made, text, steps)
    return made


def learn(made: Llama, text: Text, steps: int) -> None:
    rows = [[*text.encode(document), 0] for document in CORPUS]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    counts = torch.tensor([[1.0] * (len(row) - 1) + [0.0] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.Adam([weights for weights in made.parameters() if weights.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (made(ids[:, :-1], ids[:, 1:], counts).sum() / counts.sum()).backward()
        optimizer.step()


def said_by_llama_cpp(
    model: Path, prompts: list[list[int]], *, count: int, lora: Path | None = None
) -> list[list[int]]:
    options = {
        "n_predict": count,
        "temperature": 0.0,
        "return_tokens": True,
        "ignore_eos": False,
        "cache_prompt": False,
    }
    answers = ask(model, [("/completion", {"prompt": prompt, **options}) for prompt in prompts], lora=lora)
    return [answer["tokens"] for answer in answers]


def same_but_for_an_end(ours: list[int], theirs: list[int], *, end: int) -> bool:
    """llama.cpp does not list the token that ended a text."""
    return theirs in (ours, ours[:-1] if ours[-1:] == [end] else ours)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": 256, "heads": 4, "kv_heads": 2, "tie": False, "rope_theta": 500.0},
        {"width": 256, "heads": 2, "kv_heads": 2},
    ],
    ids=["tied", "grouped", "wide heads"],
)
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_trained_model_says_the_same_everywhere(tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    text = write_text(tmp_path / "text", chat_template=TEMPLATE)
    made = net(text=text, steps=40, **changes)
    folder = RunFolder(tmp_path)
    export_run(recipe(export={"gguf": kind}), made, text, folder)
    prompts = [text.encode(prompt).tolist() for prompt in ("def ", "class Point", "    return first", "self")]
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder.export / "hf").eval()
    ours, theirs = [], []
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            torch.testing.assert_close(made(ids), reference(ids).logits, rtol=1e-4, atol=1e-4)
            ours.append(greedy(made, prompt, 24, {0}))
            generated = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
            theirs.append(generated[0, len(prompt) :].tolist())
    assert ours == theirs
    assert len({tuple(said) for said in ours}) > len(prompts) // 2, "it depends on what it is asked"
    engine = said_by_llama_cpp(folder.export / "model.gguf", prompts, count=24)
    for mine, its in zip(ours, engine, strict=True):
        assert same_but_for_an_end(mine, its, end=0)
    again = load_folder(folder.export / "hf")
    assert again.config == made.config
    assert all(torch.equal(weights, made.state_dict()[name]) for name, weights in again.state_dict().items())


def test_the_gguf_says_what_it_can(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", chat_template=TEMPLATE)
    folder = RunFolder(tmp_path)
    export_run(recipe(export={"gguf": "q8_0"}), net(), text, folder)
    header = read_header(folder.export / "model.gguf")
    found = facts(header)
    assert (found["fim"], found["chat_template"], found["quantization"], found["context_length"]) == (
        True,
        True,
        "Q8_0",
        64,
    )
    assert header.metadata["general.name"] == "tiny"


@pytest.mark.parametrize(("spm", "first"), [(0.5, False), (1.0, True)])
def test_the_order_of_gaps_goes_with_the_model(tmp_path: Path, spm: float, first: bool) -> None:
    """Into the GGUF, and from there into the folder of a parent."""
    folder = RunFolder(tmp_path)
    gaps = {"name": "fim", "params": {"spm": spm}}
    export_run(recipe(objective=gaps), net(), write_text(tmp_path / "text"), folder)
    gguf = folder.export / "model.gguf"
    assert facts(read_header(gguf))["fim_suffix_first"] is first
    again = folder_from_gguf(gguf, tmp_path / "parent") / "tokenizer_config.json"
    assert (json.loads(again.read_text()).get("fim_order") == "suffix_first") is first


def test_fill_in_the_middle_works_in_llama_cpp(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    folder = RunFolder(tmp_path)
    export_run(recipe(), net(), text, folder)
    body = {"input_prefix": "def ", "input_suffix": "\n", "n_predict": 2, "temperature": 0.0}
    (answer,) = ask(folder.export / "model.gguf", [("/infill", body)])
    assert answer["tokens_predicted"] == 2
    assert all(token in answer["prompt"] for token in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"))


@pytest.mark.parametrize(
    ("formats", "settings", "end"),
    [
        ("code", {"chat_template": TEMPLATE}, "<|endoftext|>"),
        ("chat", {"chat_template": TEMPLATE}, "<|im_end|>"),
        ("preference", {}, "<|im_end|>"),
        ("questions", {"chat_template": "{{ messages }}<|endoftext|>"}, "<|endoftext|>"),
        ("chat", {"chat_template": "{{ messages }}<|own|>", "eos_token": {"content": "<|own|>"}}, "<|own|>"),
        ("text", {"eos_token": "<|own|>"}, "<|own|>"),
        ("text", {"eos_token": "<|nowhere|>"}, "<|endoftext|>"),
    ],
)
def test_a_model_ends_as_it_was_taught(tmp_path: Path, formats: str, settings: dict[str, Any], end: str) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    text = write_text(tmp_path / "text", specials=[*SPECIALS, "<|own|>"], **settings)
    folder = RunFolder(tmp_path)
    export_run(recipe(data=[{"format": formats}]), net(), text, folder)
    hf = folder.export / "hf"
    expected = text.special(end)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((hf / name).read_text())
        assert (content["eos_token_id"], content["bos_token_id"]) == (expected, 0)
    assert read_header(folder.export / "model.gguf").metadata["tokenizer.ggml.eos_token_id"] == expected
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf)
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token) == (end, "<|endoftext|>", None)
    assert tokenizer.encode("def add<|im_end|>") == [*text.encode("def add"), text.special("<|im_end|>")]
    assert tokenizer.chat_template == settings.get("chat_template")


def test_a_token_to_fill_rows_is_named_where_there_is_one(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", specials=[*SPECIALS, "<|pad|>"])
    folder = RunFolder(tmp_path)
    export_run(recipe(), net(), text, folder)
    assert json.loads((folder.export / "hf" / "config.json").read_text())["pad_token_id"] == 6


def test_a_template_of_its_own_file_is_kept(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    (text.folder / "chat_template.jinja").write_text(TEMPLATE)
    folder = RunFolder(tmp_path)
    export_run(recipe(data=[{"format": "chat"}]), net(), text, folder)
    assert read_header(folder.export / "model.gguf").text("tokenizer.chat_template") == TEMPLATE


def test_an_adapter_goes_with_its_parent_and_merged_without(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", chat_template=TEMPLATE)
    parent = net(text=text, steps=20)
    parents = RunFolder(tmp_path / "parent")
    parents.path.mkdir()
    export_run(recipe(), parent, text, parents)
    before = {name: weights.clone() for name, weights in parent.state_dict().items()}
    spec = recipe(adapter=True).adapter
    assert spec is not None
    add_lora(parent, spec, seed=0)
    learn(parent, text, 20)
    folder = RunFolder(tmp_path / "adapted")
    folder.path.mkdir()
    files = export_run(recipe(adapter=True), parent, text, folder)
    merged = load_folder(folder.export / "hf")
    prompts = [text.encode(prompt).tolist() for prompt in ("def ", "class Point", "self")]
    for prompt in prompts:
        with torch.no_grad():
            ids = torch.tensor([prompt])
            torch.testing.assert_close(merged(ids), parent(ids), rtol=1e-3, atol=1e-3)
    ours = [greedy(parent, prompt, 16, {0}) for prompt in prompts]
    assert ours != said_by_llama_cpp(parents.export / "model.gguf", prompts, count=16)
    adapter = folder.export / "adapter.gguf"
    for engine in (
        said_by_llama_cpp(folder.export / "model.gguf", prompts, count=16),
        said_by_llama_cpp(parents.export / "model.gguf", prompts, count=16, lora=adapter),
    ):
        for mine, its in zip(ours, engine, strict=True):
            assert same_but_for_an_end(mine, its, end=0)
    for name, weights in before.items():
        assert torch.equal(parent.state_dict()[name], weights), "the parent's weights stay as they were"
    assert {name for name in files if name.startswith("adapter")} == {
        "adapter.gguf",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    settings = json.loads((folder.export / "adapter" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 4, 8)
    assert settings["base_model_name_or_path"] == "starter@1"
    names = set(SafetensorsFile(folder.export / "adapter" / "adapter_model.safetensors").entries)
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == 2 * 2 * 7


def test_files_are_told_with_their_digests(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", chat_template=TEMPLATE)
    folder = RunFolder(tmp_path)
    files = export_run(recipe(), net(), text, folder)
    assert set(files) == {"model.gguf"} | {
        f"hf/{name}.json" for name in ("config", "generation_config", "tokenizer", "tokenizer_config")
    } | {"hf/model.safetensors"}
    for name, told in files.items():
        data = (folder.export / name).read_bytes()
        assert told == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder.export / "left behind").write_text("by an attempt that was killed")
    assert export_run(recipe(), net(), text, folder) == files
    assert not (folder.export / "left behind").exists()
    assert [path.name for path in tmp_path.iterdir() if "export" in path.name] == ["export"]


@pytest.mark.fault
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull):
            export_run(recipe(), net(width=256, heads=4, kv_heads=4), text, RunFolder(disk))
        assert list(disk.iterdir()) == []
