"""Where a child can be reached."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """Where a child listens: a unix socket path, or host and port on loopback."""

    path: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
