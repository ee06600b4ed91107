"""Finds processes that hang: requests run on them, and they show no life.

Each process that serves has one task here. It looks at the process every few seconds, one look at a time, and only
while requests run. What counts as life: an answer to `/health`, output, use of the processor (`Child.shows_life`), and
bytes of any answer. Without life for the health timeout the scheduler is told, and the requests fail.

Called by `processes`.
"""

from __future__ import annotations

import asyncio

from router.pool.child_run import ChildRun
from router.pool.core import Core
from router.wire.upstream import Upstream

LOOKS = 10  # in one health timeout
MAX_PAUSE_S = 5.0  # between two looks
LEAST_LOOK_S = 0.05


class HealthWatch:
    """`timeout` is how many seconds a process may show no life; 0 for any time."""

    def __init__(self, core: Core, upstream: Upstream, timeout: float) -> None:
        self._core = core
        self._upstream = upstream
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<HealthWatch {self._timeout:g} s>"

    def begin(self, run: ChildRun) -> None:
        """The run serves: watch it until `end`."""
        if self._timeout:
            run.watch = asyncio.create_task(self._watch(run))

    def end(self, run: ChildRun) -> None:
        """The run has ended."""
        if run.watch is not None:
            run.watch.cancel()

    async def _watch(self, run: ChildRun) -> None:
        """Time in which the router itself was held up does not count against the process."""
        core, name, timeout = self._core, run.spec.name, self._timeout
        pause = min(timeout / LOOKS, MAX_PAUSE_S)
        last_life, rest = core.now(), pause
        while run.why_stopped is None:
            begun = core.now()
            await asyncio.sleep(rest)
            model = core.scheduler.model(name)
            if not model.leases:
                last_life, rest = core.now(), pause
                continue
            last_life = max(last_life, model.busy_since)
            look = max(LEAST_LOOK_S, min(pause, last_life + timeout - core.now()))
            is_alive = await self._shows_life(run, look)
            now = core.now()
            if is_alive:
                last_life, rest = now, pause
                continue
            last_life += max(0.0, now - begun - 2 * (rest + look))
            rest = 0.0
            if now >= last_life + timeout and run.why_stopped is None:
                core.apply(core.scheduler.hung(name, run.number, timeout, now))

    async def _shows_life(self, run: ChildRun, within: float) -> bool:
        assert run.child is not None
        address = run.child.address
        before = self._upstream.received(address)
        return await run.child.shows_life(within) or self._upstream.received(address) != before
