"""Streams that go on when their client has left: a conversation names its stream, the child keeps what it has said, and
here is remembered which child that is.

A llama-server does so for a stream that is asked for with `X-Conversation-Id` (tools/server/server-stream.cpp, 4 MiB
and five minutes of it). The request keeps its lease until the child has said all, so no eviction cuts it off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Collection
from typing import Any
from urllib.parse import quote

from router.errors import InvalidRequest, RouterError, UnknownStream, UpstreamFailed
from router.pool.lease import Lease
from router.wire.child_json import parse_json
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream

Wait = Callable[[], Awaitable[Lease]]

HEADER = "x-conversation-id"
LONGEST = 512  # bytes of an id: a thousand are kept, and each is looked for by each of its beginnings


def conversation_of(header: str) -> str:
    """The id as a query and JSON have it: what Starlette reads as Latin-1 is meant as UTF-8. Raises InvalidRequest."""
    if len(header) > LONGEST:
        raise InvalidRequest(f"The id of a conversation has at most {LONGEST} bytes; send a shorter X-Conversation-Id.")
    return header.encode("latin-1").decode(errors="surrogateescape")


class Common:
    """A lease that several have a part in: who generates, and whoever follows, a moment behind."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._parts = 0

    def part(self) -> Part:
        self._parts += 1
        return Part(self)

    def give_back(self) -> None:
        self._parts -= 1
        if not self._parts:
            self.lease.release()


class Part:
    def __init__(self, common: Common) -> None:
        lease, self._common = common.lease, common
        self.address, self.key, self.model = lease.address, lease.key, lease.model

    async def is_over(self) -> bool:
        return await self._common.lease.is_over()

    def report_unreachable(self) -> bool:
        return self._common.lease.report_unreachable()

    def release(self) -> None:
        self._common.give_back()


class Conversation:
    """One stream. `lease` is of the child that keeps it, None until there is one."""

    def __init__(self) -> None:
        self._common: Common | None = None
        self._waiting: asyncio.Future[Lease] | None = None
        self._is_stopped = False

    @property
    def lease(self) -> Lease | None:
        return self._common.lease if self._common else None

    @property
    def is_running(self) -> bool:
        return self.lease is None or not self.lease.released

    def part(self) -> Part:
        """Raises UnknownStream when it has gone with its child. One that nobody has a part in any more is there for as
        long as the child happens to be."""
        assert self._common is not None
        if self._common.lease.has_ended:
            raise UnknownStream("The process that kept this stream has ended, and the stream with it.")
        return self._common.part()

    async def obtain(self, wait: Wait) -> Part:
        """Raises InvalidRequest when it is stopped meanwhile, and whatever `wait` raises."""
        self._waiting = asyncio.ensure_future(wait())
        try:
            lease = await self._waiting
        except asyncio.CancelledError:
            if self._is_stopped:
                raise _stopped() from None
            raise
        if self._is_stopped:  # in the moment in which it was granted
            lease.release()
            raise _stopped()
        self._common = Common(lease)
        return self._common.part()

    async def stop(self, id: str, upstream: Upstream) -> None:
        """Whoever waits for a child is told; a child forgets the stream, and generates no more of it."""
        self._is_stopped = True
        if self.lease is None and self._waiting is not None:
            self._waiting.cancel()
        elif self.lease is not None and not self.lease.has_ended:
            with contextlib.suppress(UpstreamFailed, TimeoutError):
                await _ask(
                    upstream, self.lease, "DELETE", f"/v1/stream?conv_id={quote(id, safe='', errors='surrogateescape')}"
                )


class Conversations:
    """Those that run, and the latest that did."""

    MOST = 1000

    def __init__(self) -> None:
        self._known: dict[str, Conversation] = {}

    def begin(self, id: str, wait: Wait, upstream: Upstream) -> Callable[[], Awaitable[Part]]:
        """A new stream of this conversation, which ends the one before. What is returned waits for its child."""
        previous, conversation = self._known.pop(id, None), Conversation()
        self._known[id] = conversation
        self._prune()

        async def obtain() -> Part:
            if previous and previous.lease is None:
                await previous.stop(id, upstream)
            try:
                part = await conversation.obtain(wait)
            except RouterError:
                if self._known.get(id) is conversation:
                    del self._known[id]
                raise
            if previous and previous.lease and previous.lease.address != part.address:
                await previous.stop(id, upstream)  # a child by itself ends what another request of it replaces
            return part

        return obtain

    def _prune(self) -> None:
        while len(self._known) > self.MOST:
            ended = (id for id, conversation in self._known.items() if not conversation.is_running)
            del self._known[next(ended, next(iter(self._known)))]

    def find(self, id: str) -> Conversation:
        """Raises UnknownStream."""
        if id not in self._known:
            raise UnknownStream(f"There is no stream of the conversation {id[:80]!r}, or it has expired.")
        return self._known[id]

    async def stop(self, id: str, upstream: Upstream) -> None:
        """Nothing happens if there is none."""
        if conversation := self._known.pop(id, None):
            await conversation.stop(id, upstream)

    async def told(self, ids: Collection[str], upstream: Upstream) -> list[dict[str, Any]]:
        """What the children keep of these conversations, and of their variants `ID::...`."""
        wanted = frozenset(ids)
        by_child: dict[str, tuple[Lease, list[str]]] = {}
        for id, conversation in self._known.items():
            lease = conversation.lease
            if lease and not lease.has_ended and any(name in wanted for name in _names(id)):
                by_child.setdefault(lease.key, (lease, []))[1].append(id)
        answers = await asyncio.gather(*(_kept(upstream, *found) for found in by_child.values()))
        return list({entry["conversation_id"]: entry for answer in answers for entry in answer}.values())


def _stopped() -> InvalidRequest:
    return InvalidRequest("The request was cancelled: its stream was stopped before it began.")


def _names(id: str) -> list[str]:
    """By which a conversation may be asked for."""
    parts = id.split("::")
    return ["::".join(parts[:count]) for count in range(1, len(parts) + 1)]


async def _kept(upstream: Upstream, lease: Lease, ids: list[str]) -> list[dict[str, Any]]:
    body = json.dumps({"conversation_ids": ids}).encode()
    try:
        status, data = await _ask(upstream, lease, "POST", "/v1/streams/lookup", body)
    except (UpstreamFailed, TimeoutError):
        return []
    try:
        kept = parse_json(data) if status == 200 else []
    except ValueError:
        return []
    entries = kept if isinstance(kept, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("conversation_id"), str)]


async def _ask(upstream: Upstream, lease: Lease, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    """Of a child that answers such things at once. Raises UpstreamFailed, TimeoutError."""
    async with asyncio.timeout(2.0):
        headers = [(b"content-type", b"application/json")]
        head = RequestHead(method, target.encode(), headers)
        answer = await upstream.open(lease.address, lease.key, head, body)
        return answer.status, await answer.read_all()
