"""llama.cpp's router dialect: what runs, load and unload, the news, and the routes only a llama-server has."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from router.api import metrics
from router.api.listing import Listing
from router.api.load import Load
from router.api.openai import DIALECT
from router.api.slots import Slots
from router.errors import ConfigError, InvalidRequest, UpstreamFailed
from router.memory.forecast import Forecast
from router.models.catalog import ModelSpec
from router.models.changes import Changes
from router.pool.pool import Pool
from router.proxy.endpoints import ModelFromBody, model_from_query, with_dialect_errors
from router.proxy.gateway import Gateway
from router.wire.child_json import object_or_empty, parse_json
from router.wire.request_head import RequestHead

log = logging.getLogger("router.native")

PROPS = 2 << 20  # bytes of a child's /props, which may hold a chat template
BY_BODY = (
    "/completion",
    "/infill",
    "/embedding",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/props",
    "/v1/chat/completions/control",
    "/v1/systemone",
)
BY_QUERY = ("/slots", "/lora-adapters")


class Native:
    """The endpoints. `reload` reads the sources again and raises a ConfigError when they are bad; `build` is what the
    engine says of its version."""

    def __init__(
        self,
        gateway: Gateway,
        listing: Listing,
        reload: Callable[[], Awaitable[Changes]],
        forecast: Callable[[ModelSpec], Awaitable[Forecast]],
        build: str,
    ) -> None:
        self._gateway = gateway
        self._pool: Pool = gateway.pool
        self._listing = listing
        self._reload = reload
        self._forecast = forecast
        self._build = build_info(build)
        self._of_child = model_from_query(gateway, DIALECT)
        self._by_body = ModelFromBody(gateway, DIALECT)

    def routes(self) -> list[Route]:
        load = Load(self._gateway)
        own = (
            ("/health", "GET", self.health),
            ("/v1/health", "GET", self.health),
            ("/props", "GET", self.props),
            ("/metrics", "GET", self.metrics),
            ("/models", "GET", self.models),
            ("/v1/models", "GET", self.models),
            ("/models/load", "POST", load.load),
            ("/models/unload", "POST", load.unload),
            ("/models/{name:path}/settings", "GET", load.settings),
            ("/models/reload", "POST", self.reload),
            ("/models/estimate", "GET", self.estimate),
            ("/models/sse", "GET", self.news),
            ("/v1/models/{name:path}", "GET", self.model),
            ("/lora-adapters", "POST", self.scale),
        )
        return [
            *(Route(path, with_dialect_errors(DIALECT, endpoint), methods=[method]) for path, method, endpoint in own),
            *self._by_body.routes(BY_BODY),
            *ModelFromBody(self._gateway, DIALECT, check=Slots(self._pool).check).routes(["/slots/{slot}"]),
            *(Route(path, self._of_child, methods=["GET"]) for path in BY_QUERY),
        ]

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def props(self, request: Request) -> Response:
        """The router's own; with exactly one model, that model's over it once it runs, for clients of a lone
        llama-server."""
        if "model" in request.query_params:
            return await self._of_child(request)
        models = self._pool.catalog.models
        runs = len(models) == 1 and self._pool.status(models[0].name).value == "loaded"
        return JSONResponse(
            {
                "role": "router",
                "max_instances": self._pool.limits.models_max,
                "models_autoload": self._gateway.autoload,
                "model_alias": "llama-router",
                "model_path": "none",
                "default_generation_settings": {"params": None, "n_ctx": 0},
                "ui_settings": {},
                "build_info": self._build,
                "cors_proxy_enabled": False,
                **(await self._props_of(models[0]) if runs else {}),
            }
        )

    async def _props_of(self, spec: ModelSpec) -> dict[str, object]:
        lease = await self._pool.lease(spec, used=False)
        try:
            answer = await self._gateway.upstream.open(lease.address, lease.key, RequestHead("GET", b"/props", []))
            body = await answer.read_all(PROPS)
            return object_or_empty(parse_json(body)) if answer.status == 200 else {}
        except (UpstreamFailed, ValueError) as exc:
            log.warning("%s: its /props cannot be read: %s", spec.name, exc)
            return {}
        finally:
            lease.release()

    async def metrics(self, request: Request) -> Response:
        """The router's own; with `?model=` the child's."""
        if "model" in request.query_params:
            return await self._of_child(request)
        return PlainTextResponse(metrics.render(self._pool))

    async def scale(self, request: Request) -> Response:
        """The engine wants a list, which can name no model: then `?model=` does."""
        return await (self._of_child if "model" in request.query_params else self._by_body.endpoint)(request)

    async def models(self, request: Request) -> Response:
        if self._gateway.depot:
            self._gateway.depot.glance()
        listed = self._listing.whole()
        if request.query_params.get("reload"):
            told = json.dumps(asdict(await self._reread())).encode()
            listed = self._listing.whole()[:-1] + b',"reload":' + told + b"}"
        return Response(listed, media_type="application/json")

    async def model(self, request: Request) -> Response:
        spec = self._pool.catalog.resolve(request.path_params["name"])
        return Response(self._listing.one(spec), media_type="application/json")

    async def reload(self, request: Request) -> Response:
        return JSONResponse({"success": True, **asdict(await self._reread())})

    async def _reread(self) -> Changes:
        try:
            return await self._reload()
        except ConfigError as exc:
            raise InvalidRequest(f"nothing was changed: {exc.message}") from exc

    async def estimate(self, request: Request) -> Response:
        """What `?model=` would take, and who would go for it now; nothing is loaded."""
        spec = self._pool.catalog.resolve(request.query_params.get("model"))
        if spec.problem:
            raise InvalidRequest(f"{spec.name!r} cannot be estimated: {spec.problem}")
        return JSONResponse((await self._forecast(spec)).as_json())

    async def news(self, request: Request) -> Response:
        return NewsStream(self._pool)


def build_info(version: str) -> str:
    """`b11434-0a1b2c3`, as llama-server tells it in `/props`, from a line of its `--version`; another line as it is."""
    found = re.search(r"version: (\d+) \((\w+)\)|\(build (\d+), commit (\w+)\)", version)
    return "b{}-{}".format(*filter(None, found.groups())) if found else version


class NewsStream(Response):
    """The pool's feed as server-sent events. Every `KEEPALIVE` seconds of silence a comment goes out."""

    KEEPALIVE = 15.0

    def __init__(self, pool: Pool) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        telling = asyncio.create_task(self._tell(send))
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            telling.cancel()
            await asyncio.wait({telling})

    async def _tell(self, send: Send) -> None:
        async with self._pool.feed.subscribe() as news:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            chunk = b": hello\n\n"
            while chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                try:
                    item = await news.next(self.KEEPALIVE)
                    chunk = b"data: " + json.dumps(item).encode() + b"\n\n" if item is not None else b""
                except TimeoutError:
                    chunk = b": still here\n\n"
            await send({"type": "http.response.body", "body": b"", "more_body": False})
