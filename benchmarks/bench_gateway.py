"""What the gateway costs: bare pass-through, nginx, LiteLLM's proxy and Tandem side by side, in one run.

A mock engine and the load generator share core 0, the proxy under test has core 1 for itself. All proxies are up at
once and take turns, so that a noisy minute hits each of them. Run: make bench-gateway
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from gateway.load import Measured, measure
from machine import save

HERE = Path(__file__).parent / "gateway"
LITELLM = Path(__file__).parent.parent / ".bench" / "litellm" / "bin" / "litellm"
NGINX = """daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/nginx.err;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000;
client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
upstream engine {{ server 127.0.0.1:{upstream}; keepalive 64; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://engine; proxy_http_version 1.1;
proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is up."""

    name: str
    port: int
    key: str


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def process(command: list[str], *, core: int, log: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A child pinned to one core, ended with its whole group."""
    with log.open("w") as errors:
        child = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environ},
            start_new_session=True,
        )
    try:
        yield child
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)


def wait_until_up(port: int, *, seconds: float = 90) -> None:
    """Wait for a listener."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port} after {seconds} s")


def start_proxies(stack: ExitStack, home: Path, upstream: int) -> list[Proxy]:
    """Start whatever is installed, all on core 1."""
    url = f"http://127.0.0.1:{upstream}"
    proxies = []
    port = free_port()
    command = [sys.executable, str(HERE / "passthrough.py"), str(port), url]
    stack.enter_context(process(command, core=1, log=home / "passthrough.log"))
    proxies.append(Proxy("pass-through", port, "none"))
    if nginx := shutil.which("nginx") or shutil.which("/usr/sbin/nginx"):
        port = free_port()
        config = home / "nginx.conf"
        config.write_text(NGINX.format(home=home, port=port, upstream=upstream))
        command = [nginx, "-p", str(home), "-c", str(config)]
        stack.enter_context(process(command, core=1, log=home / "nginx.log"))
        proxies.append(Proxy("nginx", port, "none"))
    port = free_port()
    command = [sys.executable, str(HERE / "tandem_under_test.py"), str(port), url, str(home / "tandem")]
    tandem = stack.enter_context(process(command, core=1, log=home / "tandem.log"))
    assert tandem.stdout is not None
    proxies.append(Proxy("tandem", port, tandem.stdout.readline().strip()))
    if LITELLM.exists():
        port = free_port()
        config = home / "litellm.yaml"
        model = {"model": "openai/mock", "api_base": f"{url}/v1", "api_key": "none"}
        settings = {"master_key": "sk-bench"}
        config.write_text(
            json.dumps({"model_list": [{"model_name": "mock", "litellm_params": model}], "general_settings": settings})
        )
        command = [str(LITELLM), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        stack.enter_context(process(command, core=1, log=home / "litellm.log", **quiet))
        proxies.append(Proxy("litellm", port, "sk-bench"))
    for proxy in proxies:
        wait_until_up(proxy.port)
    return proxies


def run(arguments: argparse.Namespace) -> dict[str, dict[str, list[Measured]]]:
    """All rounds: for each kind of answer and proxy, one measurement a round."""
    results: dict[str, dict[str, list[Measured]]] = {"plain": {}, "stream": {}}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        upstream = free_port()
        mock = [sys.executable, str(HERE / "mock_upstream.py"), str(upstream)]
        stack.enter_context(process(mock, core=0, log=home / "mock.log"))
        wait_until_up(upstream)
        proxies = start_proxies(stack, home, upstream)
        time.sleep(3)  # LiteLLM goes on importing after it listens
        os.sched_setaffinity(0, {0})
        for kind, per_proxy in results.items():
            for turn in range(arguments.rounds + 1):
                for proxy in proxies:
                    load = measure(
                        proxy.port,
                        proxy.key,
                        seconds=arguments.seconds,
                        connections=arguments.connections,
                        stream=kind == "stream",
                    )
                    measured = asyncio.run(load)
                    if turn:  # the first round warms up
                        per_proxy.setdefault(proxy.name, []).append(measured)
                        print(
                            f"{kind:6} {proxy.name:12} {measured.per_second:8.0f}/s  errors {measured.errors}",
                            flush=True,
                        )
    return results


def summary(results: dict[str, dict[str, list[Measured]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over the rounds, and each proxy's ratio to the pass-through."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind, per_proxy in results.items():
        rates = {name: statistics.median(m.per_second for m in rounds) for name, rounds in per_proxy.items()}
        table[kind] = {
            name: {
                "requests_per_s": round(rates[name], 1),
                "p50_ms": round(statistics.median(m.p50_ms for m in rounds), 2),
                "p99_ms": round(statistics.median(m.p99_ms for m in rounds), 2),
                "errors": sum(m.errors for m in rounds),
                "time_per_request_vs_passthrough": round(rates["pass-through"] / rates[name], 2) if rates[name] else 0,
                "requests_vs_litellm": round(rates[name] / rates["litellm"], 1) if rates.get("litellm") else 0,
            }
            for name, rounds in per_proxy.items()
        }
    return table


def main() -> None:
    """Measure, print a table, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    table = summary(run(arguments))
    print(
        f"\n{'':6} {'proxy':12} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'errors':>6} {'x bare':>7} {'x litellm':>9}"
    )
    for kind, rows in table.items():
        for name, row in rows.items():
            print(
                f"{kind:6} {name:12} {row['requests_per_s']:8.0f} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f} "
                f"{row['errors']:6.0f} {row['time_per_request_vs_passthrough']:7.2f} {row['requests_vs_litellm']:9.1f}"
            )
    print(f"\nKept in {save('gateway', {'arguments': vars(arguments), 'results': table})}")


if __name__ == "__main__":
    main()
