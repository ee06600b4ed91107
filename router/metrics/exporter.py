"""All metrics of a router, and their text: what Prometheus scrapes.

The counters are kept up to date by what happens (`tally`), the gauges are read at each scrape (`live`), and both keep
their text (`families`). A scrape hands it out in pieces, and lets others run in between.

`serve` makes the one Exporter; `api.metrics` answers with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

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

PIECE_BYTES = 64 << 10  # of small parts together
LARGE_BYTES = 16 << 10  # what is as large is a piece of its own
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
        records.subscribe(self._tally.add, self._tally.add_sums)

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
        await _in_turns(self._live.catch_up())
        self.update()
        if len(self._pool.catalog) == 1:
            texts = dict(zip([NO_MODEL], texts.values(), strict=False))
        await self._write_ahead(form)
        registry = self.metrics.registry
        registry.gather()
        kept = [*registry.pieces(form), *self._process.registry.pieces(form), merged(texts, form), form.end]
        for piece in _in_pieces(kept):
            yield piece

    async def _write_ahead(self, form: Format) -> None:
        """Have the text made of all that has changed: after a while without a scrape that may be much. Then the rest,
        the text of one moment, is little work."""
        await _in_turns(self.metrics.registry.gathering())
        await _in_turns(self.metrics.registry.pieces(form))

    def update(self) -> None:
        """Bring all that is read at a scrape up to date."""
        self._live.update(self._pool.nodes.readings, asyncio.get_running_loop().time())
        self._process.update()
        self.metrics.loop_lag.of().set(round(self._lag.most(), 6))


async def _in_turns(work: Iterator[object]) -> None:
    """Do all of it, with turns for others."""
    began = time.perf_counter()
    for _ in work:
        if time.perf_counter() - began > SLICE_S:
            await asyncio.sleep(0)
            began = time.perf_counter()


def _in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Small parts together; a large one as it is, without a copy."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        if len(part) >= LARGE_BYTES and waiting:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(part)
        size += len(part)
        if size >= (LARGE_BYTES if len(waiting) == 1 else PIECE_BYTES):
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)
