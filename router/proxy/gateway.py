"""From the name of a model to a request to its child: what all endpoints of all dialects share.

An endpoint reads the body, resolves the name, and returns `Gateway.proxied_request`. `endpoints` does so for the many
endpoints that differ in their dialect alone; `api.ollama` and others use the steps themselves.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request

from router.engine.allowlist import LoadArgs
from router.errors import InvalidRequest, NotLoaded, UnknownModel
from router.models.created import CreatedStore
from router.models.spec import ModelSpec
from router.pool.hub_models import HubModels
from router.pool.lease import Lease as PoolLease
from router.pool.pool import Pool
from router.proxy import chat, rewrite
from router.proxy.body import json_object, read_body
from router.proxy.budget import Budget
from router.proxy.collected import Collected
from router.proxy.conversation import CONVERSATION_HEADER, Conversations, conversation_id
from router.proxy.cut import cut_of
from router.proxy.head import MAX_HEADER_BYTES, MAX_HEADERS, Head
from router.proxy.protocols import Dialect, Lease, Translation
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.routing import Outline, has_context_option, has_no_token_limit, with_time_limit
from router.records.records import Records
from router.wire.headers import Headers
from router.wire.upstream import Upstream

log = logging.getLogger("router.gateway")

SCHEMA_HEADER = b"x-schema-not-enforced"
MAX_NOTE = 1000  # characters of a header
_UNPRINTABLE = re.compile(r"[^ -~]")
# Paths that a llama-server answers asleep (tools/server/README.md, "Sleeping on Idle").
NEVER_WAKES = frozenset(("/props",))


class Prepared(NamedTuple):
    """A body as the child gets it, and what its fields mean for the answer: a time limit in seconds, and headers for
    the client, which say what of its schema the engine does not enforce."""

    body: bytes
    time_limit: float | None = None
    notes: Headers = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts and settings that endpoints share.

    - `autoload`: whether a request loads its model, unless its query says `autoload`.
    - `body_limit`: bytes of one request body.
    - `keepalive`: seconds between comments to a stream that waits for its model; 0 for no comments.
    - `generation_time`: seconds that a request without a token limit may generate; 0 for any time. llama-server's own
      clock looks only at the ends of lines, so the answer is also cut off after twice that time.
    - `claude_map`: patterns of Anthropic's model names, each with the model that serves them.
    - `task_header`: a request in which this header has a value is a background task.
    - `hub_models`: models that can be downloaded.
    - `budget`: the bytes of bodies that are held for requests that wait.
    - `load_args`: which settings a load may bring with it.
    - `created`: names that clients have made.
    - `refresh`: builds the catalog again, after a model was made; None if none can be made here.
    """

    pool: Pool
    upstream: Upstream
    autoload: bool = True
    body_limit: int = 64 * 2**20
    keepalive: float = 0.0
    generation_time: float = 0.0
    claude_map: Sequence[tuple[str, str]] = ()
    task_header: str = ""
    hub_models: HubModels | None = None
    budget: Budget = field(default_factory=Budget)
    load_args: LoadArgs = "safe"
    created: CreatedStore = field(default_factory=CreatedStore)
    refresh: Callable[[], Awaitable[object]] | None = None
    conversations: Conversations = field(default_factory=Conversations, init=False)
    records: Records = field(init=False)
    # Models with a request whose `num_ctx` was ignored, and logged.
    _logged_context: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", Records(lambda model, since: self.pool.seconds_of_load(model, since)))

    async def read_body(self, request: Request) -> bytes:
        """The body. It is part of the budget until the request has been answered. Raises BodyTooLarge, QueueFull."""
        return await read_body(request, self.body_limit, self.budget)

    def has_model(self, name: str | None) -> bool:
        """Whether this names a model of the catalog. No name is one if there is a default."""
        try:
            self.find(name)
        except (UnknownModel, InvalidRequest):
            return False
        return True

    def find(self, name: str | None) -> ModelSpec:
        """The model with this name, without a look at the hub. A name that a client made has its prompt and parameters
        as filters. Raises UnknownModel, InvalidRequest for no name."""
        catalog, created = self.pool.catalog, self.created
        spec = catalog.find(name) if name else None
        if spec is not None:
            if spec.params_by_name:
                spec = spec.called(name or spec.name)
            return created.of_request(spec) if spec.name in created.in_catalog else spec
        return (name and created.resolve(catalog, name)) or catalog.resolve(name)

    async def resolve(self, name: str | None, *, hub_token: str | None = None) -> ModelSpec:
        """The model with this name. It may have come into the cache or a folder since the catalog was read, and it may
        be one that can be downloaded. `hub_token` is used for the hub in place of the router's own.

        Raises UnknownModel, InvalidRequest for no name, and the errors of the hub."""
        try:
            spec = self.find(name)
            # Its files may have come since. Only a look at folders, at most once a second.
            if spec.problem and self.hub_models and await self.hub_models.refresh_if_changed():
                spec = self.find(name)
            return await self.described(spec)
        except UnknownModel:
            if self.hub_models is None or not name:
                raise
            if self.hub_models.allows(name):
                return self.pool.downloads.found(await self.hub_models.find(name, hub_token))
            if not self.hub_models.may_come(name) or not await self.hub_models.refresh_if_changed():
                raise
        return self.pool.catalog.resolve(name)

    async def described(self, spec: ModelSpec) -> ModelSpec:
        """The model with what its header says: just after the start, most headers have not been read yet."""
        if not spec.is_unread:
            return spec
        await self.pool.exchange.learn(spec.name)
        return replace(spec, info=self.pool.catalog.resolve(spec.name).info)

    def is_background(self, head: Head) -> bool:
        return bool(self.task_header and head.header(self.task_header))

    def asks_to_load(self, head: Head) -> bool:
        return head.query("autoload") in ("1", "true")

    def check_may_load(self, spec: ModelSpec, head: Head, default: bool) -> None:
        """Raises NotLoaded if the model does not run, and the request may not load it. `default`: whether it may, if
        its query does not say."""
        may_load = default if head.query("autoload") is None else self.asks_to_load(head)
        if not may_load and not self.pool.is_running(spec.name):
            raise NotLoaded(f"model {spec.name!r} is not loaded; POST /models/load loads it, or add ?autoload=true")

    def prepare_body(
        self, spec: ModelSpec, path: str, fields: dict[str, Any], body: bytes, outline: Outline | None = None
    ) -> Prepared:
        """The JSON object `body` for this model's child. `fields` are those of the body, at least those that the router
        looks at; `outline` tells about messages that are not among them. Raises InvalidRequest."""
        changed = self._rewrite(spec, path.removeprefix("/v1"), fields, body, outline)
        notes = _notes(fields)
        if changed is not None:
            fields, body = changed, rewrite.encode_json(changed, len(body))
        return Prepared(*self._limit_time(path, fields, body), notes)

    def _rewrite(
        self, spec: ModelSpec, path: str, fields: dict[str, Any], body: bytes, outline: Outline | None
    ) -> rewrite.Fields | None:
        """All fields of the body as they are to be; None if nothing changes."""
        changed = None
        if spec.filters is not None and path in rewrite.PATHS:
            fields = changed = rewrite.apply_filters(path, json_object(body), spec.filters)
        if path in chat.PATHS:
            # As it runs: a load may have brought another template, or a projector.
            running, has_all = self.pool.effective(spec.name), changed is not None
            return chat.changed(running, fields, body, outline, has_all=has_all) or changed
        if isinstance(fields.get("json_schema"), dict):
            fields = json_object(body) if changed is None else changed
            after = chat.with_native_schema(fields)
            return changed if after is fields else after
        return changed

    def _limit_time(self, path: str, fields: Mapping[str, Any], body: bytes) -> tuple[bytes, float | None]:
        """The body with a time limit for llama-server, if it has no token limit. And the time limit for the router, in
        seconds, which is twice as long."""
        if not self.generation_time or not has_no_token_limit(path, fields):
            return body, None
        return with_time_limit(body, fields, self.generation_time), 2 * self.generation_time

    def log_ignored_context(self, spec: ModelSpec, fields: Mapping[str, Any]) -> None:
        """Logs, once a model, that a request's `num_ctx` has no effect."""
        if spec.name not in self._logged_context and has_context_option(fields):
            if len(self._logged_context) > len(self.pool.catalog):
                self._logged_context.clear()  # it holds names that have left the catalog
            self._logged_context.add(spec.name)
            log.info(
                "%s: a request's num_ctx changes nothing: the context is fixed when the model loads; "
                "set ctx-size in its preset, or --ctx-size for all",
                spec.name,
                extra={"model": spec.name},
            )

    def conversation_of(
        self, head: Head, get_lease: Callable[[], Awaitable[PoolLease]]
    ) -> tuple[str, Callable[[], Awaitable[Lease]], Callable[[], Awaitable[None]] | None]:
        """The conversation of a request for a stream, "" if it names none, what waits for its child, and what stops
        its stream. Raises InvalidRequest."""
        conversation = conversation_id(head.header(CONVERSATION_HEADER))
        if not conversation:
            return "", get_lease, None
        wait = self.conversations.begin(conversation, get_lease, self.upstream)
        return conversation, wait, self.conversations.stopping(conversation, self.upstream)

    def proxied_request(
        self,
        spec: ModelSpec,
        head: Head,
        dialect: Dialect,
        body: bytes,
        stream: bool,
        *,
        used: bool,
        ttl: float | None = None,
        time_limit: float | None = None,
        lease_now: bool = False,
        looks: bool = False,
        translation: Translation | None = None,
        collect: Callable[[], Collected] | None = None,
        notes: Headers = (),
    ) -> ProxiedRequest:
        """The request to the child of this model.

        `used`: it counts as a use of the model.
        `ttl`: the idle time that it sets, as `Pool.lease` takes it.
        `lease_now`: it gets its lease here, if that needs no waiting.
        `looks`: it gets its lease here, or NotLoaded is raised (see `Pool.look`).
        `translation` answers in place of the child; then the client's headers are not passed on.
        `collect`, `notes`: as in ProxiedRequest.
        Raises InvalidRequest.
        """
        if translation is None and head.exceeds_engine_limits:
            raise InvalidRequest(
                f"The request's headers are too many or too long; send at most {MAX_HEADERS}, "
                f"of {MAX_HEADER_BYTES} bytes at most (large cookies are a common cause)."
            )
        background = self.is_background(head)
        wait = partial(self.pool.lease, spec, used=used, ttl=ttl, background=background)
        conversation, get_lease, end_conversation = self.conversation_of(head, wait) if stream else ("", wait, None)
        lease = None
        if looks:
            look = partial(self.pool.look, spec, wakes=head.path not in NEVER_WAKES)
            lease, get_lease = look(), in_coroutine(look)
        elif lease_now and ttl is None and not conversation:
            lease = self.pool.lease_at_once(spec, used=used, background=background)
        return ProxiedRequest(
            get_lease,
            self.upstream,
            dialect,
            head,
            body=body,
            stream=stream,
            keepalive=self.keepalive,
            comment=self.pool.comment,
            time_limit=time_limit,
            cut=cut_of(head.path) if stream and time_limit else None,
            collect=collect,
            translation=translation,
            conversation=conversation,
            end_conversation=end_conversation,
            lease=lease,
            notes=notes,
            model="" if looks else spec.name,
            background=background,
        )


def _notes(fields: Mapping[str, Any]) -> Headers:
    lost = chat.lost_words(fields)
    return [(SCHEMA_HEADER, _UNPRINTABLE.sub("?", ", ".join(lost))[:MAX_NOTE].encode())] if lost else []


def in_coroutine(function: Callable[[], Lease]) -> Callable[[], Awaitable[Lease]]:
    async def call() -> Lease:
        return function()

    return call
