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
QUICK_ANSWER_S = 0.2  # most answers come sooner; only a child that is slower is looked at more closely

CpuTimes = Mapping[int, float]  # seconds by pid


async def shows_life(pid: int, address: Address, key: str, has_written: Callable[[], bool], within: float) -> bool:
    """Whether the child answers `/health` within so many seconds, with any status; or writes or computes meanwhile."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    with contextlib.closing(Upstream()) as upstream:
        answer = asyncio.create_task(_is_answered(upstream, address, key))
        try:
            await asyncio.wait({answer}, timeout=min(QUICK_ANSWER_S, within))
            if answer.done() and answer.result():
                return True
            before, since = await cpu_times(pid), loop.time()
            await asyncio.wait({answer}, timeout=max(0.0, end - loop.time()))
            if answer.done() and answer.result():
                return True
        finally:
            answer.cancel()
        await asyncio.sleep(end - loop.time())  # an answer may have failed at once
        return has_written() or has_computed(before, await cpu_times(pid), loop.time() - since)


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
        return await threads.MACHINE.run(_cpu_times, pid)
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
