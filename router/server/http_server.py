"""uvicorn's server with what a router needs: TLS by `tls`, SIGHUP, a quiet exit, and an end in steps.

`serve` makes one of `config_of` and runs it. `life_cycle` says which steps the end has. Here they are taken:
connections are told, waited for and closed. What a step means for models and children is the caller's part, `on_stage`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from router.server.admission import Admission
from router.server.connection import ClientConnection
from router.server.fast_path import FastPathApp
from router.server.life_cycle import CUT_OFF_S, IDLE_LINGER_S, LifeCycle, Stage
from router.server.tls import Handshake

log = logging.getLogger("router.serve")

TICK_S = 1.0  # between two updates of the responses' date
POLL_S = 0.02  # between two looks at what is still to be answered
END_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")  # a platform has some of them


def config_of(app: FastPathApp, admission: Admission, key: Path | None, certificate: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(ClientConnection, admission=admission),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_keyfile=key,
        ssl_certfile=certificate,
    )


class HttpServer(uvicorn.Server):
    """`on_start` is awaited when the sockets accept connections, with the function that ends the server.
    `on_hang_up` is called on SIGHUP once `on_start` is done.
    `on_stage` is called when a stage of the end begins: DRAINING, FINISHING, CUT, KILLED, ENDED. Some may be left out.
    `each_second` is called about once a second from the start to the end.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        admission: Admission,
        life: LifeCycle,
        *,
        on_start: Callable[[Callable[[], None]], Awaitable[None]],
        on_hang_up: Callable[[], object],
        on_stage: Callable[[Stage], None],
        each_second: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._admission = admission
        self._life = life
        self._on_start, self._on_hang_up, self._on_stage = on_start, on_hang_up, on_stage
        self._each_second = each_second
        self._is_to_end, self._is_to_hurry = asyncio.Event(), asyncio.Event()
        self._signals = 0  # that end the server
        self._has_hung_up = False  # during the start

    def __repr__(self) -> str:
        return f"<HttpServer {self._life.stage.name}>"

    # uvicorn calls these, in this order

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a signal again after it has obeyed it. This does not, so that the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        ends = [getattr(signal, name) for name in END_SIGNALS if hasattr(signal, name)]
        hang_ups = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
        for number in ends:
            signal.signal(number, partial(self._on_end_signal, loop))
        for number in hang_ups:
            # A handler, not the loop's: the loop takes its handlers away before the process ends.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._hang_up))
        try:
            yield
        finally:
            for number in (*ends, *hang_ups):  # the router has ended; no signal may change its exit code now
                signal.signal(number, signal.SIG_IGN)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if context := self.config.ssl:
            self.config.ssl = None  # the event loop must not do the handshake: Handshake does
            make: Any = self.config.http_protocol_class
            self.config.http_protocol_class = partial(Handshake, context, make, self._admission)  # type: ignore[assignment]
        await super().startup(sockets)
        if self.started:
            self._ticking = asyncio.create_task(self._tick())
            await self._on_start(self.end)
            self._life.stage = Stage.SERVING
            if self._has_hung_up:
                self._on_hang_up()

    async def main_loop(self) -> None:
        await self._is_to_end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        life, hurry = self._life, self._is_to_hurry
        if life.delay and not hurry.is_set():
            self._enter(Stage.DRAINING)
            self._announce_end()
            await self._wait(hurry.is_set, life.delay)  # all is served meanwhile
        if not hurry.is_set():
            if life.is_handed_over:
                await self._stop_accepting(sockets or [])
            self._enter(Stage.FINISHING)
            self._announce_end()
            is_finished = self._finished()
            if not life.is_handed_over:
                asyncio.get_running_loop().call_later(IDLE_LINGER_S, self._refuse_unfinished)
            await self._wait(lambda: hurry.is_set() or is_finished(), life.grace)
        self._enter(Stage.CUT)
        self._announce_end()
        self._refuse_unfinished()
        await self._wait(lambda: not self._busy_connections() and not self.server_state.tasks, CUT_OFF_S)
        await self._stop_accepting(sockets or [])
        await self._close_connections()
        # The application's end waits for the children. If they are to be killed, this is all but at once.
        await self.lifespan.shutdown()
        self._ticking.cancel()
        self._enter(Stage.ENDED)

    # The end

    def end(self) -> None:
        """Let running requests finish, then return from `run`. May be called from any thread."""
        self._ticking.get_loop().call_soon_threadsafe(self._is_to_end.set)

    def _on_end_signal(self, loop: asyncio.AbstractEventLoop, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 2:  # the event loop does not react; the children end because the router is gone
            os._exit(128 + number)
        loop.call_soon_threadsafe(self._obey, signal.Signals(number).name, self._signals)

    def _obey(self, name: str, count: int) -> None:
        self._life.reason = name
        if count > 1:
            self._is_to_hurry.set()
            self._enter(Stage.KILLED)
        self._is_to_end.set()

    def _enter(self, stage: Stage) -> None:
        if stage > self._life.stage:
            self._life.stage, self._life.answers = stage, self.server_state.total_requests
            self._on_stage(stage)

    def _hang_up(self) -> None:
        if self._life.stage is Stage.STARTING:
            self._has_hung_up = True
        else:
            self._on_hang_up()

    async def _tick(self) -> None:
        while True:
            await self.on_tick(0)  # the date of responses
            self._each_second()
            await asyncio.sleep(TICK_S)

    async def _wait(self, is_done: Callable[[], bool], seconds: float) -> None:
        """Returns when it is done, and after so many seconds at the latest."""
        end = asyncio.get_running_loop().time() + seconds
        while not is_done():
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(min(POLL_S, left))

    def _finished(self) -> Callable[[], bool]:
        """A function that says whether all has been answered that is to be answered.

        If another router takes over, that is all that comes over the connections there are; a connection that was idle
        has a moment to send one more request, because its client may be about to. Otherwise it is what runs now: what
        comes later is refused.
        """
        state = self.server_state
        if self._life.is_handed_over:
            linger_end = asyncio.get_running_loop().time() + IDLE_LINGER_S
            return lambda: (
                not (
                    state.tasks
                    or self._busy_connections()
                    or (state.connections and asyncio.get_running_loop().time() < linger_end)
                )
            )
        connections, tasks = self._busy_connections(), set(state.tasks)
        return lambda: not (connections & self._busy_connections() or tasks & state.tasks)

    # Connections

    def _announce_end(self) -> None:
        self._admission.is_closing = True  # for connections that are made from now on
        for connection in list(self._connections()):
            connection.announce_end()

    def _refuse_unfinished(self) -> None:
        """Clients that are still sending a request are not waited for."""
        for connection in list(self._connections()):
            connection.refuse_unfinished()

    def _connections(self) -> set[Any]:
        return self.server_state.connections

    def _busy_connections(self) -> set[Any]:
        return {connection for connection in self._connections() if connection.is_busy()}

    async def _stop_accepting(self, sockets: list[socket.socket]) -> None:
        """Take what the kernel has accepted for this router, then accept no more."""
        for _ in range(2):
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for sock in sockets:
            sock.close()

    async def _close_connections(self) -> None:
        state = self.server_state
        for connection in list(self._connections()):
            connection.shutdown()
        await self._wait(lambda: not state.connections, POLL_S)
        for connection in list(self._connections()):
            connection.transport.abort()
        await self._wait(lambda: not state.tasks, CUT_OFF_S)  # they see that their clients are gone
        for task in state.tasks:
            task.cancel()
