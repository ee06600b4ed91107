"""`GET /router/stream`: the board as server-sent events: the state, then patches of what has changed.

One task looks at the board some times a second while anybody listens, and wakes the listeners if there is news. A
listener asks the board for what it lacks, whenever its client can take more. So nothing is kept for a listener; one
that reads slowly gets less often what others get, and one that does not read at all is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

from starlette.types import Receive, Scope, Send

from router.api.dashboard.board import Board, Cursor
from router.api.endless import EndlessResponse
from router.errors import Unavailable
from router.events.feed import Feed
from router.server.uvicorn_protocol import ABORT

log = logging.getLogger("router.dashboard")

EVERY_S = 0.2  # between two messages to a listener
BEAT_S = 10.0  # a listener hears something at least so often
STALLED_S = 30.0  # a client that takes nothing for so long is let go
MAX_LISTENERS = 64
RETRY_AFTER_S = 5.0
BEAT, END = b": still here\n\n", b"event: end\ndata: {}\n\n"


class Listeners:
    """All listeners of one board. They end with the `feed` of the pool, which ends with the router."""

    def __init__(self, board: Board, feed: Feed) -> None:
        self._board = board
        self.feed = feed
        self._watch: asyncio.Task[None] | None = None
        self._news = asyncio.Event()  # a new one after each piece of news
        self._told = board.cursor  # what the last news was about
        self.count = 0
        self.answers = 0  # streams that have begun to be answered: each is a listener, or will be one at once

    def __repr__(self) -> str:
        return f"<Listeners: {self.count}>"

    def ensure_room(self) -> None:
        """Raises Unavailable. Who has room begins its answer without an await between, so that of many who come at once
        no more get in."""
        if self.answers >= MAX_LISTENERS:
            raise Unavailable(
                f"{self.answers} clients listen already, and that is the limit. Close one of them, or ask "
                "/router/state now and then.",
                retry_after=RETRY_AFTER_S,
            )

    async def messages(self, since: int | None = None) -> AsyncGenerator[bytes]:
        """What one listener gets, until the router ends. The caller closes it. `since` is the last event that the
        client has; None: it wants those to come."""
        self._begin()
        try:
            board = self._board
            board.refresh()
            board.requests.refresh(asyncio.get_running_loop().time())
            has = board.cursor._replace(requests=0)  # then come the requests that run
            has = has if since is None else has._replace(seq=board.seq_before(since))
            yield _message(b"state", board.state(), board.cursor)
            while True:
                is_heard = await self._wait(has)
                if self._is_behind(has):
                    if board.needs_state(has):
                        has = has._replace(revision=board.revision)
                        yield _message(b"state", board.state(), has)
                    if has != board.cursor:
                        patch, has = board.patch(has), board.cursor
                        yield _message(b"patch", patch, has)
                elif self.feed.is_closed:
                    yield END
                    return
                elif not is_heard:
                    yield BEAT
        finally:
            self._end()

    def _begin(self) -> None:
        self.count += 1
        if self._watch is None:
            self._board.requests.begin()
            self._watch = asyncio.create_task(self._look_again_and_again())

    def _end(self) -> None:
        self.count -= 1
        if not self.count and self._watch:
            self._watch.cancel()
            self._watch = None
            self._board.requests.end()

    def _is_behind(self, has: Cursor) -> bool:
        """What other listeners got with the last news, this one lacks. What has come since waits for the next news: so
        all get the same, and nobody is told more often."""
        return any(told > had for told, had in zip(self._told, has, strict=True))

    async def _wait(self, has: Cursor) -> bool:
        """Until there is something for this listener; False if there is not for a while."""
        if self._is_behind(has) or self.feed.is_closed:
            return True
        try:
            async with asyncio.timeout(BEAT_S):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                self._board.refresh()
                self._board.requests.refresh(asyncio.get_running_loop().time())
            except Exception as exc:
                log.critical("a defect in the router", exc_info=exc)
            if self._board.cursor != self._told or self.feed.is_closed:
                self._told = self._board.cursor
                self._news.set()
                self._news = asyncio.Event()


class StateStream(EndlessResponse):
    """One client's stream. `since` is as in `Listeners.messages`."""

    def __init__(self, listeners: Listeners, since: int | None) -> None:
        super().__init__("text/event-stream")
        self._listeners = listeners
        self._since = since
        self._abort: Callable[[], object] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._abort = scope.get(ABORT, self._abort)
        self._listeners.answers += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._listeners.answers -= 1

    async def until_end(self) -> None:
        await self._listeners.feed.until_closed()

    async def pieces(self) -> AsyncGenerator[bytes]:
        loop = asyncio.get_running_loop()
        async with contextlib.aclosing(self._listeners.messages(self._since)) as messages:
            async for message in messages:
                timer = loop.call_later(STALLED_S, self._let_go)
                try:
                    yield message
                finally:
                    timer.cancel()

    def _let_go(self) -> None:
        log.info("a client of /router/stream has read nothing for %g s, and is let go", STALLED_S)
        self._abort()


def _message(kind: bytes, data: bytes, cursor: Cursor) -> bytes:
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind, cursor.seq, data)
