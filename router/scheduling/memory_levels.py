"""SANS-I/O: what was free at the last reading of the memory, and what should be free by now.

A driver gives memory back a while after a process has exited. A reading that comes too early shows the machine full.
Two things keep it from costing a victim:

- Each `Probe` says what should be free by now, and what would be enough for the next start. The node waits for the one
  or the other before it answers, for two seconds at most. The prediction is careful: a byte that is promised but never
  comes would make every probe wait in vain.
- What is still missing then is handed to `policy` with the reading (`returning`): it may come back yet, and a model
  that goes for it might go without need. That ends when a reading shows it, or SETTLE_WINDOW_S after the exit.

Owned by `scheduler`. `alive` are the records of all models with a process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from router.scheduling.books import ModelRecord
from router.scheduling.effects import Probe
from router.scheduling.resources import Reading
from router.scheduling.states import VISIBLE_TO_DRIVER, State

# Memory of a process that ended longer ago than this has come back, or never will.
SETTLE_WINDOW_S = 15.0


class MemoryLevels:
    """`is_probing`: a Probe is out.
    `reading_outdated`: memory was taken or given back since that Probe went out. Its answer may not be used.
    `last_free` are the free bytes of the last reading, by device key, and what ended since and was visible there.
    `returning` are the bytes, by key of a GPU, that ended processes may not have given back at the last reading. RAM is
    back with the end of the process.
    """

    def __init__(self) -> None:
        self.is_probing = False
        self.reading_outdated = False
        self.last_free: dict[str, int] = {}
        self.returning: dict[str, int] = {}
        self._freed: set[str] = set()  # the devices on which a process ended since the last Probe that waited for it
        self._freed_at = 0.0
        self._is_provisional = False  # the Probe that is out waits for nothing: the next one waits for it all
        # What will be free on each GPU once everything has settled, if other programs hold what they hold.
        self._settled: dict[str, int] = {}
        self._missed: dict[str, float] = {}  # until when memory of ended processes may be missing, by device key
        self._slack: dict[str, int] = {}  # how much of it may never have been taken, by device key

    def __repr__(self) -> str:
        return f"<MemoryLevels: {self.last_free}, {self.is_probing=}, {self.reading_outdated=}, {self.returning=}>"

    def expects_return(self, now: float) -> bool:
        """A process ended a moment ago, and its memory was not waited for yet."""
        return bool(self._freed) and now - self._freed_at <= SETTLE_WINDOW_S

    def probe(
        self, alive: Collection[ModelRecord], now: float, enough: Mapping[str, int] | None = None
    ) -> Probe:
        """Ask for a new reading. `enough` is what the next start needs, see `Probe`. If it is empty, nothing can start
        upon this reading."""
        freed = self._freed & self.last_free.keys() if now - self._freed_at <= SETTLE_WINDOW_S else set()
        self.is_probing, self.reading_outdated = True, False
        self._missed = {key: until for key, until in self._missed.items() if now < until}
        self._is_provisional = bool(freed) and enough is not None and not enough
        if self._is_provisional:
            return Probe({})
        self._freed = set()
        expected = self.expected(alive)
        return Probe({key: expected[key] for key in freed}, (enough or {}) if freed else {})

    def read(self, readings: Iterable[Reading], alive: Collection[ModelRecord]) -> None:
        """Take over a reading that is up to date."""
        free = {reading.device.key: reading.free for reading in readings if reading.free is not None}
        self._compare_settled({r.device.key: r.free for r in readings if r.free is not None and r.device.kind == "gpu"}, alive)
        if self._is_provisional:
            return
        before = self.expected(alive)
        self.last_free = free
        for model in alive:
            model.is_in_last_reading = model.state in VISIBLE_TO_DRIVER
        after = self.expected(alive)
        stopping = {key for m in alive if m.state is State.STOPPING for key in m.held}
        for key in stopping & before.keys() & after.keys():
            # A stopping process may have given its memory back already. That counts once its exit is reported.
            self.last_free[key] -= max(0, after[key] - before[key])

    def take(self, held: Mapping[str, int], sign: int = 1) -> None:
        """A process has been started that will hold this much, or with -1 one has ended."""
        for key in held.keys() & self._settled.keys():
            self._settled[key] -= sign * held[key]

    def give_back(self, model: ModelRecord, now: float) -> None:
        """The model's process has exited."""
        self._freed_at = now
        self._freed.update(model.held)
        self.take(model.held, -1)
        for key in model.held.keys() & self._settled.keys():
            # An estimate errs upwards by up to a tenth: the last tenth may never have been taken.
            self._slack[key] = (self._slack[key] if key in self._missed else 0) + model.held[key] // 10
            self._missed[key] = now + SETTLE_WINDOW_S
        if model.is_in_last_reading:
            for key in model.held.keys() & self.last_free.keys():
                self.last_free[key] += model.held[key] - model.held[key] // 10

    def expected(self, alive: Collection[ModelRecord]) -> dict[str, int]:
        """What must be free by now, by device key."""
        # How much a load has taken is not known. A sleeping process holds nothing, and may take it back at any time.
        expected = {**self.last_free}
        for model in alive:
            if not model.is_in_last_reading:
                for key in model.held.keys() & expected.keys():
                    expected[key] -= model.held[key]
        return expected

    def _compare_settled(self, free: Mapping[str, int], alive: Collection[ModelRecord]) -> None:
        """Compare this reading of the GPUs with what should be free, and learn from it where it is clear."""
        unclear: set[str] = set()
        for model in alive:
            if model.state is State.LOADING or model.state is State.STOPPING:
                unclear.update(model.held)
            elif model.state is State.SLEEPING:  # it may be waking up, nobody says since when
                for key in model.held.keys() & self._settled.keys():
                    del self._settled[key]
        self.returning = {}
        for key, bytes_free in free.items():
            missing = self._settled.get(key, bytes_free) - bytes_free
            if key in self._missed and missing > self._slack[key]:
                self.returning[key] = missing
            elif key not in unclear:
                self._settled[key] = bytes_free
                self._missed.pop(key, None)
