"""Where a child can be reached."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """Where a child listens: `path` of a unix socket, or `host` and `port` on loopback if `path` is None."""

    path: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
