"""Waits until the memory of ended processes is back on the GPUs.

A driver gives memory back some time after the process is gone, and in steps. A placement that is planned too early sees
too little, and stops a model that need not go. RAM is back with the end of the process, so only GPUs are waited for.
Called by `devices`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from router.scheduling.resources import Reading

log = logging.getLogger("router.devices")

READ_LIMIT_S = 1.0  # a driver that does not answer in this time counts as hung
SETTLE_LIMIT_S = 2.0  # that the whole wait may take, the readings included
SETTLE_STEP_S = 0.05  # between two readings

# Two amounts closer than this are the same: other programs use a little too. The greater one counts.
SAME_WITHIN_BYTES = 256 * 2**20
SAME_WITHIN_SHARE = 50  # a fiftieth

Read = Callable[[float], Awaitable[tuple[Reading, ...]]]  # takes the limit in seconds


async def settled_readings(
    read: Read, expected: Mapping[str, int], enough: Mapping[str, int] | None = None
) -> tuple[Reading, ...]:
    """Read until the expected bytes are free, and return the last reading.

    `expected` and `enough` have the keys of GPUs alone. The wait ends when each of the expected has as much free as
    expected and no GPU changes any more, or after two seconds. GPUs that cannot be read are not waited for. It ends too
    when what is `enough` for the next start is free: one reading will do, since memory that has come back stays free
    unless another program takes it, and that can happen after any number of readings.
    """
    deadline = asyncio.get_running_loop().time() + SETTLE_LIMIT_S
    readings, previous = await read(READ_LIMIT_S), None
    while expected:
        free = _free_by_gpu(readings)
        if not expected.keys() <= free.keys():
            log.debug("of %s only %s can be read: the others are not waited for", [*expected], [*free])
            if not (expected := {key: level for key, level in expected.items() if key in free}):
                break
        if enough and all(free.get(key, -1) >= level for key, level in enough.items()):
            break
        is_back = all(free[key] >= level or _are_same(free[key], level) for key, level in expected.items())
        if is_back and previous and all(_are_same(free[key], previous[key]) for key in free if key in previous):
            break
        left = deadline - asyncio.get_running_loop().time()
        if left < 2 * SETTLE_STEP_S:
            log.debug("memory did not settle within %.1f s: %s free, %s expected", SETTLE_LIMIT_S, free, dict(expected))
            break
        await asyncio.sleep(SETTLE_STEP_S)
        previous, readings = free, await read(min(READ_LIMIT_S, left - SETTLE_STEP_S))
    return readings


def _free_by_gpu(readings: Sequence[Reading]) -> dict[str, int]:
    return {r.device.key: r.free for r in readings if r.device.kind == "gpu" and r.free is not None}


def _are_same(one: int, other: int) -> bool:
    return abs(one - other) <= max(SAME_WITHIN_BYTES, max(one, other) // SAME_WITHIN_SHARE)
