"""The body of a request: received within limits, and parsed as JSON without holding up other clients.

The body is read once and kept as bytes; it goes to the child as it came. Each endpoint begins here. `routing` then
reads the few fields that the router needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import Scope

from router import threads
from router.errors import BodyTooLarge, InvalidRequest
from router.proxy import compressed, weight
from router.proxy.budget import Budget, Reservation

LARGE_BYTES = 2**20  # a body of more is not parsed in the event loop
ANY_JSON = msgspec.json.Decoder()

_RESERVATION = "llama_router.reservation"  # the key in the ASGI scope of a request

T = TypeVar("T")


async def read_body(request: Request, limit: int, budget: Budget | None = None) -> bytes:
    """The whole body, unpacked if it is compressed. Its bytes are reserved in the `budget` until `release_body`.

    - Raises BodyTooLarge as soon as it is known to have more than `limit` bytes.
    - Raises QueueFull as soon as it does not fit into the budget.
    - Raises UnsupportedType for an unknown compression, InvalidRequest for a damaged one.
    - Raises Starlette's ClientDisconnect if the client leaves before its end.
    """
    coding = compressed.coding_of(request.headers.getlist("content-encoding"))
    length = int(request.headers.get("content-length", 0))
    if length > limit:
        raise _too_large(limit)
    reservation = None
    if budget is not None:
        budget.check(length)
        reservation = request.scope[_RESERVATION] = request.scope.get(_RESERVATION) or Reservation(budget)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if reservation is not None:
            reservation.add(len(chunk))
        chunks.append(chunk)
    body = b"".join(chunks)
    return await _unpack(body, coding, limit, reservation) if coding and body else body


async def _unpack(body: bytes, coding: str, limit: int, reservation: Reservation | None) -> bytes:
    """Both the packed bytes and the unpacked ones are reserved: they are in memory at the same time."""
    pieces, size = [], 0
    async for piece in compressed.unpacked(body, coding):
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        if reservation is not None:
            reservation.add(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def reserve_more(scope: Scope, size: int) -> None:
    """The request holds so many bytes more than its body has. Raises QueueFull or BodyTooLarge."""
    if size and (reservation := scope.get(_RESERVATION)):
        reservation.add(size)


def release_body(scope: Scope) -> None:
    """The body of this request is no longer kept."""
    if reservation := scope.get(_RESERVATION):
        reservation.release()


def has_reservation(scope: Scope) -> bool:
    """Whether the body of this request has a part of the budget."""
    return _RESERVATION in scope


def _too_large(limit: int) -> BodyTooLarge:
    # Each error is made where it is raised. An error in a local variable is in a cycle with its own traceback, and the
    # cycle would keep the body in memory.
    return BodyTooLarge(
        f"The request body is larger than {limit / 1024**2:g} MiB. Send less, or raise --max-body-size."
    )


async def in_thread_if_large(size: int, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)`, which works on a body of `size` bytes. A large body is worked on in a thread, so that requests
    of other clients go on meanwhile."""
    if size <= LARGE_BYTES:
        return function(*args)
    return await threads.PARSERS.run(function, *args)


def json_object(body: bytes) -> dict[str, Any]:
    """All fields of the body. Raises InvalidRequest."""
    weight.check(body)
    try:
        value = _parse_json(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"The request body is not valid JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"The request body must be a JSON object, not {json_type(value)}.")
    return value


def _parse_json(body: bytes) -> Any:
    """Raises ValueError, RecursionError."""
    if len(body) > weight.LIGHT_BYTES:
        try:
            if not body.isascii():
                body.decode()
            return ANY_JSON.decode(body)
        except (ValueError, RecursionError, msgspec.MsgspecError):
            pass  # the json module reads more than msgspec, and its errors say better what it cannot read
        return json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_number, parse_float=_finite)
    return json.loads(body.decode("utf-8-sig"))


def _refuse_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _refuse_number(word)


def json_type(value: Any) -> str:
    """The JSON type of a value, for error messages."""
    nouns = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return nouns.get(type(value), "a number")
