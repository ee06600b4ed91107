"""Measures what processes really hold, books it, and remembers it for the next load of the same model.

A process is measured shortly after it has become ready, and again when its last request ends.
"""

from __future__ import annotations

from collections.abc import Callable

from router import threads
from router.events.kinds import Booked
from router.memory.footprints import Footprint
from router.models.spec import ModelSpec
from router.pool.child_run import ChildRun
from router.pool.core import Core

# An engine takes some of its buffers only with the first request, and just then there is more urgent work.
MEASURE_AFTER_READY_S = 0.5
# A process that becomes idle is measured again if its last measurement is older.
REMEASURE_S = 30.0


class Measurements:
    """`learn` stores a footprint; it may block, and is called in a thread."""

    def __init__(self, core: Core, learn: Callable[[ModelSpec, Footprint], None]) -> None:
        self._core = core
        self._learn = learn

    def measure_soon(self, run: ChildRun) -> None:
        """The run has become ready: measure it in a moment."""
        run.measured_at = self._core.now()
        self._core.loop.call_later(MEASURE_AFTER_READY_S, self.measure, run)

    def measure(self, run: ChildRun) -> None:
        """Measure the run now, unless it ends."""
        if run.why_stopped is None and not run.ended.is_set():
            run.measured_at = self._core.now()
            self._core.tasks.start(self._record_measurement(run))

    async def _record_measurement(self, run: ChildRun) -> None:
        measured = await run.measure()
        if run.why_stopped is not None or run.ended.is_set() or not any(measured.values()):
            return  # it has begun to give memory back, or is gone
        core, name, run.measured = self._core, run.spec.name, measured
        held, footprint = run.reconcile(measured, core.scheduler.model(name).held)
        effects = core.scheduler.measured(name, run.number, held, core.now())
        if core.scheduler.model(name).held is held:
            core.journal.emit(Booked(name, run.number, held))
        core.apply(effects)
        await threads.RECORDS.run(self._learn, run.spec, footprint)
