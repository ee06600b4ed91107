"""Whether a child shows life: it answers, it writes, or it computes. Called by `process`.

A child that works on a long prompt may be silent for minutes, and so may one that loads: but they use the processor. A
child that waits for ever for a lock, or that was stopped by a signal, does nothing at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import psutil

from router import threads
from router.errors import RouterError, UpstreamFailed
from router.node.processes import tree_of
from router.wire.address import Address
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream

# A process that computes uses at least this share of one core. One that only waits uses a thousandth at most.
BUSY_SHARE = 0.01
LEAST_SPAN_S = 1.0  # the system counts in hundredths of a second, so a share of less time means nothing
READ_LIMIT_S = 5.0
QUICK_ANSWER_S = 0.2  # most answers come sooner; only a child that is slower is looked at more closely

CpuTimes = Mapping[int, float]  # seconds by pid


class Vitals:
    """Of one child. One look at a time.

    `_counts`: it has not answered at the last look, so its use of the processor is counted.
    `_used` is what it had used at `_used_at`; None if that could not be read.
    """

    def __init__(self, pid: int, address: Address, key: str) -> None:
        self._pid, self._address, self._key = pid, address, key
        self._used: CpuTimes | None = None
        self._used_at = 0.0
        self._counts = False

    def __repr__(self) -> str:
        return f"<Vitals of {self._pid}, {'silent' if self._counts else 'alive'}>"

    async def show_life(self, has_written: Callable[[], bool], within: float) -> bool:
        """Whether the child answers `/health` within so many seconds, with any status; or writes or computes."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        with contextlib.closing(Upstream()) as upstream:
            answer = asyncio.create_task(_is_answered(upstream, self._address, self._key))
            try:
                await asyncio.wait({answer}, timeout=min(QUICK_ANSWER_S, within))
                if not (answer.done() and answer.result()):
                    if not self._counts:
                        self._used, self._used_at, self._counts = await cpu_times(self._pid), loop.time(), True
                    await asyncio.wait({answer}, timeout=max(0.0, end - loop.time()))
                if answer.done() and answer.result():
                    self._counts = False
                    return True
            finally:
                answer.cancel()
        await asyncio.sleep(end - loop.time())  # an answer may have failed at once
        return await self._computes() or has_written()

    async def _computes(self) -> bool:
        """Whether it has used the processor since the count began."""
        used, now = await cpu_times(self._pid), asyncio.get_running_loop().time()
        has = has_computed(self._used, used, now - self._used_at)
        if has or now - self._used_at >= LEAST_SPAN_S:
            self._used, self._used_at = used, now
        return has


async def _is_answered(upstream: Upstream, address: Address, key: str) -> bool:
    try:
        answer = await upstream.open(address, key, RequestHead("GET", b"/health", []))
    except UpstreamFailed:
        return False
    answer.close()
    return True


async def cpu_times(pid: int) -> CpuTimes | None:
    """What the child and its descendants have used of the processor; None if it cannot be read."""
    with contextlib.suppress(RouterError):
        return await threads.MACHINE.run(_cpu_times, pid, timeout=READ_LIMIT_S, what=f"The system about process {pid}")
    return None


def _cpu_times(pid: int) -> CpuTimes:
    found = {}
    for each in tree_of(pid):
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(each).cpu_times()
            found[each] = times.user + times.system
    return found


def has_computed(before: CpuTimes | None, after: CpuTimes | None, seconds: float) -> bool:
    """Whether it used the processor in this time. What cannot be read counts as life: no process ends for that."""
    if before is None or after is None:
        return True
    used = sum(time - before.get(pid, 0.0) for pid, time in after.items())
    return used >= BUSY_SHARE * seconds
