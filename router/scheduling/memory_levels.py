"""SANS-I/O: what was free at the last reading of the memory, and what should be free by now.

A driver gives memory back a while after a process has exited. A reading that comes too early shows the machine full.
Two things keep that from costing a victim:

- Each `Probe` says what should be free by now, and what would be enough for the next start. The node waits for the one
  or the other before it answers, two seconds at most. The prediction is careful: a byte that is promised but never
  comes would make every probe wait in vain.
- What is still missing then goes to `policy` with the reading (`returning`). It may come back yet, and a model that
  goes for it would go without need. That ends when a reading shows it, or SETTLE_WINDOW_S after the exit.

Owned by `scheduler`. `alive` are the records of all models with a process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from router.scheduling.books import ModelRecord
from router.scheduling.effects import Probe
from router.scheduling.next_start import enough_for_start
from router.scheduling.pressure import BEGINS_AFTER_S, Pressure
from router.scheduling.resources import Demand, Reading
from router.scheduling.snapshot import Snapshot
from router.scheduling.states import VISIBLE_TO_DRIVER, State

# Memory of a process that ended longer ago than this has come back, or never will.
SETTLE_WINDOW_S = 15.0
LOOK_AFTER_S = 3.0  # after the end of a process: so long no reading is made just to see what other programs take
RETURN_POLL_S = 0.1  # between two readings while it comes back
# After so many failed probes in a row nobody waits for the next one.
MAX_FAILED_PROBES = 3


class MemoryLevels:
    """`is_probing`: a Probe is out.
    `reading_outdated`: memory was taken or given back since that Probe went out. Its answer may not be used.
    `last_free` are the free bytes of the last reading, by device key, and what ended since and was visible there.
    `last_snapshot` is the machine at the last reading.
    `pressure` knows where other programs have taken what is to stay free.
    `returning` are the bytes that ended processes may not have given back at the last reading, by key of a GPU. RAM is
    back with the end of a process.
    """

    def __init__(self) -> None:
        self.is_probing = False
        self.reading_outdated = False
        self.last_free: dict[str, int] = {}
        self.last_snapshot: Snapshot | None = None
        self.returning: dict[str, int] = {}
        self._freed: set[str] = set()  # the devices on which a process ended and whose memory no Probe has waited for
        self._freed_at = 0.0
        self._waits = True  # the Probe that is out does, for the memory of ended processes
        self._failed_probes = 0  # in a row
        self._settled: dict[str, int] = {}  # free on each GPU once all has settled, if other programs stay as they are
        self._probed_at = 0.0
        self.pressure = Pressure()
        self._owed: dict[str, list[tuple[float, int]]] = {}  # what ended processes held on each GPU, and until when

    def __repr__(self) -> str:
        return f"<MemoryLevels: {self.last_free}, {self.is_probing=}, {self.reading_outdated=}, {self.returning=}>"

    def poll_after(self, seconds: float) -> float:
        """Instead of after so many seconds it is to be probed again after this many."""
        return min(seconds, RETURN_POLL_S) if self.returning else seconds

    def probe(
        self, alive: Collection[ModelRecord], now: float, demand: Demand | None = None, after_all_stops: bool = False
    ) -> Probe:
        """Ask for a new reading. `demand` is that of the model which starts next, maybe `after_all_stops` only. If it
        has to wait for a stop or a load, this Probe waits for no memory; the one after it does."""
        freed = self._freed & self.last_free.keys() if now - self._freed_at <= SETTLE_WINDOW_S else set()
        self.is_probing, self.reading_outdated, self._waits = True, False, True
        self._probed_at = now
        for key, owed in list(self._owed.items()):
            self._owed[key] = [(until, held) for until, held in owed if until > now]
            if not self._owed[key]:
                del self._owed[key]
        expected = self._expected(alive)
        enough: Mapping[str, int] | None = None
        if freed and demand and self.last_snapshot:
            if after_all_stops and any(model.state is State.STOPPING for model in alive):
                enough = {}
            else:
                enough = enough_for_start(self.last_snapshot, alive, expected, demand)
            if enough is not None and not enough:
                self._waits = False
                return Probe({})
        self._freed = set()
        return Probe({key: expected[key] for key in freed}, enough or {})

    def next_look(self, poll: float) -> float:
        """When the memory is read again though nothing has happened. Not just after the end of a process: such a Probe
        would wait for all of its memory, and a request that comes meanwhile would wait with it."""
        at = self._probed_at + (min(poll, BEGINS_AFTER_S) if self.pressure.is_unsure else poll)
        return max(at, self._freed_at + LOOK_AFTER_S) if self._freed else at

    @property
    def is_blind(self) -> bool:
        """The last probe brought no reading."""
        return self._failed_probes > 0

    def fail(self) -> bool:
        """The probe brought no reading. Returns whether those who wait for one should be told, after several times."""
        self._failed_probes += 1
        return self._failed_probes >= MAX_FAILED_PROBES

    def read(self, readings: Iterable[Reading], alive: Collection[ModelRecord]) -> None:
        """Take over a reading that is up to date."""
        self._failed_probes = 0
        readings = [reading for reading in readings if reading.free is not None]
        self._compare(readings, alive)
        if not self._waits:
            return
        before = self._expected(alive)
        self.last_free = {reading.device.key: reading.free or 0 for reading in readings}
        for model in alive:
            model.is_in_last_reading = model.state in VISIBLE_TO_DRIVER and not model.is_asleep
        after = self._expected(alive)
        stopping = [model for model in alive if model.state is State.STOPPING]
        for key in {key for model in stopping for key in model.held} & after.keys():
            # A stopping process may have given its memory back already. That counts once its exit is reported. After a
            # while without a reading, as of a GPU that was lost, it may have been all of it.
            all_of_it = sum(model.held.get(key, 0) for model in stopping)
            self.last_free[key] -= max(0, after[key] - before[key]) if key in before else all_of_it

    def book(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """A process that held `before` holds `after` from now on, or will: it is new, was measured, slept or woke."""
        for key, amount in before.items():
            if key in self._settled:
                self._settled[key] += amount
        for key, amount in after.items():
            if key in self._settled:
                self._settled[key] -= amount

    def give_back(self, model: ModelRecord, now: float) -> None:
        """The model's process has exited."""
        self._freed_at = now
        self._freed.update(model.held)
        if not model.is_asleep:
            self.book(model.held, {})
            for key in model.held.keys() & self._settled.keys():
                self._owed.setdefault(key, []).append((now + SETTLE_WINDOW_S, model.held[key]))
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

    def _compare(self, readings: Iterable[Reading], alive: Collection[ModelRecord]) -> None:
        """Find what is missing on the GPUs. Where a reading is clear, learn from it."""
        unclear: set[str] = set()
        for model in alive:
            if model.state is not State.LOADED and (model.leases or not model.is_asleep):
                unclear.update(model.held)
        self.returning = {}
        for reading in readings:
            key, free = reading.device.key, reading.free or 0
            if key in self._owed:
                owed = sum(held for _, held in self._owed[key])
                missing = min(self._settled[key] - free, owed)  # what is more, other programs took
                if missing > 0:
                    self._settled[key] = free + missing
                    self.returning[key] = missing
                    continue
            if key not in unclear and reading.device.kind == "gpu":
                self._settled[key] = free
                self._owed.pop(key, None)
