"""(e) The list of models: the first one, one when nothing has changed, one while a model loads; and a wrong name."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from router.api.listing import Listing
from router.engine.flags import default_table
from router.errors import UnknownModel
from router.memory.need import Need
from router.models import presets
from router.models.build import build
from router.models.catalog import Catalog
from router.models.describe import describe
from router.models.stores.ollama import OllamaStore
from router.node.interface import LoadProgress
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from tests.benchmarks.report import OURS, Row, Target
from tests.benchmarks.stage import Stage
from tests.fakes import FakeNode
from tests.models.stores.laid import Laid

COUNTS = (500, 5000)


def measure(stage: Stage, seconds: float, counts: Sequence[int] = COUNTS) -> Iterator[Row]:
    for count in counts:
        preset = write_preset(stage, count)
        yield from asyncio.run(_in_process(preset, count, seconds / 3))
        yield from _by_clients(stage, preset, count, seconds / 3)
    yield from _of_a_store(stage, counts[0], seconds / 3)


def _of_a_store(stage: Stage, count: int, seconds: float) -> Iterator[Row]:
    """So many names in a store of Ollama: the first reading, and a look whether anything has changed."""
    laid = Laid(stage.room(f"{count}-names"))
    model = laid.layer("model", stage.models / "tiny-a.gguf")
    for n in range(count):
        laid.model(
            f"model-{n:04}:1b", [model, laid.layer("params", {"seed": n}), laid.layer("system", f"You are {n}.")]
        )
    store = OllamaStore(laid.root)
    began = time.perf_counter()
    assert len(store.read().models) == count
    case = f"{count} names in Ollama's store"
    yield Row("listing", case, "first reading", "ms", {OURS: (time.perf_counter() - began) * 1000})
    while not store.is_current(0):  # what was written a moment ago counts as changed
        store.read()
    took = timed(lambda: store.is_current(0), seconds)
    yield Row("listing", case, "a look", "ms", {OURS: took * 1000}, (Target("below 100 ms", took < 0.1),))


def write_preset(stage: Stage, count: int) -> Path:
    """So many models, all of them one file."""
    file = stage.room(f"{count}-models.ini")
    model = stage.models / "tiny-a.gguf"
    file.write_text("".join(f"[model-{n:04}]\nmodel = {model}\nctx-size = 2048\n" for n in range(count)))
    return file


def timed(once: Callable[[], object], seconds: float, before: Callable[[], object] = lambda: None) -> float:
    """The median, in seconds, of as many as there is time for, three at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        before()
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return median(times)


async def _in_process(preset: Path, count: int, seconds: float) -> list[Row]:
    """The work of the router alone."""
    models = read_catalog(preset)
    node = FakeNode(autoload=False)
    pool = Pool(models, [node], Limits(margins={}), lambda spec: Need(Demand(host=1)))
    listing = Listing(pool)
    began = time.perf_counter()
    listing.render()
    first = time.perf_counter() - began
    unchanged = timed(listing.render, seconds)
    loading = asyncio.create_task(pool.lease(models.models[0]))
    while not node.children:
        await asyncio.sleep(0)
    progress = node.of(models.models[0].name).launch.on_event
    during = timed(listing.render, seconds, lambda: progress(LoadProgress("text_model", 0.5)))
    assert b'"progress"' in listing.render(), "nothing has changed"
    loading.cancel()
    await asyncio.wait({loading})
    await pool.close()
    wrong = timed(lambda: _resolve(models, "modle-0123"), seconds)
    case = f"{count} models"
    head = Row("listing", case, "first", "ms", {OURS: first * 1000})
    told = [_row(case, "unchanged", unchanged), _row(case, "while one loads", during)]
    return [head, *told, _row(case, "a wrong name among them", wrong)]


def _resolve(models: Catalog, name: str) -> None:
    with contextlib.suppress(UnknownModel):
        models.resolve(name)


def _row(case: str, measure: str, took: float) -> Row:
    return Row("listing", case, measure, "ms", {OURS: took * 1000}, (Target("below 1 ms", took < 0.001),))


def read_catalog(preset: Path) -> Catalog:
    read = build(
        presets.read(preset, default_table()),
        (),
        models_dir=None,
        cache_root=preset.with_suffix(".cache"),
        global_args=(),
        table=default_table(),
        default_name=None,
        offline=True,
    )
    return Catalog([describe(spec) for spec in read.models])


def _by_clients(stage: Stage, preset: Path, count: int, seconds: float) -> Iterator[Row]:
    """Over HTTP, the transfer included."""
    peer = stage.ours("--models-preset", str(preset), cpu=None)
    connection = http.client.HTTPConnection("127.0.0.1", peer.port)

    def get() -> int:
        connection.request("GET", "/models")
        return len(connection.getresponse().read())

    size = get()
    took = timed(get, seconds)
    connection.close()
    yield Row("listing", f"{count} models", f"by HTTP, {size / 1e6:.1f} MB", "ms", {OURS: took * 1000})
