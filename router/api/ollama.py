"""Ollama's API: its endpoints and its way of telling errors. What is asked and answered is translated beside here, in
`prompt` and `reply`; what runs, waits and is limited is so as for every other dialect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from router.api import prompt, reply
from router.api.library import Found, Library
from router.api.openai import retry_header
from router.api.prompt import Defaults, Fields, Question
from router.api.reply import Clock, Embedding, Generation, Notice, Tell
from router.engine.allowlist import is_safe
from router.engine.flags import default_table
from router.errors import InvalidRequest, RouterError, UnknownModel, Unsupported
from router.hub.repo import bare
from router.models.template import Reasoning
from router.proxy.body import in_thread_if_large
from router.proxy.client_response import NDJSON
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway
from router.proxy.head import Head
from router.proxy.protocols import Lease, Translation
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.rewrite import encode_json
from router.proxy.routing import all_fields

# The version of Ollama's API that this is like: its clients compare it, and take nothing but numbers and dots.
VERSION = "0.12.6"

# Of /api/create: what makes more of a model than another name with parameters and a system prompt.
_MORE = ("files", "adapters", "template", "license", "messages", "quantize", "quantization", "modelfile", "path")


# Options of Ollama's that are named like flags of the engine, and have no effect here.
_OTHERS = frozenset({"numa", "main_gpu", "stop"})


class Ollama:
    """`{"error": MESSAGE}`, in a stream as its last line."""

    rewrites_upstream_errors = False

    def error(self, exc: RouterError, request_id: str) -> Response:
        return _json({"error": exc.message}, exc.status, retry_header(exc))

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return reply.line({"error": exc.message})


DIALECT = Ollama()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the download of one file is, in bytes."""

    digest: str
    total: int
    completed: int


class Hub(Protocol):
    """Where models come from. Both raise RouterErrors."""

    def pull(self, name: str) -> AsyncIterator[Progress]: ...

    async def remove(self, name: str) -> object: ...


@dataclass(frozen=True, slots=True)
class _Call:
    """A request for something that a model does."""

    head: Head
    fields: Fields
    found: Found
    clock: Clock
    size: int  # bytes of its body

    @property
    def name(self) -> str:
        """The model's, as the client said it."""
        return _name(self.fields) or self.found.spec.name


class Endpoints:
    def __init__(self, gateway: Gateway, hub: Hub | None) -> None:
        self._gateway = gateway
        self._pool = gateway.pool
        self._library = Library(gateway.pool)
        self._hub = hub

    def routes(self) -> list[Route]:
        own = (
            ("/", "GET", self.greet),
            ("/api/version", "GET", self.version),
            ("/api/tags", "GET", self.tags),
            ("/api/ps", "GET", self.running),
            ("/api/show", "POST", self.show),
            ("/api/chat", "POST", self.chat),
            ("/api/generate", "POST", self.generate),
            ("/api/embed", "POST", self.embed),
            ("/api/embeddings", "POST", self.embeddings),
            ("/api/copy", "POST", self.copy),
            ("/api/create", "POST", self.create),
            ("/api/delete", "DELETE", self.delete),
            ("/api/pull", "POST", self.pull),
            ("/api/blobs/{digest}", "HEAD", self.has_blob),
            ("/api/blobs/{digest}", "POST", self.take_blob),
        )
        return [Route(path, with_dialect_errors(DIALECT, endpoint), methods=[method]) for path, method, endpoint in own]

    # What there is

    async def greet(self, request: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    async def version(self, request: Request) -> Response:
        return _json({"version": VERSION})

    async def tags(self, request: Request) -> Response:
        return _json({"models": await self._library.tags()})

    async def running(self, request: Request) -> Response:
        return _json({"models": await self._library.running()})

    async def show(self, request: Request) -> Response:
        fields = await self._fields(request)
        found = self._library.find_prefixed(_name(fields))
        return _json(await self._library.show(found, verbose=prompt.flag(fields, "verbose")))

    # What models do

    async def chat(self, request: Request) -> Response:
        call = await self._call(request)
        if not call.fields.get("messages"):
            return self._preload(call, reply.as_message)
        return await self._generation(call, prompt.chat, reply.as_message)

    async def generate(self, request: Request) -> Response:
        call = await self._call(request)
        if not prompt.text(call.fields, "prompt"):
            return self._preload(call, reply.as_response)
        return await self._generation(call, prompt.generate, reply.as_response)

    async def _generation(
        self, call: _Call, ask: Callable[[Fields, Defaults, Reasoning | None], Question], tell: Tell
    ) -> Response:
        fields, spec = call.fields, call.found.spec
        question = await in_thread_if_large(call.size, ask, fields, call.found.defaults, spec.info.reasoning)
        if question.has_pictures and spec.info.architecture and "vision" not in spec.info.capabilities:
            raise InvalidRequest(f"{spec.name!r} does not see images; it needs a projector (mmproj) that fits.")
        self._gateway.log_ignored_context(spec, fields)
        body = await in_thread_if_large(call.size, encode_json, question.fields, call.size)
        path = question.target.decode()
        body, time_limit = await in_thread_if_large(
            call.size, self._gateway.prepare_body, spec, path, question.fields, body
        )
        stream, alternatives = prompt.flag(fields, "stream", True), prompt.alternatives(fields)
        generation = Generation(call.name, question.target, body, tell, call.clock, stream, alternatives)
        return self._passage(call, generation, time_limit)

    def _preload(self, call: _Call, tell: Tell) -> Response:
        """Nothing is asked: the model is loaded, or with a `keep_alive` of 0 unloaded."""

        def done(reason: str) -> Mapping[str, Any]:
            told = {**reply.head(call.name), **tell("", "", [])}
            return {**told, "done": True, "done_reason": reason, **call.clock.durations()}

        if prompt.keep_alive(call.fields) != 0:
            return self._passage(call, Notice(lambda: done("load")))
        if self._pool.is_running(call.found.spec.name):
            self._pool.unload(call.found.spec.name)
        return _json(done("unload"))

    async def embed(self, request: Request) -> Response:
        call = await self._call(request)
        name, clock = call.name, call.clock
        inputs, truncate = prompt.texts(call.fields), prompt.flag(call.fields, "truncate", True)

        def told(vectors: list[list[float]], count: int) -> Mapping[str, Any]:
            answer = {"model": name, "embeddings": vectors}
            return {**answer, **clock.durations(), "prompt_eval_count": count}

        embedding = Embedding(inputs, told, truncate, prompt.dimensions(call.fields))
        return self._passage(call, embedding if inputs else Notice(lambda: told([], 0)))

    async def embeddings(self, request: Request) -> Response:
        """The older form of `embed`."""
        call = await self._call(request)
        text = prompt.text(call.fields, "prompt")
        embedding = Embedding([text], lambda vectors, count: {"embedding": vectors[0]})
        return self._passage(call, embedding if text else Notice(lambda: {"embedding": []}))

    async def _call(self, request: Request) -> _Call:
        clock, body = Clock(), await self._gateway.read_body(request)
        fields = await in_thread_if_large(len(body), all_fields, body)
        return _Call(Head.from_scope(request.scope), fields, await self._found(_name(fields)), clock, len(body))

    async def _found(self, name: str | None) -> Found:
        """Also what is not here yet, if it may be downloaded."""
        try:
            return self._library.find(name)
        except UnknownModel:
            return Found(await self._gateway.resolve(bare(name or "")))

    def _passage(self, call: _Call, translation: Translation, time_limit: float | None = None) -> Response:
        spec, ttl = call.found.spec, prompt.keep_alive(call.fields)
        # Not the call: its fields, many times as large as the body was, must not wait with the request.
        head, clock = call.head, call.clock
        self._gateway.check_may_load(spec, head, self._gateway.autoload)

        async def lease() -> Lease:
            granted = await self._pool.lease(spec, ttl=ttl, background=self._gateway.is_background(head))
            clock.loaded()
            return granted

        return ProxiedRequest(  # type: ignore[return-value]
            lease,
            self._gateway.upstream,
            DIALECT,
            head,
            time_limit=time_limit,
            translation=translation,
        )

    # Names of clients' own

    async def copy(self, request: Request) -> Response:
        fields = await self._fields(request)
        source, destination = prompt.text(fields, "source"), prompt.text(fields, "destination")
        if not source or not destination:
            raise InvalidRequest('Send {"source": NAME, "destination": NAME}.')
        found = self._library.find(source)
        self._library.add(destination, found, found.defaults)
        return Response()

    async def create(self, request: Request) -> Response:
        """A name for a model that there is, with parameters and a system prompt."""
        fields = await self._fields(request)
        if more := [name for name in _MORE if fields.get(name)]:
            raise Unsupported(
                f'"{more[0]}" is not supported: a model is made "from" another one, with "system" and "parameters". '
                "Put other models where the router finds them, or into its presets."
            )
        name, origin = _name(fields), prompt.text(fields, "from")
        if not name or not origin:
            raise InvalidRequest('Send {"model": NAME, "from": NAME}, and "system" and "parameters" if you like.')
        found = self._library.find(origin)
        given = prompt.parameters(fields.get("parameters"))
        _check_parameters(given)
        parameters = {**found.defaults.parameters, **given}
        defaults = Defaults(prompt.text(fields, "system") or found.defaults.system, parameters)
        self._library.add(name, found, defaults)
        return _statuses(fields, ["writing manifest", "success"])

    async def delete(self, request: Request) -> Response:
        fields = await self._fields(request)
        found = self._library.find(_required(fields))
        if found.alias:
            self._library.remove(found.alias)
        else:
            await self._hub_for("deleted").remove(found.spec.name)
        return Response()

    async def pull(self, request: Request) -> Response:
        fields = await self._fields(request)
        name, hub = _required(fields), self._hub_for("pulled")
        if not prompt.flag(fields, "stream", True):
            async for _ in hub.pull(name):
                pass
            return _json({"status": "success"})
        return StreamingResponse(_pulling(hub, name), media_type=NDJSON.decode())

    async def has_blob(self, request: Request) -> Response:
        digest = request.path_params["digest"].removeprefix("sha256:")
        return Response(status_code=200 if await self._library.has(digest) else 404)

    async def take_blob(self, request: Request) -> Response:
        raise Unsupported("Files cannot be uploaded; put them where the router finds models.")

    def _hub_for(self, what: str) -> Hub:
        if self._hub is None:
            raise Unsupported(f"Models cannot be {what} here: downloads are not available.")
        return self._hub

    async def _fields(self, request: Request) -> dict[str, Any]:
        body = await self._gateway.read_body(request)
        return await in_thread_if_large(len(body), all_fields, body)


async def _pulling(hub: Hub, name: str) -> AsyncIterator[bytes]:
    yield reply.line({"status": "pulling manifest"})
    try:
        async for file in hub.pull(name):
            status = f"pulling {file.digest.removeprefix('sha256:')[:12]}"
            yield reply.line(
                {"status": status, "digest": file.digest, "total": file.total, "completed": file.completed}
            )
    except RouterError as exc:
        yield DIALECT.stream_error(exc, "")
        return
    for status in ("verifying sha256 digest", "writing manifest", "success"):
        yield reply.line({"status": status})


def _statuses(fields: Fields, statuses: list[str]) -> Response:
    """A thing that is done already, told as if it took a while."""
    if not prompt.flag(fields, "stream", True):
        return _json({"status": statuses[-1]})
    return Response(b"".join(reply.line({"status": status}) for status in statuses), media_type=NDJSON.decode())


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain ASCII: what clients sent and is told again may be no valid Unicode."""
    return Response(json.dumps(value), status, headers, "application/json")


def _name(fields: Fields) -> str | None:
    """`name` is what older clients say. Fit to be told again."""
    name = prompt.text(fields, "model") or prompt.text(fields, "name")
    if not name.isprintable():
        raise InvalidRequest('"model" must be the name of a model, without control characters.')
    return name or None


def _check_parameters(parameters: Fields) -> None:
    """Such as are flags of the engine are no parameters of a model unless a load request may set them too. None has an
    effect; who sends one is to know. Raises InvalidRequest."""
    for name in parameters.keys() - prompt.OPTIONS.keys() - _OTHERS:
        flag = default_table().find("--" + name.lstrip("-").replace("_", "-"))
        if flag and not is_safe(flag):
            raise InvalidRequest(
                f"parameter {name[:80]!r} is a flag of llama-server ({flag.name}) that no request may set: set it in "
                "the model's preset, or load the model with it (POST /models/load, --load-args any)."
            )


def _required(fields: Fields) -> str:
    """Of what would be deleted or downloaded, there is no default."""
    name = _name(fields)
    if name is None:
        raise InvalidRequest('Name a "model".')
    return name


def routes(gateway: Gateway, hub: Hub | None = None) -> list[Route]:
    return Endpoints(gateway, hub).routes()
