"""PURE: bodies that come in pieces, as lines and as server-sent events."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from router.client.failures import NotReached

MAX_LINE_BYTES = 16 << 20


def events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of server-sent events, until `[DONE]`. Comments, which keep the connection alive, are left out.

    What follows `[DONE]` is read too: who closes before the end of a response counts as a client that left.

    Raises NotReached for what is none of it."""
    found = lines(chunks)
    for line in found:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            deque(found, maxlen=0)
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise NotReached("the answer is no stream of a llama-router")
        yield event


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a body that comes in pieces, without their ends. Raises NotReached for one without an end."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        *whole, last = rest.split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
        rest = bytearray(last)
        if len(rest) > MAX_LINE_BYTES:
            raise NotReached("a line of the answer does not end")
    if rest:
        yield rest.decode(errors="replace").rstrip("\r")
