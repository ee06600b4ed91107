"""uvicorn's server with what a router needs: TLS by `tls`, SIGHUP, a quiet exit, and an end in two steps.

`serve` makes one of `config_of` and runs it. The end: requests that wait are refused at once, and running ones may
finish; after FINISH_S their children are stopped; after CUT_OFF_S more, connections are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from router.server.admission import Admission
from router.server.connection import ClientConnection
from router.server.fast_path import FastPathApp
from router.server.tls import Handshake

FINISH_S = 5
CUT_OFF_S = 3


def config_of(app: FastPathApp, admission: Admission, key: Path | None, certificate: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(ClientConnection, admission=admission),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=FINISH_S + CUT_OFF_S,
        ssl_keyfile=key,
        ssl_certfile=certificate,
    )


class HttpServer(uvicorn.Server):
    """`on_start` is awaited when the sockets accept connections, with the function that ends the server.
    `on_hang_up` is called on SIGHUP.
    `on_end` is called with False when the end begins, and with True when running requests have had their time."""

    def __init__(
        self,
        config: uvicorn.Config,
        admission: Admission,
        *,
        on_start: Callable[[Callable[[], None]], Awaitable[None]],
        on_hang_up: Callable[[], None],
        on_end: Callable[[bool], None],
    ) -> None:
        super().__init__(config)
        self._admission = admission
        self._on_start, self._on_hang_up, self._on_end = on_start, on_hang_up, on_end

    def __repr__(self) -> str:
        return f"<HttpServer {'ending' if self.should_exit else 'serving' if self.started else 'not started'}>"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if context := self.config.ssl:
            self.config.ssl = None  # the event loop must not do the handshake: Handshake does
            make: Any = self.config.http_protocol_class
            self.config.http_protocol_class = partial(Handshake, context, make, self._admission)  # type: ignore[assignment]
        await super().startup(sockets)
        if self.started:
            if hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hang_up)
            await self._on_start(self.end)

    def end(self) -> None:
        """Let running requests finish, then return from `run`. May be called from any thread."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a signal again after it has obeyed it. This does not, so that the exit code is 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_end(False)
        cut = asyncio.get_running_loop().call_later(FINISH_S, self._on_end, True)
        await super().shutdown(sockets)
        cut.cancel()
