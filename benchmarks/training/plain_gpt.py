"""The yardstick of small training: a plain PyTorch loop with nanoGPT's CPU configuration for characters.

Four layers, 128 wide, context 64, batch 12, 2,000 steps of AdamW (https://github.com/karpathy/nanoGPT, README, "I only
have a macbook"); learned positions, LayerNorm, GELU, tied embeddings, fp32. Prints JSON lines {step, seconds, tokens,
loss}; `seconds` are those of training alone, `loss` is measured on all of the validation text.

Run: python plain_gpt.py TEXT STEPS
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 4, 128, 4, 64, 12
PEAK_RATE, LAST_RATE, WARMUP = 1e-3, 1e-4, 100
EVALUATIONS = 10


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm and beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, WIDTH] to the same."""
        batch, time_, _ = x.shape
        q, k, v = (
            part.view(batch, time_, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).split(WIDTH, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time_, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    """A decoder with learned positions and tied embeddings."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weights in self.named_parameters():
            if weights.dim() > 1:
                scale = 0.02 / math.sqrt(2 * LAYERS) if name.endswith(("out.weight", "down.weight")) else 0.02
                nn.init.normal_(weights, std=scale)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of [B, T] targets."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.words.weight.t()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to the last rate."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / max(1, steps - WARMUP)
    return LAST_RATE + 0.5 * (1 + math.cos(math.pi * share)) * (PEAK_RATE - LAST_RATE)


@torch.no_grad()
def validation_loss(model: GPT, data: torch.Tensor) -> float:
    """Over all windows side by side."""
    windows = (len(data) - 1) // CONTEXT
    ids = data[: windows * CONTEXT].view(windows, CONTEXT)
    targets = data[1 : windows * CONTEXT + 1].view(windows, CONTEXT)
    parts = [(len(i), model(i, t).item()) for i, t in zip(ids.split(256), targets.split(256), strict=True)]
    return sum(count * loss for count, loss in parts) / windows


def main(text: str, steps: int) -> None:
    """Train, and measure ten times on the way."""
    torch.manual_seed(1337)
    characters = sorted(set(text))
    data = torch.tensor([characters.index(character) for character in text])
    train, held = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]
    model = GPT(len(characters))
    matrices = [weights for weights in model.parameters() if weights.dim() > 1]
    vectors = [weights for weights in model.parameters() if weights.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.99))
    seconds = 0.0
    for step in range(steps):
        began = time.perf_counter()
        starts = torch.randint(len(train) - CONTEXT, (BATCH,)).tolist()
        ids = torch.stack([train[start : start + CONTEXT] for start in starts])
        targets = torch.stack([train[start + 1 : start + 1 + CONTEXT] for start in starts])
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        model(ids, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - began
        if (step + 1) % max(1, steps // EVALUATIONS) == 0:
            loss = validation_loss(model, held)
            print(
                json.dumps(
                    {"step": step + 1, "seconds": seconds, "tokens": (step + 1) * BATCH * CONTEXT, "loss": loss}
                ),
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text(), int(sys.argv[2]))
