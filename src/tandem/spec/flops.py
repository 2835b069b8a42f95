"""Model FLOP as recipes count them: what a token costs, forward and backward, by one convention for all."""

CONVENTION = "A: (6 N + 12 layers width context) FLOP per token, embedding included; 4 N with frozen weights"
"""How model FLOP are counted, as MosaicML, PaLM and nanoGPT do; frozen weights have no gradient of their own."""


def flops_per_token(*, parameters: int, trained: int, layers: int, width: int, context: int) -> float:
    """Model FLOP of one token, forward and backward, by `CONVENTION`."""
    frozen = parameters - trained
    return 6.0 * trained + 4.0 * frozen + 12.0 * layers * width * context
