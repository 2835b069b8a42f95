"""Published runs as the planner sees them: jobs, layouts and clusters from the tables, and what they reached."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from tandem.plan import Catalogue, Cluster, Convention, ModelSize, parse_catalogue
from tandem.plan.layout import Job, Layout, StepTime, memory_of, step_time

_HOSTS = {"h100-80": "8xh100", "a100-80": "8xa100-80", "a100-40": "8xa100-40"}

TABLES = Path(__file__).parent / "tables"

LLAMA = {
    "8b": ModelSize(
        layers=32, width=4096, heads=32, kv_heads=8, ffn=14336, vocab=128_256, context=8192, tie=False, name="8b"
    ),
    "70b": ModelSize(
        layers=80, width=8192, heads=64, kv_heads=8, ffn=28672, vocab=128_256, context=8192, tie=False, name="70b"
    ),
    "405b": ModelSize(
        layers=126, width=16384, heads=128, kv_heads=8, ffn=53248, vocab=128_256, context=8192, tie=False, name="405b"
    ),
}
"""Llama 3's sizes: meta-llama's config.json files."""


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table, each with its source."""
    return list(csv.DictReader((TABLES / f"{name}.csv").read_text().splitlines()))


def catalogue() -> Catalogue:
    """The one that ships."""
    return parse_catalogue((files("tandem.plan") / "catalogue.toml").read_text(), where="catalogue.toml")


def gpt(*, layers: int, width: int, heads: int, vocab: int, context: int) -> ModelSize:
    """A GPT as a gated model with as many weights in each layer: two matrices of 4 h are three of 8 h / 3."""
    return ModelSize(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        ffn=round(8 * width / 3),
        vocab=vocab,
        context=context,
        tie=True,
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A published run. Where it does not say how large its micro-batches were, or how its stages were interleaved,
    `layouts` has several, of which the fastest counts.
    """

    table: str
    name: str
    fitted: bool
    job: Job
    layouts: tuple[Layout, ...]
    cluster: Cluster
    device_tokens_per_s: float
    memory_gib: float = 0.0

    def best(self) -> StepTime:
        """The fastest of its layouts."""
        steps = [step_time(self.job, layout, self.cluster) for layout in self.layouts]
        return max(steps, key=lambda step: step.tokens_per_s)

    def ratio(self) -> float:
        """Predicted speed by the published one."""
        return self.best().tokens_per_s / self.cluster.devices / self.device_tokens_per_s


def rows() -> list[Row]:
    """All of them."""
    known = catalogue()
    return [*_mosaicml(known), *_megatron(known), *_torchtitan(known), *_llama3(known), *_bridge(known), *_h200(known)]


def _mosaicml(known: Catalogue) -> Iterator[Row]:
    for row in table("mosaicml"):
        width, gpus = int(row["width"]), int(row["gpus"])
        model = gpt(
            layers=int(row["layers"]),
            width=width,
            heads=width // (128 if width >= 1024 else 64),
            vocab=50_368,
            context=int(row["context"]),
        )
        fitted = row["model"] in {"1b", "7b", "30b"} and row["gpu"] != "a100-40"
        layout = Layout(data=gpus, micro_samples=int(row["micro"]), recompute=row["recompute"])
        yield Row(
            table=f"MosaicML, {row['gpu']}, {row['precision']}",
            name=f"{row['model']} at {row['context']} on {gpus}",
            fitted=fitted,
            job=Job(model=model, samples=int(row["batch"]), precision=row["precision"]),
            layouts=(layout,),
            cluster=known.cluster(_HOSTS[row["gpu"]], hosts=gpus // 8),
            device_tokens_per_s=float(row["tokens_per_s"]) / gpus,
        )


def _megatron(known: Catalogue) -> Iterator[Row]:
    for row in table("megatron"):
        gpus, batch, tensor, pipeline = (int(row[key]) for key in ("gpus", "batch", "tensor", "pipeline"))
        model = gpt(
            layers=int(row["layers"]),
            width=int(row["width"]),
            heads=int(row["heads"]),
            vocab=51_200,
            context=2048,
        )
        data = gpus // tensor // pipeline
        layouts = tuple(
            Layout(
                data=data,
                tensor=tensor,
                pipeline=pipeline,
                sharded=False,
                micro_samples=micro,
                chunks=chunks,
                recompute="full",
            )
            for micro in (1, 2, 4, 8, 16)
            for chunks in ((1, 2, 4) if pipeline > 1 else (1,))
            if batch % (data * micro) == 0 and pipeline * chunks <= model.layers
        )
        yield Row(
            table="Megatron-LM SC'21, a100-80, fp16",
            name=f"{row['parameters_b']}B on {gpus}",
            fitted=row["parameters_b"] in {"1.7", "18.4", "145.6", "1008.0"},
            job=Job(model=model, samples=batch, precision="fp16"),
            layouts=layouts,
            cluster=known.cluster("8xa100-80", hosts=gpus // 8),
            device_tokens_per_s=batch * 2048 / float(row["iteration_s"]) / gpus,
        )


def _torchtitan(known: Catalogue) -> Iterator[Row]:
    for row in table("torchtitan"):
        gpus, data, tensor, pipeline, ring = (int(row[key]) for key in ("gpus", "data", "tensor", "pipeline", "ring"))
        batch, compiled = int(row["batch"]), row["compiled"] == "1"
        words = [f"{row['model']} at {row['context']} on {gpus}"]
        words += ["not compiled"] * (not compiled) + ["asynchronous"] * (row["asynchronous"] == "1")
        words += ["interleaved"] * (row["interleaved"] == "1")
        yield Row(
            table=f"torchtitan, h100-96, {row['precision']}",
            name=", ".join(words),
            fitted=compiled and row["model"] != "405b",
            job=Job(
                model=replace(LLAMA[row["model"]], context=int(row["context"])),
                samples=batch,
                precision=row["precision"],
            ),
            layouts=(
                Layout(
                    data=data,
                    tensor=tensor,
                    pipeline=pipeline,
                    context=ring,
                    # The table has no sizes of micro-batches; torchtitan's own default is one sequence.
                    micro_samples=1 if pipeline > 1 else batch // data,
                    recompute=row["recompute"],
                    chunks=4 if row["interleaved"] == "1" else 1,
                ),
            ),
            cluster=known.cluster("8xh100-96", hosts=gpus // 8),
            device_tokens_per_s=float(row["tokens_per_s_gpu"]),
            memory_gib=float(row["memory_gib"]),
        )


def _llama3(known: Catalogue) -> Iterator[Row]:
    for row in table("llama3"):
        gpus, data, model = int(row["gpus"]), int(row["data"]), LLAMA["405b"]
        yield Row(
            table="Llama 3, h100-80, bf16",
            name=f"405b at 8192 on {gpus}",
            fitted=False,
            job=Job(model=model, samples=int(row["batch"])),
            layouts=tuple(Layout(data=data, tensor=8, pipeline=16, chunks=chunks) for chunks in (1, 2, 4)),
            cluster=known.cluster("8xh100", hosts=gpus // 8),
            device_tokens_per_s=float(row["tflops"]) * 1e12 / model.token_flop(Convention.A),
        )


def _bridge(known: Catalogue) -> Iterator[Row]:
    for row in table("bridge"):
        if row["kind"] != "train":
            continue
        gpus, tensor, pipeline, ring = (int(row[key]) for key in ("gpus", "tensor", "pipeline", "ring"))
        cluster = known.cluster(row["host"], hosts=gpus // 8)
        # Batches are not printed: long enough that the bubble is small.
        data = gpus // tensor // pipeline // ring
        job = Job(model=replace(LLAMA[row["model"]], context=int(row["context"])), samples=data * 96, precision="fp8")
        layouts = [
            Layout(
                data=data,
                tensor=tensor,
                pipeline=pipeline,
                context=ring,
                micro_samples=micro,
                chunks=chunks,
                recompute=recompute,
            )
            for micro in (1, 2, 4)
            for chunks in ((1, 2, 4) if pipeline > 1 else (1,))
            for recompute in ("none", "selective", "full")
        ]
        yield Row(
            table=f"Megatron-Bridge, {cluster.accelerator.name}, fp8",
            name=f"{row['model']} at {row['context']} on {gpus}",
            fitted=False,
            job=job,
            layouts=tuple(layout for layout in layouts if memory_of(job, layout, cluster).fits),
            cluster=cluster,
            device_tokens_per_s=float(row["tokens_per_s_gpu"]),
        )


def _h200(known: Catalogue) -> Iterator[Row]:
    """torchtitan's benchmarks on H200: 8B, float8, compiled, FSDP."""
    for hosts, speed in ((4, 10_938), (8, 10_753)):
        yield Row(
            table="torchtitan, h200, fp8",
            name=f"8b at 8192 on {hosts * 8}",
            fitted=False,
            job=Job(model=LLAMA["8b"], samples=2 * hosts * 8, precision="fp8"),
            layouts=(Layout(data=hosts * 8, micro_samples=2, recompute="selective"),),
            cluster=known.cluster("8xh200", hosts=hosts),
            device_tokens_per_s=speed,
        )
