"""The routes of Anthropic's Messages API. Its list of models has the path of other APIs' lists: see `api.native`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.api.dialects import ANTHROPIC
from router.api.messages.fields import Fields
from router.api.messages.generation import CHAT, COUNT, Generation, TokenCount
from router.api.messages.names import catalog_name
from router.api.messages.request import chat_request
from router.models.spec import ModelSpec
from router.proxy.body import in_thread_if_large
from router.proxy.collected import as_stream
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway
from router.proxy.head import Head
from router.proxy.keep_alive import keep_alive
from router.proxy.protocols import Translation
from router.proxy.recording import name_model
from router.proxy.rewrite import encode_json
from router.proxy.routing import all_fields
from router.wire.headers import Headers

PATHS = ("/v1/messages", "/v1/messages/count_tokens")


class MessagesEndpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        own = zip(PATHS, (self.create, self.count_tokens), strict=True)
        return [
            Route(path, with_dialect_errors(ANTHROPIC, endpoint, self._gateway.records), methods=["POST"])
            for path, endpoint in own
        ]

    async def create(self, request: Request) -> Response:
        return await self._answer(request, counts_only=False)

    async def count_tokens(self, request: Request) -> Response:
        return await self._answer(request, counts_only=True)

    async def _answer(self, request: Request, counts_only: bool) -> Response:
        gateway = self._gateway
        body = await gateway.read_body(request)
        head, size = Head.from_scope(request.scope), len(body)
        fields = await in_thread_if_large(size, all_fields, body)
        spec = await gateway.resolve(catalog_name(gateway, fields.get("model") or head.query("model")))
        name_model(request.scope, spec.name)
        gateway.check_may_load(spec, head, gateway.autoload)
        gateway.log_ignored_context(spec, fields)
        translation, time_limit, notes = await in_thread_if_large(
            size, self._translate, spec, fields, size, counts_only
        )
        stream = isinstance(translation, Generation) and translation.shape.stream
        return gateway.proxied_request(  # type: ignore[return-value]
            spec,
            head,
            ANTHROPIC,
            b"",
            stream,
            used=True,
            ttl=keep_alive(fields),
            time_limit=time_limit,
            translation=translation,
            notes=notes,
        )

    def _translate(
        self, spec: ModelSpec, fields: Fields, size: int, counts_only: bool
    ) -> tuple[Translation, float | None, Headers]:
        """The request to the child, a time limit in seconds, and headers for the client. Raises InvalidRequest."""
        request = chat_request(fields, counts_only=counts_only)
        path = (COUNT if counts_only else CHAT).decode()
        body = encode_json(request.fields, size)
        body, time_limit, notes = self._gateway.prepare_body(spec, path, request.fields, body)
        if counts_only:
            return TokenCount(body), time_limit, []
        collects = time_limit is not None and not request.shape.stream
        body = as_stream(body, {"stream": False}) if collects else body
        return Generation(spec.name, body, request.shape, collects), time_limit, notes


def routes(gateway: Gateway) -> list[Route]:
    return MessagesEndpoints(gateway).routes()
