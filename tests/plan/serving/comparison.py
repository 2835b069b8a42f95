"""What the planner predicts for published serving, as the table of docs/reference/planner.md.

`python -m tests.plan.serving.comparison` writes it into that page.
"""

import re
from pathlib import Path
from statistics import median

from tandem.plan.serving import Engine, Latency, Replica, Service, Traffic
from tandem.plan.serving.capacity import pace_of
from tests.plan.serving.models import MODELS, cluster, rows

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "planner.md"

# TensorRT-LLM's benchmark queues all requests at once and takes up to 2,048 of them.
_PATIENT = Latency(first_token_s=1e6, token_s=1e6)
_TUNED = Engine(largest_batch=2048)
_FITTED = {("llama-3-8b", "8xh100"), ("llama-3-70b", "8xh100")}


def throughput_ratio(row: dict[str, str]) -> float:
    """Predicted by published tokens of answers a second."""
    traffic = Traffic(requests_per_s=1.0, prompt_tokens=float(row["prompt"]), answer_tokens=float(row["answer"]))
    model = MODELS[row["model"]]
    service = Service(
        model=model, traffic=traffic, latency=_PATIENT, weights="fp8", cache="fp8", spare_hosts=0, engine=_TUNED
    )
    replica = Replica(
        model=model,
        cluster=cluster(row["host"]),
        tensor=int(row["tensor"]),
        weights="fp8",
        cache="fp8",
        engine=_TUNED,
    )
    pace = pace_of(service, replica, replica.batch_limit(traffic.held_tokens))
    return pace.requests_per_s * traffic.answer_tokens / float(row["tokens_per_s"])


def fitted(row: dict[str, str]) -> bool:
    """Whether the engine's constants were fitted on this row."""
    return (row["model"], row["host"]) in _FITTED


def table() -> str:
    """Ratios of predicted to published throughput, a line for each model and host."""
    found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows("serving_throughput.csv"):
        found.setdefault((row["model"], row["host"], row["tensor"]), []).append(row)
    lengths = [f"{row['prompt']}/{row['answer']}" for row in next(iter(found.values()))]
    lines = [
        f"| prompt/answer tokens | used for | {' | '.join(lengths)} | median |",
        f"|---|---|{'---|' * (len(lengths) + 1)}",
    ]
    for (model, host, tensor), of in found.items():
        ratios = [throughput_ratio(row) for row in of]
        told = " | ".join(f"{ratio:.2f}" for ratio in [*ratios, median(ratios)])
        used = "fitting" if fitted(of[0]) else "checking"
        lines.append(f"| {model} on {tensor} of {host} | {used} | {told} |")
    return "\n".join(lines)


def page() -> str:
    """The page with the table as it is now."""
    text, count = re.subn(
        r"(<!-- serving -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{table()}\n{match[2]}",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    assert count == 1
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
