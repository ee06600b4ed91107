"""(l) What looking on costs: the state of many models, and the listeners of the stream while 50 things happen a second.

The cost of listeners is CPU time of the router, less what the same events cost without any.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from router.api.dashboard.board import Board
from router.memory.need import Need
from router.node.interface import LoadProgress
from router.pool.pool import Pool
from router.records.records import Records
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from tests.benchmarks.listings import read_catalog, timed, write_preset
from tests.benchmarks.report import OURS, Row, Target
from tests.benchmarks.stage import Peer, Stage
from tests.fakes import FakeNode

COUNTS = (500, 5000)
LISTENERS = 60
ROUNDS = 3
EVENTS_A_SECOND = 50
LOADED = 20


def measure(stage: Stage, seconds: float, counts: Sequence[int] = COUNTS) -> Iterator[Row]:
    for count in counts:
        yield from asyncio.run(_state(write_preset(stage, count), count, seconds / 3))
    yield from _listeners(stage, seconds)


async def _state(preset: Path, count: int, seconds: float) -> list[Row]:
    """The work of the router alone; one model loads, and some are loaded."""
    models = read_catalog(preset)
    node = FakeNode()
    pool = Pool(models, [node], Limits(models_max=0, margins={}), lambda spec: Need(Demand(host=1)))
    board = Board(pool, Records(), "llama-server", "b1")

    def state() -> bytes:
        board.refresh()
        return board.state()

    began = time.perf_counter()
    state()
    first = time.perf_counter() - began
    loaded = min(LOADED, count - 1)
    for spec in models.models[:loaded]:
        (await pool.lease(spec)).release()
    node.autoload = False
    last = models.models[loaded]
    loading = asyncio.create_task(pool.lease(last))
    while node.children[-1].launch.model != last.name:
        await asyncio.sleep(0)
    progress = node.of(last.name).launch.on_event
    unchanged = timed(state, seconds)
    during = timed(state, seconds, lambda: progress(LoadProgress("text_model", time.perf_counter() % 1)))
    size = len(state())
    loading.cancel()
    await asyncio.wait({loading})
    await pool.close()
    case = f"{count} models, {loaded} loaded, {size / 1000:.0f} KB"
    return [
        Row("dashboard", case, "first state", "ms", {OURS: first * 1000}),
        _row(case, "state, unchanged", unchanged),
        _row(case, "state while one loads", during),
    ]


def _row(case: str, measure: str, took: float) -> Row:
    return Row("dashboard", case, measure, "ms", {OURS: took * 1000}, (Target("below 1 ms", took < 0.001),))


def _listeners(stage: Stage, seconds: float) -> Iterator[Row]:
    """By HTTP. What ten cost is lost in what the events cost, which is never quite the same: so it is told of many, in
    turns with none."""
    peer, with_all, with_slow = stage.ours(cpu=None), [], []
    for _ in range(ROUNDS):
        without = _share(peer, seconds)
        with listening(peer, LISTENERS) as heard:
            with_all.append(_share(peer, seconds) - without)
            assert heard() > 0
            with asking(peer):
                with_slow.append(_share(peer, seconds) - without)
    case = f"{EVENTS_A_SECOND} events/s"
    ten = 100 * median(with_all) * 10 / LISTENERS
    target = Target("below 1 % of a core", ten < 1)
    yield Row("dashboard", case, f"ten of {LISTENERS} listeners", "%", {OURS: ten}, (target,))
    yield Row("dashboard", case, f"{LISTENERS}", "%", {OURS: 100 * median(with_all)})
    yield Row("dashboard", case, f"{LISTENERS} and one that does not read", "%", {OURS: 100 * median(with_slow)})


def _share(peer: Peer, seconds: float) -> float:
    """Of a core, while things happen."""
    connection = http.client.HTTPConnection("127.0.0.1", peer.port)
    began, cpu, count = time.perf_counter(), peer.cpu(), 0
    while (now := time.perf_counter()) < began + seconds:
        body = json.dumps({"pinned": count % 2 == 0})
        connection.request("POST", "/models/tiny-a/pin", body, {"content-type": "application/json"})
        connection.getresponse().read()
        count += 1
        time.sleep(max(0.0, began + count / EVENTS_A_SECOND - now))
    connection.close()
    return (peer.cpu() - cpu) / (time.perf_counter() - began)


@contextlib.contextmanager
def asking(peer: Peer) -> Iterator[socket.socket]:
    """A listener that reads what the test reads of it."""
    with socket.create_connection(("127.0.0.1", peer.port)) as connection:
        connection.sendall(b"GET /router/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield connection


@contextlib.contextmanager
def listening(peer: Peer, count: int) -> Iterator[Callable[[], int]]:
    """So many listeners, which read all that comes; how many bytes they have read."""
    read, has_ended = 0, threading.Event()

    def run() -> None:
        nonlocal read
        while not has_ended.is_set():
            for key, _ in ready.select(0.1):
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                read += len(data)

    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            ready.register(stack.enter_context(asking(peer)), selectors.EVENT_READ)
        reader = threading.Thread(target=run)
        reader.start()
        try:
            yield lambda: read
        finally:
            has_ended.set()
            reader.join()
