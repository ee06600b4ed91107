"""Asks the engines that run for their own metrics, all at once and for a second at most. None is loaded or woken.

An engine has metrics if it was started with `--metrics`; if the router was, all are. What does not answer in time, or
not well, is left out.
"""

from __future__ import annotations

import asyncio
import logging

from router.engine.flags import switch_of
from router.errors import RouterError
from router.metrics.engines import MAX_BYTES
from router.pool.pool import Pool
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream

log = logging.getLogger("router.metrics")

LIMIT_S = 1.0
TARGET = b"/metrics"


class EngineTexts:
    """`upstream` has the connections to the children."""

    def __init__(self, pool: Pool, upstream: Upstream) -> None:
        self._pool, self._upstream = pool, upstream

    def __repr__(self) -> str:
        return f"<EngineTexts of {self._pool!r}>"

    async def read(self) -> dict[str, bytes]:
        """What each engine answers, by model."""
        runs = self._pool.processes.runs.values()
        names = [run.spec.name for run in runs if switch_of(run.spec.args, "--metrics")]
        texts = await asyncio.gather(*map(self._text, names))
        return {name: text for name, text in zip(names, texts, strict=True) if text}

    async def _text(self, name: str) -> bytes:
        """Empty if there is none."""
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._ask(name)
        except (RouterError, TimeoutError) as exc:
            log.debug("%s: cannot read its metrics: %r", name, exc)
            return b""

    async def _ask(self, name: str) -> bytes:
        lease = self._pool.look(self._pool.effective(name))
        try:
            answer = await self._upstream.open(lease.address, lease.key, RequestHead("GET", TARGET, []))
            text = await answer.read_all(MAX_BYTES)
            return text if answer.status == 200 else b""
        finally:
            lease.release()
