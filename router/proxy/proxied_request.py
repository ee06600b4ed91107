"""One request through to a child and its answer back; the lease is held here and nowhere else.

`Passage` is what a route returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import lru_cache
from random import getrandbits
from types import TracebackType
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import GenerationTimeout, RouterError, Unreachable, UpstreamFailed
from router.proxy.head import Head
from router.wire.address import Address
from router.wire.child_json import error_message
from router.wire.headers import Headers
from router.wire.request_head import RequestHead
from router.wire.response import Response as Answer
from router.wire.response import ResponseHead
from router.wire.upstream import Upstream

log = logging.getLogger("router.proxy")

NDJSON = b"application/x-ndjson"
ERROR_LIMIT = 256 * 1024  # bytes of an error that a child tells
EVENT_LIMIT = 1024 * 1024  # bytes of one event that are held back until it is whole

_REQUEST_ID = (b"x-request-id", b"request-id")  # as OpenAI's clients and Anthropic's read it


Whole = tuple[int, bytes, bytes]  # an answer: status, lines of the head, body


class Lease(Protocol):
    """The right to use a running child, which is not stopped before `release`."""

    @property
    def address(self) -> Address: ...

    @property
    def key(self) -> str: ...

    @property
    def model(self) -> str: ...

    async def is_over(self) -> bool:
        """Whether the child has ended, or does within a moment."""

    def renounce(self) -> bool:
        """Nobody listens there, though the child lives: it is to end, once its last requests have. Whether the next
        lease is of another one."""

    def release(self) -> None: ...


class Dialect(Protocol):
    """How an API tells errors."""

    @property
    def retells(self) -> bool:
        """Whether an error that a child tells is to be told anew: it has another shape."""

    def error(self, exc: RouterError, request_id: str) -> Response: ...

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        """Whole events or lines, to end a stream with."""


Ask = Callable[[bytes, bytes], Awaitable[Answer]]  # a child, with a POST of JSON: target, body


class Translation(Protocol):
    """A request in an API that the engine does not speak."""

    @property
    def media_type(self) -> bytes: ...

    def __call__(self, ask: Ask) -> AsyncGenerator[bytes]:
        """Asks the child, as often as it needs to, and gives the client's answer. Raises RouterError."""


class Passage:
    """The ASGI app that answers one request with a child's answer.

    `lease` waits for the child. It may raise RouterError, and is cancelled when the client leaves. `stream`: the
    client asked for events. Until the lease is there it then gets a comment every `keepalive` seconds (0: none); the
    first one fixes the status to 200, and an error after it is told as an event. An answer that is not complete
    `time_limit` seconds after the lease is ended. A `translation` answers instead of the child. With the id of a
    `conversation` all goes on when the client has left. A lease that is `held` already is not waited for; it is given
    back when the passage has been called, or left.
    """

    def __init__(
        self,
        lease: Callable[[], Awaitable[Lease]],
        upstream: Upstream,
        dialect: Dialect,
        head: Head,
        *,
        body: bytes = b"",
        stream: bool = False,
        keepalive: float = 0.0,
        time_limit: float | None = None,
        translation: Translation | None = None,
        conversation: str = "",
        held: Lease | None = None,
    ) -> None:
        self._lease = lease
        self._upstream = upstream
        self._dialect = dialect
        self._head = head
        self._id = request_id(head)
        self._body = body
        self._is_stream = stream
        self._keepalive = keepalive if stream else 0.0
        self._time_limit = time_limit
        self._translation = translation
        self._conversation = conversation
        self._held = held
        self._asked: Answer | None = None

    # In steps, for whoever does not wait: begin, and when the answer has arrived, take it whole or call the passage.

    def begin(self) -> bool:
        """Ask the child now, if neither the lease nor a connection has to be waited for. Else call the passage."""
        if lease := self._held:
            head, own = self._head.forwarded, self._own_headers()
            self._asked = self._upstream.send(lease.address, lease.key, head, self._body, own)
        return self._asked is not None

    def await_whole(self, arrived: Callable[[], None]) -> bool:
        """Have it told when the answer has arrived; not of one that is to go on as it comes, or ends by the clock."""
        assert self._asked is not None
        if self._is_stream or self._time_limit is not None:
            return False
        self._asked.on_complete = arrived
        return True

    def await_nothing(self) -> None:
        """The passage is called instead."""
        if self._asked is not None:
            self._asked.on_complete = None

    def whole(self) -> Whole | None:
        """The answer that has arrived, if all that is left is to send it. The lease is given back with it."""
        lease, answer = self._held, self._asked
        assert lease is not None
        assert answer is not None
        body, head = answer.complete_body(), answer.head
        if body is None or head is None:
            return None
        lines = _lines(head)
        if lines is None or (head.status >= 400 and self._dialect.retells):
            return None
        self._held = self._asked = None
        lease.release()
        return head.status, b"%bx-request-id: %b\r\nrequest-id: %b\r\n" % (lines, self._id, self._id), body

    def leave(self) -> None:
        """The client has left."""
        (lease, answer), self._held, self._asked = (self._held, self._asked), None, None
        if answer is not None:
            answer.on_complete = None
            answer.close()
        if lease is not None:
            lease.release()

    # As an application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _Client(send, self._id)
        async with contextlib.nullcontext() if self._conversation else _Presence(receive):
            try:
                await self._serve(client)
            except RouterError as exc:
                if not client.started:
                    await refusal(self._dialect, exc, client.request_id)(scope, receive, send)
                elif client.framed:
                    client.discard()
                    await client.write(self._dialect.stream_error(exc, client.request_id.decode()), last=True)
                else:
                    # The server closes a connection whose answer was not completed: the client sees that it is cut.
                    log.warning("request %s cut off: %s", client.request_id.decode(), exc)

    async def _serve(self, client: _Client) -> None:
        """A child that has ended, of which the pool has not heard yet, is not the client's concern; but a request that
        ends two of them is."""
        for attempt in (1, 2):
            (held, answer), self._held, self._asked = (self._held, self._asked), None, None
            lease = held or await self._grant(client)
            try:
                async with asyncio.timeout(self._time_limit):
                    await self._answer(lease, client, answer)
                return
            except TimeoutError:
                log.warning("%s: request %s has no token limit and is ended", lease.model, client.request_id.decode())
                raise GenerationTimeout(
                    f"The answer was not complete after {self._time_limit:g} s, twice --max-generation-time. "
                    "Send max_tokens, or raise --max-generation-time."
                ) from None
            except Unreachable as exc:
                if attempt == 2 or not (await lease.is_over() or (exc.is_not_listening and lease.renounce())):
                    raise
            finally:
                lease.release()

    async def _grant(self, client: _Client) -> Lease:
        if not self._keepalive:
            return await self._lease()
        comments = asyncio.create_task(self._comment(client))
        try:
            return await self._lease()
        finally:
            comments.cancel()

    async def _comment(self, client: _Client) -> None:
        while True:
            await asyncio.sleep(self._keepalive)
            if not client.started:
                await client.start(200, [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")])
            await client.write(b": loading\n\n")

    async def _answer(self, lease: Lease, client: _Client, begun: Answer | None) -> None:
        if self._translation is None:
            await self._relay(lease, client, begun)
        else:
            await self._translate(self._translation, lease, client)

    async def _translate(self, translation: Translation, lease: Lease, client: _Client) -> None:
        async def ask(target: bytes, body: bytes) -> Answer:
            headers = [(b"content-type", b"application/json"), (b"x-request-id", client.request_id)]
            head = RequestHead("POST", target, headers)
            return await self._upstream.open(lease.address, lease.key, head, body)

        async with contextlib.aclosing(translation(ask)) as told:
            async for data in told:
                if not client.started:
                    await client.start(200, [(b"content-type", translation.media_type)])
                await client.write(data)
        await client.write(b"", last=True)

    def _own_headers(self) -> Headers:
        """What a child is told beside the head."""
        headers = [(b"x-request-id", self._id)]
        if self._conversation:
            headers.append((b"x-conversation-id", self._conversation.encode(errors="surrogateescape")))
        return headers

    async def _relay(self, lease: Lease, client: _Client, begun: Answer | None) -> None:
        answer = await self._upstream.open(
            lease.address, lease.key, self._head.forwarded, self._body, self._own_headers(), begun
        )
        try:
            data = await answer.read()  # before the head goes out: a child that dies here is still a 502
            if answer.status >= 400 and self._dialect.retells:
                raise await as_error(answer, data)
            if not client.started:
                await client.start(answer.status, answer.headers)
            elif not _ends(answer.headers):
                raise await as_error(answer, data)
            while not answer.is_at_end:
                await client.write(data)
                data = await answer.read()
            await client.write(data, last=True)
        finally:
            answer.close()


class _Client:
    """What has been sent to the client. Of events and lines only whole ones are, so that an error can always follow."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.request_id = request_id
        self.started = False
        self._ends: tuple[bytes, ...] = ()
        self._send = send
        self._held = b""

    @property
    def framed(self) -> bool:
        return bool(self._ends)

    async def start(self, status: int, headers: Headers) -> None:
        self._ends = _ends(headers)
        headers = [*_answered(headers), *((name, self.request_id) for name in _REQUEST_ID)]
        if self.framed or status in (204, 304):
            headers = [header for header in headers if header[0] != b"content-length"]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self.started = True  # only now: it may be cancelled while it waits for a slow client

    async def write(self, data: bytes, *, last: bool = False) -> None:
        if self.framed:
            data = self._held + data if self._held else data
            border = len(data) if last else _border(data, self._ends)
            data, self._held = data[:border], data[border:]
            if len(self._held) > EVENT_LIMIT:
                data, self._held, self._ends = data + self._held, b"", ()
        if data or last:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    def discard(self) -> None:
        """Forget the event that has not come whole."""
        self._held = b""


class _Presence:
    """Cancels its block when the client leaves, the way asyncio.timeout does when time is up, and ends quietly then."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._watcher.cancel()
        del self._watcher  # its exception holds a frame that holds this object
        if not self._left:
            return False
        return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError


@lru_cache(maxsize=64)
def _lines(head: ResponseHead) -> bytes | None:
    """The headers of an answer that is whole, as the client gets them but for its length and id; None of one that is
    not to be sent at once."""
    if head.status in (204, 304) or _ends(head.headers):
        return None
    return b"".join([b"%b: %b\r\n" % header for header in _answered(head.headers)])


def _answered(headers: Headers) -> Headers:
    """A child's headers as the client gets them. What CORS says is the router's own."""
    return [
        header for header in headers if not header[0].startswith(b"access-control-") and header[0] not in _REQUEST_ID
    ]


def _border(data: bytes, ends: tuple[bytes, ...]) -> int:
    """Where the last whole event or line ends."""
    if data.endswith(ends):
        return len(data)
    return max(len(data) - len(data.rpartition(end)[2]) for end in ends)


def _ends(headers: Headers) -> tuple[bytes, ...]:
    """What ends an event or a line; of other answers nothing may be added to."""
    kind = dict(headers).get(b"content-type", b"")
    if kind.startswith(b"text/event-stream"):
        return b"\n\n", b"\r\n\r\n"
    return (b"\n",) if kind.startswith(NDJSON) else ()


async def as_error(answer: Answer, data: bytes = b"") -> RouterError:
    """What a child answered instead of what it was asked for; `data` was read already."""
    data += await answer.read_up_to(ERROR_LIMIT)
    error = UpstreamFailed(error_message(data[:ERROR_LIMIT]))
    if answer.status >= 400:
        error.status = answer.status
    return error


def request_id(head: Head) -> bytes:
    """The client's, else a new one."""
    return head.request_id or b"%016x" % getrandbits(64)


def refusal(dialect: Dialect, exc: RouterError, id: bytes) -> Response:
    response = dialect.error(exc, id.decode())
    response.headers.update({name.decode(): id.decode() for name in _REQUEST_ID})
    return response
