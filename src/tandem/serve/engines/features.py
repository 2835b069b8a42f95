"""What llama.cpp's server can do with a model, derived from what the model's file says of itself."""

from tandem.serve.engines.port import Capabilities, Feature, Launch
from tandem.spec import Task

# llama.cpp rounds each request's context up to this (GGML_PAD of n_ctx_seq in llama-context.cpp).
_CELL_TOKENS = 256

FACTS = ("chat_template", "tools", "fim", "fim_suffix_first", "context_length", "pooling", "embedding_length")
"""The facts of a model that an engine is told by `Launch.facts`."""

_GENERATION = frozenset(
    {
        Feature.COMPLETIONS,
        Feature.JSON_SCHEMA,
        Feature.LOGPROBS,
        Feature.LOGIT_BIAS,
        Feature.SEED,
        Feature.STOP,
        Feature.CHOICES,
        Feature.PENALTIES,
        Feature.ADAPTERS,
    }
)


def llamacpp_capabilities(launch: Launch) -> Capabilities:
    """The capabilities of llama.cpp's server with this model and these options.

    Facts used: `chat_template`, `tools`, `fim` and `fim_suffix_first` (booleans), `context_length` (tokens it was made
    for).
    Tools need a template with a place for them: without, the server ignores them silently.
    """
    facts = launch.facts
    if launch.task is Task.EMBED:
        features = frozenset({Feature.EMBEDDINGS})
    else:
        optional = {
            Feature.CHAT: facts.get("chat_template"),
            Feature.TOOLS: facts.get("chat_template") and facts.get("tools"),
            Feature.FIM: facts.get("fim"),
            Feature.FIM_SUFFIX_FIRST: facts.get("fim") and facts.get("fim_suffix_first"),
        }
        features = _GENERATION | {feature for feature, present in optional.items() if present}
    return Capabilities(features=features, context_tokens=usable_context(launch), parallel=launch.parallel)


def usable_context(launch: Launch) -> int:
    """Tokens for one request: what was asked for in whole cells, at most what the model was made for."""
    cells = -(-launch.context_tokens // _CELL_TOKENS) * _CELL_TOKENS
    made_for = launch.facts.get("context_length")
    return min(cells, made_for) if isinstance(made_for, int) and made_for > 0 else cells
