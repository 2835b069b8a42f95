"""One copy of a model that answers: what it holds in memory, and how long a step of decoding and a prompt take it."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster, Precision
from tandem.plan.model import ModelSize

Format = Literal["f32", "f16", "bf16", "q8_0", "fp8"]
"""How weights, or keys and values, are stored."""


class _Stored(NamedTuple):
    bytes_each: float
    computed_in: tuple[Precision, ...]
    """The first that a device has units for."""


FORMATS: dict[Format, _Stored] = {
    "f32": _Stored(4.0, ("fp32",)),
    "f16": _Stored(2.0, ("fp16", "bf16", "fp32")),
    "bf16": _Stored(2.0, ("bf16", "fp16", "fp32")),
    # ggml's blocks: 32 weights of one byte and a scale of two. They are computed in 16 bits.
    "q8_0": _Stored(34 / 32, ("fp16", "bf16", "fp32")),
    # Where a device has no units for it, the weights are read in 8 bits and computed in 16 (vLLM's fp8 on Ampere).
    "fp8": _Stored(1.0, ("fp8", "bf16", "fp16")),
}
"""Bytes of a stored number, and what it is computed in."""

_WIRE_BYTES = 2  # of a channel between devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What an engine reaches of its hardware.

    Fitted on the 20 rows of 8B and 70B on H100 of TensorRT-LLM 1.0's published throughputs; docs/reference/planner.md
    shows them beside the 40 other rows.
    """

    memory_share: float = 0.85
    """Of the memory's bandwidth, while weights, keys and values are read."""
    compute_share: float = 0.55
    """Of the dense peak, in products of many tokens."""
    layer_s: float = 50e-6
    """For each layer and step, whatever the batch: launches and scheduling."""
    hop_s: float = 25e-6
    """For each exchange between devices, whatever its size."""
    room_share: float = 0.9
    """Of the devices' memory, what weights, keys and values may take: vLLM's default."""
    largest_batch: int = 256
    """Requests that are answered at once: vLLM's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One copy of a model on `tensor` devices of a host side by side, and on `stages` hosts one behind the other."""

    model: ModelSize
    cluster: Cluster
    tensor: int = 1
    stages: int = 1
    weights: Format = "bf16"
    cache: Format = "bf16"
    engine: Engine = field(default_factory=Engine)
    factor_ratio: float = 1.0
    """Measured by predicted time on this system."""

    @property
    def devices(self) -> int:
        """All of the replica's."""
        return self.tensor * self.stages

    @property
    def computed_in(self) -> Precision:
        """What products with the weights are computed in.

        Raises:
            InvalidRequest: the device has no units for this format.
        """
        return _units(self.cluster, self.weights)

    @property
    def weights_bytes(self) -> float:
        """All weights; a tied output layer is kept once."""
        return self.model.parameters * FORMATS[self.weights].bytes_each

    @property
    def token_cache_bytes(self) -> float:
        """Keys and values of one token on all devices; more devices than heads of keys and values keep copies."""
        copies = max(1.0, self.tensor / self.model.kv_heads)
        return 2 * self.model.layers * self.model.kv_width * FORMATS[self.cache].bytes_each * copies

    @property
    def room_bytes(self) -> float:
        """What is left for keys and values; negative where the weights alone do not fit."""
        memory_bytes = self.devices * self.cluster.accelerator.memory_bytes
        return memory_bytes * self.engine.room_share - self.weights_bytes

    def batch_limit(self, held_tokens: float) -> int:
        """Requests that fit side by side where each holds so many tokens, as far as the engine takes them."""
        fits = self.room_bytes / (self.token_cache_bytes * held_tokens)
        return max(0, min(self.engine.largest_batch, int(fits)))

    def step_s(self, batch: int, *, read_tokens: float) -> float:
        """One new token for each of `batch` requests that look back at `read_tokens` tokens.

        A roofline (Williams et al. 2009, for inference arXiv 2211.05102): the products read all weights once and
        compute for each request, whichever takes longer; attention reads each request's own keys and values. With
        stages, a part of the batch is in each of them, so that a token passes all stages while the weights of all
        are read once for each part.
        """
        part = max(1.0, batch / self.stages)
        products_s = max(self._read_s(self._read_weights_bytes), self._compute_s(part * self._token_flop))
        attention_flop = 4 * self.model.layers * self.model.width * read_tokens
        attention_s = max(
            self._read_s(part * read_tokens * self.token_cache_bytes),
            self._attention_s(part * attention_flop),
        )
        fixed_s = self.engine.layer_s * self.model.layers
        return (products_s + attention_s + self._exchange_s(part) + fixed_s) * self.factor_ratio

    def prompt_s(self, prompt_tokens: float, *, cached_share: float = 0.0) -> float:
        """From a prompt to the first token of its answer, on an idle replica; only what is not cached is computed."""
        fresh_tokens = prompt_tokens * (1 - cached_share)
        computed_s = self._prompt_computed_s(prompt_tokens, fresh_tokens)
        bound_s = max(computed_s, self._read_s(self._read_weights_bytes))
        fixed_s = self.engine.layer_s * self.model.layers
        return (bound_s + self._exchange_s(fresh_tokens) + fixed_s) * self.factor_ratio

    def prompt_busy_s(self, prompt_tokens: float, *, cached_share: float = 0.0) -> float:
        """What a prompt takes from the other requests: it is mixed into their steps, which read the weights anyway
        (Sarathi, arXiv 2308.16369), and with stages it is in one of them at a time.
        """
        fresh_tokens = prompt_tokens * (1 - cached_share)
        moved_s = self._exchange_s(fresh_tokens) - self._exchange_s(0)
        return (self._prompt_computed_s(prompt_tokens, fresh_tokens) + moved_s) / self.stages * self.factor_ratio

    def _prompt_computed_s(self, prompt_tokens: float, fresh_tokens: float) -> float:
        output_flop = 2.0 * self.model.embedding_parameters
        products_flop = fresh_tokens * (self._token_flop - output_flop) + output_flop
        # Each fresh token looks at all before it: the cached ones and half of the fresh.
        seen_tokens = prompt_tokens - fresh_tokens / 2
        attention_flop = 4 * self.model.layers * self.model.width * seen_tokens * fresh_tokens
        return self._compute_s(products_flop) + self._attention_s(attention_flop)

    @property
    def _token_flop(self) -> float:
        """Products of one token, forward: two FLOP for each weight that is multiplied; the input table is looked up."""
        return 2.0 * (self.model.layers * self.model.layer_parameters + self.model.embedding_parameters)

    @property
    def _read_weights_bytes(self) -> float:
        """What a step reads: all but the input table, of which it looks up some rows."""
        return self._token_flop / 2 * FORMATS[self.weights].bytes_each

    def _read_s(self, amount_bytes: float) -> float:
        speed = self.tensor * self.cluster.accelerator.memory_bytes_per_s * self.engine.memory_share
        return amount_bytes / speed

    def _compute_s(self, amount_flop: float) -> float:
        return self._flop_s(amount_flop, self.computed_in)

    def _attention_s(self, amount_flop: float) -> float:
        """Attention is computed in 16 bits even where the products are in 8."""
        return self._flop_s(amount_flop, _units(self.cluster, "f32" if self.weights == "f32" else "bf16"))

    def _flop_s(self, amount_flop: float, precision: Precision) -> float:
        peak = self.cluster.accelerator.peak_of(precision)
        return amount_flop / (self.tensor * peak * self.engine.compute_share)

    def _exchange_s(self, tokens: float) -> float:
        """Two sums over the devices for each layer (arXiv 1909.08053), and a hand-over at each stage's end."""
        host, layers, width = self.cluster.host, self.model.layers, self.model.width
        moved_bytes = tokens * width * _WIRE_BYTES
        total_s = 0.0
        if self.tensor > 1:
            ring_bytes = 2 * (self.tensor - 1) / self.tensor * moved_bytes
            total_s += 2 * layers * (self.engine.hop_s + ring_bytes / host.inside_bytes_per_s)
        if self.stages > 1:
            total_s += self.stages * (self.engine.hop_s + moved_bytes / host.between_bytes_per_s)
        return total_s


def _units(cluster: Cluster, stored: Format) -> Precision:
    peaks = cluster.accelerator.peak_flops
    for precision in FORMATS[stored].computed_in:
        if precision in peaks:
            return precision
    usable = [name for name, one in FORMATS.items() if set(one.computed_in) & set(peaks)]
    raise InvalidRequest(
        f"The accelerator {cluster.accelerator.name} computes {', '.join(sorted(peaks))}; none suits {stored}.",
        remedy=f"Serve the weights as {', '.join(usable) or 'a format that it has'}.",
        param="weights",
    )
