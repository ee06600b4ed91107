"""Keeps the pool's catalog equal to its sources: the models folder, the preset file and the cache.

The sources are read again on SIGHUP, on `POST /models/reload`, when the watched preset file is written, and after a
download. Each reading ends with the models' headers, and then with estimates of their needs. `serve` makes the one
Reloader and starts it; `ending` stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import replace

from router import files, threads
from router.errors import ConfigError
from router.events.kinds import Reload, shortened
from router.logs import streams as logs
from router.memory.estimator import Estimator
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.models.describe import ARRIVING, describe
from router.models.ini_files import Places, places_of
from router.models.sources import Sources
from router.models.spec import Info, ModelSpec
from router.pool.pool import Pool
from router.watch import changes

log = logging.getLogger("router.serve")

# Headers are read side by side: one may lie on a disk that hangs.
LANES = 4
# The router waits this long for the models' headers before it says that it listens. A slow disk may take longer.
FIRST_READ_S = 1.0


class Reloader:
    """`watched` are the preset files, and folders of them, to read again whenever one is written."""

    def __init__(self, pool: Pool, sources: Sources, estimator: Estimator, watched: Places) -> None:
        self._pool = pool
        self._sources = sources
        self._estimator = estimator
        # What came from a pipe is there no more.
        self._watched = [path for path in places_of(watched) if not files.is_inherited(path)]
        pool.exchange.estimate_with(self._estimate_quickly)
        # Readings follow each other, so that the last one counts.
        self._reading = asyncio.Lock()
        self._is_stopped = False
        self._problems: Set[tuple[str, str]] = frozenset()  # name and kind of those that have been logged
        self._until_stop: list[asyncio.Task[None]] = []
        self._after_signals: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        watched = ", ".join(map(str, self._watched)) or "none"
        return f"<Reloader {'reading' if self._reading.locked() else 'idle'}, watches {watched}>"

    async def start(self) -> None:
        """Begin to watch, and to read headers. Returns when they are read, after FIRST_READ_S at the latest."""
        describing = asyncio.create_task(self._describe())
        self._until_stop = [asyncio.create_task(self._watch()), describing]
        await asyncio.wait({describing}, timeout=FIRST_READ_S)

    def stop(self) -> None:
        self._is_stopped = True
        for task in self._until_stop:
            task.cancel()

    async def reload(self) -> Changes:
        """Read all sources. Raises ConfigError, and then changes nothing."""
        with self._telling("the presets"):
            return await self._replace(self._sources.read)

    async def refresh(self) -> Changes:
        """Read the folders and the cache again, with the presets as they were read last."""
        with self._telling("the files of models have changed, but the models"):
            return await self._replace(self._sources.refresh)

    def on_hang_up(self) -> asyncio.Future[None]:
        """SIGHUP: write to a new log file, and read all sources unless the router is about to end. The future is done
        when they are read."""
        logs.reopen()
        task = asyncio.ensure_future(asyncio.sleep(0) if self._is_stopped else self._reload_if_valid())
        self._after_signals.add(task)
        task.add_done_callback(self._after_signals.discard)
        return task

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except ConfigError as exc:
            self._pool.journal.emit(Reload(why=shortened(f"{what} are left as they are: {exc}")))
            raise

    async def _replace(self, read: Callable[[], Catalog]) -> Changes:
        async with self._reading:
            catalog = self._told(await describe_all(await threads.CATALOG.run(read)))
            changes = await self._pool.exchange.replace(catalog)
        self._survey()
        return changes

    def _told(self, catalog: Catalog) -> Catalog:
        """The catalog without files that turned out to be no models. Logs what is new among what is wrong with it."""
        kept, left_out = [], dict(catalog.left_out)
        for spec in catalog.models:
            if not spec.is_no_model or spec.name == catalog.default_name:
                kept.append(spec)
            else:
                left_out[spec.name] = str(spec.info.problem)
        problems = {}
        for spec in kept:
            if problem := spec.info.problem:
                # What is wrong with a file that is still being written changes all the time.
                key = ARRIVING if problem.endswith(ARRIVING) else problem
                problems[spec.name, key] = f"{spec.name} cannot be served: {problem}"
        for name in left_out.keys() - catalog.left_out.keys():
            problems[name, left_out[name]] = f"{left_out[name]}: it is not offered"
        for new in sorted(problems.keys() - self._problems):
            log.warning("%s", problems[new])
        self._problems = problems.keys()
        self._sources.watch([spec for spec in kept if spec.info.problem])
        return catalog.with_models(kept, left_out)

    async def _describe(self) -> None:
        """The catalog at the start is built without headers, so that serving begins soon; they are read now."""
        catalog = self._pool.catalog
        self._pool.exchange.adopt_descriptions(self._told(await describe_all(catalog)), of=catalog)
        self._survey()

    def _survey(self) -> None:
        self._pool.exchange.survey(self._estimate_quickly)

    def _estimate_quickly(self, spec: ModelSpec) -> Need:
        return self._estimator.need(spec, quick=True)

    async def _watch(self) -> None:
        if self._watched:
            async for _ in changes(self._watched):
                await self._reload_if_valid()

    async def _reload_if_valid(self) -> None:
        with contextlib.suppress(ConfigError):  # the journal has it
            await self.reload()


async def describe_all(catalog: Catalog) -> Catalog:
    """The catalog with what the models' headers say. A model whose header cannot be read gets a problem.

    Headers are read in threads, LANES side by side. Many headers on a cold disk take long, so this can be cancelled
    between two of them; a file on a disk that hangs costs its own model alone."""
    models, left = list(catalog.models), iter(range(len(catalog.models)))
    lanes = [asyncio.create_task(_describe_lane(models, left)) for _ in range(LANES)]
    try:
        await asyncio.gather(*lanes)
    finally:
        for lane in lanes:
            lane.cancel()
    return catalog.with_models(models)


async def _describe_lane(models: list[ModelSpec], left: Iterator[int]) -> None:
    """Replace one model after the other by the described one, while indexes are `left`; all lanes share them."""
    for index in left:
        spec = models[index]
        what = f"The model file {spec.model_path} of {spec.name!r}"
        try:
            models[index] = await threads.FILES.run(describe, spec, timeout=threads.DISK_TIMEOUT_S, what=what)
        except threads.Unanswered as exc:
            models[index] = replace(spec, info=Info(problem=exc.message))
