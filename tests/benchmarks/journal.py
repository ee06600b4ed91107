"""(i) Events: what one costs when nobody listens and when ten do, and what a request costs with its events unheard and
heard. It is CPU time of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from statistics import median

from router.events.journal import Journal
from router.events.kinds import PER_REQUEST, Evict
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.scheduling.causes import Cause
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from tests.benchmarks.report import OURS, Row, Target
from tests.fakes import FakeNode

HEARD = "heard"
BYTES = {"here/CUDA0": 7 << 30}


def measure(seconds: float, requests: int = 2_000) -> Iterator[Row]:
    alone, listened = Journal(), Journal()
    for _ in range(10):
        listened.subscribe(lambda entry: None, Evict)
    for journal, case, most in ((alone, "made and kept", 2e-6), (listened, "told to ten listeners", 5e-6)):
        took = _per_call(lambda journal=journal: journal.emit(_event()), seconds / 3)  # type: ignore[misc]
        target = Target(f"below {1e6 * most:g} us", took < most)
        yield Row("journal", "an event", case, "us", {OURS: 1e6 * took}, (target,))
    unheard, heard = asyncio.run(_leases(seconds / 3, requests))
    yield Row("journal", "a request", "a lease and its end", "us", {OURS: 1e6 * unheard, HEARD: 1e6 * heard})


def _event() -> Evict:
    return Evict("a", 1, Cause.MEMORY, "room for b", "b", BYTES, BYTES, BYTES, BYTES, BYTES, 21.0)


async def _leases(seconds: float, requests: int) -> tuple[float, float]:
    spec = ModelSpec("a", "preset", ())
    pool = Pool(Catalog([spec]), [FakeNode()], Limits(), lambda spec: Need(Demand(host=1)))
    (await pool.lease(spec)).release()

    def serve() -> None:
        lease = pool.lease_at_once(spec)
        assert lease
        lease.release()

    unheard, heard = list[float](), list[float]()
    deadline = time.perf_counter() + seconds
    while not heard or time.perf_counter() < deadline:
        unheard.append(_mean(serve, requests))
        end = pool.journal.subscribe(lambda entry: None, *PER_REQUEST)
        heard.append(_mean(serve, requests))
        end()
    await pool.close()
    return median(unheard), median(heard)


def _per_call(call: Callable[[], None], seconds: float) -> float:
    times, deadline = list[float](), time.perf_counter() + seconds
    while not times or time.perf_counter() < deadline:
        times.append(_mean(call, 1_000))
    return median(times)


def _mean(call: Callable[[], None], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times
