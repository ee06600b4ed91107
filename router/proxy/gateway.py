"""What every dialect shares: from a request that names a model to the passage to its child."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from router.engine.flags import LoadArgs
from router.errors import InvalidRequest, NotLoaded, RouterError, UnknownModel
from router.memory.estimate import is_silent
from router.models.spec import ModelSpec
from router.pool.depot import Depot, is_name
from router.pool.pool import Pool
from router.proxy import body as bodies
from router.proxy import rewrite
from router.proxy.body import Asked, asked, asks_for_context, is_unlimited, json_object, with_time_limit
from router.proxy.budget import Budget
from router.proxy.conversation import HEADER, Conversations, conversation_of
from router.proxy.head import LONGEST_HEADER, MOST_HEADERS, Head
from router.proxy.proxied_request import Dialect, Lease, Passage, refusal, request_id
from router.wire.upstream import Upstream

log = logging.getLogger("router.gateway")

Endpoint = Callable[[Request], Awaitable[Response]]
Alias = Callable[[str | None], str | None]
Check = Callable[[ModelSpec, Head, bytes], None]


@dataclass(frozen=True, slots=True)
class Gateway:
    """`body_limit` in bytes; `keepalive` in seconds between comments to a stream that waits for its model, 0 for none;
    `autoload` tells whether a request may load a model where it does not say so itself. A request without a token limit
    may generate for `generation_time` seconds, 0 for any time: so long by the engine's own clock, which only looks at
    the ends of lines, and twice as long at all. `claude_map` gives names of Anthropic's, by pattern, to models.
    A request whose `task_header` says something is a background task. `depot` has the models that are not here yet,
    `budget` the bytes of bodies that are held for whoever waits. Of a load's settings, `load_args` are taken."""

    pool: Pool
    upstream: Upstream
    autoload: bool = True
    body_limit: int = 64 * 2**20
    keepalive: float = 0.0
    generation_time: float = 0.0
    claude_map: Sequence[tuple[str, str]] = ()
    task_header: str = ""
    depot: Depot | None = None
    budget: Budget = field(default_factory=Budget)
    load_args: LoadArgs = "safe"
    conversations: Conversations = field(default_factory=Conversations, init=False)
    _told: set[str] = field(default_factory=set, init=False)  # models whose context was asked for

    async def read(self, request: Request) -> bytes:
        """The body, which is counted until the request has been answered. Raises BodyTooLarge, QueueFull."""
        return await bodies.read_body(request, self.body_limit, self.budget)

    def knows(self, name: str | None) -> bool:
        """Whether this names a model of the catalog, by itself or by saying nothing."""
        try:
            self.pool.catalog.resolve(name)
        except (UnknownModel, InvalidRequest):
            return False
        return True

    async def resolve(self, name: str | None) -> ModelSpec:
        """The model that a request names, also one that has come into the cache meanwhile, or that may be downloaded.
        Raises UnknownModel, InvalidRequest for no name, and what the hub has against it."""
        try:
            return self.pool.catalog.resolve(name)
        except UnknownModel:
            if self.depot is None or not name:
                raise
            if self.depot.allows(name):
                name = await self.depot.find(name)
            elif not is_name(name) or not await self.depot.look():
                raise
        return self.pool.catalog.resolve(name)

    def by_query(self, dialect: Dialect) -> Endpoint:
        """An endpoint whose query names the model, whatever the body is. It loads nothing unless it says `autoload=1`:
        what watches a server must not wake it."""

        async def endpoint(request: Request) -> Response:
            head = Head.of(request.scope)
            spec = self.pool.catalog.resolve(head.query("model"))
            self.may_load(spec, head, False)
            body = await self.read(request)
            return self.passage(spec, head, dialect, body, False, used=False)  # type: ignore[return-value]

        return told_in(dialect, endpoint)

    def is_task(self, head: Head) -> bool:
        return bool(self.task_header and head.header(self.task_header))

    def may_load(self, spec: ModelSpec, head: Head, default: bool) -> None:
        """Raises NotLoaded."""
        wish = head.query("autoload")
        may = default if wish is None else wish in ("1", "true")
        if not may and not self.pool.is_running(spec.name):
            raise NotLoaded(f"model {spec.name!r} is not loaded; POST /models/load loads it, or add ?autoload=true")

    def prepared(
        self, spec: ModelSpec, path: str, fields: Mapping[str, Any], body: bytes
    ) -> tuple[bytes, float | None]:
        """The JSON object `body` as this model is to get it, and the seconds after which its answer is ended. `fields`
        are at least those of it that the router looks at. Raises InvalidRequest."""
        if spec.filters is not None or spec.info.reasoning is not None:
            changed = self._rewritten(spec, path.removeprefix("/v1"), fields, body)
            if changed is not None:
                fields, body = changed, rewrite.encode(changed, len(body))
        return self.limited(path, fields, body)

    def _rewritten(self, spec: ModelSpec, path: str, fields: Mapping[str, Any], body: bytes) -> rewrite.Fields | None:
        changed = None
        if spec.filters is not None and path in rewrite.PATHS:
            fields = changed = rewrite.filtered(path, json_object(body), spec.filters)
        if rewrite.asks_to_think(path, fields) and is_silent(self.pool.effective(spec.name)):
            changed = rewrite.thinking(changed or json_object(body))
        return changed

    def limited(self, path: str, fields: Mapping[str, Any], body: bytes) -> tuple[bytes, float | None]:
        """The JSON object `body`, which holds `fields`, with a limit of time where it has none of tokens, and the
        seconds after which its answer is ended."""
        if not self.generation_time or not is_unlimited(path, fields):
            return body, None
        return with_time_limit(body, fields, self.generation_time), 2 * self.generation_time

    def note_context(self, spec: ModelSpec, fields: Mapping[str, Any]) -> None:
        """Tell the log, once a model, of a wish that changes nothing."""
        if spec.name not in self._told and asks_for_context(fields):
            if len(self._told) > len(self.pool.catalog):
                self._told.clear()  # some have left the catalog
            self._told.add(spec.name)
            log.info(
                "%s: a request's num_ctx changes nothing: the context is fixed when the model loads; "
                "set ctx-size in its preset, or --ctx-size for all",
                spec.name,
            )

    def passage(
        self,
        spec: ModelSpec,
        head: Head,
        dialect: Dialect,
        body: bytes,
        stream: bool,
        *,
        used: bool,
        time_limit: float | None = None,
        at_once: bool = False,
    ) -> Passage:
        """With a lease, if it is to hold one `at_once` and there is one that need not be waited for. Raises
        InvalidRequest."""
        if head.is_too_much:
            raise InvalidRequest(
                f"The request's headers are too many or too long; send at most {MOST_HEADERS}, "
                f"of {LONGEST_HEADER} bytes at most (large cookies are a common cause)."
            )
        background = self.is_task(head)
        wait = partial(self.pool.lease, spec, used=used, background=background)
        conversation = conversation_of(head.header(HEADER)) if stream else ""
        is_held = at_once and not conversation
        lease: Callable[[], Awaitable[Lease]] = (
            self.conversations.begin(conversation, wait, self.upstream) if conversation else wait
        )
        return Passage(
            lease,
            self.upstream,
            dialect,
            head,
            body=body,
            stream=stream,
            keepalive=self.keepalive,
            time_limit=time_limit,
            conversation=conversation,
            held=self.pool.lease_at_once(spec, used=used, background=background) if is_held else None,
        )


class ByBody:
    """Endpoints whose request body (or else its query) names the model, or what `alias` makes of the name. `check`
    raises InvalidRequest for what no child is to see."""

    def __init__(
        self, gateway: Gateway, dialect: Dialect, alias: Alias = lambda name: name, check: Check | None = None
    ) -> None:
        self._gateway = gateway
        self._alias = alias
        self._check = check
        self._dialect = dialect
        self.endpoint: Endpoint = told_in(dialect, self._answer)

    def routes(self, paths: Sequence[str]) -> list[Route]:
        return [ByBodyRoute(path, self) for path in paths]

    async def _answer(self, request: Request) -> Response:
        body = await self._gateway.read(request)
        head = Head.of(request.scope)
        wish, name = await bodies.apart(len(body), self._asked, head, body)
        spec = await self._gateway.resolve(name)
        self._admit(spec, head, body)
        prepared = await bodies.apart(len(body), self._prepared, spec, head, body, wish)
        # Starlette calls whatever an endpoint returns as an ASGI app; a Passage need be no more than that.
        return self._passage(spec, head, prepared, wish)  # type: ignore[return-value]

    def at_once(self, head: Head, body: bytes) -> Passage | None:
        """The passage of a request whose body is there, if nothing has to be waited for to make it, or refused."""
        if len(body) > self._gateway.body_limit:
            return None
        try:
            wish, name = self._asked(head, body)
            spec = self._gateway.pool.catalog.resolve(name)
            self._admit(spec, head, body)
            return self._passage(spec, head, self._prepared(spec, head, body, wish), wish, at_once=True)
        except RouterError:
            return None

    def _asked(self, head: Head, body: bytes) -> tuple[Asked, str | None]:
        wish = asked(body, head.content_type)
        return wish, self._alias(wish.model or head.query("model"))

    def _admit(self, spec: ModelSpec, head: Head, body: bytes) -> None:
        """Raises InvalidRequest, NotLoaded."""
        if self._check is not None:
            self._check(spec, head, body)
        self._gateway.may_load(spec, head, self._gateway.autoload)

    def _prepared(self, spec: ModelSpec, head: Head, body: bytes, wish: Asked) -> tuple[bytes, float | None]:
        """As `Gateway.prepared`. Raises InvalidRequest."""
        if wish.fields is None:
            return body, None
        return self._gateway.prepared(spec, head.path, wish.fields, body)

    def _passage(
        self, spec: ModelSpec, head: Head, prepared: tuple[bytes, float | None], wish: Asked, *, at_once: bool = False
    ) -> Passage:
        gateway, (body, time_limit) = self._gateway, prepared
        if wish.fields is not None:
            gateway.note_context(spec, wish.fields)
        return gateway.passage(
            spec, head, self._dialect, body, wish.stream, used=True, time_limit=time_limit, at_once=at_once
        )


class ByBodyRoute(Route):
    """Known to be one, so that its requests can be answered without a task of their own."""

    def __init__(self, path: str, by_body: ByBody) -> None:
        super().__init__(path, by_body.endpoint, methods=["POST"])
        self.by_body = by_body


class _Counted:
    """An answer whose request holds its body until it has been given, or the client has left."""

    def __init__(self, answer: Response) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            bodies.give_back(scope)


def told_in(dialect: Dialect, endpoint: Endpoint) -> Endpoint:
    """The endpoint with its RouterErrors rendered in this dialect."""

    async def wrapped(request: Request) -> Response:
        is_answered = False
        try:
            answer = await endpoint(request)
            is_answered = True
        except RouterError as exc:
            return refusal(dialect, exc, request_id(Head.of(request.scope)))
        finally:
            if not is_answered:
                bodies.give_back(request.scope)
        # Starlette calls it at once: nothing can come between.
        return _Counted(answer) if bodies.is_counted(request.scope) else answer  # type: ignore[return-value]

    return wrapped
