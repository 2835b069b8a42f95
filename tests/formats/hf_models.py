"""Tiny Hugging Face folders with random weights, made by transformers itself."""

import json
from pathlib import Path
from typing import Any

WORDS = ["def", "return", "the", "number", "of", "12", "345", "naïve", "🙂", "\n", "    ", "(x)", "World", "\t"]


def write_llama(folder: Path, *, digits: bool = True, dtype: str = "float32", **config: Any) -> Path:
    """A `LlamaForCausalLM` with its byte-level BPE tokenizer, trained on a few words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    individual = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([individual, byte_level]) if digits else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    tokenizer.add_tokens(["<plain>"])
    size = tokenizer.get_vocab_size() + 3  # holes at the end, as rounded-up vocabularies have them
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, **{**shape, **config}))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" in name or "bias" in name:  # ones and zeros would hide a wrong mapping
                weights.add_(torch.randn_like(weights) * 0.2)
            else:
                weights.mul_(8)  # logits that differ
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_bert(folder: Path, **config: Any) -> Path:
    """A `BertModel` with a WordPiece vocabulary of a few words and letters."""
    import torch
    from transformers import BertConfig, BertModel

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters), "the", "##ing", "naive", "!", ","]
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    model = BertModel(BertConfig(vocab_size=len(tokens), **{**shape, **config}))
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * 0.1)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return folder


def change(folder: Path, name: str, **values: Any) -> None:
    """Change keys of a JSON file of the folder; None removes one."""
    path = folder / name
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
