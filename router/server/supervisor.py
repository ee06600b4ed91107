"""Tells a service manager how the router is doing: sd_notify(3), a line of text to a unix socket.

With `Type=notify` or `Type=notify-reload`, systemd waits for READY=1 before it starts what depends on the router. It
knows of reloads and of the end, and restarts a router that hangs (`WatchdogSec=`). The command line takes the variables
before any other process starts; `serve` says what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger("router.serve")

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
MAX_STATUS_CHARACTERS = 500
# While the router ends, it asks for so much more time again and again. A router that hangs then gets no more.
MORE_TIME_S = 15
SEND_TIMEOUT_S = 1.0
MIN_PING_S = 0.05  # a watchdog that is in a greater hurry cannot be satisfied


class Supervisor:
    """The service manager that started this process; one that does nothing if there is none.

    `address` is its socket: a path, or a name that begins with `@`. `watchdog` is after how many seconds without a
    message it takes the router for hung; 0 for never.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = address
        self._watchdog = watchdog
        self._reloads = 0  # that have not ended
        self._is_stopping = False
        self._pinging: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self._address or 'none'}, watchdog {self._watchdog:g} s>"

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Supervisor:
        """Removes the variables from the environment: no child may speak for the router."""
        address, interval, pid = (environ.pop(name, "") for name in VARIABLES)
        if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
            return cls()
        is_watched = interval.isascii() and interval.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(interval[:18]) / 1e6 if is_watched else 0.0)

    def ready(self, status: str) -> None:
        """The router listens. To be called in the event loop."""
        self._send("READY=1", _status(status))
        if self._watchdog and self._pinging is None:
            self._pinging = asyncio.ensure_future(self._ping())

    def reloading(self) -> None:
        """A reload begins; `reloaded` ends it. Several may follow each other."""
        self._reloads += 1
        if not self._is_stopping:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        self._reloads -= 1
        if not self._reloads and not self._is_stopping:
            self._send("READY=1")

    def stopping(self, status: str) -> None:
        self._is_stopping = True
        self._send("STOPPING=1", _status(status))

    def extend(self) -> None:
        """The end takes its time: `stop` may last longer than systemd's TimeoutStopSec=."""
        if self._is_stopping:
            self._send(f"EXTEND_TIMEOUT_USEC={MORE_TIME_S * 1_000_000}", waits=False)

    async def _ping(self) -> None:
        """From the event loop, so that one that hangs is noticed."""
        while True:
            self._send("WATCHDOG=1", waits=False)
            await asyncio.sleep(max(self._watchdog / 2, MIN_PING_S))

    def _send(self, *lines: str, waits: bool = True) -> None:
        """`waits`: for a service manager that has not read what came before. What is sent again soon does not wait,
        because all clients of the router would."""
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_TIMEOUT_S if waits else 0)
            sock.connect(name)
            sock.sendall("\n".join(lines).encode(errors="replace"))


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:MAX_STATUS_CHARACTERS]}"
