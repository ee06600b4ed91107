"""One request to a child, and its answer back to the client.

A route returns a `ProxiedRequest`. It holds the lease, here and nowhere else, and gives it back however the request
ends. And however it ends, it ends its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from router.errors import GenerationTimeout, RouterError, Stopped, Unreachable, UpstreamFailed
from router.proxy.client_response import ClientResponse, event_separators, header_lines
from router.proxy.collected import MEDIA_TYPE, Collected
from router.proxy.disconnect import CancelOnDisconnect, StopOnRequest
from router.proxy.error_response import MAX_ERROR_BYTES, error_response, is_rewritten, read_upstream_error
from router.proxy.head import Head, request_id_of
from router.proxy.protocols import GENERATING_TARGETS, CuttableTranslation, Dialect, Lease, Translation
from router.records.records import Records
from router.records.running import ENGINE_ERROR, LEFT, Running, kind_of_end
from router.text import seen
from router.wire.headers import Headers
from router.wire.request_head import RequestHead
from router.wire.response import Response as UpstreamResponse
from router.wire.upstream import Upstream

log = logging.getLogger("router.proxy")

MAX_BEGINNING_BYTES = 4096  # of a stream, kept for the event that may end it
STOP_GRACE_S = 5.0  # for a client that is told that its request was stopped

WholeResponse = tuple[int, bytes, bytes]  # status, header lines, body


class ProxiedRequest:
    """The ASGI app that answers one request with a child's response.

    - `get_lease` waits for the child. It may raise RouterError. It is cancelled when the client leaves.
    - `body` goes to the child as it is.
    - `stream`: the client wants events.
    - `keepalive`: until there is a lease, a client of a stream gets a comment every so many seconds; 0 for none. The
      first comment fixes the status to 200. An error after it is sent as an event. `comment` makes its text, from the
      name of the model.
    - `time_limit`: an answer that is not complete so many seconds after the lease is ended. A stream of a generation
      ends as one that was cut at its token limit, with an event of `cut`, which gets the beginning of the stream.
    - `collect` makes what collects the answer of the child, which was asked for a stream, into one without; if the time
      is up, as far as it has come.
    - `translation` answers in place of the child.
    - `conversation`: with such an id, the request goes on when the client has left. `end_conversation` tells the child
      that it is to stop, which does not end with its connection then.
    - `notes` are headers for the client, about its request.
    - `lease`: one that is there already, so that `get_lease` is not called first. It is given back at the end of the
      call, or by `abort`.
    - `model`, `background`: what its record says. A request without a model leaves no record: it only looks.

    A caller that does not want a task for the request uses the steps instead of the call. Each step can end in the
    call, which then goes on from there::

        request.send() and request.on_complete(callback)    # else: await request(scope, receive, send)
        ...                                                 # the callback is called
        response = request.take_response()                  # None: await request(scope, receive, send)
    """

    running: Running | None = None  # what becomes its record; a small request has none
    began = 0.0  # by `time.monotonic`, if it is on the fast path

    def __init__(
        self,
        get_lease: Callable[[], Awaitable[Lease]],
        upstream: Upstream,
        dialect: Dialect,
        head: Head,
        *,
        body: bytes = b"",
        stream: bool = False,
        keepalive: float = 0.0,
        comment: Callable[[str], str] = lambda model: "loading",
        time_limit: float | None = None,
        cut: Callable[[bytes], bytes] | None = None,
        collect: Callable[[], Collected] | None = None,
        translation: Translation | None = None,
        conversation: str = "",
        end_conversation: Callable[[], Awaitable[None]] | None = None,
        lease: Lease | None = None,
        notes: Headers = (),
        model: str = "",
        background: bool = False,
    ) -> None:
        self._get_lease = get_lease
        self._upstream = upstream
        self.dialect = dialect
        self.head = head
        self.id = request_id_of(head)
        self._body = body
        self._is_stream = stream
        self._keepalive = keepalive if stream else 0.0
        self._comment = comment
        self._time_limit = time_limit
        self._cut = cut
        self._beginning = b""  # of a stream that may be cut
        self._collect = collect
        self._collected: Collected | None = None  # the answer so far
        self._translation = translation
        self._conversation = conversation
        self._end_conversation = end_conversation
        self._lease = lease
        self._notes = notes
        self._answer: UpstreamResponse | None = None  # the answer to what `send` has sent
        self.model = model
        self.is_background = background

    def __repr__(self) -> str:
        state = "sent" if self._answer is not None else "leased" if self._lease is not None else "waiting"
        return f"<{type(self).__name__} {self.head.method} {self.head.path} {state}>"

    def record_in(self, running: Running) -> None:
        """Its record has begun already, before its model was known."""
        if not self.model:
            return
        running.model, running.stream, running.background = self.model, self._is_stream, self.is_background
        self.running = running
        self.id = running.client_id

    # In steps, without a task

    def go_on_from(self, lease: Lease, answer: UpstreamResponse, id: bytes) -> None:
        """It was sent already, with this id; this is its answer."""
        self._lease, self._answer, self.id = lease, answer, id

    def begin_running(self, records: Records, client: str) -> None:
        """It is no small request any more, or somebody wants to see it. `client` is the address of the client."""
        if self.running is not None:
            return
        head = self.head
        self.running = running = records.begin(
            self.id, head.shown_path, self.dialect.name, client, head.agent, head.trace
        )
        running.began = self.began or running.began
        running.model, running.stream, running.background = self.model, self._is_stream, self.is_background
        running.stop_work = self._cut_off

    def forget_record(self, records: Records) -> None:
        """It begins again, as another request."""
        if self.running is not None:
            records.forget(self.running)
            self.running = None

    def _cut_off(self) -> None:
        """An operator ends it. Whoever waits for the answer calls the request then, which tells the client."""
        if self._answer is not None:
            self._answer.close()

    def send(self) -> bool:
        """Sends the request now, if there are a lease and an open connection to the child. False: call the request."""
        if lease := self._lease:
            is_plain = self.running is None and not self._conversation
            head = self.head.forwarded if is_plain else self._head_for_child()
            own_headers = [(b"x-request-id", self.id)] if is_plain else self._own_headers()
            self._answer = self._upstream.send(lease.address, lease.key, head, self._body, own_headers)
        return self._answer is not None

    def on_complete(self, callback: Callable[[], None]) -> bool:
        """Calls `callback` when the whole answer has come. False for an answer that must be sent while it comes, or
        that has a time limit: call the request."""
        assert self._answer is not None
        if self._is_stream or self._time_limit is not None:
            return False
        self._answer.on_complete = callback
        return True

    def forget_callback(self) -> None:
        """The request is going to be called instead."""
        if self._answer is not None:
            self._answer.on_complete = None

    def take_response(self) -> WholeResponse | None:
        """The whole answer, ready to be sent; the lease is given back. None if more than that is to be done: call the
        request."""
        lease, answer = self._lease, self._answer
        assert lease is not None
        assert answer is not None
        body, head = answer.complete_body(), answer.head
        if body is None or head is None:
            return None
        lines = header_lines(head)
        if lines is None or (head.status >= 400 and is_rewritten(head.status, body)):
            return None
        self._lease = self._answer = None
        lease.release()
        if self.running is not None:
            self.running.end(head.status, ENGINE_ERROR if head.status >= 400 else None, body)
        if self._notes:
            lines += b"".join([b"%b: %b\r\n" % note for note in self._notes])
        return head.status, b"%bx-request-id: %b\r\nrequest-id: %b\r\n" % (lines, self.id, self.id), body

    def abort(self, error: str | None = None) -> None:
        """The client has left, unless there is an `error`."""
        self._release()
        if self.running is not None:
            self.running.end(500 if error else LEFT, error)

    def _release(self) -> None:
        (lease, answer), self._lease, self._answer = (self._lease, self._answer), None, None
        if answer is not None:
            answer.on_complete = None
            answer.close()
        if lease is not None:
            lease.release()

    # As an application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = ClientResponse(send, self.id, self._notes)
        if self.running is not None:
            self.running.sent = client
        status, error = LEFT, None  # unless it is known otherwise
        try:
            async with contextlib.nullcontext() if self._conversation else CancelOnDisconnect(receive):
                status, error = await self._respond(client, scope, receive, send)
        except BaseException as exc:
            status, error = 500, kind_of_end(exc)
            raise
        finally:
            self._release()  # what was begun before the call, if it was stopped at once
            if self.running is not None:
                self.running.end(status, error)

    async def _respond(
        self, client: ClientResponse, scope: Scope, receive: Receive, send: Send
    ) -> tuple[int, str | None]:
        """Returns the status of the answer, and what was wrong."""
        try:
            with StopOnRequest(self.running):
                await self._serve(client)
        except RouterError as exc:
            if isinstance(exc, Stopped) and self._end_conversation is not None:
                await self._end_conversation()
            if isinstance(exc, GenerationTimeout) and (last := self._last_of_cut(client)) is not None:
                await self._end_cut_answer(client, last)
            elif not client.is_started:
                response = error_response(self.dialect, exc, self.id)
                await response(scope, receive, send)
                return response.status_code, exc.kind
            elif client.has_events:
                client.drop_partial_event()
                event = self.dialect.stream_error(exc, self.id.decode())
                # Else a client that does not read what it gets could not be stopped.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_GRACE_S if isinstance(exc, Stopped) else None):
                        await client.write(event, last=True)
            else:
                # No error can follow. The response stays incomplete, so the server closes the connection, and the
                # client sees that the response was cut off.
                log.warning("a request is cut off: %s", exc, extra={"model": self.model})
            return client.status, exc.kind
        return client.status, ENGINE_ERROR if client.status >= 400 else None

    async def _serve(self, client: ClientResponse) -> None:
        """A child may have ended before the pool knows it. The client must not notice, so the request is sent once
        more, to another child. It is not sent a third time: it may be what ends the children."""
        for attempt in (1, 2):
            (lease, answer), self._lease, self._answer = (self._lease, self._answer), None, None
            if lease is None:
                lease = await self._wait_for_lease(client)
            try:
                async with asyncio.timeout(self._time_limit):
                    if self._translation is None:
                        await self._relay(lease, client, answer)
                    else:
                        await self._translate(self._translation, lease, client)
                return
            except TimeoutError:
                log.warning("%s: a request without a token limit is ended", lease.model, extra={"model": lease.model})
                raise GenerationTimeout(
                    f"The answer was not complete after {self._time_limit:g} s, twice --max-generation-time. "
                    "Send max_tokens, or raise --max-generation-time."
                ) from None
            except Unreachable as exc:
                if attempt == 2 or not (await lease.is_over() or (exc.is_not_listening and lease.report_unreachable())):
                    raise
            finally:
                lease.release()

    def _last_of_cut(self, client: ClientResponse) -> bytes | None:
        """What ends an answer whose time is up, as one that has reached its limit. None if it ends as an error."""
        if self._translation is not None:
            return self._translation.cut() if isinstance(self._translation, CuttableTranslation) else None
        if self._collected is not None:
            return None if client.is_started else self._collected.cut()
        if self._cut is None or not self._beginning or not client.has_events:
            return None
        return self._cut(self._beginning)

    async def _end_cut_answer(self, client: ClientResponse, last: bytes) -> None:
        if not client.is_started:
            kind = self._translation.media_type if self._translation else MEDIA_TYPE
            await client.start(200, [(b"content-type", kind)])
        client.drop_partial_event()
        await client.write(last, last=True)

    async def _wait_for_lease(self, client: ClientResponse) -> Lease:
        if self.running is None:
            return await self._wait_with_comments(client)
        self.running.wait()
        try:
            return await self._wait_with_comments(client)
        finally:
            self.running.wait_is_over()

    async def _wait_with_comments(self, client: ClientResponse) -> Lease:
        if not self._keepalive:
            return await self._get_lease()
        comments = asyncio.create_task(self._send_comments(client))
        try:
            return await self._get_lease()
        finally:
            comments.cancel()

    async def _send_comments(self, client: ClientResponse) -> None:
        while True:
            await asyncio.sleep(self._keepalive)
            if not client.is_started:
                await client.start(200, [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")])
            await client.write(f": {seen(self._comment(self.model))}\n\n".encode())

    async def _relay(self, lease: Lease, client: ClientResponse, answer: UpstreamResponse | None) -> None:
        """`answer`: what `send` has got already."""
        answer = await self._upstream.open(
            lease.address, lease.key, self._head_for_child(), self._body, self._own_headers(), answer
        )
        self._watch(answer)
        try:
            # Read before the head goes out: a child that dies here is still a 502.
            data = await answer.read()
            if answer.status >= 400:
                while not answer.is_at_end and len(data) < MAX_ERROR_BYTES:
                    data += await answer.read()
                if is_rewritten(answer.status, data):
                    raise await read_upstream_error(answer, data)
            if self._collect is not None and answer.status == 200 and event_separators(answer.headers):
                whole = await self._read_collected(self._collect(), answer, data)
                await client.start(200, [(b"content-type", MEDIA_TYPE)])
                await client.write(whole, last=True)
                return
            if not client.is_started:
                await client.start(answer.status, answer.headers)
            elif not event_separators(answer.headers):
                # The client got comments already, so this answer cannot be sent as it is.
                raise await read_upstream_error(answer, data)
            if self._cut is not None and answer.status == 200:
                self._beginning = data[:MAX_BEGINNING_BYTES]
            while not answer.is_at_end:
                await client.write(data)
                data = await answer.read()
            await client.write(data, last=True)
        finally:
            answer.close()

    async def _read_collected(self, collected: Collected, answer: UpstreamResponse, data: bytes) -> bytes:
        self._collected = collected
        collected.feed(data)
        while not answer.is_at_end:
            collected.feed(await answer.read())
        return collected.whole()

    async def _translate(self, translation: Translation, lease: Lease, client: ClientResponse) -> None:
        async def post(target: bytes, body: bytes) -> UpstreamResponse:
            own = list(self._own_headers()) if target in GENERATING_TARGETS else [(b"x-request-id", self.id)]
            if self.running is not None and self.running.trace and (b"traceparent", self.running.onward) not in own:
                own.append((b"traceparent", self.running.onward))
            head = RequestHead("POST", target, [(b"content-type", b"application/json")])
            answer = await self._upstream.open(lease.address, lease.key, head, body, own)
            self._watch(answer)
            return answer

        async with contextlib.aclosing(translation(post)) as pieces:
            async for data in pieces:
                if not client.is_started:
                    await client.start(200, [(b"content-type", translation.media_type)])
                await client.write(data)
        if not client.is_started:
            raise UpstreamFailed("The model's server sent an answer without content. Send the request again.")
        await client.write(b"", last=True)

    def _watch(self, answer: UpstreamResponse) -> None:
        if self.running is not None:
            self.running.read(answer)

    def _own_headers(self) -> Headers:
        """The headers of this request alone. Those of its head may be shared with other requests."""
        headers = [(b"x-request-id", self.id)]
        if self._conversation:
            headers.append((b"x-conversation-id", self._conversation.encode(errors="surrogateescape")))
        if (running := self.running) is not None and running.trace and running.is_traced:
            headers.append((b"traceparent", running.onward))
        return headers

    def _head_for_child(self) -> RequestHead:
        if (running := self.running) is not None and running.trace and running.is_traced:
            return self.head.forwarded_untraced
        return self.head.forwarded
