"""Published models, and the packaged catalogue, for the tests of serving."""

import csv
from importlib.resources import files
from pathlib import Path

from tandem.plan import Catalogue, Cluster, ModelSize, parse_catalogue

TABLES = Path(__file__).parent.parent / "tables"

LLAMA_3_8B = ModelSize(
    layers=32, width=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256, context=131072, tie=False, name="llama-3-8b"
)
LLAMA_3_70B = ModelSize(
    layers=80, width=8192, heads=64, kv_heads=8, ffn=28672, vocab=128256, context=131072, tie=False, name="llama-3-70b"
)
LLAMA_3_405B = ModelSize(
    layers=126,
    width=16384,
    heads=128,
    kv_heads=8,
    ffn=53248,
    vocab=128256,
    context=131072,
    tie=False,
    name="llama-3-405b",
)
LLAMA_7B = ModelSize(
    layers=32, width=4096, heads=32, kv_heads=32, ffn=11008, vocab=32000, context=4096, tie=False, name="llama-7b"
)
LLAMA_2_70B = ModelSize(
    layers=80, width=8192, heads=64, kv_heads=8, ffn=28672, vocab=32000, context=4096, tie=False, name="llama-2-70b"
)
MODELS = {model.name: model for model in (LLAMA_3_8B, LLAMA_3_70B, LLAMA_3_405B, LLAMA_7B, LLAMA_2_70B)}


def catalogue() -> Catalogue:
    """The packaged one."""
    return parse_catalogue((files("tandem.plan") / "catalogue.toml").read_text(encoding="utf-8"), where="the package")


def cluster(name: str = "h100-cloud", *, hosts: int | None = None) -> Cluster:
    return catalogue().cluster(name, hosts=hosts)


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a table of published figures."""
    with (TABLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
