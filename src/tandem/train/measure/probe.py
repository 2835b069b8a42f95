"""What this machine computes: a second of measured products of matrices decides the precision and names the peak."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

# Dense bf16 peaks in FLOP/s from the makers' data sheets, by a part of the device's name.
_GPU_PEAKS = (
    ("H200", 989.5e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.5e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10G", 70e12),
)
_TRIAL_S = 0.15
_TRIAL_TOKENS, _TRIAL_WIDTH = 1024, 256  # of a model that is not known yet
_SIDE = 768  # of the square matrices whose product is the peak: out of every cache's comfort, 1 GFLOP


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was found. `peak_flops` is in FLOP/s, and `peak_name` says of what and how it is known."""

    device: str
    bf16_gain: float
    """Speed of bf16 over that of fp32 at the model's own shapes, forward and backward; above 1 it pays."""
    peak_flops: float
    peak_name: str
    threads: int


def probe(device: torch.device, *, tokens: int, width: int, ffn: int) -> Machine:
    """Measure products of the shapes that a feed-forward layer has: [tokens, width] times [width, ffn]."""
    if device.type == "cuda":
        return _gpu(device)
    gain = _bf16_gain(min(tokens, 1024), width, ffn)
    fp32 = _best_flops(torch.float32)
    peak, kind = fp32, "fp32"
    if gain > 1.0:
        peak, kind = max((_best_flops(torch.bfloat16), "bf16"), (fp32, "fp32"))
    threads = torch.get_num_threads()
    name = f"measured {kind} GEMM {_SIDE}x{_SIDE}x{_SIDE}, {threads} threads"
    return Machine(device="cpu", bf16_gain=gain, peak_flops=peak, peak_name=name, threads=threads)


def probe_main() -> int:
    """Write what this machine computes to the standard output, as JSON; by products of a small model's shapes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = probe(device, tokens=_TRIAL_TOKENS, width=_TRIAL_WIDTH, ffn=4 * _TRIAL_WIDTH)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 0


def _gpu(device: torch.device) -> Machine:
    name = torch.cuda.get_device_name(device)
    known = next((peak for part, peak in _GPU_PEAKS if part in name), None)
    peak = known or _best_flops(torch.bfloat16, device=device, side=8192)
    source = "data sheet, dense bf16" if known else "measured bf16 GEMM 8192x8192x8192"
    return Machine(device=name, bf16_gain=2.0, peak_flops=peak, peak_name=f"{name}, {source}", threads=1)


def _bf16_gain(tokens: int, width: int, ffn: int) -> float:
    """How much faster a layer's three products are in bf16. A processor without the instructions emulates them, up to
    500 times slower (pytorch/pytorch#146508), so a small trial comes first and can end it.
    """
    with torch.random.fork_rng(devices=[]):
        small = {kind: _layer_seconds(kind, 64, 256, 256) for kind in (torch.float32, torch.bfloat16)}
        if small[torch.bfloat16] > 4 * small[torch.float32]:
            return small[torch.float32] / small[torch.bfloat16]
        seconds = {kind: _layer_seconds(kind, tokens, width, ffn) for kind in (torch.float32, torch.bfloat16)}
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _layer_seconds(kind: torch.dtype, tokens: int, width: int, ffn: int) -> float:
    """The forward product and both backward layouts; that of the weight gradient is what leaves the fast path."""
    x_TD = torch.randn(tokens, width).to(kind)
    w_FD = torch.randn(ffn, width).to(kind)
    g_TF = torch.randn(tokens, ffn).to(kind)

    def products() -> None:
        torch.mm(x_TD, w_FD.t())
        torch.mm(g_TF, w_FD)
        torch.mm(g_TF.t(), x_TD)

    return _quickest(products)


def _best_flops(kind: torch.dtype, *, device: torch.device | None = None, side: int = _SIDE) -> float:
    a = torch.ones(side, side, dtype=kind, device=device)

    def product() -> None:
        torch.mm(a, a)
        if a.is_cuda:
            torch.cuda.synchronize()

    return float(2 * side**3 / _quickest(product))


def _quickest(work: Callable[[], None]) -> float:
    """Seconds of the quickest of the repetitions that fit the time of a trial, after one that does not count."""
    work()
    best = float("inf")
    stop = time.perf_counter() + _TRIAL_S
    while True:
        began = time.perf_counter()
        work()
        ended = time.perf_counter()
        best = min(best, ended - began)
        if ended > stop:
            return best
