"""Google Cloud's predict route: several requests in one, as Vertex AI sends them to a container.

`AIP_MODE=PREDICTION` turns it on, as in llama-server (tools/server/server-http.cpp, `register_gcp_compat`). Each
instance says in `@requestFormat` which endpoint answers it, by its path or by a name such as `chatCompletions`; the
rest of the instance is the body for that endpoint. Only endpoints that generate can be named. `app` adds the routes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope

from router.errors import ConfigError, InvalidField, InvalidRequest
from router.proxy.body import in_thread_if_large
from router.proxy.gateway import Gateway
from router.proxy.rewrite import encode_json
from router.proxy.routing import all_fields

MAX_INSTANCES = 128
MAX_ANSWERS_BYTES = 64 << 20  # of all instances together
FORMAT_FIELD = "@requestFormat"

Endpoint = Callable[[Request], Awaitable[Response]]

_RAW: msgspec.json.Decoder[msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw)
_KEPT_HEADERS = frozenset((b"host", b"authorization", b"x-api-key", b"x-request-id", b"user-agent"))
_PLAIN_PATH = re.compile(r"(?:/[\w.~-]+)+")


@dataclass(frozen=True, slots=True)
class Variables:
    """What `AIP_*` says: the routes, and the port, which replaces that of the command line."""

    predict: str = "/predict"
    health: str = ""
    port: int = 8080

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Variables | None:
        """None unless AIP_MODE is PREDICTION. Raises ConfigError."""
        if environ.get("AIP_MODE") != "PREDICTION":
            return None
        port = environ.get("AIP_HTTP_PORT") or "8080"
        if not (port.isdecimal() and port.isascii() and 0 < int(port[:6]) < 2**16):
            raise ConfigError(f"AIP_HTTP_PORT must be the number of a port, not {port[:80]!r}")
        predict, health = (_path(environ, f"AIP_{what}_ROUTE") for what in ("PREDICT", "HEALTH"))
        return cls(predict or "/predict", health, int(port))


def _path(environ: Mapping[str, str], name: str) -> str:
    path = environ.get(name, "")
    path = f"/{path.removeprefix('/')}" if path else ""
    if path and not _PLAIN_PATH.fullmatch(path):
        raise ConfigError(f"{name} must be a plain path such as /predict, not {path[:80]!r}")
    return path


def format_name(path: str) -> str:
    """The name of a path: `/v1/chat/completions` is `chatCompletions`."""
    first, *rest = re.split(r"[/_-]", path.removeprefix("/v1").removeprefix("/"))
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


@dataclass
class Predictions:
    """The endpoint. `endpoints` are those that instances may name, by path."""

    gateway: Gateway
    endpoints: Mapping[str, Endpoint]
    _by_name: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Where two paths have one name, that of OpenAI's API counts.
        paths = sorted(self.endpoints, key=lambda path: not path.startswith("/v1/"))
        self._by_name = {}
        for path in paths:
            self._by_name.setdefault(format_name(path), path)

    async def predict(self, request: Request) -> Response:
        body = await self.gateway.read_body(request)
        instances = (await in_thread_if_large(len(body), all_fields, body)).get("instances")
        if not isinstance(instances, list):
            raise InvalidField("instances", "must be a list of requests.")
        if len(instances) > MAX_INSTANCES:
            raise InvalidField("instances", f"has {len(instances)} requests, and {MAX_INSTANCES} are the most.")
        answers = _Answers()
        client = _Client(request.receive)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._predict(request.scope, each, client, answers)) for each in instances]
        finally:
            client.close()
        found = b",".join(task.result() for task in tasks)
        return Response(b'{"predictions":[' + found + b"]}", media_type="application/json")

    async def _predict(self, scope: Scope, instance: Any, client: _Client, answers: _Answers) -> bytes:
        try:
            path, body = self._dispatch(instance)
        except InvalidRequest as exc:
            return _error(exc)
        inner = Request(_inner_scope(scope, path, len(body)), client.receive_for(body))
        data = await answers.collect(await self.endpoints[path](inner), inner)
        return await in_thread_if_large(len(data), _as_json, data)

    def _dispatch(self, instance: Any) -> tuple[str, bytes]:
        """The path that answers the instance, and the body for it. Raises InvalidRequest."""
        if not isinstance(instance, dict):
            raise InvalidField("instances", "must be objects.")
        wanted = instance.get(FORMAT_FIELD)
        if not isinstance(wanted, str):
            raise InvalidField(FORMAT_FIELD, "must name an endpoint, such as chatCompletions.")
        path = self._by_name.get(wanted, wanted)
        if path not in self.endpoints:
            raise InvalidField(FORMAT_FIELD, f"names no endpoint: {wanted[:80]!r}.")
        fields = {name: value for name, value in instance.items() if name != FORMAT_FIELD}
        if "stream" in fields:
            fields["stream"] = False
        return path, encode_json(fields)


def _inner_scope(scope: Scope, path: str, length: int) -> Scope:
    headers = [header for header in scope["headers"] if header[0] in _KEPT_HEADERS]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
    own = {"path": path, "raw_path": path.encode(), "headers": headers, "query_string": b""}
    kept = ("type", "asgi", "http_version", "method", "scheme", "client", "server", "state")
    return {**{name: scope[name] for name in kept if name in scope}, **own}


def _as_json(data: bytes) -> bytes:
    """The answer as a JSON value; as a string if it is none."""
    try:
        data.decode()
        return bytes(_RAW.decode(data))
    except (ValueError, msgspec.MsgspecError):
        return msgspec.json.encode(data.decode(errors="replace"))


class _Client:
    """The client as each instance sees it: it sends one body, and may leave."""

    def __init__(self, receive: Receive) -> None:
        self._left = asyncio.Event()
        self._watch = asyncio.create_task(self._wait_until_left(receive))

    async def _wait_until_left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left.set()

    def receive_for(self, body: bytes) -> Receive:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await self._left.wait()
            return {"type": "http.disconnect"}

        return receive

    def close(self) -> None:
        self._watch.cancel()


class _Answers:
    """What the endpoints answer, within one bound for all of them."""

    def __init__(self) -> None:
        self._size = 0

    async def collect(self, response: ASGIApp, inner: Request) -> bytes:
        """The body of one answer."""
        chunks: list[bytes] = []
        is_whole = True

        async def send(message: Message) -> None:
            nonlocal is_whole
            data = message.get("body", b"")
            self._size += len(data)
            is_whole = is_whole and self._size <= MAX_ANSWERS_BYTES
            if is_whole:
                chunks.append(data)

        await response(inner.scope, inner.receive, send)
        if is_whole:
            return b"".join(chunks)
        return _error(
            InvalidRequest(f"The answers are larger than {MAX_ANSWERS_BYTES >> 20} MiB together; send fewer instances.")
        )


def _error(exc: InvalidRequest) -> bytes:
    error = {"code": exc.status, "message": exc.message, "type": exc.code, "param": exc.param}
    return encode_json({"error": error})
