"""FLOP of training by the conventions of the field; a utilisation says nothing without its convention and its peak."""

from enum import StrEnum

from tandem.spec.flops import flops_per_token


class Convention(StrEnum):
    """How the model FLOP of a token are counted. N weights, E = vocabulary x width of them the input embedding."""

    A = "A"
    """(6 N + 12 layers width context): MosaicML, PaLM, nanoGPT; full attention, embedding included."""
    B = "B"
    """(6 (N - E) + 12 layers width context): torchtitan; full attention, no input embedding."""
    C = "C"
    """(6 (N - E) + 6 layers width context): NVIDIA Megatron-Bridge; causal attention, no input embedding."""
    SIX_N = "6ND"
    """6 N: the rule of thumb; no attention."""


FORMULAS = {
    Convention.A: "(6 N + 12 layers width context) FLOP per token: full attention, embedding included",
    Convention.B: "(6 (N - E) + 12 layers width context) FLOP per token: full attention, no input embedding",
    Convention.C: "(6 (N - E) + 6 layers width context) FLOP per token: causal attention, no input embedding",
    Convention.SIX_N: "6 N FLOP per token: no attention",
}


def token_flop(
    convention: Convention, *, parameters: int, embedding: int, layers: int, width: int, context: int
) -> float:
    """Model FLOP of one token, forward and backward, of a model of `parameters` weights of which `embedding` are the
    input embedding.
    """
    counted = parameters if convention in {Convention.A, Convention.SIX_N} else parameters - embedding
    if convention is Convention.SIX_N:
        return 6.0 * counted
    full = flops_per_token(parameters=counted, trained=counted, layers=layers, width=width, context=context)
    return full - 6.0 * layers * width * context if convention is Convention.C else full


def lora_token_flop(*, parameters: int, embedding: int) -> float:
    """Model FLOP of one token of training a LoRA adapter, by convention C without attention: frozen weights have no
    gradient of their own, so two passes of three remain: 4 (N - E).
    """
    return 4.0 * (parameters - embedding)


def run_flop(*, parameters: float, tokens: float) -> float:
    """FLOP of a whole run by the rule of thumb 6 N D (arXiv 2001.08361)."""
    return 6.0 * parameters * tokens


def megatron_iteration_flop(*, samples: int, context: int, layers: int, width: int, vocab: int) -> float:
    """Convention D: **hardware** FLOP of an iteration with full recomputation, 96 B S l h^2 (1 + S/6h + V/16lh).

    Source: Megatron-LM SC'21 (arXiv 2104.04473), equation 3.
    """
    inside = 1 + context / (6 * width) + vocab / (16 * layers * width)
    return 96.0 * samples * context * layers * width**2 * inside


def megatron_iteration_model_flop(*, samples: int, context: int, layers: int, width: int, vocab: int) -> float:
    """The model FLOP of convention D: three passes in place of four, the logits never recomputed.

    72 B S l h^2 (1 + S/6h + V/12lh), derived from arXiv 2104.04473.
    """
    inside = 1 + context / (6 * width) + vocab / (12 * layers * width)
    return 72.0 * samples * context * layers * width**2 * inside


def utilisation(*, token_flop: float, tokens_per_s: float, peak_flops: float) -> float:
    """Model FLOP utilisation as a share of 1: of one device's peak where the speed is one device's."""
    return token_flop * tokens_per_s / peak_flops
