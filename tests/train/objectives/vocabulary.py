"""A real byte-level BPE vocabulary, small, with the control tokens that new tokenizers have."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.train.objectives.stand_ins import SPECIALS

WORDS = ["def", "return self", "    ", "\n        ", "():\n", "naïve", "🙂", "🙃", "print(x)", "== 'é'", "import os\n"]


def write_tokenizer(folder: Path) -> Path:
    """tokenizer.json and tokenizer_config.json of about 330 tokens, some of which hold parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
