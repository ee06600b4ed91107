"""The routes of the Responses API: create, count the tokens of an input, and read or delete what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api.dialects import OPENAI
from router.api.responses.answer import CHAT, INPUT_TOKENS, Answer, TokenCount
from router.api.responses.fields import Fields, choice, invalid, text
from router.api.responses.request import ChatRequest, translate
from router.api.responses.store import Item, ResponseStore, StoredResponse, items_of, owner_of, with_ids
from router.errors import BodyTooLarge
from router.models.spec import ModelSpec
from router.proxy.body import in_thread_if_large, reserve_more
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway, Prepared
from router.proxy.head import Head
from router.proxy.keep_alive import keep_alive
from router.proxy.recording import name_model
from router.proxy.rewrite import encode_json
from router.proxy.routing import all_fields

MAX_PAGE = 100  # items that are listed at once


@dataclass(frozen=True, slots=True)
class _Call:
    """A request that a model answers. `size` is the length in bytes of all that it says, earlier turns included."""

    head: Head
    fields: Fields
    spec: ModelSpec
    request: ChatRequest
    owner: bytes
    size: int


class ResponsesEndpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._store = ResponseStore()

    def routes(self) -> list[Route]:
        records = self._gateway.records
        own = (
            ("/responses", "POST", self.create, records),
            ("/responses/input_tokens", "POST", self.count_tokens, records),
            ("/responses/{response_id}", "GET", self.read, None),
            ("/responses/{response_id}", "DELETE", self.delete, None),
            ("/responses/{response_id}/input_items", "GET", self.list_input, None),
        )
        return [
            Route(prefix + path, with_dialect_errors(OPENAI, endpoint, records), methods=[method])
            for path, method, endpoint, records in own
            for prefix in ("/v1", "")
        ]

    # What a model answers

    async def create(self, request: Request) -> Response:
        call = await self._read_call(request)
        prepared = await self._prepare(call, CHAT)
        answer = Answer(call.request, prepared.body)
        if call.request.is_stored:
            items = await in_thread_if_large(call.size, _stored_items, call.request.items, answer.token)
            previous = text(call.fields, "previous_response_id")
            answer.keep = partial(self._keep, call.owner, items, previous)
        is_stream = call.request.is_stream
        return self._gateway.proxied_request(  # type: ignore[return-value]
            call.spec,
            call.head,
            answer,
            b"",
            is_stream,
            used=True,
            ttl=keep_alive(call.fields),
            time_limit=prepared.time_limit,
            translation=answer,
            notes=prepared.notes,
        )

    async def count_tokens(self, request: Request) -> Response:
        call = await self._read_call(request)
        prepared = await self._prepare(call, INPUT_TOKENS)
        return self._gateway.proxied_request(  # type: ignore[return-value]
            call.spec, call.head, OPENAI, b"", False, used=True, translation=TokenCount(prepared.body)
        )

    async def _read_call(self, request: Request) -> _Call:
        body = await self._gateway.read_body(request)
        head, owner = Head.from_scope(request.scope), owner_of(request.headers)
        fields = await in_thread_if_large(len(body), all_fields, body)
        spec = await self._gateway.resolve(fields.get("model") or head.query("model"))
        name_model(request.scope, spec.name)
        self._gateway.check_may_load(spec, head, self._gateway.autoload)
        conversation = self._store.conversation(owner, text(fields, "previous_response_id"))
        references = self._store.referenced(owner, fields.get("input"))
        more = references.size + sum(stored.size for stored in conversation)
        size = len(body) + more
        if size > self._gateway.body_limit:
            raise BodyTooLarge("The conversation has grown larger than --max-body-size. Begin a new one.")
        reserve_more(request.scope, more)

        def translated() -> ChatRequest:
            return translate(fields, spec.name, items_of(conversation), references.take)

        return _Call(head, fields, spec, await in_thread_if_large(size, translated), owner, size)

    async def _prepare(self, call: _Call, target: bytes) -> Prepared:
        """The body for the child, as of any chat."""

        def prepared() -> Prepared:
            fields = call.request.fields
            return self._gateway.prepare_body(call.spec, target.decode(), fields, encode_json(fields, call.size))

        self._gateway.log_ignored_context(call.spec, call.fields)
        return await in_thread_if_large(call.size, prepared)

    def _keep(self, owner: bytes, items: bytes, previous: str, id: str, response: bytes) -> None:
        self._store.add(owner, id, StoredResponse(response, items, previous))

    # What is kept

    async def read(self, request: Request) -> Response:
        if request.query_params.get("stream") in ("true", "1"):
            raise invalid("A response is streamed once, while it is created; read it without 'stream'.", "stream")
        return Response(self._stored(request).response, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        id = request.path_params["response_id"]
        self._store.remove(owner_of(request.headers), id)
        return JSONResponse({"id": id, "object": "response", "deleted": True})

    async def list_input(self, request: Request) -> Response:
        """All that the model was told: the input, and before it the conversation that the input continues."""
        stored, query = self._stored(request), dict(request.query_params)
        earlier = self._store.conversation(owner_of(request.headers), stored.previous)
        size = stored.size + sum(each.size for each in earlier)
        page = await in_thread_if_large(size, _page, lambda: [*items_of(earlier), *stored.input_items()], query)
        return Response(page, media_type="application/json")

    def _stored(self, request: Request) -> StoredResponse:
        return self._store.get(owner_of(request.headers), request.path_params["response_id"])


def _stored_items(items: Sequence[Fields], token: str) -> bytes:
    return encode_json({"items": with_ids(items, token)})


def _page(read_items: Callable[[], list[Item]], query: dict[str, Any]) -> bytes:
    """One page of items: the newest first, unless the query asks for another order."""
    order = choice(query, "order", ("asc", "desc")) or "desc"
    limit, after = query.get("limit", "20"), query.get("after")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= MAX_PAGE):
        raise invalid(f"'limit' must be an integer from 1 to {MAX_PAGE}.", "limit")
    items = read_items()[:: 1 if order == "asc" else -1]
    if after:
        places = [index for index, item in enumerate(items) if item["id"] == after]
        if not places:
            raise invalid(f"'after' names no item of this response: {after[:80]!r}.", "after")
        items = items[places[0] + 1 :]
    page = items[: int(limit)]
    ids = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
    return encode_json({"object": "list", "data": page, "has_more": len(items) > len(page), **ids})


def routes(gateway: Gateway) -> list[Route]:
    return ResponsesEndpoints(gateway).routes()
