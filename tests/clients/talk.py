"""The protocol between a test and the process of a client: one JSON object a line, a task and then its result."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Function = Callable[..., Awaitable[Any]]


def talk(functions: dict[str, Function]) -> None:
    """Runs tasks until stdin ends. Whatever the client prints by itself goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr

    async def answer(task: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"done": await functions[task.pop("do")](**task)}
        except Exception as exc:
            return {"error": type(exc).__name__, "status": getattr(exc, "status_code", None), "message": str(exc)}

    async def listen() -> None:
        # The event loop runs on between tasks, so that streams that were left get closed.
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await answer(json.loads(line))), file=out, flush=True)

    asyncio.run(listen())
