"""What serving through Tandem loses against the same llama.cpp server called directly: tokens/s, time to first token.

One engine with 16 slots; both ways call that same engine in turns, with prompts of about 256 tokens that share no
prefix, 64 new tokens, greedy, the end token barred. Run: make bench-serving
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))

from machine import save

NEW_TOKENS = 64
WORDS = (Path(__file__).parent.parent / "LICENSE").read_text().split()
STREAMS = (1, 8, 16)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the engine."""

    name: str
    url: str
    key: str


def request_body(rng: random.Random) -> dict[str, object]:
    """A prompt that no other request shares a prefix with."""
    prompt = " ".join(rng.choices(WORDS, k=150))
    return {
        "model": "bench",
        "prompt": f"{rng.random()} {prompt}",
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "logit_bias": {"2": -100, "0": -100},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def one(session: aiohttp.ClientSession, way: Way, body: dict[str, object]) -> tuple[float, int]:
    """Time to the first token in seconds, and the tokens made."""
    began = time.perf_counter()
    first = 0.0
    tokens = 0
    headers = {"Authorization": f"Bearer {way.key}"}
    async with session.post(f"{way.url}/v1/completions", json=body, headers=headers) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter() - began
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
    return first, tokens


async def measure(way: Way, streams: int, rng: random.Random) -> tuple[float, float]:
    """Tokens per second over all streams, and the median time to first token in seconds."""
    bodies = [request_body(rng) for _ in range(streams)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter()
        answers = await asyncio.gather(*(one(session, way, body) for body in bodies))
        took = time.perf_counter() - began
    return sum(tokens for _, tokens in answers) / took, statistics.median(first for first, _ in answers)


def run(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All rounds. The order of the two ways changes with each round."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable,
            str(Path(__file__).parent / "serving" / "tandem_under_test.py"),
            home,
            arguments.model,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            place = json.loads(child.stdout.readline())
            ways = [Way("direct", place["engine_url"], place["engine_key"]), Way("tandem", place["url"], place["key"])]
            for streams in arguments.streams:
                seen: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
                for turn in range(arguments.rounds + 1):
                    for way in ways if turn % 2 else ways[::-1]:
                        # Both ways get the same prompts in a round, apart from the number that parts their prefixes.
                        result = asyncio.run(measure(way, streams, random.Random(f"{turn} {streams} {way.name}")))
                        if turn:
                            seen[way.name].append(result)
                row = {}
                for name, results in seen.items():
                    row[f"{name}_tokens_per_s"] = round(statistics.median(rate for rate, _ in results), 1)
                    row[f"{name}_first_token_s"] = round(statistics.median(first for _, first in results), 3)
                # Pairs are neighbours in time, so their ratio cancels what the machine did meanwhile.
                pairs = zip(seen["tandem"], seen["direct"], strict=True)
                row["tandem_over_direct"] = round(statistics.median(a[0] / b[0] for a, b in pairs), 4)
                rows[str(streams)] = row
                print(f"{streams:2} streams  {row}", flush=True)
            child.terminate()
    return rows


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    arguments = parser.parse_args()
    results = run(arguments)
    print(f"Kept in {save('serving', {'arguments': vars(arguments), 'results': results})}")


if __name__ == "__main__":
    main()
