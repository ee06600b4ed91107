"""CORS headers: the answer to a preflight, and the headers that other answers get.

`access.guard` decides who may ask; here its verdicts become bytes. `fast_path` calls this.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Send

from router.access.guard import Preflight, RequestFacts

CREDENTIALS = (b"access-control-allow-credentials", b"true")
EXPOSED_HEADERS = (b"access-control-expose-headers", b"x-request-id, request-id")

_REQUEST_HEADERS = b"access-control-request-headers"
_REQUEST_PRIVATE_NETWORK = b"access-control-request-private-network"


def preflight_response(facts: RequestFacts, preflight: Preflight, *, credentials: bool) -> Response:
    """The 200 that lets a page send the request which it announced; with `credentials`, cookies too."""
    requested = {name: b", ".join(facts.all(name)) for name in (_REQUEST_HEADERS, _REQUEST_PRIVATE_NETWORK)}
    headers = {
        b"access-control-allow-origin": facts.all(b"origin")[0],
        b"access-control-allow-methods": ", ".join(preflight.methods).encode(),
        b"access-control-max-age": b"600",
        b"vary": b", ".join((b"Access-Control-Request-Method", _REQUEST_HEADERS, _REQUEST_PRIVATE_NETWORK)),
    }
    if requested[_REQUEST_HEADERS]:
        headers[b"access-control-allow-headers"] = requested[_REQUEST_HEADERS]
    if requested[_REQUEST_PRIVATE_NETWORK]:
        headers[b"access-control-allow-private-network"] = b"true"
    if credentials:
        headers.update([CREDENTIALS])
    response = PlainTextResponse("OK")
    response.raw_headers += headers.items()
    return response


def with_headers(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    """Wraps `send`: every response also gets these headers."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return send_with_headers


def with_vary(send: Send) -> Send:
    """Wraps `send`: a cache must keep one answer for each origin."""
    return with_headers(send, [(b"vary", b"Origin")])
