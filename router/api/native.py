"""llama.cpp's own API: the router's endpoints (models, loads, news), and those that only a llama-server has.

Endpoints that name one model in their body or query are passed on to its child; the others are answered here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api import engine_log
from router.api.dialects import OPENAI
from router.api.download import Downloads
from router.api.estimate import EstimateEndpoint
from router.api.listing import Listing
from router.api.load import LoadEndpoints
from router.api.lone import DISABLED_PATHS, TOOL_PATHS, disabled, tools
from router.api.messages.models import AnthropicModels, is_anthropic_client
from router.api.news import NewsStream
from router.api.slots import Slots
from router.errors import ConfigError, InvalidRequest, RouterError, UpstreamFailed
from router.hub.tokens import token_of
from router.memory.forecast import Forecast
from router.models.changes import Changes
from router.models.spec import ModelSpec
from router.pool.outlook import Outlook
from router.pool.pool import Pool
from router.proxy.body import in_thread_if_large, json_object
from router.proxy.endpoints import ModelFromBody, model_from_query, with_dialect_errors
from router.proxy.gateway import NEVER_WAKES, Gateway
from router.proxy.routing import routing_fields
from router.wire.child_json import object_or_empty, parse_json
from router.wire.request_head import RequestHead

log = logging.getLogger("router.native")

MAX_PROPS_BYTES = 2 << 20  # of a child's /props, which may hold a chat template
BY_BODY = (
    "/completion",
    "/infill",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/props",
    "/v1/chat/completions/control",
    "/v1/systemone",
)
BY_QUERY = ("/slots", "/lora-adapters")


class NativeEndpoints:
    """`reload` reads the catalog's sources again; it raises ConfigError when they are wrong.
    `forecast` is the one of EstimateEndpoint.
    `build` is the engine's line of `--version`."""

    def __init__(
        self,
        gateway: Gateway,
        downloads: Downloads,
        reload: Callable[[], Awaitable[Changes]],
        forecast: Callable[[Outlook], Awaitable[Forecast]],
        build: str,
    ) -> None:
        self._gateway = gateway
        self._pool: Pool = gateway.pool
        self._listing = Listing(gateway.pool, gateway.created)
        self._anthropic_models = AnthropicModels(gateway, self._listing.context)
        self._downloads = downloads
        self._reload = reload
        self._estimate = EstimateEndpoint(gateway, forecast)
        self._build = build_info(build)
        self._child_by_query = model_from_query(gateway, OPENAI)
        self._child_by_body = ModelFromBody(gateway, OPENAI)
        self._child_of_default = model_from_query(gateway, OPENAI, loads=True)

    def routes(self) -> list[Route]:
        load = LoadEndpoints(self._gateway)
        own = (
            ("/props", "GET", self.props),
            ("/models", "GET", self.models),
            ("/v1/models", "GET", self.models),
            ("/models/load", "POST", load.load),
            ("/models/unload", "POST", load.unload),
            ("/models/{name:path}/settings", "GET", load.settings),
            ("/models/reload", "POST", self.reload),
            ("/models/estimate", "GET", self._estimate.estimate),
            ("/models/sse", "GET", self.news),
            ("/v1/models/{name:path}", "GET", self.model),
            ("/lora-adapters", "POST", self.lora_adapters),
            ("/models", "POST", self.download),
            ("/models", "DELETE", self.remove),
            *((path, method, tools) for path, method in TOOL_PATHS),
            *((path, method, disabled) for path, method in DISABLED_PATHS),
        )
        return [
            *engine_log.routes(self._gateway),
            *(Route(path, with_dialect_errors(OPENAI, endpoint), methods=[method]) for path, method, endpoint in own),
            *self._child_by_body.routes(BY_BODY),
            *ModelFromBody(self._gateway, OPENAI, check=Slots(self._pool).check).routes(["/slots/{slot}"]),
            *(Route(path, self._child_by_query, methods=["GET"]) for path in BY_QUERY),
        ]

    async def props(self, request: Request) -> Response:
        """The router's own properties, or with `?model=` the child's.

        If the catalog has exactly one model and it runs, its properties are merged over the router's: clients of a
        single llama-server expect them here."""
        if "model" in request.query_params:
            return await self._child_by_query(request)
        lone = self._lone_running()
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
                "devices": [asdict(device) for device in await self._pool.nodes.glance()],
                **(await self._props_of(lone) if lone else {}),
            }
        )

    async def _props_of(self, spec: ModelSpec) -> dict[str, object]:
        """The child's /props; empty when it cannot be read."""
        try:
            return object_or_empty(parse_json(await self._read_child(spec, b"/props", MAX_PROPS_BYTES)))
        except ValueError as exc:
            log.warning("%s: cannot read its /props: %s", spec.name, exc, extra={"model": spec.name})
            return {}

    def _lone_running(self) -> ModelSpec | None:
        """The model, if there is exactly one and it runs: a request that names none means it."""
        models = self._pool.catalog.models
        return models[0] if len(models) == 1 and self._pool.status(models[0].name).value == "loaded" else None

    async def _read_child(self, spec: ModelSpec, target: bytes, limit: int) -> bytes:
        """What the child answers to a GET, up to `limit` bytes; empty if it does not answer with 200."""
        try:
            lease = self._pool.look(spec, wakes=target.decode() not in NEVER_WAKES)
        except RouterError:
            return b""  # it ends just now, or sleeps
        try:
            answer = await self._gateway.upstream.open(lease.address, lease.key, RequestHead("GET", target, []))
            body = await answer.read_all(limit)
            return body if answer.status == 200 else b""
        except UpstreamFailed as exc:
            log.warning("%s: cannot read its %s: %s", spec.name, target.decode(), exc, extra={"model": spec.name})
            return b""
        finally:
            lease.release()

    async def lora_adapters(self, request: Request) -> Response:
        """The engine wants a list as the body, which cannot name a model, so `?model=` may name it. An only model needs
        no name."""
        if "model" in request.query_params:
            return await self._child_by_query(request)
        is_lone = len(self._pool.catalog.models) == 1
        return await (self._child_of_default if is_lone else self._child_by_body.endpoint)(request)

    async def models(self, request: Request) -> Response:
        if self._gateway.hub_models:
            self._gateway.hub_models.refresh_soon()
        if is_anthropic_client(request.headers):
            return await self._anthropic_models.list(request)
        lost = [asdict(device) for device in await self._pool.nodes.glance() if device.lost]
        listing = self._listing.render()
        if request.query_params.get("reload"):
            changes = json.dumps(asdict(await self._read_again())).encode()
            listing = self._listing.render()[:-1] + b',"reload":' + changes + b"}"
        if lost:
            listing = listing[:-1] + b',"lost_devices":' + json.dumps(lost).encode() + b"}"
        return Response(listing, media_type="application/json")

    async def model(self, request: Request) -> Response:
        if not request.path_params["name"]:
            return await self.models(request)
        if is_anthropic_client(request.headers):
            return await self._anthropic_models.retrieve(request)
        spec = self._gateway.find(request.path_params["name"])
        await self._pool.exchange.learn(spec.name)
        return Response(self._listing.render_entry(self._gateway.find(spec.name)), media_type="application/json")

    async def reload(self, request: Request) -> Response:
        return JSONResponse({"success": True, **asdict(await self._read_again())})

    async def _read_again(self) -> Changes:
        try:
            return await self._reload()
        except ConfigError as exc:
            raise InvalidRequest(f"nothing was changed: {exc.message}") from exc

    async def news(self, request: Request) -> Response:
        return NewsStream(self._pool)

    async def download(self, request: Request) -> Response:
        """Answers when the download has started; `/models/sse` reports its progress and its end."""
        body = await self._gateway.read_body(request)
        name = (await in_thread_if_large(len(body), routing_fields, body, "application/json")).model
        if not name:
            raise InvalidRequest('model name is missing from the request; send {"model": "user/repo:QUANT"}')
        fields = await in_thread_if_large(len(body), json_object, body)
        model = await self._downloads.begin(name, token_of(fields))
        return JSONResponse({"success": True, "model": model, "status": self._pool.status(model).value})

    async def remove(self, request: Request) -> Response:
        name = request.query_params.get("model")
        if not name:
            raise InvalidRequest("model name is missing from the request; send ?model=user/repo:QUANT")
        return JSONResponse({"success": True, "freed": await self._downloads.remove(name)})


def build_info(version: str) -> str:
    """llama-server's `build_info`, such as `b11434-0a1b2c3`, from a line of its `--version`.

    A line in another format is returned as it is."""
    found = re.search(r"version: (\d+) \((\w+)\)|\(build (\d+), commit (\w+)\)", version)
    return "b{}-{}".format(*filter(None, found.groups())) if found else version
