"""The background tasks of the pool: started here, kept until they end, waited for when the pool closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
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

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def wait_until_empty(self) -> None:
        """Wait for all tasks, also those that start meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) and not isinstance(exc, errors.RouterError):
            log.critical("a defect in the router", exc_info=exc)
