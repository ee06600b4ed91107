"""Files come into the page cache while a start waits. The kernel says what is in it (mincore)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from router.engine import flags
from router.models.spec import ModelSpec
from router.node.readahead import RESERVE_BYTES, STEP_BYTES, ReadAhead
from router.scheduling.states import State
from tests.conftest import Starter
from tests.fakes import GIB
from tests.pages import drop, resident
from tests.pool.bench import Bench, bench
from tests.waiting import eventually, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is read ahead elsewhere")
# Lengths in steps: of a file, and of one that is read in part. The kernel reads some MiB more than requested, and may
# drop as many at any time.
STEPS, LONG = 1, 5


def cold(path: Path, steps: float = STEPS) -> Path:
    path.write_bytes(b"\1" * int(steps * STEP_BYTES))
    drop(path)
    if resident(path):
        pytest.skip(f"{path.parent} is in memory")
    return path


class Gate:
    """Reports enough memory, but each call waits until the test lets it through."""

    def __init__(self) -> None:
        self.calls = 0
        self.priority: object = None
        self._lets = threading.Semaphore(0)

    def __call__(self) -> int:
        self.priority = psutil.Process(threading.get_native_id()).ionice().ioclass
        self.calls += 1
        assert self._lets.acquire(timeout=10)
        return 1 << 50

    def let(self, times: int = 1) -> None:
        self._lets.release(times)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.let(1000)
    await eventually(lambda: not reading())


def reading() -> bool:
    return any(thread.name == "read-ahead" for thread in threading.enumerate())


async def test_all_files_come_into_the_page_cache(tmp_path: Path) -> None:
    files = [cold(tmp_path / "a", LONG), cold(tmp_path / "b", LONG - 0.7)]
    ReadAhead(lambda: 1 << 50).prefetch(files)
    await eventually(lambda: all(resident(file) > 0.8 for file in files))
    await eventually(lambda: not reading())


async def test_no_memory_is_kept(tmp_path: Path) -> None:
    file = cold(tmp_path / "a", LONG)
    calls: list[None] = []

    def spare() -> int:
        calls.append(None)
        return 1 << 50

    before = psutil.Process().memory_info().rss
    for _ in range(8):
        calls.clear()
        ReadAhead(spare).prefetch([file])
        await eventually(lambda: calls)  # it has begun; what is cached is read in a moment
        await eventually(lambda: not reading())
    assert psutil.Process().memory_info().rss - before < STEP_BYTES / 2


async def test_the_disk_serves_all_others_first(tmp_path: Path, gate: Gate) -> None:
    ReadAhead(gate).prefetch([cold(tmp_path / "a")])
    await eventually(lambda: gate.calls)
    assert gate.priority == psutil.IOPRIO_CLASS_IDLE
    assert psutil.Process().ionice().ioclass != psutil.IOPRIO_CLASS_IDLE


async def test_reading_stops_when_no_start_is_next(tmp_path: Path, gate: Gate) -> None:
    file = cold(tmp_path / "a", LONG)
    ahead = ReadAhead(gate)
    ahead.prefetch([file])
    gate.let()
    await eventually(lambda: gate.calls == 2)
    ahead.prefetch([])
    gate.let(1000)
    await eventually(lambda: not reading())
    assert 0 < resident(file) < 0.6


async def test_a_later_call_replaces_the_one_before(tmp_path: Path, gate: Gate) -> None:
    first, second = cold(tmp_path / "a", LONG), cold(tmp_path / "b")
    ahead = ReadAhead(gate)
    ahead.prefetch([first])
    await eventually(lambda: gate.calls == 1)
    ahead.prefetch([second])
    gate.let(1000)
    await eventually(lambda: resident(second) > 0.4)
    assert resident(first) < 0.6


async def test_a_start_that_hardly_waits_is_not_read_ahead(tmp_path: Path) -> None:
    never, after = cold(tmp_path / "a"), cold(tmp_path / "b")
    ahead = ReadAhead(lambda: 1 << 50)
    ahead.prefetch([never])
    ahead.prefetch([])
    assert not reading()
    ahead.prefetch([after])
    await eventually(lambda: resident(after) > 0.4)
    assert resident(never) == 0


@pytest.mark.parametrize("room", [0, RESERVE_BYTES, RESERVE_BYTES + STEP_BYTES - 1])
async def test_nothing_is_read_where_memory_is_short(tmp_path: Path, room: int) -> None:
    short, after = cold(tmp_path / "a"), cold(tmp_path / "b")
    looked = threading.Event()

    def spare() -> int:
        looked.set()
        return room

    ReadAhead(spare).prefetch([short, after])
    await eventually(looked.is_set)
    await eventually(lambda: not reading())
    assert resident(short) == resident(after) == 0


async def test_no_more_is_read_than_there_is_room_for(tmp_path: Path) -> None:
    file, after = cold(tmp_path / "a", LONG), cold(tmp_path / "b")
    ReadAhead(lambda: RESERVE_BYTES + 2 * STEP_BYTES).prefetch([file, after])
    await eventually(lambda: resident(file) > 0.2)
    await eventually(lambda: not reading())
    assert resident(file) < 0.6
    assert resident(after) == 0


async def test_a_missing_file_is_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = cold(tmp_path / "b")
    ahead = ReadAhead(lambda: 1 << 50)
    with caplog.at_level("DEBUG", "router.readahead"):
        ahead.prefetch([tmp_path / "gone", file])
        await eventually(lambda: "gone" in caplog.text)
    ahead.prefetch([file])
    await eventually(lambda: resident(file) > 0.4)


def named(name: str, *argv: str) -> ModelSpec:
    return ModelSpec(name, "preset", tuple(flags.parse(argv, flags.default_table())))


# When they are read


@contextlib.asynccontextmanager
async def with_files(*names: str) -> AsyncIterator[Bench]:
    """A pool with room for one of these models."""
    async with bench(*(named(name, "-m", f"{name}.gguf") for name in names), need=40 * GIB) as b:
        yield b


async def test_the_next_start_is_prefetched_while_a_victim_drains() -> None:
    async with with_files("a", "b", "c") as b:
        stream = await b.lease("a")
        b.node.prefetched.clear()
        second, third = (asyncio.create_task(b.use(name)) for name in "bc")
        await eventually(lambda: b.pool.status("c").waiting == 1 and b.node.prefetched != [])
        assert b.node.prefetched == [("b.gguf",)]
        stream.release()
        await asyncio.gather(second, third)
        # Once b has started, it reads by itself. Then c is the next to start.
        assert b.node.prefetched == [("b.gguf",), (), ("c.gguf",), ()]


async def test_the_next_start_is_prefetched_while_a_victim_ends() -> None:
    async with with_files("a", "b") as b:
        await b.use("a")
        b.node.of("a").may_stop.clear()
        b.node.prefetched.clear()
        waiting = asyncio.create_task(b.use("b"))
        await eventually(lambda: b.state("a") is State.STOPPING)
        assert b.node.prefetched == [("b.gguf",)]
        b.node.of("a").may_stop.set()
        await waiting
        assert b.node.prefetched[-1] == ()


async def test_prefetching_ends_when_no_start_waits() -> None:
    async with with_files("a", "b") as b:
        stream = await b.lease("a")
        waiting = asyncio.create_task(b.lease("b"))
        await eventually(lambda: b.node.prefetched[-1] == ("b.gguf",))
        waiting.cancel()
        await eventually(lambda: b.node.prefetched[-1] == ())
        stream.release()


def test_a_router_reads_ahead_while_it_serves(routers: Starter, fake: str, tiny_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(tiny_models, folder)
    with (folder / "tiny-b.gguf").open("ab") as file:
        file.write(b"\0" * (64 << 20))
    drop(folder / "tiny-b.gguf")
    if resident(folder / "tiny-b.gguf"):
        pytest.skip(f"{folder} is in memory")
    flags = ("--models-max", "1", "--models-drain-grace", "0")
    router = routers("--engine", fake, "--models-dir", str(folder), *flags, FAKE_CHUNK_SECONDS="0.02")
    with router.stream("tiny-a", 100_000) as stream, router.leave("tiny-b"):
        next(stream)
        until(lambda: "tiny-b.gguf ahead" in router.log)
        assert resident(folder / "tiny-b.gguf") > 0.8
        assert router.loads("tiny-b") == 0
        next(stream)
