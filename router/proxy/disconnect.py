"""A client that leaves ends the work for it. `proxied_request` calls this."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


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
