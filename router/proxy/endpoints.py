"""Endpoints that pass a request through to a child: the model is named by the body, or by the query.

A dialect's routes are made of these. `ModelFromBody` also answers the fast path (`server.connection`), which comes
with a head and a body and wants no coroutine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from router.errors import RouterError
from router.models.spec import ModelSpec
from router.proxy.body import has_reservation, in_thread_if_large, release_body
from router.proxy.collected import Collected, as_stream, kind_of
from router.proxy.disconnect import StopOnRequest
from router.proxy.gateway import Gateway, Prepared
from router.proxy.head import Head
from router.proxy.plain import PlainRoute
from router.proxy.protocols import Dialect, Translation
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.recording import RecordedResponse, begin, end_early, name_model, refusal
from router.proxy.routing import RoutingFields, checked_name, routing_fields
from router.records.records import Records

Endpoint = Callable[[Request], Awaitable[Response]]
Alias = Callable[[str | None], str | None]
Check = Callable[[ModelSpec, Head, bytes], None]


class ModelFromBody:
    """An endpoint for requests whose body names the model. If the body names none, the query may.

    `alias` turns the name into another one. `check` raises InvalidRequest for a request that no child may get::

        routes = ModelFromBody(gateway, DIALECT).routes(["/v1/chat/completions", "/v1/embeddings"])
    """

    def __init__(
        self, gateway: Gateway, dialect: Dialect, alias: Alias = lambda name: name, check: Check | None = None
    ) -> None:
        self._gateway = gateway
        self._alias = alias
        self._check = check
        self._dialect = dialect
        self.endpoint: Endpoint = with_dialect_errors(dialect, self._answer, gateway.records)
        self.records = gateway.records

    def routes(self, paths: Sequence[str]) -> list[Route]:
        return [ModelFromBodyRoute(path, self) for path in paths]

    async def _answer(self, request: Request) -> Response:
        body = await self._gateway.read_body(request)
        head = Head.from_scope(request.scope)
        routing, name = await in_thread_if_large(len(body), self._read_routing, head, body)
        spec = await self._gateway.resolve(name)
        name_model(request.scope, spec.name)
        self._check_request(spec, head, body)
        prepared = await in_thread_if_large(len(body), self._prepare_body, spec, head, body, routing)
        translation = None
        if not self._passes_through(spec, head, routing):
            translation = await in_thread_if_large(len(body), self._translation, head, prepared.body)
        # Starlette calls what an endpoint returns as an ASGI app, so it need not be a Response.
        return self._proxied_request(spec, head, prepared, routing, translation)  # type: ignore[return-value]

    def try_now(self, head: Head, body: bytes) -> ProxiedRequest | None:
        """The request to the child, with a lease if there is one. None if something must be waited for before, or the
        request is refused: then call the endpoint."""
        if len(body) > self._gateway.body_limit:
            return None
        try:
            routing, name = self._read_routing(head, body)
            spec = self._gateway.find(name)
            if spec.is_unread or not self._passes_through(spec, head, routing):
                return None
            self._check_request(spec, head, body)
            prepared = self._prepare_body(spec, head, body, routing)
            return self._proxied_request(spec, head, prepared, routing, lease_now=True)
        except RouterError:
            return None

    def plain_route(self, head: Head, name: str | None) -> PlainRoute | None:
        """The way of requests with this head and model that say nothing else to the router. None if they all are for
        `try_now`, at least now."""
        gateway = self._gateway
        is_form = "multipart" in head.content_type.lower()  # even if its body looks like JSON
        if self._check is not None or is_form or head.exceeds_engine_limits:
            return None
        try:
            found = self._alias(checked_name(name) or head.query("model"))
            spec = gateway.find(found)
            if found and gateway.pool.catalog.find(found) is not spec:  # a name that a client made
                return None
            self._check_request(spec, head, b"")
            is_plain = self._passes_through(spec, head, RoutingFields(name, False, {}))
        except RouterError:
            return None
        if not is_plain or spec.is_unread or spec.filters is not None:
            return None
        gate = gateway.pool.gate(spec)
        return PlainRoute(gateway, self._dialect, head, gate) if gate is not None else None

    def _read_routing(self, head: Head, body: bytes) -> tuple[RoutingFields, str | None]:
        """What the body says, and the name of the model. Raises InvalidRequest."""
        routing = routing_fields(body, head.content_type)
        return routing, self._alias(routing.model or head.query("model"))

    def _check_request(self, spec: ModelSpec, head: Head, body: bytes) -> None:
        """Raises InvalidRequest, NotLoaded."""
        if self._check is not None:
            self._check(spec, head, body)
        self._gateway.check_may_load(spec, head, self._gateway.autoload)

    def _prepare_body(self, spec: ModelSpec, head: Head, body: bytes, routing: RoutingFields) -> Prepared:
        """As `Gateway.prepare_body`. Raises InvalidRequest."""
        if routing.fields is None:
            return Prepared(body)
        found = self._gateway.prepare_body(spec, head.path, routing.fields, body, routing.outline)
        if found.time_limit and not routing.stream and kind_of(head.path):
            return found._replace(body=as_stream(found.body, routing.fields))
        return found

    def _passes_through(self, spec: ModelSpec, head: Head, routing: RoutingFields) -> bool:
        """Whether the child's answer is the answer as it is. If not, `_translation` makes it."""
        return True

    def _translation(self, head: Head, body: bytes) -> Translation | None:
        """What answers a request that does not pass through; `body` is as the child is to get it. Raises
        InvalidRequest."""
        return None

    def _proxied_request(
        self,
        spec: ModelSpec,
        head: Head,
        prepared: Prepared,
        routing: RoutingFields,
        translation: Translation | None = None,
        *,
        lease_now: bool = False,
    ) -> ProxiedRequest:
        gateway, (body, time_limit, notes) = self._gateway, prepared
        if routing.fields is not None:
            gateway.log_ignored_context(spec, routing.fields)
        return gateway.proxied_request(
            spec,
            head,
            self._dialect,
            body,
            routing.stream,
            used=True,
            ttl=routing.ttl,
            time_limit=time_limit,
            lease_now=lease_now,
            translation=translation,
            notes=notes,
            collect=self._collect(head, routing) if time_limit and not routing.stream else None,
        )

    def _collect(self, head: Head, routing: RoutingFields) -> Callable[[], Collected] | None:
        kind = kind_of(head.path)
        return partial(kind, routing.fields) if kind else None


class ModelFromBodyRoute(Route):
    """A route that the fast path can use: it finds `model_from_body` here."""

    def __init__(self, path: str, model_from_body: ModelFromBody) -> None:
        super().__init__(path, model_from_body.endpoint, methods=["POST"])
        self.model_from_body = model_from_body


def model_from_query(gateway: Gateway, dialect: Dialect, *, loads: bool = False) -> Endpoint:
    """An endpoint for requests whose query names the model; the body is passed through as it is.

    A GET only looks at the model, unless its query says `autoload=1`: a program that watches a server must not start a
    process, nor wake one, nor keep one. With `loads` other methods load models as other requests do."""

    def looks(request: Request) -> bool:
        return request.method in ("GET", "HEAD") and not gateway.asks_to_load(Head.from_scope(request.scope))

    async def answer(request: Request) -> Response:
        head = Head.from_scope(request.scope)
        spec = gateway.find(head.query("model"))
        name_model(request.scope, spec.name)
        gateway.check_may_load(spec, head, loads and gateway.autoload)
        body = await gateway.read_body(request)
        return gateway.proxied_request(spec, head, dialect, body, False, used=False, looks=looks(request))  # type: ignore[return-value]

    looking, working = (with_dialect_errors(dialect, answer, records) for records in (None, gateway.records))

    async def endpoint(request: Request) -> Response:
        return await (looking if looks(request) else working)(request)

    return endpoint


def with_dialect_errors(
    dialect: Dialect, endpoint: Endpoint, records: Records | None = None, *, only_errors: bool = False
) -> Endpoint:
    """Wraps `endpoint`: a RouterError becomes a response in this dialect. And the body's part of the budget is released
    when the request has been answered.

    With `records` the request leaves a record, whatever its answer is. With `only_errors` it leaves one if it is
    refused: else it consists of requests that leave records."""

    async def wrapped(request: Request) -> Response:
        running = begin(records, request.scope, dialect.name) if records is not None else None
        is_answered = False
        try:
            with StopOnRequest(running):
                answer = await endpoint(request)
            is_answered = True
        except RouterError as exc:
            return refusal(dialect, exc, request.scope, running)
        except BaseException as exc:
            end_early(running, exc)
            raise
        finally:
            if not is_answered:
                release_body(request.scope)
        # Starlette calls the answer next, without an await between, so neither record nor reservation can be lost here.
        if running is not None and records is not None:
            if only_errors:
                records.forget(running)
            elif isinstance(answer, ProxiedRequest):
                answer.record_in(running)
            else:
                answer = RecordedResponse(answer, running)  # type: ignore[assignment]
        return _BodyReleasingResponse(answer) if has_reservation(request.scope) else answer  # type: ignore[return-value]

    return wrapped


class _BodyReleasingResponse:
    """A response that releases the request's body when it has been sent, or the client has left."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            release_body(scope)
