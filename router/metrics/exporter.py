"""All metrics of a router, and their text: what Prometheus scrapes.

The counters are kept up to date by what happens (`tally`), the gauges are read at each scrape (`live`), and both keep
their text (`families`). A scrape hands it out in pieces, and lets others run in between.

`serve` makes the one Exporter; `api.metrics` answers with it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable

from router.metrics.engine_texts import EngineTexts
from router.metrics.engines import merged
from router.metrics.exposition import Format
from router.metrics.lag import LoopLag
from router.metrics.live import Live
from router.metrics.names import Metrics
from router.metrics.process import ProcessMetrics
from router.metrics.tally import NO_MODEL, Tally
from router.pool.pool import Pool
from router.records.records import Records
from router.wire.upstream import Upstream

PIECE_BYTES = 64 << 10
SLICE_S = 0.001  # after that much work others have a turn


class Exporter:
    """`version` is the router's, `engine` and `engine_build` say what it runs. `clock` is the wall clock.

    ::

        exporter.start()  # in the event loop
        async for piece in exporter.scrape(TEXT): ...
        exporter.stop()
    """

    def __init__(
        self,
        pool: Pool,
        records: Records,
        upstream: Upstream,
        *,
        version: str = "",
        engine: str = "",
        engine_build: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self.metrics = Metrics(clock)
        self._tally = Tally(self.metrics, lambda name: name in pool.catalog)
        self._live = Live(pool, self.metrics, self._tally)
        self._process, self._lag = ProcessMetrics(), LoopLag()
        self._engines = EngineTexts(pool, upstream)
        self.metrics.build.of(version, engine, engine_build)
        self.metrics.start_time.of().set(clock())
        self.metrics.last_reload.of().set(1)
        self._tally.listen(pool.journal)
        records.subscribe(self._tally.add)

    def __repr__(self) -> str:
        return f"<Exporter {self.metrics.registry!r}>"

    def start(self) -> None:
        self._lag.start()

    def stop(self) -> None:
        self._lag.stop()

    async def scrape(self, form: Format) -> AsyncIterator[bytes]:
        """The text in this format, in pieces. With one model in the catalog, its engine's metrics have no label: so a
        router of one model looks like its engine."""
        await self._pool.nodes.glance()
        texts = await self._engines.read()
        self.update()
        if len(self._pool.catalog) == 1:
            texts = dict(zip([NO_MODEL], texts.values(), strict=False))
        registries = self.metrics.registry, self._process.registry
        kept = itertools.chain.from_iterable(registry.pieces(form) for registry in registries)
        parts: list[bytes] = []
        size, began = 0, time.perf_counter()
        for part in itertools.chain(kept, [merged(texts, form), form.end]):
            parts.append(part)
            size += len(part)
            if size >= PIECE_BYTES or time.perf_counter() - began > SLICE_S:
                yield b"".join(parts)
                await asyncio.sleep(0)
                parts.clear()
                size, began = 0, time.perf_counter()
        yield b"".join(parts)

    def update(self) -> None:
        """Bring all that is read at a scrape up to date."""
        self._live.update(self._pool.nodes.readings, asyncio.get_running_loop().time())
        self._process.update()
        self.metrics.loop_lag.of().set(round(self._lag.most(), 6))
