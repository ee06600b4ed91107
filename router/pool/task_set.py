"""The background tasks of the pool: started here, kept until they end, waited for when the pool closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from router import errors

log = logging.getLogger("router.pool")

T = TypeVar("T")


class TaskSet:
    """The event loop itself holds tasks only weakly. An exception that is no RouterError is a defect, and is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<TaskSet {len(self._tasks)} running>"

    def start(
        self, coroutine: Coroutine[Any, Any, T], on_failure: Callable[[Exception], None] | None = None
    ) -> asyncio.Task[T]:
        """`on_failure` is called with the exception that ended the task, if one did. Then nothing is logged here."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_done, on_failure))
        return task

    async def wait_until_empty(self) -> None:
        """Wait for all tasks, also those that start meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _on_done(self, on_failure: Callable[[Exception], None] | None, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if on_failure and isinstance(exc, Exception):
            on_failure(exc)
        elif exc and not isinstance(exc, errors.RouterError):
            log.critical("a defect in the router", exc_info=exc)
