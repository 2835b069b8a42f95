"""A vocabulary of bytes and a few longer tokens, and the smallest model that looks back: enough for an objective."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.train.nets import Llama, NetConfig

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|pad|>",
]
# Halves of characters are tokens too, as byte-level BPE has them.
_LONGER = [b"def ", b"return ", b"    ", b"\n    ", b"()", "🙂".encode()[:2], "🙂".encode()[1:3], "é".encode()]


class ByteText:
    """As `tandem.train.data.Text`, with ChatML for chats."""

    def __init__(self, *, specials: Sequence[str] = SPECIALS) -> None:
        self._specials = list(specials)
        self._tokens = [*(bytes([value]) for value in range(256)), *_LONGER]
        self._first = len(self._specials)
        self._ids = {token: self._first + place for place, token in enumerate(self._tokens)}
        self.size = self._first + len(self._tokens)
        self.end = self._specials.index("<|endoftext|>")

    def encode(self, text: str) -> NDArray[np.int32]:
        data, ids = text.encode(), []
        while data:
            longest = next(data[:size] for size in range(7, 0, -1) if data[:size] in self._ids)
            ids.append(self._ids[longest])
            data = data[len(longest) :]
        return np.array(ids, dtype=np.int32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        parts = (self._tokens[i - self._first] if i >= self._first else self._specials[i].encode() for i in ids)
        return b"".join(parts)

    def byte_counts(self) -> NDArray[np.int32]:
        return np.array([0] * self._first + [len(token) for token in self._tokens], dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def special(self, token: str) -> int | None:
        return self._specials.index(token) if token in self._specials else None

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        ids: list[int] = []
        weights: list[float] = []
        start, end = self._specials.index("<|im_start|>"), self._specials.index("<|im_end|>")
        for message in messages:
            head = [start, *self.encode(message["role"] + "\n")]
            said = [*self.encode(message["content"]), end]
            newline = self.encode("\n").tolist()
            ids += [*head, *said, *newline]
            weights += [0.0] * len(head) + [float(message["role"] == "assistant")] * len(said) + [0.0]
        return np.array(ids, dtype=np.int32), np.array(weights, dtype=np.float32)


class Looking(torch.nn.Module):
    """Each token from the mean of those up to it: causal, and different for every order of them. float64."""

    def __init__(self, vocabulary: int, *, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(vocabulary, width, dtype=torch.float64)
        self.out = torch.nn.Linear(2 * width, vocabulary, dtype=torch.float64)

    def forward(
        self,
        ids: torch.Tensor,
        targets: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.embedding(ids)
        counts = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)[:, None]
        logits = self.out(torch.cat([x, x.cumsum(dim=1) / counts], dim=-1))
        if targets is None or weights is None:
            return logits
        picked = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        return -(picked * weights).sum(dim=1)


def untrained(vocabulary: int, *, context: int) -> Llama:
    """The smallest real net."""
    net = Llama(NetConfig(width=64, layers=1, heads=1, kv_heads=1, ffn=64, vocab=vocabulary, context=context))
    net.init_weights(0)
    return net


def stacked(examples: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, torch.Tensor]:
    """Examples as the loop stacks them."""
    batch = {}
    for key in examples[0]:
        arrays = [one[key] for one in examples]
        both = np.zeros((len(arrays), max(map(len, arrays))), dtype=arrays[0].dtype)
        for row, array in zip(both, arrays, strict=True):
            row[: len(array)] = array
        tensor = torch.from_numpy(both)
        batch[key] = tensor.long() if tensor.dtype == torch.int32 else tensor
    return batch


def gradient(model: torch.nn.Module, losses: Iterable[Any]) -> torch.Tensor:
    """The sum of the losses' gradients over the sum of their units, as one vector."""
    model.zero_grad()
    units = 0.0
    for lost in losses:
        lost.total.backward()
        units += float(lost.units)
    return torch.cat([weights.grad.flatten() for weights in model.parameters()]) / units
