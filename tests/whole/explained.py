"""Checks what each eviction says of itself against the true memory of a storm's machine: for whom it was, what was
missing there, and what came free.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from router.events.journal import Entry
from router.events.kinds import Booked, Evict, Exited, Start
from router.pool.pool import Pool
from router.scheduling.causes import Cause
from router.scheduling.snapshot import Phase


class Explained:
    """`room` is what is truly free for a model on each device, without the margin and what others hold.
    `held` is what a model's process truly holds, and None if it has not taken all yet. Both are by device key.
    `wrong` are the faults in words; `checked` counts evictions for memory, `compared` those whose `free` was held
    against the room, `freed` ends of victims.
    """

    def __init__(
        self,
        pool: Pool,
        room: Callable[[str], Mapping[str, int]],
        held: Callable[[str], Mapping[str, int] | None],
    ) -> None:
        self.wrong: list[str] = []
        self.checked = self.compared = self.freed = 0
        self._pool, self._room, self._held = pool, room, held
        self._measured: set[tuple[str, int]] = set()
        self._truly: dict[tuple[str, int], Mapping[str, int]] = {}  # what victims held when they were stopped
        self._groups: defaultdict[tuple[int, str], list[Evict]] = defaultdict(list)  # by plan
        pool.journal.subscribe(self._on_evict, Evict)
        pool.journal.subscribe(self._on_exited, Exited)
        pool.journal.subscribe(lambda entry: self._measured.add(_process(entry)), Booked)
        pool.journal.subscribe(lambda entry: self._measured.discard(_process(entry)), Start)

    def _expect(self, holds: bool, what: str, event: object) -> None:
        if not holds:
            self.wrong.append(f"{what}: {event}")

    def _on_evict(self, entry: Entry) -> None:
        event = entry.event
        assert isinstance(event, Evict)
        waiting = self._pool.scheduler.line.by_arrival.get(event.wanted_by)
        self._expect(waiting is not None, "nobody waits for what it was for", event)
        if (held := self._held(event.model)) is not None:
            self._truly[_process(entry)] = held
            self._expect(all(event.freed.get(key, 0) >= count for key, count in held.items()), "it held more", event)
        if event.cause is Cause.RETRY or waiting is None:
            return
        self.checked += 1
        missing = {key: need - event.free[key] for key, need in event.need.items() if need > event.free[key]}
        self._expect(event.cause is Cause.MEMORY and event.missing == missing != {}, "nothing was missing", event)
        demand, gpus = waiting.demand, [key for key in event.need if not key.endswith("/RAM")]
        whole = demand.split + demand.fixed * len(gpus)
        self._expect(sum(event.need[key] for key in gpus) == whole, f"it needs {whole}", event)
        plan = self._pool.scheduler.planning.passes
        if event.wanted_by == self._pool.scheduler.next_to_start():  # none ahead drains others, or was promised any
            room, promised = self._room(event.wanted_by), self._promised()
            self.compared += 1
            holds = all(event.free[key] <= room[key] + promised[key] for key in gpus)
            self._expect(holds, f"there was less: {room}", event)
        self._expect(any(event.freed.get(key) for key in missing), "its going does not help", event)
        self._groups[plan, event.wanted_by].append(event)

    def _promised(self) -> Counter[str]:
        """By device key: what stopping processes do not hold, and are expected to give back. Of one that was stopped
        before it was measured, nothing is known but its need."""
        scheduler, promised = self._pool.scheduler, Counter[str]()
        then = scheduler._levels.last_snapshot  # before anything was decided in this step
        for resident in then.residents if then else ():
            process = resident.model, scheduler.model(resident.model).run
            if resident.phase is Phase.STOPPING and process in self._truly and process not in self._measured:
                promised.update(resident.held)
                promised.subtract(self._truly[process])
        return promised

    def _on_exited(self, entry: Entry) -> None:
        event, process = entry.event, _process(entry)
        assert isinstance(event, Exited)
        if event.cause.is_eviction and (held := self._truly.pop(process, None)) is not None:
            self.freed += 1
            truly = {key: event.freed.get(key, 0) - count for key, count in held.items()}
            self._expect(all(more >= 0 for more in truly.values()), "less came free than was told", event)
            if process in self._measured:
                self._expect(not any(truly.values()), f"another amount came free, by {truly}", event)

    def end(self) -> None:
        """All victims that one model wanted at once: together they made up for what was missing."""
        for group in self._groups.values():
            for key, missing in group[0].missing.items():
                freed = sum(event.freed.get(key, 0) for event in group)
                self._expect(freed >= missing, f"{freed} bytes of {key} came free", group[0])


def _process(entry: Entry) -> tuple[str, int]:
    event = entry.event
    assert isinstance(event, Evict | Exited | Booked | Start)
    return event.model, event.run
