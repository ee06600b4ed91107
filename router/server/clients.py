"""The address of a client: of its connection, or what a trusted proxy says in `X-Forwarded-For`.

On the ordinary way uvicorn applies its rule (`--forwarded-allow-ips` of uvicorn: FORWARDED_ALLOW_IPS, by default
127.0.0.1). The fast path passes uvicorn by, and asks here for the same.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Any

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from router.proxy.head import Head
from router.records.record import clean

MAX_ADDRESS = 64
MAX_CACHED_BYTES = 256  # of a header whose meaning is remembered

Peer = tuple[str, int] | None


class ClientAddresses:
    """For one connection; `peer` is the other end of it, and `name` the address of that.

    addresses = ClientAddresses(config, ("127.0.0.1", 4711))
    addresses.of(head)
    """

    def __init__(self, config: Config, peer: Peer) -> None:
        self._peer = peer
        self.name = clean(peer[0], MAX_ADDRESS) if peer else ""
        allowed = config.forwarded_allow_ips or ""
        self._trusted = "" if not config.proxy_headers else allowed if isinstance(allowed, str) else ",".join(allowed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def of(self, head: Head) -> str:
        values = head.forwarded_for
        if not values or not self._trusted:
            return self.name
        find = _behind_proxy if len(values) <= MAX_CACHED_BYTES else _behind_proxy.__wrapped__
        return find(self._peer, values, self._trusted)


@lru_cache(maxsize=1024)
def _behind_proxy(peer: Peer, values: bytes, trusted: str) -> str:
    scope: Any = {"type": "http", "client": peer, "headers": [(b"x-forwarded-for", values)]}
    with contextlib.suppress(StopIteration):  # it awaits nothing but the application
        _rule(trusted)(scope, _nothing, _nothing).send(None)  # type: ignore[arg-type]
    return clean(scope["client"][0], MAX_ADDRESS) if scope["client"] else ""


@lru_cache(maxsize=4)
def _rule(trusted: str) -> ProxyHeadersMiddleware:
    return ProxyHeadersMiddleware(_nothing, trusted)


async def _nothing(*anything: object) -> None:
    pass
