"""uvicorn's HTTP connection, with the changes that reach into its private parts. They are all in this module.

uvicorn may change its private methods in any release. So pyproject.toml names the releases that are known to fit, the
tests run with the oldest and with the newest of them, and the import fails where a method is missing. `framing` builds
on this.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# In the ASGI scope: a function that closes the connection at once, whatever its client has not read yet.
ABORT = "llama_router.abort"

# All versions that pyproject.toml allows have these, as they are used here.
PRIVATE_METHODS = ("_start_asgi_task", "_unset_keepalive_if_required")
if _missing := [name for name in PRIVATE_METHODS if not inspect.isfunction(getattr(HttpToolsProtocol, name, None))]:
    raise ImportError(f"this uvicorn has no {', '.join(_missing)}: install a version that pyproject.toml allows")


class UvicornProtocol(HttpToolsProtocol):
    """uvicorn's connection. It runs an ASGI app for each request; the subclass says how a connection ends.

    What differs from uvicorn's own:

    - Reading that was stopped stays stopped until the subclass resumes it (`GatedFlow`).
    - The end of a response does not close the transport. It calls `close_after_response`.
    - HTTP/1.0 clients never get chunks.
    - There is no timer for each request.
    - If the connection is lost, the app that is running learns of it. uvicorn informs only that of the latest request.
    - The app can close the connection at once (`ABORT`).
    """

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.is_last_if_early = False  # a response that begins before the body is whole ends the connection
        self.unread_since = math.inf  # the client does not read what is written
        self._running_cycle: RequestResponseCycle | None = None  # the latest one that has an ASGI task

    def close_after_response(self) -> None:
        """The response has been written, and is the last one on this connection."""
        raise NotImplementedError

    def is_between(self) -> bool:
        """Whether no request has begun, and none is being answered."""
        raise NotImplementedError

    def announce_end(self) -> None:
        """The response that is due, or else the next one, is the last on this connection."""
        raise NotImplementedError

    def is_answered(self) -> bool:
        """Whether there is no response to send, of the requests that uvicorn has."""
        return self.cycle is None or self.cycle.response_complete

    def shutdown(self) -> None:
        """The router stops. A request that has begun is still answered."""
        self.announce_end()
        if self.is_between():
            self.transport.close()

    def pause_writing(self) -> None:
        self.unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread_since = math.inf
        super().resume_writing()

    def app_for_request(self, app: ASGIApp) -> ASGIApp:
        """The ASGI app for the request whose head has come. `app` is uvicorn's choice."""
        return app

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = self.gated_flow = GatedFlow(transport)
        self._outlet = ResponseTransport(transport, self.close_after_response)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._outlet.close = self.transport.close
        if self._running_cycle is not None:
            mark_disconnected(self._running_cycle)

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn's timer between requests is not used."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running_cycle = cycle
        cycle.transport = self._outlet  # type: ignore[assignment]
        cycle.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]
        app = self.app_for_request(app)
        if cycle.scope["http_version"] != "1.1":
            app = without_chunks(cycle, app)
        if self.is_last_if_early:
            app = last_if_early(cycle, app)
        super()._start_asgi_task(cycle, app)


class GatedFlow(FlowControl):
    """uvicorn resumes reading as soon as an app waits for the body or for the client. After `stop_reading`, only
    `restart_reading` resumes it."""

    _is_stopped = False

    def stop_reading(self) -> None:
        self._is_stopped = True
        self.pause_reading()

    def restart_reading(self) -> None:
        self._is_stopped = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self._is_stopped:
            super().resume_reading()


class ResponseTransport:
    """What uvicorn writes a response to. `close` is the connection's decision, so it is given."""

    def __init__(self, transport: Any, close: Any) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


def mark_disconnected(cycle: RequestResponseCycle) -> None:
    """Tells the app of a request that is not answered yet that its client has left."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def mark_last(cycle: RequestResponseCycle) -> None:
    """The response says `connection: close`, and the connection ends with it. uvicorn itself says so only since
    0.53."""
    cycle.keep_alive = False
    cycle.default_headers = [*cycle.default_headers, (b"connection", b"close")]


def last_if_early(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """Wraps `app`: a response that begins before the whole body has come is the last one. The router does not wait for
    the rest of the body."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_as_last(message: MutableMapping[str, Any]) -> None:
            if cycle.more_body and not cycle.response_started:
                mark_last(cycle)
            await send(message)

        await app(scope, receive, send_as_last)

    return wrapped


def without_chunks(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """Wraps `app` for HTTP/1.0, which nginx speaks to servers behind it. HTTP/1.0 has no chunks, so a response without
    a length ends with the connection. uvicorn would send it in chunks."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        has_length = True

        async def send_without_chunks(message: MutableMapping[str, Any]) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = b"content-length" in dict(message["headers"])
            if not has_length:
                cycle.chunked_encoding = False
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_without_chunks)

    return wrapped
