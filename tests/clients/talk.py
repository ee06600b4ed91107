"""What a test and the process of a client say to each other: a JSON object a line, a wish and then what came of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Deed = Callable[..., Awaitable[Any]]


def talk(deeds: dict[str, Deed]) -> None:
    """Until stdin ends. What the client prints by itself goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr

    async def answer(wish: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"done": await deeds[wish.pop("do")](**wish)}
        except Exception as exc:
            return {"error": type(exc).__name__, "status": getattr(exc, "status_code", None), "message": str(exc)}

    async def listen() -> None:
        # The loop goes on while nobody wishes anything: it closes the streams that were left.
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await answer(json.loads(line))), file=out, flush=True)

    asyncio.run(listen())
