"""Limits that all clients share: how many connections there are, and how many bytes of unfinished requests.

A client that needs something is preferred to one that only holds something. At a limit, idle connections are closed and
the oldest unfinished requests are dropped, so a flood of either does not keep other clients out. `framing` and `tls`
count here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits on clients.

    - `max_connections` at once, 0 for any number.
    - `timeout`: seconds that a client has for a head, and that a body may come slowly; 0 for any time.
    - `max_buffered_bytes` of requests that have not come whole, of all clients together.
    """

    max_connections: int = 0
    timeout: float = 60.0
    max_buffered_bytes: int = 32 * 2**20


class Admission:
    """Decides which connections and which unfinished requests have to go.

    Connections are what uvicorn keeps in `server_state.connections`: a `FramedConnection` or, until TLS is set up, a
    `Handshake`. Both have `transport`, `is_idle`, `eviction_rank` and `has_buffered`.
    """

    def __init__(self, limits: ClientLimits | None = None) -> None:
        self.limits = limits or ClientLimits()
        self.buffered_bytes = 0
        self.is_closing = False  # the router ends: each connection gets one more response
        # Numbers the requests that are buffered, in their order. A clock does not do: it stands still within a turn of
        # the event loop.
        self.next_number = itertools.count(1).__next__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} buffered={self.buffered_bytes} {self.limits}>"

    def is_full(self, connections: int) -> bool:
        return 0 < self.limits.max_connections < connections

    def make_room(self, connections: set[Any], newcomer: Any) -> bool:
        """Closes idle connections. Returns whether there is room for the newcomer then.

        It closes a sixteenth of the limit at a time, so that a flood of connections does not cause a search for each.
        """
        limit = self.limits.max_connections
        count = max(limit // 16 + 1, len(connections) - limit)
        idle = [one for one in connections if one is not newcomer and one.is_idle()]
        for one in heapq.nsmallest(count, idle, key=lambda one: one.eviction_rank()):
            one.transport.abort()
            connections.discard(one)
        return len(connections) <= limit

    def drop_buffers(self, connections: Iterable[Any]) -> None:
        """Drops unfinished requests until a sixteenth of the limit is free, the oldest first. A client that sends its
        request without a pause is never among them."""
        buffering = [one for one in connections if one.has_buffered()]
        for one in sorted(buffering, key=lambda one: one.buffer_number):
            if self.buffered_bytes <= self.limits.max_buffered_bytes * 15 // 16:
                return
            one.drop_buffer()
