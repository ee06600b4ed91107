"""What ends the work for a request early: a client that leaves, or an operator who stops it. `proxied_request` and
`endpoints` call this."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive

from router.errors import Stopped
from router.records.running import Running


class CancelOnDisconnect:
    """Cancels its block when the client leaves, and then ends without an exception.

    It works as `asyncio.timeout` does, with the client in place of the clock. A cancellation from elsewhere passes
    through::

        async with CancelOnDisconnect(receive):
            await answer()
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_left = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'left' if self._has_left else 'connected'}>"

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._watcher.cancel()
        # The exception of the watcher holds a frame that holds this object: a reference cycle.
        del self._watcher
        if not self._has_left:
            return False
        return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError


class StopOnRequest:
    """Ends its block with Stopped when an operator ends this request; None for a request without a record.

    It works as `CancelOnDisconnect` does, with the operator in place of the client::

        with StopOnRequest(running):
            await answer()
    """

    def __init__(self, running: Running | None) -> None:
        self._running = running
        self._has_stopped = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'stopped' if self._has_stopped else 'goes on'}>"

    def __enter__(self) -> None:
        if self._running is None:
            return
        if self._running.is_stopped:
            raise Stopped()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._running.stop_work = self._stop

    def _stop(self) -> None:
        if not self._has_stopped:
            self._has_stopped = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.stop_work = None
        if self._has_stopped and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise Stopped() from None
