"""Recipes: what is trained; the digest of a pinned recipe's canonical form is the identity of the result."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tandem.kit.errors import InvalidRequest
from tandem.kit.ids import sha256_hex
from tandem.kit.typed import converted, read_toml
from tandem.spec.shape import Count, Positive, Shape

# NOTE: recipes and their ids live for ever. Fields are only added, at the end of their table, with a default; what has
# its default is left out of the canonical form, so an added field changes no id, and a default is never changed.

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Digest = Annotated[str, msgspec.Meta(pattern=r"^(sha256:[0-9a-f]{64})?$")]
"""`sha256:` and 64 hexadecimal digits; empty in a recipe that is not pinned yet."""
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e30)]
Parameter = (
    bool
    | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    | Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
    | str
)

Format = Literal["text", "code", "chat", "preference", "questions"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of a recipe: immutable, and nothing in it is unknown."""


class Model(_Table, frozen=True):
    """What is trained: a shape from scratch, or the `parent` version, named like `starter` or `starter@1`."""

    shape: Shape | None = None
    """Sizes of a model that begins from nothing."""
    parent: str = ""
    """The version to begin from."""
    parent_sha256: Digest = ""
    """Digest of the parent's file; the preparation fills it in."""

    def __post_init__(self) -> None:
        if (self.shape is None) == (not self.parent and not self.parent_sha256):
            raise ValueError("a model has either a shape or a parent")


class Tokenizer(_Table, frozen=True):
    """A byte-level BPE vocabulary of `vocab` tokens learnt from the training data; a parent brings its own.

    263 are the bytes and the special tokens alone.
    """

    vocab: Annotated[int, msgspec.Meta(ge=263, le=2**18)] = 4096
    """Tokens at most, control tokens included."""
    pre: Literal["gpt-2", "smollm"] = "gpt-2"
    """How text is split before BPE, by llama.cpp's name for it."""
    sha256: Digest = ""
    """Digest of the tokenizer's files; the preparation fills it in."""


class Data(_Table, frozen=True):
    """One source of training data: `stdlib:`, `file:PATH`, `folder:PATH` or `hf:org/name`.

    `weight` is how often an epoch holds each sample: 2 twice, 0.5 every other one.
    """

    format: Format
    """What a record is; each objective takes some of them."""
    source: str = ""
    """Where the records are."""
    weight: Positive = 1.0
    """How often an epoch holds each sample."""
    license: str = ""
    """Under which licence you may use them; carried into the lineage of the model."""
    include: tuple[str, ...] = ()
    """Patterns of the file names in a folder; by default those of the format."""
    limit: Whole = 0
    """At most so many records, evenly chosen by their digests; 0 is all."""
    sha256: Digest = ""
    """Digest of the prepared data; the preparation fills it in."""


class Curation(_Table, frozen=True):
    """What is done to the records before they are split: exact duplicates always go."""

    near_duplicates: Share = 0.85
    """Least estimated Jaccard similarity of word 5-grams at which two documents are one; 0 keeps them all."""
    held_out: Share = 0.02
    """Share of the files (records, for JSON lines) that is never trained on, chosen by digest."""


class Objective(_Table, frozen=True):
    """What is learnt, by name, and its parameters, which that objective checks."""

    name: Name
    """`lm`, `fim`, `sft`, `dpo`, or one that another package offers."""
    params: dict[str, Parameter] = msgspec.field(default_factory=dict)
    """Its parameters, see below."""


class Lora(_Table, frozen=True):
    """A low-rank adapter: W + alpha/rank * B A on the named linear layers, all else frozen (arXiv 2106.09685)."""

    rank: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    """Rows of A and columns of B."""
    alpha: Positive = 32.0
    """Its strength: what it adds is multiplied by alpha / rank."""
    targets: tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Which linear layers get one."""


class Optimizer(_Table, frozen=True):
    """How weights move. `muon` takes the matrices of the layers, AdamW the rest; `lr` is AdamW's peak rate."""

    lr: Positive
    """Peak rate of AdamW."""
    name: Literal["adamw", "muon"] = "adamw"
    """Who moves the matrices of the layers."""
    muon_lr: Positive = 0.02
    """Peak rate of Muon."""
    weight_decay: NotNegative = 0.1
    """How much matrices shrink, per rate; norms do not."""
    beta1: Share = 0.9
    """Memory of AdamW's mean."""
    beta2: Share = 0.95
    """Memory of AdamW's mean square."""
    eps: Positive = 1e-8
    """What AdamW adds to the root of it."""
    clip: NotNegative = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the rates go down after the warm-up; `wsd` stays at the peak and falls at the end."""
    warmup_steps: Whole = 0
    """Steps in which the rates rise to their peak."""
    final_share: Share = 0.1
    """The last rate as a share of the peak rate."""
    decay_share: Share = 0.2
    """Share of the steps in which `wsd` decays."""


class Batch(_Table, frozen=True):
    """`samples` sequences in each step, each of at most `context` tokens."""

    samples: Count
    """Sequences in a step, over all workers."""
    context: Count
    """Most tokens of a sequence, and what the model is made for."""


class Budget(_Table, frozen=True):
    """How much is trained: exactly one of these. FLOP are counted by convention A: 6 N + 12 layers width context."""

    steps: Whole = 0
    """Steps of the optimizer."""
    tokens: Whole = 0
    """Tokens, padding included."""
    epochs: NotNegative = 0.0
    """Times through the data, weights included."""
    flop: NotNegative = 0.0
    """Floating-point operations of the model."""

    def __post_init__(self) -> None:
        if sum(bool(value) for value in (self.steps, self.tokens, self.epochs, self.flop)) != 1:
            raise ValueError("a budget is exactly one of steps, tokens, epochs and flop")


class Evaluation(_Table, frozen=True):
    """What is measured on held-out data while training and at its end."""

    every: Whole = 0
    """Steps between two evaluations; 0 measures ten times in a run."""
    samples: Count = 128
    """Held-out samples that the loss is measured on."""
    tasks: tuple[Literal["infill", "margin", "answers"], ...] = ()
    """Tasks at the end: `infill` of held-out code, `margin` of held-out preferences, `answers` of held-out chats."""
    task_samples: Count = 64
    """Held-out samples of each task."""


class Export(_Table, frozen=True):
    """What files a finished run makes besides the Hugging Face folder."""

    gguf: Literal["f32", "f16", "q8_0"] = "f16"
    """How the weights in the GGUF file are stored."""


class Recipe(_Table, frozen=True):
    """What is trained. Where that happens is the placement's."""

    name: Name
    """Name of the model whose version the result becomes."""
    model: Model
    """From nothing or from a parent."""
    data: Annotated[tuple[Data, ...], msgspec.Meta(min_length=1, max_length=64)]
    """One or more sources."""
    objective: Objective
    """What is learnt."""
    optimizer: Optimizer
    """How the weights move."""
    batch: Batch
    """What goes into a step."""
    budget: Budget
    """How much is trained."""
    about: str = ""
    """For people, in a sentence."""
    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens, for a model from nothing."""
    curation: Curation = Curation()
    """What is done to the records first."""
    adapter: Lora | None = None
    """Train an adapter in place of all weights."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """The least that products of matrices need. Weights and sums are fp32 always; a machine that is not faster in
    bf16 computes a bf16 recipe in fp32."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Of the first weights, the order of the samples, and everything else that is drawn."""
    evaluation: Evaluation = Evaluation()
    """What is measured on held-out data."""
    export: Export = Export()
    """What files the result is."""

    def __post_init__(self) -> None:
        if self.adapter is not None and self.model.shape is not None:
            raise ValueError("an adapter needs a parent: the weights under it stay as they are")

    @property
    def pinned(self) -> bool:
        """Whether everything that the result depends on is named by its digest."""
        digests = [self.tokenizer.sha256, *(data.sha256 for data in self.data)]
        if self.model.shape is None:
            digests.append(self.model.parent_sha256)
        return all(digests)


def load_recipe(path: Path, changes: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe file (TOML) with `changes` made to it: values in TOML by dotted key, as `optimizer.lr` = `3e-4`.

    Raises:
        InvalidRequest: no such file, not TOML, or not a recipe; the message names the key.
    """
    table = read_toml(path, what="the recipe")
    for key, value in (changes or {}).items():
        _change(table, key, value)
    return parse_recipe(table, where=str(path))


def parse_recipe(table: object, *, where: str) -> Recipe:
    """A recipe from plain tables, as TOML or JSON decode to.

    Raises:
        InvalidRequest: it is not one; the message names `where` and the key.
    """
    return converted(table, Recipe, what="the recipe", where=where, page="docs/reference/recipes.md")


def canonical(recipe: Recipe) -> bytes:
    """The recipe as JSON with sorted keys, without what does not change the result: names, sources, licences.

    Raises:
        ValueError: the recipe is not pinned.
    """
    if not recipe.pinned:
        raise ValueError("only a pinned recipe has a canonical form")
    plain = _said(recipe)
    for key in ("name", "about", "curation"):  # the curation has made the data whose digests are here
        plain.pop(key, None)
    plain["model"].pop("parent", None)
    for data in plain["data"]:
        for key in ("source", "license", "include", "limit"):
            data.pop(key, None)
    if "tokenizer" in plain:
        plain["tokenizer"] = {"sha256": recipe.tokenizer.sha256}
    return msgspec.json.encode(plain, order="sorted")


def recipe_id(recipe: Recipe) -> str:
    """The identity of the result: `sha256:` and the digest of the canonical form.

    Raises:
        ValueError: the recipe is not pinned.
    """
    return f"sha256:{sha256_hex(canonical(recipe))}"


def _said(table: msgspec.Struct) -> dict[str, Any]:
    """What a table says beyond its defaults, as plain values. msgspec leaves out only those that nobody wrote: it
    compares identities.
    """
    said = {}
    for field in msgspec.structs.fields(table):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if (value := getattr(table, field.name)) != default:
            said[field.name] = _plain(value)
    return said


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _said(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _change(table: dict[str, Any], key: str, value: str) -> None:
    """Set a dotted key of nested tables; a number is an index into a list of tables."""
    *way, last = key.split(".")
    place: Any = table
    for part in way:
        place = place[int(part)] if isinstance(place, list) and _indexes(place, part) else _deeper(place, part, key)
    if not isinstance(place, dict):
        raise _no_key(key)
    try:
        place[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        place[last] = value  # bare words are text: objective.name=lm


def _indexes(place: list[Any], part: str) -> bool:
    return part.isdecimal() and int(part) < len(place)


def _deeper(place: Any, part: str, key: str) -> Any:
    if not isinstance(place, dict):
        raise _no_key(key)
    return place.setdefault(part, {})


def _no_key(key: str) -> InvalidRequest:
    return InvalidRequest(
        f"{key!r} names no place in the recipe.", remedy="Write it like optimizer.lr=3e-4 or data.0.weight=2."
    )
