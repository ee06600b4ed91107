"""SANS-I/O: what is remembered of each model.

`Books` has one record for each model that a request has named. `Books.transit` is the one writer of a record's state;
the other fields are written in the events to which they belong. Owned by `scheduler`; `pool` only reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.scheduling.causes import Why
from router.scheduling.effects import Spawn, Stop
from router.scheduling.resources import Allocation
from router.scheduling.snapshot import Phase, Resident
from router.scheduling.states import (
    PHASES,
    SERVING,
    TRANSITIONS,
    WITHOUT_PROCESS,
    Event,
    IllegalTransition,
    State,
)

# A process that served for this long is a success: its crash is not counted together with the failures before it.
STEADY_S = 60.0
MAX_DOUBLINGS = 30  # of the pause after failures; floats overflow


@dataclass(slots=True)
class ModelRecord:
    """What is remembered of one model. Times are seconds of the scheduler's clock.

    `run` numbers the model's processes.
    `held` are the bytes booked for the present process, by device key.
    `prompt_cache` are the bytes of RAM among them that were promised to its prompt cache.
    `ram_need` are the bytes of RAM that its last process needed without that; 0 if it had none yet.
    `leases` are the tickets granted to it; `background_leases` are those of background requests among them.
    `ready_at` is when it began to serve, 0 while it loads.
    `min_loaded` is for how many seconds from then on it is spared by others.
    `busy_since` is when it was granted to a request last while no other request ran on it.
    `finished` is when its last use ended.
    `foreground_finished` is when the last use ended that was no background request.
    `ttl` is the idle time after which it is stopped; None and infinity are never. With infinity a client wanted it to
    stay, and it is evicted after all others.
    `draining`: closed to new work for a model ahead in the queue.
    `closing`: why it ends with its last lease; None if it does not.
    `closed_at` is when it was closed to new work, if it is.
    `is_asleep`: it has freed its memory. It takes it back by itself, unless it is stopped before.
    `is_in_last_reading`: the last reading shows all that it holds as taken.
    `retrying`: its load ran out of memory or lost its GPU, and the load that follows has not ended yet.
    `failures` counts the failures in a row; `failure` is the reason of the last one.
    `backoff_until` is when the next start is allowed.
    `_resident` is the record as policy last saw it, made of `_facts`. Most records have not changed at the next look.
    """

    name: str
    state: State = State.UNLOADED
    run: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    prompt_cache: int = 0
    ram_need: int = 0
    leases: set[int] = field(default_factory=set)
    background_leases: set[int] = field(default_factory=set)
    ready_at: float = 0.0
    min_loaded: float = 0.0
    busy_since: float = 0.0
    finished: float = 0.0
    foreground_finished: float = -math.inf
    pinned: bool = False
    ttl: float | None = None
    draining: bool = False
    closing: Why | None = None
    closed_at: float = 0.0
    is_asleep: bool = False
    is_in_last_reading: bool = False
    retrying: bool = False
    failures: int = 0
    failure: str = ""
    backoff_until: float = 0.0
    _resident: Resident | None = None
    _facts: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"<ModelRecord {self.name}: {self.state.value}, run {self.run}, {len(self.leases)} leases>"

    @property
    def is_open(self) -> bool:
        """It takes new work."""
        return self.state in SERVING and not self.draining and not self.closing

    @property
    def is_gone_soon(self) -> bool:
        """It has no process, or one that stops."""
        return self.state is State.STOPPING or self.state in WITHOUT_PROCESS

    @property
    def is_ending(self) -> bool:
        """It stops, or will once its requests have ended."""
        return self.state is State.STOPPING or self.draining or bool(self.closing)

    @property
    def expires(self) -> float | None:
        """When the idle time-to-live ends this process."""
        if self.ttl in (None, math.inf) or self.pinned or self.leases or self.state not in SERVING:
            return None
        return self.finished + (self.ttl or 0.0)

    @property
    def stays_until(self) -> float:
        """Until when no other model evicts it, unless nothing else can go."""
        return self.ready_at + self.min_loaded if self.state in SERVING else -math.inf

    @property
    def is_in_foreground_use(self) -> bool:
        return len(self.leases) > len(self.background_leases)

    @property
    def why_backing_off(self) -> str:
        return f"it failed {self.failures} times in a row, last: {self.failure}"

    def hidden_part(self, key: str) -> int:
        """The bytes booked on this device that no reading shows: it may use all of a promised cache yet."""
        held = self.held.get(key, 0)
        return held if self.state in (State.LOADING, State.SLEEPING) else min(held, self.prompt_cache)

    def is_spared(self, now: float, grace: float) -> bool:
        """No background request may evict it: a foreground request uses it, or did within the last `grace` seconds."""
        return grace > 0 and (self.is_in_foreground_use or now < self.foreground_finished + grace)

    def has_moved_on(self, run: int) -> bool:
        """News of this run comes too late: the process is gone, or going."""
        return self.run != run or self.is_gone_soon

    def fail(self, was: State, reason: str, now: float, backoff_max: float) -> None:
        """Book a failure in state `was`. The first failure costs no pause; from the second on the pause doubles."""
        was_steady = was in SERVING and now - self.ready_at >= STEADY_S
        self.failures = 1 if was_steady else self.failures + 1
        self.failure = reason
        doublings = min(self.failures - 2, MAX_DOUBLINGS)
        pause = min(2.0**doublings, backoff_max) if self.failures > 1 else 0.0
        self.backoff_until = now + pause

    def clear_failures(self) -> None:
        self.failures, self.backoff_until, self.retrying = 0, 0.0, False

    def resident(self) -> Resident | None:
        """The process as policy sees it; None without a process."""
        phase = PHASES.get(self.state)
        if phase is None:
            return None
        facts = (
            self.name,
            self.held,
            Phase.BUSY if self.leases and self.state in SERVING else phase,
            self.finished,
            self.pinned,
            self.draining or self.closing is not None,
            self.state is State.SLEEPING or self.is_asleep,
            not self.ready_at and self.state is State.STOPPING,
            self.ttl == math.inf,
            self.prompt_cache,
        )
        if facts != self._facts:
            self._facts, self._resident = facts, Resident(*facts)
        return self._resident


class Books:
    """All records. `records` has them by name, `alive` those with a process, `leased` the record of each granted
    ticket; all three are for reading only."""

    def __init__(self) -> None:
        self.records: dict[str, ModelRecord] = {}
        self.alive: dict[str, ModelRecord] = {}
        self.leased: dict[int, ModelRecord] = {}
        self._last_forgotten_run = 0

    def __repr__(self) -> str:
        return f"<Books: {len(self.records)} models, {len(self.alive)} processes, {len(self.leased)} leases>"

    def find(self, name: str) -> ModelRecord:
        """The record of this model; an empty one, which is not kept, if there is none."""
        return self.records.get(name) or ModelRecord(name)

    def open(self, name: str) -> ModelRecord:
        """The record of this model; a new one, which is kept, if there is none."""
        # The numbers go on where those of a forgotten record ended: late news of its process must find another number.
        return self.records.setdefault(name, ModelRecord(name, run=self._last_forgotten_run))

    def forget(self, model: ModelRecord) -> None:
        del self.records[model.name]
        self._last_forgotten_run = max(self._last_forgotten_run, model.run)

    def transit(self, model: ModelRecord, event: Event) -> None:
        """The one place where a state changes. Raises IllegalTransition."""
        try:
            model.state = TRANSITIONS[model.state, event]
        except KeyError:
            raise IllegalTransition(model.name, model.state, event) from None
        if event in (Event.SLEEP, Event.WAKE, Event.SPAWN):
            model.is_asleep = event is Event.SLEEP
        if model.state in WITHOUT_PROCESS:
            self.alive.pop(model.name, None)
        else:
            self.alive[model.name] = model

    def spawn(self, model: ModelRecord, allocation: Allocation) -> Spawn:
        """Book a new process with this memory."""
        self.transit(model, Event.SPAWN)
        model.run += 1
        model.held, model.ready_at, model.is_in_last_reading = allocation.held, 0.0, False
        model.prompt_cache = allocation.prompt_cache
        return Spawn(model.name, model.run, allocation)

    def stop(self, model: ModelRecord, why: Why, *, at_once: bool = False) -> Stop:
        """Book the end of the process. It holds its memory until it has exited."""
        self.transit(model, Event.STOP)
        model.draining, model.closing = False, None
        return Stop(model.name, why, at_once)

    def close(self, model: ModelRecord, why: Why, now: float, *, force: bool = False) -> list[Stop]:
        """End the process once its leases have ended, at once with `force`. A load ends at once."""
        if model.state is State.LOADING or (model.state in SERVING and (force or not model.leases)):
            return [self.stop(model, why)]
        if model.state in SERVING:
            model.closed_at = now if model.is_open else model.closed_at
            model.closing = why
        return []

    def empty(self, model: ModelRecord) -> None:
        """The process is gone: it holds nothing, and no request runs on it."""
        model.held, model.prompt_cache = {}, 0
        model.leases.clear()
        model.background_leases.clear()
        model.draining, model.closing = False, None

    def lease(self, ticket: int, model: ModelRecord, now: float, *, background: bool) -> None:
        if not model.leases:
            model.busy_since = now
        model.leases.add(ticket)
        if background:
            model.background_leases.add(ticket)
        self.leased[ticket] = model

    def residents(self) -> tuple[Resident, ...]:
        return tuple(resident for model in self.alive.values() if (resident := model.resident()))

    def evictable(self) -> Iterator[ModelRecord]:
        return (m for m in self.alive.values() if m.state in SERVING and not m.leases and not m.pinned)

    def spared(self, foreground: Mapping[int, float], now: float, grace: float) -> frozenset[str]:
        """The models that do not go for an entry with these foreground tickets. A foreground request spares none."""
        if foreground:
            return frozenset()
        return frozenset(m.name for m in self.alive.values() if m.is_spared(now, grace))
