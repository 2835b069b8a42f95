"""A load generator: N connections that send one request after the other, latencies kept, errors counted."""

import asyncio
import time
from dataclasses import dataclass

PLAIN_BODY = (
    b'{"model":"mock","messages":[{"role":"system","content":"You are a helpful assistant."},'
    b'{"role":"user","content":"What is the capital of France?"}],"max_tokens":64}'
)
STREAM_BODY = PLAIN_BODY[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: requests per second, and latencies in milliseconds."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Answered requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0


def _request(port: int, key: str, *, stream: bool) -> bytes:
    body = STREAM_BODY if stream else PLAIN_BODY
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> bool:
    """Read one response to its end; whether it was a whole 200."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    ok = head.startswith(b"http/1.1 200")
    at = head.find(b"content-length:")
    if at >= 0:
        await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
        return ok
    done = False
    while size := int(await reader.readline(), 16):
        data = await reader.readexactly(size + 2)
        done = done or b"[DONE]" in data
    await reader.readexactly(2)
    return ok and done


async def _worker(port: int, key: str, stop_s: float, latencies: list[float], *, stream: bool) -> int:
    request = _request(port, key, stream=stream)
    errors = 0
    while time.perf_counter() < stop_s:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while (began := time.perf_counter()) < stop_s:
                writer.write(request)
                ok = await asyncio.wait_for(_answer(reader), 60)
                if ok:
                    latencies.append(time.perf_counter() - began)
                else:
                    errors += 1
            writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            errors += 1
            await asyncio.sleep(0.05)
    return errors


async def measure(port: int, key: str, *, seconds: float, connections: int, stream: bool) -> Measured:
    """Load one port for some seconds."""
    latencies: list[float] = []
    began = time.perf_counter()
    workers = [_worker(port, key, began + seconds, latencies, stream=stream) for _ in range(connections)]
    errors = sum(await asyncio.gather(*workers))
    took = time.perf_counter() - began
    latencies.sort()

    def quantile(q: float) -> float:
        return latencies[min(int(len(latencies) * q), len(latencies) - 1)] * 1000 if latencies else float("nan")

    return Measured(len(latencies), errors, took, quantile(0.5), quantile(0.99))
