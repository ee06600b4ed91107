"""SANS-I/O: what was free at the last reading of the memory, and what should be free by now.

A driver gives memory back a while after a process has exited. A reading that comes too early would show the machine
full and cost another victim. So each `Probe` says what should be free by now, and the node waits for that before it
answers. The prediction is careful: a byte that is promised but never comes would make every probe wait in vain.

Owned by `scheduler`. `alive` are the records of all models with a process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from router.scheduling.books import ModelRecord
from router.scheduling.effects import Probe
from router.scheduling.resources import Reading
from router.scheduling.states import VISIBLE_TO_DRIVER, State

# After so many failed probes in a row nobody waits for the next one.
MAX_FAILED_PROBES = 3

# Memory of a process that ended longer ago than this has come back, or never will.
SETTLE_WINDOW_S = 15.0


class MemoryLevels:
    """`is_probing`: a Probe is out.
    `reading_outdated`: memory was taken or given back since that Probe went out. Its answer may not be used.
    `last_free` are the free bytes of the last reading, by device key, and what ended since and was visible there.
    """

    def __init__(self) -> None:
        self.is_probing = False
        self.reading_outdated = False
        self.last_free: dict[str, int] = {}
        self._freed: set[str] = set()  # the devices on which a process ended since the last Probe
        self._freed_at = 0.0
        self._failed_probes = 0  # in a row

    def __repr__(self) -> str:
        return f"<MemoryLevels: {self.last_free}, {self.is_probing=}, {self.reading_outdated=}>"

    def probe(self, alive: Collection[ModelRecord], now: float) -> Probe:
        """Ask for a new reading."""
        freed = self._freed & self.last_free.keys() if now - self._freed_at <= SETTLE_WINDOW_S else ()
        self.is_probing, self.reading_outdated, self._freed = True, False, set()
        expected = self._expected(alive)
        return Probe({key: expected[key] for key in freed})

    def read(self, readings: Iterable[Reading], alive: Collection[ModelRecord]) -> None:
        """Take over a reading that is up to date."""
        self._failed_probes = 0
        before = self._expected(alive)
        self.last_free = {reading.device.key: reading.free for reading in readings if reading.free is not None}
        for model in alive:
            model.is_in_last_reading = model.state in VISIBLE_TO_DRIVER
        after = self._expected(alive)
        stopping = {key for m in alive if m.state is State.STOPPING for key in m.held}
        for key in stopping & before.keys() & after.keys():
            # A stopping process may have given its memory back already. That counts once its exit is reported.
            self.last_free[key] -= max(0, after[key] - before[key])

    def fail(self) -> bool:
        """The probe brought no reading. Returns whether those who wait for one should be told, after several times."""
        self._failed_probes += 1
        return self._failed_probes >= MAX_FAILED_PROBES

    def give_back(self, model: ModelRecord, now: float) -> None:
        """The model's process has exited."""
        self._freed_at = now
        self._freed.update(model.held)
        if model.is_in_last_reading:
            for key in model.held.keys() & self.last_free.keys():
                # An estimate errs upwards by up to a tenth: the last tenth may never have been taken.
                self.last_free[key] += model.held[key] - model.held[key] // 10

    def _expected(self, alive: Collection[ModelRecord]) -> dict[str, int]:
        """What must be free by now, by device key."""
        # How much a load has taken is not known. A sleeping process holds nothing, and may take it back at any time.
        expected = {**self.last_free}
        for model in alive:
            if not model.is_in_last_reading:
                for key in model.held.keys() & expected.keys():
                    expected[key] -= model.held[key]
        return expected
