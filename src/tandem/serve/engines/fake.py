"""The engine that ships for tests and demonstrations: in process, predictable, in llama.cpp's dialect."""

import asyncio
import hmac
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from tandem.kit import ids
from tandem.kit.errors import EngineFailed, Unavailable
from tandem.serve.engines import fake_script, fake_wire
from tandem.serve.engines.fake_script import Faults, Script
from tandem.serve.engines.features import llamacpp_capabilities
from tandem.serve.engines.loopback import ask_health, read_metrics
from tandem.serve.engines.port import Address, Capabilities, Feature, Health, Launch
from tandem.spec import Task

_PUBLIC = frozenset({"/health"})
_MAX_BODY_BYTES = 64 * 1024 * 1024  # above every bound of the gateway, so that the gateway's own is what is tested
_EMBEDDING_LENGTH = 8


class FakeEngine:
    """Says the prompt again, word by word; a token is a word with the white space before it. An adapter signs what it
    says with the name of its file.

    `faults` holds for all requests; `fake:delay=0.05`, `fake:fail`, `fake:hang`, `fake:drop=3`,
    `fake:malformed=3`, `fake:tokens=500` and `fake:tool` in a prompt hold for that request. `healthy` is what
    `/health` says; `crash` ends it as a killed process would. `active` and `cancelled` count generations.
    """

    def __init__(self, launch: Launch, *, features: frozenset[Feature] | None = None) -> None:
        self.launch = launch
        self.faults = Faults()
        self.healthy = True
        self.fails_to_start = ""
        self.active = 0
        self.cancelled = 0
        self.requests: list[dict[str, Any]] = []
        declared = llamacpp_capabilities(launch)
        self._capabilities = Capabilities(
            features=declared.features if features is None else features,
            context_tokens=declared.context_tokens,
            parallel=declared.parallel,
        )
        self._slots = asyncio.Semaphore(launch.parallel)
        self._known: list[str] = []  # the last prompt's tokens: the prefix cache
        self._known_to = ""  # the adapter that read them
        self._predicted = 0
        self._runner: web.AppRunner | None = None
        self._ending = asyncio.Lock()
        self._address: Address | None = None
        self._ended: asyncio.Future[str] | None = None

    async def start(self) -> asyncio.Future[str]:
        """Listen on a free port of loopback."""
        if self.fails_to_start:
            raise EngineFailed(self.fails_to_start)
        key = ids.new_secret("engine")
        runner = web.AppRunner(self._app(key), handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        self._runner = runner
        await runner.setup()
        # A start that is cancelled while it begins to listen would leave a port open that nobody knows of.
        listening = asyncio.ensure_future(web.TCPSite(runner, "127.0.0.1", 0).start())
        try:
            await asyncio.shield(listening)
        except asyncio.CancelledError:
            await listening
            raise
        host, port = runner.addresses[0][:2]
        self._address = Address(url=f"http://{host}:{port}", api_key=key)
        self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    async def stop(self) -> None:
        """Close the port and every connection."""
        await self._end("It was stopped.")

    async def crash(self) -> None:
        """Go away as a killed process would: connections are reset, in the middle of whatever they carry."""
        server = self._runner.server if self._runner is not None else None
        for connection in server.connections if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()
        await self._end("It crashed, as it was told to.")

    async def health(self) -> Health:
        """What its `/health` says."""
        return Health.FAILING if self._address is None else await ask_health(self._address)

    @property
    def capabilities(self) -> Capabilities:
        """Those of llama.cpp's server with the same launch, unless others were given."""
        return self._capabilities

    @property
    def address(self) -> Address:
        """Where it listens."""
        if self._address is None:
            raise Unavailable(f"The engine of {self.launch.alias!r} is not running.")
        return self._address

    async def metrics(self) -> Mapping[str, float]:
        """The samples of its `/metrics`."""
        return await read_metrics(self.address)

    async def _end(self, reason: str) -> None:
        self._address = None
        async with self._ending:  # it may crash while it is being stopped
            if self._runner is not None:
                await _accepted()
                await self._runner.cleanup()
                self._runner = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    def _app(self, key: str) -> web.Application:
        @web.middleware
        async def authorize(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode()
            if request.path not in _PUBLIC and not hmac.compare_digest(given, f"Bearer {key}".encode()):
                return fake_wire.error_response(401, "Invalid API Key", kind="authentication_error")
            return await handler(request)

        app = web.Application(middlewares=[authorize], client_max_size=_MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/props", self._props),
                web.get("/slots", self._slot_list),
                web.get("/v1/models", self._models),
                web.post("/tokenize", self._tokenize),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completions),
                web.post("/infill", self._infill),
                web.post("/v1/embeddings", self._embeddings),
            ]
        )
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        if self.healthy:
            return web.json_response({"status": "ok"})
        return fake_wire.error_response(500, "told to be ill", kind="server_error")

    async def _metrics(self, _request: web.Request) -> web.Response:
        samples = {
            "llamacpp:requests_processing": self.active,
            "llamacpp:tokens_predicted_total": self._predicted,
            "fake:requests_total": len(self.requests),
            "fake:requests_cancelled_total": self.cancelled,
        }
        return web.Response(text="".join(f"# TYPE {n} gauge\n{n} {v}\n" for n, v in samples.items()))

    async def _props(self, _request: web.Request) -> web.Response:
        settings = {"n_ctx": self._capabilities.context_tokens}
        body = {"default_generation_settings": settings, "total_slots": self.launch.parallel}
        return web.json_response({**body, "model_alias": self.launch.alias})

    async def _slot_list(self, _request: web.Request) -> web.Response:
        slots = range(self.launch.parallel)
        return web.json_response([{"id": slot, "is_processing": slot < self.active} for slot in slots])

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.launch.alias, "object": "model"}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        tokens = fake_script.tokenize(body.get("content", ""))
        return web.json_response({"tokens": [fake_script.token_id(token) for token in tokens]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            message = "Expected 'messages' to be an array"
            return fake_wire.error_response(400, message, kind="invalid_request_error")
        script = fake_script.chat_script(body, self.faults)
        return await self._generate(request, body, script, dialect=fake_wire.Chat)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        script = fake_script.completion_script(body.get("prompt", ""), body, self.faults)
        return await self._generate(request, body, script, dialect=fake_wire.Completion)

    async def _infill(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        if Feature.FIM not in self._capabilities.features:
            message = "Infill is not supported by this model: prefix token is missing."
            return fake_wire.error_response(501, message, kind="not_supported_error")
        script = fake_script.infill_script(body, self.faults)
        return await self._generate(request, body, script, dialect=fake_wire.Infill)

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if self.launch.task is not Task.EMBED:
            message = "This server does not support embeddings. Start it with `--embeddings`"
            return fake_wire.error_response(501, message, kind="not_supported_error")
        given = body.get("input", "")
        inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        counts = [len(fake_script.tokenize(item)) if isinstance(item, str) else len(item) for item in inputs]
        if max(counts, default=0) > self._capabilities.context_tokens:
            return self._overflow(max(counts))
        length = self.launch.facts.get("embedding_length")
        width = length if isinstance(length, int) else _EMBEDDING_LENGTH
        data = [
            {"object": "embedding", "index": index, "embedding": fake_script.embedding_of(item, width)}
            for index, item in enumerate(inputs)
        ]
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        return web.json_response({"object": "list", "model": self.launch.alias, "data": data, "usage": usage})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = msgspec.json.decode(await request.read())
        self.requests.append(body)
        return body

    async def _generate(
        self,
        request: web.Request,
        body: dict[str, Any],
        script: Script,
        *,
        dialect: type[fake_wire.Dialect],
    ) -> web.StreamResponse:
        if self.launch.task is Task.EMBED:
            message = "This server does not support completions. Start it without `--embeddings`"
            return fake_wire.error_response(501, message, kind="not_supported_error")
        if script.prompt_tokens >= self._capabilities.context_tokens:
            return self._overflow(script.prompt_tokens)
        adapter = self._adapter(body)
        cached = self._remember(body, script, adapter)
        wire = dialect(body, fake_script.signed(script, adapter), alias=self.launch.alias, cached=cached)
        async with self._slots:
            self.active += 1
            try:
                return await self._perform(request, wire)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.active -= 1

    async def _perform(self, request: web.Request, wire: fake_wire.Dialect) -> web.StreamResponse:
        faults = wire.script.faults
        if faults.hang:
            await asyncio.Event().wait()
        if faults.fail:
            return fake_wire.error_response(500, "told to fail", kind="server_error")
        if wire.body.get("stream"):
            return await self._stream(request, wire)
        for _ in range(wire.choices * len(wire.script.pieces)):
            await asyncio.sleep(faults.delay)
            self._predicted += 1
        if faults.drop >= 0:
            _cut(request)
        return web.json_response(wire.answer())

    async def _stream(self, request: web.Request, wire: fake_wire.Dialect) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        faults, said = wire.script.faults, 0
        for index in range(wire.choices):
            for made, chunk in wire.chunks(index):
                if said == faults.drop:
                    _cut(request)
                if made > said:
                    if said == faults.malformed:
                        await response.write(fake_wire.event('{"choices": [{"delta": '))
                    await asyncio.sleep(faults.delay)
                    self._predicted += 1
                    said = made
                await response.write(fake_wire.event(chunk))
            said = 0
        await response.write(fake_wire.event("[DONE]"))
        await response.write_eof()
        return response

    def _adapter(self, body: Mapping[str, Any]) -> str:
        """The name of the adapter's file that the request chooses; like llama.cpp, none where there is no such one."""
        chosen = [one["id"] for one in body.get("lora") or [] if one.get("scale")]
        return next((self.launch.adapters[place].name for place in chosen if place < len(self.launch.adapters)), "")

    def _remember(self, body: Mapping[str, Any], script: Script, adapter: str) -> int:
        """How many tokens of the prompt are those of the last one; at least one is always read anew."""
        if adapter != self._known_to:
            self._known, self._known_to = [], adapter
        prompt = body.get("messages") or body.get("prompt") or body.get("input_prefix") or ""
        tokens = fake_script.tokenize(str(prompt))
        pairs = zip(tokens, self._known, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._known = tokens
        return max(0, min(same, script.prompt_tokens - 1))

    def _overflow(self, tokens: int) -> web.Response:
        size = self._capabilities.context_tokens
        message = f"request ({tokens} tokens) exceeds the available context size ({size} tokens)"
        kind = "exceed_context_size_error"
        return fake_wire.error_response(400, message, kind=kind, n_prompt_tokens=tokens, n_ctx=size)


def _cut(request: web.Request) -> None:
    """Reset the connection, as a dying process does."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError


async def _accepted() -> None:
    """Wait for connections that are being accepted: asyncio in Python 3.11 forgets to close those of a closed port."""
    while accepting := [one for one in asyncio.all_tasks() if "_accept_connection2" in repr(one.get_coro())]:
        await asyncio.wait(accepting)
