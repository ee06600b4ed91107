"""What the router knows and what follows from it: sans-I/O, synchronous.

Events go in as method calls, effects come out as a list. Every event ends in `_advance`, which looks at the whole
state, so no event has to know what it unblocked. Time comes in as an argument, in seconds of a monotonic clock.

A model's life is one table of transitions; a pair that is not in it is an error that names state and event. Nothing is
started or evicted on an old reading: when there is something to decide, a `Probe` goes out, and its answer is decided
upon and booked in the same step.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter
from typing import Any

from router.scheduling import policy
from router.scheduling.policy import (
    Allocation,
    Demand,
    Drain,
    Evict,
    Phase,
    Place,
    Reading,
    Reject,
    Resident,
    Snapshot,
    Wait,
)


class State(Enum):
    UNLOADED = "unloaded"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    LOADED = "loaded"
    SLEEPING = "sleeping"
    STOPPING = "stopping"
    FAILED = "failed"

    __hash__ = object.__hash__  # there is one of each; Enum's own is slow, and every event asks sets of them


class Event(Enum):
    FETCH = "fetch"
    FETCHED = "fetched"
    SPAWN = "spawn"
    READY = "ready"
    SLEEP = "sleep"
    WAKE = "wake"
    STOP = "stop"
    EXIT = "exit"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.UNLOADED, Event.FETCH): State.DOWNLOADING,
    (State.UNLOADED, Event.SPAWN): State.LOADING,
    (State.DOWNLOADING, Event.FETCHED): State.UNLOADED,
    (State.DOWNLOADING, Event.STOP): State.UNLOADED,
    (State.DOWNLOADING, Event.EXIT): State.FAILED,
    (State.LOADING, Event.READY): State.LOADED,
    (State.LOADING, Event.STOP): State.STOPPING,
    (State.LOADING, Event.EXIT): State.FAILED,
    (State.LOADED, Event.SLEEP): State.SLEEPING,
    (State.LOADED, Event.STOP): State.STOPPING,
    (State.LOADED, Event.EXIT): State.FAILED,
    (State.SLEEPING, Event.WAKE): State.LOADED,
    (State.SLEEPING, Event.STOP): State.STOPPING,
    (State.SLEEPING, Event.EXIT): State.FAILED,
    (State.STOPPING, Event.EXIT): State.UNLOADED,
    (State.FAILED, Event.FETCH): State.DOWNLOADING,
    (State.FAILED, Event.SPAWN): State.LOADING,
}

SERVING = frozenset({State.LOADED, State.SLEEPING})
STARTABLE = frozenset({State.UNLOADED, State.FAILED})
SEEN = frozenset({State.LOADED, State.STOPPING})
PHASES: Mapping[State, Phase] = {
    State.LOADING: Phase.LOADING,
    State.LOADED: Phase.IDLE,
    State.SLEEPING: Phase.IDLE,
    State.STOPPING: Phase.STOPPING,
}

RENEWED = "new settings"


class IllegalTransition(RuntimeError):
    def __init__(self, model: str, state: State, event: Event) -> None:
        super().__init__(f"{model}: nothing is defined for event {event.value!r} in state {state.value!r}")


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's bounds. Times in seconds; `margins` in bytes by device key. 0 means no bound, but a `queue_max` of
    0 that nobody waits, a `drain_grace` of 0 that nobody is waited for, a `task_grace` of 0 that background tasks
    spare nobody, and a `downloads_max` of 0 is 1."""

    models_max: int = 4
    margins: Mapping[str, int] = field(default_factory=dict)
    queue_max: int = 256
    queue_timeout: float = 300.0
    drain_grace: float = 10.0
    task_grace: float = 60.0
    finish_loads: bool = True
    downloads_max: int = 2
    backoff_max: float = 60.0
    poll: float = 0.5


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request's claim to a model. `ttl` is the idle time after which the model is stopped, None for never. One in
    the `background` comes after all others, and no model goes for it that was used by one of these a while ago. Of a
    model that is `missing` the files are fetched first, and the demand is told then."""

    id: int
    model: str
    demand: Demand
    priority: int = 0
    pinned: bool = False
    ttl: float | None = None
    background: bool = False
    missing: bool = False


class Refusal(Enum):
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    TOO_LARGE = "too_large"
    FETCH_FAILED = "fetch_failed"
    LOAD_FAILED = "load_failed"
    BACKING_OFF = "backing_off"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Probe:
    """Read the memory; `expected` are the free bytes, by device key, once what ended has given its own back."""

    expected: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Spawn:
    """`run` numbers the processes of one model, so that news of an old one is not taken for the new one's."""

    model: str
    run: int
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Stop:
    model: str
    run: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Download the model's files."""

    model: str


@dataclass(frozen=True, slots=True)
class Abort:
    """End the download; nobody waits to hear of its end."""

    model: str


@dataclass(frozen=True, slots=True)
class Grant:
    ticket: int
    model: str
    run: int


@dataclass(frozen=True, slots=True)
class Refuse:
    ticket: int
    model: str
    refusal: Refusal
    reason: str
    retry_after: float | None = None


Effect = Probe | Spawn | Stop | Fetch | Abort | Grant | Refuse


@dataclass(slots=True)
class Model:
    """The books on one model.

    `run` numbers its processes; `held` are the bytes booked for the present one by device key; `leases` are the tickets
    granted to it, `tasks` those of them in the background. `ready_at` and `finished` are when it began to serve and
    when its last use ended, `fresh_at` when the last did that was no background task. `seen` means that the last
    reading shows them as taken. `closing` is why it ends with its last lease. `retrying` is set from a load
    that ran out of memory until the next one has ended. `_resident` is how policy saw it last, made of these `_facts`:
    of most processes they are the same at the next look.
    """

    name: str
    state: State = State.UNLOADED
    run: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    leases: set[int] = field(default_factory=set)
    tasks: set[int] = field(default_factory=set)
    ready_at: float = 0.0
    finished: float = 0.0
    fresh_at: float = -math.inf
    pinned: bool = False
    ttl: float | None = None
    draining: bool = False
    closing: str = ""
    seen: bool = False
    retrying: bool = False
    failures: int = 0
    failure: str = ""
    backoff_until: float = 0.0
    _resident: Resident | None = None
    _facts: tuple[Any, ...] = ()

    @property
    def is_open(self) -> bool:
        """Takes new work."""
        return self.state in SERVING and not self.draining and not self.closing

    @property
    def expires(self) -> float | None:
        """When the idle time-to-live ends this process."""
        if self.ttl is None or self.pinned or self.leases or self.state not in SERVING:
            return None
        return self.finished + self.ttl

    def is_fresh(self, now: float, grace: float) -> bool:
        """A background task leaves it alone: something else uses it, or did within the last `grace` seconds."""
        return grace > 0 and (len(self.leases) > len(self.tasks) or now < self.fresh_at + grace)

    def resident(self) -> Resident | None:
        """How policy sees it; None without a process."""
        phase = PHASES.get(self.state)
        if phase is None:
            return None
        facts = (
            self.name,
            self.held,
            Phase.BUSY if self.leases and self.state in SERVING else phase,
            self.finished,
            self.pinned,
            self.draining or bool(self.closing),
            self.state is State.SLEEPING,
            not self.ready_at and self.state is State.STOPPING,
        )
        if facts != self._facts:
            self._facts, self._resident = facts, Resident(*facts)
        return self._resident


@dataclass(slots=True)
class Entry:
    """The place of one model in the queue: all tickets that wait for it, oldest first, with their arrival times, and
    again those that are no background tasks. `began` is when the first of all came.

    `blocked` means that it waits for others, not for its own load. `parked` is when its own load or download ended
    last: no wait before that was too long. `order` is the rank by which it stands in the line, None before and after.
    """

    model: Model
    began: float
    demand: Demand = field(default_factory=Demand)
    priority: int = 0
    tickets: dict[int, float] = field(default_factory=dict)
    urgent: dict[int, float] = field(default_factory=dict)
    blocked: bool = False
    parked: float = -math.inf
    order: tuple[bool, int, float, int] | None = None

    @property
    def since(self) -> float:
        return next(iter(self.tickets.values()))

    @property
    def waiting_since(self) -> float:
        """From when on the wait of its oldest ticket counts."""
        return max(self.since, self.parked)

    def rank(self) -> tuple[bool, int, float, int] | None:
        """Whose turn is first; None without tickets."""
        if not self.tickets:
            return None
        ticket, since = next(iter((self.urgent or self.tickets).items()))
        return not self.urgent, -self.priority, since, ticket


_ORDER = attrgetter("order")


class Scheduler:
    # Only so many entries from the head of the queue are planned for at once: a later one can rarely be placed when as
    # many ahead of it cannot, and a step stays short however long the queue is.
    LOOKAHEAD = 16
    # A crash this long after the load is not counted together with the one before it.
    STEADY = 60.0
    # Memory of a process that ended longer ago than this has come back, or never will.
    SETTLE_WINDOW = 15.0

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._models: dict[str, Model] = {}
        self._latest = 0  # the number of the latest process among models that were forgotten
        self._alive: dict[str, Model] = {}  # those with a process; `_transit` keeps it
        self._draining: set[str] = set()  # those closed for a drain, and maybe some that are gone; `_drain` keeps it
        self._queue: dict[str, Entry] = {}  # by when each began
        self._line: list[Entry] = []  # the same, by whose turn it is; `_line_up` keeps it
        self._waiting: dict[int, Entry] = {}
        self._leased: dict[int, Model] = {}
        self._missing: dict[str, bool] = {}  # to be fetched, in this order; and whether even if nobody waits for it
        self._level: dict[str, int] = {}  # free bytes as last read, and what was seen there and has ended since
        self._freed: set[str] = set()  # where something ended since the last probe
        self._freed_at = 0.0
        self._probing = False  # a reading is on its way
        self._moved = False  # memory was taken or given back since that reading was asked for
        self._changed = False  # there may be something new to decide
        self._look_at = 0.0  # when blocked entries are looked at again

    # Questions

    def model(self, name: str) -> Model:
        """The books on this model; for reading only."""
        return self._models.get(name) or Model(name)

    def models(self) -> Iterator[Model]:
        return iter(self._models.values())

    def snapshot(self, readings: tuple[Reading, ...]) -> Snapshot:
        """The machine as policy sees it, without the claims of those who wait."""
        residents = tuple(resident for m in self._alive.values() if (resident := m.resident()))
        return Snapshot(readings, residents, self.limits.models_max, self.limits.margins)

    def waiting(self, name: str) -> int:
        """How many tickets wait for this model."""
        entry = self._queue.get(name)
        return len(entry.tickets) if entry else 0

    def coming(self) -> str | None:
        """The model whose start waits and has the first turn; None if none waits."""
        return next((entry.model.name for entry in self._line if self._is_startable(entry)), None)

    def is_idle(self) -> bool:
        """No ticket waits and no lease is out."""
        return not self._waiting and not self._leased

    def wakeup(self) -> float | None:
        """When `tick` is due if nothing else happens; None for never."""
        times = [at for m in self._alive.values() if m.ttl is not None and (at := m.expires) is not None]
        if self._queue:
            if self.limits.queue_timeout and (oldest := self._longest_wait()) is not None:
                times.append(oldest + self.limits.queue_timeout)
            if not self._probing and any(entry.blocked and self._is_startable(entry) for entry in self._line):
                times.append(self._look_at)
        return min(times, default=None)

    def _longest_wait(self) -> float | None:
        """From when on the longest wait counts."""
        longest = math.inf
        for entry in self._queue.values():
            if entry.began >= longest:
                break  # and so did all the others
            if self._is_parked(entry):
                longest = min(longest, entry.waiting_since)
        return longest if longest < math.inf else None

    # Events: requests

    def enter(self, name: str, ticket: int, *, pinned: bool, ttl: float | None, background: bool) -> bool:
        """A request wants this model, and is granted it if it takes new work: most do, and this costs them little."""
        model = self._models.get(name)
        if model is None or not model.is_open:
            return False
        model.pinned, model.ttl = pinned, ttl
        self._lease(ticket, model, background=background)
        return True

    def acquire(self, ticket: Ticket, now: float) -> list[Effect]:
        """A request wants this model. Answered by exactly one Grant or Refuse, now or later, unless cancelled."""
        pinned, ttl = ticket.pinned, ticket.ttl
        if self.enter(ticket.model, ticket.id, pinned=pinned, ttl=ttl, background=ticket.background):
            return [Grant(ticket.id, ticket.model, self._models[ticket.model].run)]
        model = self._booked(ticket.model)
        model.pinned, model.ttl = pinned, ttl
        if now < model.backoff_until:
            return [Refuse(ticket.id, model.name, *self._backing_off(model, now))]
        entry = self._queue.get(model.name)
        if entry is None:
            entry = self._queue[model.name] = Entry(model, now, blocked=model.state in SERVING)
            self._changed = True
        entry.demand, entry.priority = ticket.demand, ticket.priority
        entry.tickets[ticket.id] = now
        if not ticket.background:
            entry.urgent[ticket.id] = now
        self._waiting[ticket.id] = entry
        self._line_up(entry)
        effects: list[Effect] = []
        if ticket.missing:
            self._missing.setdefault(model.name, self.limits.finish_loads)
            effects += self._begin()
        return [*effects, *(self._overflow() if entry.blocked else ()), *self._advance(now)]

    def cancel(self, ticket: int, now: float) -> list[Effect]:
        """The client of a waiting ticket left."""
        entry = self._waiting[ticket]
        self._drop(ticket)
        effects: list[Effect] = []
        if not entry.tickets and entry.model.state is State.LOADING and not self.limits.finish_loads:
            effects.append(self._stop(entry.model, "nobody waits for it any more"))
        if not entry.tickets and not self._missing.get(entry.model.name, True):
            effects += self._abort(entry.model)
        return [*effects, *self._advance(now)]

    def release(self, ticket: int, now: float, *, used: bool = True) -> list[Effect]:
        """A lease ended, however it ended. One that only watched is no use that keeps the model (`used`)."""
        model = self._leased.pop(ticket)
        if ticket not in model.leases:
            return []  # the process it was granted on is gone
        model.leases.remove(ticket)
        model.finished = now if used else model.finished
        if used and ticket not in model.tasks:
            model.fresh_at = now
        model.tasks.discard(ticket)
        if model.leases:
            return []
        self._changed = True
        effects: list[Effect] = [self._stop(model, model.closing)] if model.closing else []
        return [*effects, *self._advance(now)]

    def unload(self, name: str, now: float, *, force: bool = False) -> list[Effect]:
        """End the model's process once its running requests have ended (at once with `force`), and refuse whoever
        waited for it until now. A failed model is forgiven its failures."""
        self.forgive(name)
        effects: list[Effect] = []
        if entry := self._queue.get(name):
            effects += self._refuse_all(entry.tickets, Refusal.CANCELLED, "it was unloaded", 1.0)
        effects += self._abort(self.model(name))
        return [*effects, *self._close(self.model(name), "unloaded", force=force), *self._advance(now)]

    def renew(self, name: str, now: float) -> list[Effect]:
        """End the model's process as `unload` does, or its download; but whoever waits for it goes on waiting, for the
        next one."""
        model, wanted = self.model(name), self._missing.get(name)
        effects = [*self._abort(model), *([] if model.closing else self._close(model, RENEWED))]
        if wanted is not None:
            self._missing[name] = wanted
        return [*effects, *self._advance(now)]

    def keep(self, name: str, now: float) -> list[Effect]:
        """Take back a `renew` that still waits for running requests: the process serves whoever waits, and comes."""
        model = self.model(name)
        if model.closing != RENEWED:
            return []
        model.closing = ""
        self._changed = True
        return [*(self._grant_waiting(model) if model.is_open else ()), *self._advance(now)]

    def amend(self, name: str, demand: Demand, now: float, *, missing: bool = False) -> list[Effect]:
        """Whoever waits for this model waits for this demand from now on, and for its files if they are missing."""
        effects = [] if missing else self._abort(self.model(name))
        if entry := self._queue.get(name):
            entry.demand = demand
            self._changed = True
            if missing:
                self._missing.setdefault(name, self.limits.finish_loads)
        return [*effects, *self._advance(now)]

    # Events: downloads

    def fetch(self, name: str, now: float) -> list[Effect]:
        """The model's files are wanted, whether or not anybody waits for it."""
        self._booked(name)
        self._missing[name] = True
        self.forgive(name)
        return self._advance(now)

    def fetched(self, name: str, demand: Demand, now: float) -> list[Effect]:
        """The files are there, and this is what the model needs."""
        model = self.model(name)
        if model.state is not State.DOWNLOADING:
            return []
        self._transit(model, Event.FETCHED)
        model.failures = 0
        del self._missing[name]
        if entry := self._queue.get(name):
            entry.demand, entry.parked = demand, now
            self._changed = True
        return self._advance(now)

    def fetch_failed(self, name: str, reason: str, now: float, *, retry_after: float | None = None) -> list[Effect]:
        """The download ended without the files; `reason` tells a person why. The next request tries again."""
        model = self.model(name)
        if model.state is not State.DOWNLOADING:
            return []
        self._transit(model, Event.EXIT)
        del self._missing[name]
        self._fail(model, State.DOWNLOADING, reason, now)
        entry = self._queue.get(name)
        effects = self._refuse_all(entry.tickets, Refusal.FETCH_FAILED, reason, retry_after) if entry else []
        return [*effects, *self._advance(now)]

    def is_fetching(self, name: str) -> bool:
        """A download is under way, or will be."""
        return name in self._missing

    def queued(self) -> frozenset[str]:
        """The models whose downloads have not begun."""
        if not self._missing:
            return frozenset()
        return frozenset(name for name in self._missing if self._models[name].state is not State.DOWNLOADING)

    def _abort(self, model: Model) -> list[Effect]:
        self._missing.pop(model.name, None)
        if model.state is not State.DOWNLOADING:
            return []
        self._transit(model, Event.STOP)
        return [Abort(model.name)]

    def _begin(self) -> list[Effect]:
        """As many downloads as may be at once; they hold neither memory nor a slot. The others wait for them."""
        missing = [self._models[name] for name in self._missing]
        able = (self.limits.downloads_max or 1) - sum(model.state is State.DOWNLOADING for model in missing)
        effects: list[Effect] = []
        for model in missing:
            if len(effects) < able and model.state in STARTABLE:
                self._transit(model, Event.FETCH)
                effects.append(Fetch(model.name))
            if entry := self._queue.get(model.name):
                entry.blocked = model.state is not State.DOWNLOADING
        return effects

    def _close(self, model: Model, reason: str, *, force: bool = False) -> list[Effect]:
        if model.state is State.LOADING or (model.state in SERVING and (force or not model.leases)):
            return [self._stop(model, reason)]
        if model.state in SERVING:
            model.closing = reason
        return []

    def forget(self, name: str) -> None:
        """Nothing is kept of a model that has neither a process nor anybody who waits for it."""
        model = self._models.get(name)
        if model is None or model.state not in STARTABLE or name in self._queue or name in self._missing:
            return
        del self._models[name]
        self._draining.discard(name)
        self._latest = max(self._latest, model.run)

    def _booked(self, name: str) -> Model:
        # Late news of a process must never be taken for news of a later one of that name.
        return self._models.setdefault(name, Model(name, run=self._latest))

    def forgive(self, name: str) -> None:
        """The failures until now do not count."""
        model = self.model(name)
        model.failures, model.backoff_until, model.retrying = 0, 0.0, False

    # Events: the machine

    def probed(self, readings: tuple[Reading, ...], now: float) -> list[Effect]:
        """The answer to a Probe."""
        self._probing = False
        if self._moved:
            self._changed = True
            return self._advance(now)
        self._read(readings)
        return [*self._plan(readings, now), *self._advance(now)]

    def ready(self, name: str, run: int, now: float) -> list[Effect]:
        """The child serves."""
        model = self.model(name)
        if self._is_stale(model, run):
            return []
        self._transit(model, Event.READY)
        model.ready_at = model.finished = now
        model.retrying = False
        self._changed = self._moved = True
        return [*self._grant_waiting(model), *self._advance(now)]

    def measured(self, name: str, run: int, held: Mapping[str, int], now: float) -> list[Effect]:
        """What the process really holds; from now on the books say so."""
        model = self.model(name)
        if self._is_stale(model, run) or model.held == held:
            return []
        model.held = held
        self._changed = True
        return self._advance(now)

    def exited(
        self,
        name: str,
        run: int,
        reason: str,
        now: float,
        *,
        out_of_memory: bool = False,
        tried_by: int | None = None,
    ) -> list[Effect]:
        """The process is gone; `reason` tells a person why, and only counts when nobody asked for it.

        A load that ran out of memory is tried once more, after every idle model has made room. One that was only a try
        fails the ticket that wanted it (`tried_by`) and nobody else: it is no failure of the model's.
        """
        model = self.model(name)
        if model.run != run:
            return []
        was, retried = model.state, model.retrying
        self._transit(model, Event.EXIT)
        self._free(model, now)
        model.retrying = was is State.LOADING and out_of_memory and not retried and name in self._queue
        if name in self._queue and not model.ready_at:
            self._queue[name].parked = now
        model.held = {}
        model.leases.clear()
        model.tasks.clear()
        model.draining, model.closing = False, ""
        self._changed = self._moved = True
        effects: list[Effect] = []
        if was is State.STOPPING:
            model.failures = 0 if model.ready_at else model.failures
        elif model.retrying:
            spared = self._spared(self._queue[name], now)
            gone = [idle for idle in self._evictable() if idle.name not in spared]
            effects += [self._stop(idle, f"room for {name}") for idle in gone]
        elif was is State.LOADING and tried_by is not None:
            model.failure = reason
            if tried_by in self._waiting:
                effects.append(self._refuse(tried_by, Refusal.LOAD_FAILED, reason))
        else:
            self._fail(model, was, reason, now)
            if entry := self._queue.get(name):
                if was is State.LOADING:
                    effects += self._refuse_all(entry.tickets, Refusal.LOAD_FAILED, reason)
                elif now < model.backoff_until:
                    effects += self._refuse_all(entry.tickets, *self._backing_off(model, now))
        return [*effects, *self._advance(now)]

    def slept(self, name: str, run: int) -> None:
        """The child freed its weights. It takes them back by itself on the next request, so they stay booked."""
        model = self.model(name)
        if model.run == run and model.state is State.LOADED:  # said twice, or out of turn, it is no news
            self._transit(model, Event.SLEEP)

    def woke(self, name: str, run: int) -> None:
        model = self.model(name)
        if model.run == run and model.state is State.SLEEPING:
            self._transit(model, Event.WAKE)
            self._moved = True  # it took its memory back

    def tick(self, now: float) -> list[Effect]:
        """Time passed: idle models expire, waiting tickets time out, blocked entries are looked at again."""
        effects: list[Effect] = []
        for model in self._alive.values():
            if model.ttl is not None and (at := model.expires) is not None and at <= now:
                effects.append(self._stop(model, "idle for its time to live"))
        effects += self._time_out(now) if self.limits.queue_timeout else []
        self._changed = self._changed or any(e.blocked and self._is_parked(e) for e in self._line)
        return [*effects, *self._advance(now)]

    def _time_out(self, now: float) -> list[Effect]:
        """Refuse whoever has waited too long."""
        timeout = self.limits.queue_timeout
        why = f"it waited {timeout:g} s for memory or a free slot"
        effects: list[Effect] = []
        for entry in list(itertools.takewhile(lambda e: e.began + timeout <= now, self._queue.values())):
            if self._is_parked(entry) and entry.waiting_since + timeout <= now:
                late = [ticket for ticket, since in entry.tickets.items() if since + timeout <= now]
                effects += self._refuse_all(late, Refusal.QUEUE_TIMEOUT, why, retry_after=5.0)
        return effects

    # What follows

    def _advance(self, now: float) -> list[Effect]:
        effects = self._begin() if self._missing else []
        if not any(map(self._is_startable, self._line)):
            self._changed = False
            return [*effects, *self._drain(set())] if self._draining else effects
        if not self._changed or self._probing:
            return effects
        freed = self._freed & self._level.keys() if now - self._freed_at <= self.SETTLE_WINDOW else ()
        self._probing, self._changed, self._moved, self._freed = True, False, False, set()
        expected = self._expected()
        return [*effects, Probe({key: expected[key] for key in freed})]

    def _is_startable(self, entry: Entry) -> bool:
        return entry.model.state in STARTABLE and entry.model.name not in self._missing

    def _read(self, readings: Iterable[Reading]) -> None:
        before = self._expected()
        self._level = {reading.device.key: reading.free for reading in readings if reading.free is not None}
        for model in self._alive.values():
            model.seen = model.state in SEEN
        after = self._expected()
        stopping = {key for m in self._alive.values() if m.state is State.STOPPING for key in m.held}
        for key in stopping & before.keys() & after.keys():
            # What they hold may be back already; it counts when their end is told.
            self._level[key] -= max(0, after[key] - before[key])

    def _expected(self) -> dict[str, int]:
        # Nobody knows what a load has taken so far; a sleeper has nothing, and may take it at any time.
        expected = {**self._level}
        for model in self._alive.values():
            if not model.seen:
                for key in model.held.keys() & expected.keys():
                    expected[key] -= model.held[key]
        return expected

    def _plan(self, readings: tuple[Reading, ...], now: float) -> list[Effect]:
        self._look_at = now + self.limits.poll
        effects: list[Effect] = []
        drains: set[str] = set()
        snapshot = self.snapshot(readings)
        head = list(itertools.islice(filter(self._is_startable, self._line), self.LOOKAHEAD))
        behind = bisect_right(self._line, head[-1].order, key=_ORDER) if head else 0
        for entry in self._line[behind:]:
            entry.blocked = entry.blocked or self._is_startable(entry)
        draining = False  # room that only a drain will make is not on its way yet
        for entry in head:
            if entry.model.retrying and any(r.phase is Phase.STOPPING for r in snapshot.residents):
                continue  # the estimate was too low: whatever is being made free is for this one
            plan = policy.plan(snapshot.sparing(self._spared(entry, now)), entry.demand)
            snapshot = snapshot.after(plan, entry.model.name)
            draining = draining or isinstance(plan, Drain)
            entry.blocked = isinstance(plan, Drain) or (isinstance(plan, Wait) and (draining or not plan.stopping))
            match plan:
                case Place(claim):
                    effects.append(self._spawn(entry.model, claim))
                case Evict(victims):
                    why = f"room for {entry.model.name}"
                    effects += [self._stop(self._models[victim], why) for victim in victims]
                case Drain(victims) if now >= entry.since + self.limits.drain_grace:
                    drains.update(name for name in victims if self._models[name].leases or self._models[name].draining)
                case Drain():
                    self._look_at = min(self._look_at, entry.since + self.limits.drain_grace)
                case Reject(reason):
                    effects += self._refuse_all(entry.tickets, Refusal.TOO_LARGE, reason)
        return [*effects, *self._drain(drains), *self._overflow()]

    def _evictable(self) -> Iterator[Model]:
        return (m for m in self._alive.values() if m.state in SERVING and not m.leases and not m.pinned)

    def _spared(self, entry: Entry, now: float) -> frozenset[str]:
        """The models that do not go for this entry: none, unless it has background tasks alone."""
        if entry.urgent:
            return frozenset()
        return frozenset(m.name for m in self._alive.values() if m.is_fresh(now, self.limits.task_grace))

    def _is_parked(self, entry: Entry) -> bool:
        """It waits for something else than its own load or download."""
        return entry.model.state is not State.LOADING and entry.model.state is not State.DOWNLOADING

    def _drain(self, names: set[str]) -> list[Effect]:
        """Close just these models to new work; whoever waited for one that opens again is served."""
        effects: list[Effect] = []
        before, self._draining = self._draining, names
        for name in sorted(before | names):
            model = self._models[name]
            was, model.draining = model.draining, name in names
            if was and model.is_open:
                effects += self._grant_waiting(model)
        return effects

    def _overflow(self) -> list[Effect]:
        """The newest tickets over the bound of the queue, background tasks first. Who only waits for an own load is not
        in the queue."""
        if len(self._waiting) <= self.limits.queue_max:
            return []
        parked = [entry for entry in self._line if entry.blocked and self._is_parked(entry)]
        if sum(len(entry.tickets) for entry in parked) <= self.limits.queue_max:
            return []
        waiting = [
            *sorted(ticket for entry in parked for ticket in entry.urgent),
            *sorted(ticket for entry in parked for ticket in entry.tickets.keys() - entry.urgent.keys()),
        ]
        why = f"{self.limits.queue_max} requests wait already" if self.limits.queue_max else "nobody may wait"
        return [self._refuse(ticket, Refusal.QUEUE_FULL, why, 1.0) for ticket in waiting[self.limits.queue_max :]]

    def _grant_waiting(self, model: Model) -> list[Effect]:
        entry = self._queue.get(model.name)
        if entry is None:
            return []
        tickets, urgent = list(entry.tickets), set(entry.urgent)
        for ticket in reversed(tickets):  # see `_refuse_all`
            self._drop(ticket)
        return [self._grant(ticket, model, background=ticket not in urgent) for ticket in tickets]

    def _grant(self, ticket: int, model: Model, *, background: bool) -> Grant:
        self._lease(ticket, model, background=background)
        return Grant(ticket, model.name, model.run)

    def _lease(self, ticket: int, model: Model, *, background: bool) -> None:
        model.leases.add(ticket)
        if background:
            model.tasks.add(ticket)
        self._leased[ticket] = model

    def _refuse_all(
        self, tickets: Iterable[int], refusal: Refusal, why: str, retry_after: float | None = None
    ) -> list[Effect]:
        # The newest goes first: so the entry keeps its place in the line until the last has gone.
        refused: list[Effect] = [self._refuse(ticket, refusal, why, retry_after) for ticket in reversed([*tickets])]
        return refused[::-1]

    def _refuse(self, ticket: int, refusal: Refusal, why: str, retry_after: float | None = None) -> Refuse:
        name = self._waiting[ticket].model.name
        self._drop(ticket)
        return Refuse(ticket, name, refusal, why, retry_after)

    def _drop(self, ticket: int) -> None:
        entry = self._waiting.pop(ticket)
        del entry.tickets[ticket]
        entry.urgent.pop(ticket, None)
        self._line_up(entry)
        if not entry.tickets:
            name = entry.model.name
            del self._queue[name]
            self._changed = True
            if entry.model.state is not State.DOWNLOADING and not self._missing.get(name, True):
                del self._missing[name]

    def _line_up(self, entry: Entry) -> None:
        """Give it the place in the line that it should have, now that its tickets or its priority are others."""
        rank = entry.rank()
        if rank == entry.order:
            return
        if entry.order is not None:
            del self._line[bisect_left(self._line, entry.order, key=_ORDER)]
        entry.order = rank
        if rank is not None:
            insort(self._line, entry, key=_ORDER)

    def _free(self, model: Model, now: float) -> None:
        self._freed_at = now
        self._freed.update(model.held)
        if model.seen:
            for key in model.held.keys() & self._level.keys():
                # An estimate errs upwards by up to a tenth: the last tenth may never have been taken.
                self._level[key] += model.held[key] - model.held[key] // 10

    def _spawn(self, model: Model, allocation: Allocation) -> Spawn:
        self._transit(model, Event.SPAWN)
        model.run += 1
        model.held, model.ready_at, model.seen = allocation.held, 0.0, False
        return Spawn(model.name, model.run, allocation)

    def _stop(self, model: Model, reason: str) -> Stop:
        self._transit(model, Event.STOP)
        model.draining, model.closing = False, ""
        return Stop(model.name, model.run, reason)

    def _fail(self, model: Model, was: State, reason: str, now: float) -> None:
        steady = was in SERVING and now - model.ready_at >= self.STEADY
        model.failures = 1 if steady else model.failures + 1
        model.failure = reason
        # The first failure is forgiven at once; from the second on the pause doubles (bounded: floats overflow).
        doublings = min(model.failures - 2, 30)
        pause = min(2.0**doublings, self.limits.backoff_max) if model.failures > 1 else 0.0
        model.backoff_until = now + pause

    def _backing_off(self, model: Model, now: float) -> tuple[Refusal, str, float]:
        why = f"it failed {model.failures} times in a row, last: {model.failure}"
        return Refusal.BACKING_OFF, why, model.backoff_until - now

    def _is_stale(self, model: Model, run: int) -> bool:
        """News of a process that is gone or going."""
        return model.run != run or model.state in {State.STOPPING, State.DOWNLOADING, *STARTABLE}

    def _transit(self, model: Model, event: Event) -> None:
        try:
            model.state = TRANSITIONS[model.state, event]
        except KeyError:
            raise IllegalTransition(model.name, model.state, event) from None
        if model.state in STARTABLE or model.state is State.DOWNLOADING:
            self._alive.pop(model.name, None)
        else:
            self._alive[model.name] = model
