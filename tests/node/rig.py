"""Children for tests of a machine's processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import psutil

from router.errors import LoadFailed
from router.node.interface import Child, ChildEvent, Launch
from router.node.process import LocalChild
from router.node.watchdog import Watchdog
from router.wire.address import Address

FAKE = Path(__file__).parents[1] / "fake_llama_server.py"
FAKE_COMMAND = (sys.executable, "-IS", str(FAKE))
KEY = "a-secret-of-the-child"
Start = Callable[..., Awaitable[LocalChild]]
RunLoop = Callable[[Coroutine[Any, Any, None]], None]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def ask(child: Child, path: str, body: object = None) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=child.address.path, verify=False)
    headers = {"Authorization": f"Bearer {child.key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://child", headers=headers) as client:
        return await client.request("POST" if body else "GET", path, json=body)


class ScriptedChild:
    """A child that writes what a test says, and ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[ChildEvent] = []

    async def info(self, *lines: bytes) -> Any:
        """Start it, and let it write these lines. Returns the model info that was understood; None for none."""
        script = self.folder / "said"
        script.write_bytes(b"".join(line + b"\n" for line in lines))
        watchdog = Watchdog()
        launch = Launch("m", (), (), load_timeout=20, on_event=self.events.append)
        command = ["/bin/sh", "-c", f"cat {script}; exec sleep 0.1"]
        self.child = LocalChild.start(
            launch, command, {"PATH": "/usr/bin:/bin"}, Address(str(self.folder / "s")), "the-key", watchdog
        )
        try:
            return await self.child.ready()
        except LoadFailed:
            return None
        finally:
            await self.child.stop()
            watchdog.close()
