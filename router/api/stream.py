"""llama.cpp's resumable streams: a request about a conversation's stream goes to the child that keeps the stream."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api.dialects import OPENAI
from router.errors import InvalidRequest, Unavailable
from router.proxy.body import in_thread_if_large, json_object
from router.proxy.conversation import LeaseShare
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway
from router.proxy.head import Head
from router.proxy.proxied_request import ProxiedRequest


class StreamEndpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._conversations = gateway.conversations

    async def follow(self, request: Request) -> Response:
        """The stream from byte `?from=` to its end. It never loads a model."""
        conversation = self._conversations.find(_conversation_id(request))
        if conversation.lease is None:
            raise Unavailable("The model of this stream is not ready yet; try again in a moment.")

        async def lease() -> LeaseShare:
            return conversation.share()

        head = Head.from_scope(request.scope)
        return ProxiedRequest(lease, self._gateway.upstream, OPENAI, head)  # type: ignore[return-value]

    async def stop(self, request: Request) -> Response:
        await self._conversations.stop(_conversation_id(request), self._gateway.upstream)
        return Response(status_code=204, media_type="application/json")

    async def lookup(self, request: Request) -> Response:
        """The state of the conversations that the body names.

        It lists no others: a client learns nothing of conversations whose ids it does not know."""
        body = await self._gateway.read_body(request)
        try:
            ids = (await in_thread_if_large(len(body), json_object, body)).get("conversation_ids")
        except InvalidRequest:
            ids = None
        names = [id for id in ids if isinstance(id, str) and id] if isinstance(ids, list) else []
        return JSONResponse(await self._conversations.look_up(names, self._gateway.upstream))


def _conversation_id(request: Request) -> str:
    if not (id := request.query_params.get("conv_id")):
        raise InvalidRequest("Name the conversation: ?conv_id=ID")
    return id


def routes(gateway: Gateway) -> list[Route]:
    streams = StreamEndpoints(gateway)
    own = (
        ("/v1/stream", "GET", streams.follow),
        ("/v1/stream", "DELETE", streams.stop),
        ("/v1/streams/lookup", "POST", streams.lookup),
    )
    return [Route(path, with_dialect_errors(OPENAI, endpoint), methods=[method]) for path, method, endpoint in own]
