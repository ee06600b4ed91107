"""Streams that go on when their client has left.

A client names its conversation with `X-Conversation-Id`. Then the llama-server keeps what it generates, up to 4 MiB for
five minutes (tools/server/server-stream.cpp), and a client that comes back can read it. This module remembers which
child keeps the stream of which conversation.

A request with a conversation keeps its lease until the child has generated all, so no eviction cuts it off. `gateway`
begins conversations; `api.stream` reads, lists and stops their streams. Of a translated answer the child keeps what it
has said itself: the events of a chat.
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

GetLease = Callable[[], Awaitable[Lease]]

CONVERSATION_HEADER = "x-conversation-id"
# A thousand ids are kept, and a lookup compares each of their beginnings.
MAX_ID_BYTES = 512
CHILD_TIMEOUT_S = 2.0  # for questions that a child answers at once


def conversation_id(header: str) -> str:
    """The id in the header's value, as it is written in queries and JSON. Starlette reads headers as Latin-1, clients
    write UTF-8. Raises InvalidRequest."""
    if len(header) > MAX_ID_BYTES:
        raise InvalidRequest(
            f"The id of a conversation has at most {MAX_ID_BYTES} bytes; send a shorter X-Conversation-Id."
        )
    return header.encode("latin-1").decode(errors="surrogateescape")


class SharedLease:
    """A lease with several holders: the client whose request generates, and the clients that follow its stream. It is
    released with the last holder."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._holders = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.lease.model} holders={self._holders}>"

    def share(self) -> LeaseShare:
        self._holders += 1
        return LeaseShare(self)

    def release_share(self) -> None:
        self._holders -= 1
        if not self._holders:
            self.lease.release()


class LeaseShare:
    """One holder's part of a SharedLease. To its holder it is a lease."""

    def __init__(self, shared: SharedLease) -> None:
        lease, self._shared = shared.lease, shared
        self.address, self.key, self.model = lease.address, lease.key, lease.model

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.model}>"

    async def is_over(self) -> bool:
        return await self._shared.lease.is_over()

    def report_unreachable(self) -> bool:
        return self._shared.lease.report_unreachable()

    def release(self) -> None:
        self._shared.release_share()


class Conversation:
    """The stream of one conversation. It waits for a lease, runs, and ends; the child keeps it for some time after."""

    def __init__(self) -> None:
        self._shared: SharedLease | None = None
        self._waiting: asyncio.Future[Lease] | None = None
        self._is_stopped = False

    def __repr__(self) -> str:
        state = "waits" if self._shared is None else "runs" if self.is_running else "has ended"
        return f"<{type(self).__name__} {state}{', stopped' if self._is_stopped else ''}>"

    @property
    def lease(self) -> Lease | None:
        """The lease of the child that keeps the stream, None until there is one."""
        return self._shared.lease if self._shared else None

    @property
    def is_running(self) -> bool:
        return self.lease is None or not self.lease.released

    def share(self) -> LeaseShare:
        """For a client that follows the stream. A stream that has ended can be read while its child runs. Raises
        UnknownStream if the child has ended."""
        assert self._shared is not None
        if self._shared.lease.has_ended:
            raise UnknownStream("The process that kept this stream has ended, and the stream with it.")
        return self._shared.share()

    async def wait_for_lease(self, get_lease: GetLease) -> LeaseShare:
        """Raises InvalidRequest if the stream is stopped meanwhile, and whatever `get_lease` raises."""
        self._waiting = asyncio.ensure_future(get_lease())
        try:
            lease = await self._waiting
        except asyncio.CancelledError:
            if self._is_stopped:
                raise _stopped_error() from None
            raise
        if self._is_stopped:  # between the grant and this line
            lease.release()
            raise _stopped_error()
        self._shared = SharedLease(lease)
        return self._shared.share()

    async def stop(self, id: str, upstream: Upstream) -> None:
        """A request that still waits for its lease gets an error. A child forgets the stream and stops generating."""
        self._is_stopped = True
        if self.lease is None and self._waiting is not None:
            self._waiting.cancel()
        elif self.lease is not None and not self.lease.has_ended:
            target = f"/v1/stream?conv_id={quote(id, safe='', errors='surrogateescape')}"
            with contextlib.suppress(UpstreamFailed, TimeoutError):
                await _call_child(upstream, self.lease, "DELETE", target)


class Conversations:
    """The conversations whose streams run, and the latest of those whose streams have ended."""

    MAX_CONVERSATIONS = 1000

    def __init__(self) -> None:
        self._by_id: dict[str, Conversation] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._by_id)}>"

    def begin(self, id: str, get_lease: GetLease, upstream: Upstream) -> Callable[[], Awaitable[LeaseShare]]:
        """A new stream of this conversation; the one before it ends. The result waits for a child for the new one."""
        previous, conversation = self._by_id.pop(id, None), Conversation()
        self._by_id[id] = conversation
        self._prune()

        async def wait_for_lease() -> LeaseShare:
            if previous and previous.lease is None:
                await previous.stop(id, upstream)
            try:
                share = await conversation.wait_for_lease(get_lease)
            except RouterError:
                if self._by_id.get(id) is conversation:
                    del self._by_id[id]
                raise
            # The same child ends the previous stream by itself when the new request comes. Another child does not.
            if previous and previous.lease and previous.lease.address != share.address:
                await previous.stop(id, upstream)
            return share

        return wait_for_lease

    def _prune(self) -> None:
        """Forgets the oldest stream that has ended. If all are running, the oldest."""
        while len(self._by_id) > self.MAX_CONVERSATIONS:
            oldest = next(iter(self._by_id))
            for id, conversation in self._by_id.items():
                if not conversation.is_running:
                    oldest = id
                    break
            del self._by_id[oldest]

    def find(self, id: str) -> Conversation:
        """Raises UnknownStream."""
        if id not in self._by_id:
            raise UnknownStream(f"There is no stream of the conversation {id[:80]!r}, or it has expired.")
        return self._by_id[id]

    def stopping(self, id: str, upstream: Upstream) -> Callable[[], Awaitable[None]]:
        """What stops the present stream of this conversation, unless there is a newer one by then."""
        present = self._by_id.get(id)

        async def stop() -> None:
            if present is not None and self._by_id.get(id) is present:
                await self.stop(id, upstream)

        return stop

    async def stop(self, id: str, upstream: Upstream) -> None:
        """Does nothing if there is no such conversation."""
        if conversation := self._by_id.pop(id, None):
            await conversation.stop(id, upstream)

    async def look_up(self, ids: Collection[str], upstream: Upstream) -> list[dict[str, Any]]:
        """What the children keep of these conversations, and of their variants `ID::...`. llama-server's entries."""
        wanted = frozenset(ids)
        by_child: dict[str, tuple[Lease, list[str]]] = {}
        for id, conversation in self._by_id.items():
            lease = conversation.lease
            if lease and not lease.has_ended and any(name in wanted for name in _lookup_names(id)):
                by_child.setdefault(lease.key, (lease, []))[1].append(id)
        answers = await asyncio.gather(*(_look_up_in_child(upstream, *found) for found in by_child.values()))
        return list({entry["conversation_id"]: entry for answer in answers for entry in answer}.values())


def _stopped_error() -> InvalidRequest:
    return InvalidRequest("The request was cancelled: its stream was stopped before it began.")


def _lookup_names(id: str) -> list[str]:
    """The names that find this conversation: for `a::b::c`, also `a` and `a::b`."""
    parts = id.split("::")
    return ["::".join(parts[:count]) for count in range(1, len(parts) + 1)]


async def _look_up_in_child(upstream: Upstream, lease: Lease, ids: list[str]) -> list[dict[str, Any]]:
    body = json.dumps({"conversation_ids": ids}).encode()
    try:
        status, data = await _call_child(upstream, lease, "POST", "/v1/streams/lookup", body)
    except (UpstreamFailed, TimeoutError):
        return []
    try:
        kept = parse_json(data) if status == 200 else []
    except ValueError:
        return []
    entries = kept if isinstance(kept, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("conversation_id"), str)]


async def _call_child(
    upstream: Upstream, lease: Lease, method: str, target: str, body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body. Raises UpstreamFailed, TimeoutError."""
    async with asyncio.timeout(CHILD_TIMEOUT_S):
        headers = [(b"content-type", b"application/json")]
        head = RequestHead(method, target.encode(), headers)
        answer = await upstream.open(lease.address, lease.key, head, body)
        return answer.status, await answer.read_all()
