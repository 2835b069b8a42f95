"""A mock engine for the gateway benchmark: prepared answers, plain or as a stream of 64 chunks.

It writes raw HTTP/1.1 from an asyncio protocol, so that it is the fastest thing in the room and the proxies are what
is measured. Run: python mock_upstream.py PORT
"""

import asyncio
import json
import sys
from typing import cast

CHUNKS = 64


def _head(kind: str, length: int | None) -> bytes:
    framing = f"content-length: {length}" if length is not None else "transfer-encoding: chunked"
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n".encode()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain() -> bytes:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Paris is the capital."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18},
    }
    body = json.dumps(answer).encode()
    return _head("application/json", len(body)) + body


def _stream() -> list[bytes]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock"}

    def event(choices: list[object], **more: object) -> bytes:
        return _framed(b"data: " + json.dumps({**base, "choices": choices, **more}).encode() + b"\n\n")

    events = [event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])]
    events += [
        event([{"index": 0, "delta": {"content": f" word{n}"}, "finish_reason": None}]) for n in range(CHUNKS - 3)
    ]
    events.append(event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    events.append(event([], usage={"prompt_tokens": 12, "completion_tokens": 61, "total_tokens": 73}))
    events.append(_framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    return events


PLAIN, STREAM, STREAM_HEAD = _plain(), _stream(), _head("text/event-stream", None)


class Mock(asyncio.Protocol):
    """Answers each request as soon as its body is complete; a stream goes out event by event."""

    def __init__(self) -> None:
        self._rest = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._rest) < end + 4 + length:
                return
            body = self._rest[end + 4 : end + 4 + length]
            self._rest = self._rest[end + 4 + length :]
            if b'"stream":true' in body.replace(b" ", b""):
                task = asyncio.get_running_loop().create_task(self._send_stream())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._transport.write(PLAIN)

    async def _send_stream(self) -> None:
        self._transport.write(STREAM_HEAD)
        for event in STREAM:
            self._transport.write(event)
            # One turn of the loop for each token, so that a proxy sees chunks arrive one by one.
            await asyncio.sleep(0)


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main(int(sys.argv[1])))
    except ImportError:
        asyncio.run(main(int(sys.argv[1])))
