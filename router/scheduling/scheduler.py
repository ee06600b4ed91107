"""SANS-I/O: what the router knows, and what follows from it. Events go in as method calls, effects come out as a list.

Everything is synchronous. Time comes in as an argument, in seconds of a monotonic clock. `pool` performs the
effects and reports back what happened; nothing else calls in here.

Rules: what always holds
------------------------
1.  A model has at most one process. `run` numbers its processes, and news of an old run is ignored.
2.  A state changes in one place, `Books.transit`, by one table, `states.TRANSITIONS`.
3.  Every ticket is answered by exactly one Grant or Refuse, unless it is cancelled first.
4.  A process that has leases is stopped for three reasons only: a forced unload, a drain that has lasted for
    `Limits.drain_timeout`, or no answer (`hung`). A load is never stopped for another model's sake.
5.  Nothing is started or evicted on an old reading of the memory. A reading is planned upon and booked in the same
    step, `probed`: no other event can come between.
6.  A ticket never waits for a model that takes new work. A model that serves is closed to new work for two reasons
    only: it drains for a model ahead in the queue, or it ends with its last lease (`closing`).
7.  Every event ends in `_advance`, which looks at the whole state. So no event has to know what it unblocked.

Theory: what steers `_advance`
------------------------------
The cycle is: something changes; a Probe goes out; its reading comes in; a plan for the head of the queue is made and
booked (`planning`); effects go out; their results change something. Eight things steer this cycle.

`_needs_plan`: there may be something new to decide.
    Set when something changes that a plan depends on: a new entry in the line; a model's last lease that ended; a
    process that is ready, has exited, or holds something else than was booked; another demand; the time to look again
    (`planning.next_poll_at`). An entry that left the line counts too: `_answers.entry_left`.
    Cleared when the Probe for that plan goes out, and when no model waits for its start.
    Why: most events change nothing for a plan, such as a request for a model that runs. They must not cost a Probe.

`_levels.is_probing`: a Probe is out.
    Set when it goes out. Cleared by `probed`, which brings its answer.
    Why: one reading at a time. What changes meanwhile sets `_needs_plan`, and is decided upon with the next reading.

`_levels.reading_outdated`: memory was taken or given back since the Probe went out.
    Set when a process is ready, has exited, slept or woke. Cleared when the next Probe goes out.
    Why: a reading from before such a moment must not be decided upon (rule 5). `probed` throws it away and probes
    again. It is not the same as `_needs_plan`: a new entry in the line needs a plan, but does not spoil the reading.

`planning.next_poll_at`: when the queue is planned for again although nothing has happened here.
    Set by each plan: after `Limits.poll`, or when time alone makes another decision (`timing`) if that is earlier.
    Never cleared. `wakeup` returns it to the pool while an entry needs room or memory is coming back, and no Probe is
    out; `tick` then sets `_needs_plan`.
    Why: other programs and drivers give memory back without a word, and a grace ends by the clock.

`_next_look_at`: when the memory is read again though no model waits for its start.
    Follows from the last Probe, while there are processes (`Limits.pressure_poll`). `wakeup` returns it to the pool.
    Why: other programs take memory, too, and this has to be told (`pressure`).

`planning.draining`: the models that are closed because a model ahead needs their room.
    Set by each plan to exactly the busy victims of that plan. Emptied when no model waits for its start.
    Why: a drain must end with its reason, or it would close a model for ever.

`downloads`: the models whose files are wanted first.
    Added to by a ticket whose files are missing, and by `fetch`. Taken out when the download ends or is aborted.
    Why: their entries cannot be planned for yet. `_advance` begins downloads before anything else, and without a plan:
    they need neither memory nor a slot.

`Entry.needs_room`: the last plan found no room for this entry.
    Set by each plan for each entry that waits for its start; True from the first for a model that is closed.
    Why: only such an entry fills the queue (`queue_max`), and only such an entry has to be looked at again by the
    clock.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from router.scheduling.books import Books, ModelRecord
from router.scheduling.causes import Cause, Why
from router.scheduling.effects import Effect, Grant, Refusal, Refuse
from router.scheduling.limits import Limits
from router.scheduling.obstacles import Obstacles
from router.scheduling.planning import LOST_RETRY_S, Planning
from router.scheduling.reasons import Reason, Waiting
from router.scheduling.resources import Demand, Reading
from router.scheduling.snapshot import Snapshot
from router.scheduling.states import STARTABLE, Event, State
from router.scheduling.waiting_line import Ticket, WaitingLine


class Scheduler:
    """Example::

    scheduler = Scheduler(Limits(margins={"here/RAM": 1}))
    scheduler.acquire(Ticket(1, "a", Demand(host=5)), now)  # [Probe({})]
    scheduler.probed((Reading(ram, free=9),), now)  # [Spawn("a", 1, ...)]
    scheduler.ready("a", 1, now)  # [Grant(1, "a")]
    scheduler.release(1, now)  # []
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._books = Books()
        self._line = WaitingLine()
        self.planning = planning = Planning(self._books, self._line)  # with the obstacles, for reading only
        self.downloads, self._levels, self._runs = planning.downloads, planning.levels, planning.runs
        self.pressure = self._levels.pressure  # as the downloads: for reading only
        self._answers = self._runs.answers
        self.obstacles = Obstacles(self._books, self._line, planning)
        self._needs_plan = False

    def __repr__(self) -> str:
        return f"<Scheduler: {self._books}, {self._line}, {self._levels}, {self.downloads}, {self._needs_plan=}>"

    # Questions

    def model(self, name: str) -> ModelRecord:
        """What is known of this model; for reading only."""
        return self._books.find(name)

    def models(self) -> Iterator[ModelRecord]:
        return iter(self._books.records.values())

    @property
    def line(self) -> WaitingLine:
        """The requests that wait; for reading only."""
        return self._line

    def snapshot(self, readings: tuple[Reading, ...]) -> Snapshot:
        """The machine as policy sees it, without the claims of waiting models."""
        limits, returning = self.limits, self._levels.returning
        return Snapshot(readings, self._books.residents(), limits.models_max, limits.margins, returning)

    def waiting(self, name: str) -> int:
        """How many tickets wait for this model."""
        entry = self._line.by_arrival.get(name)
        return len(entry.tickets) if entry else 0

    def queue(self, now: float) -> tuple[Waiting, ...]:
        """The models for which requests wait, in the order of turns, and what each waits for."""
        return self.obstacles.waiting(self.limits, now)

    def next_to_start(self) -> str | None:
        """The first model in the queue whose start has to wait; None if none waits."""
        return next((entry.model.name for entry in self._line.by_turn if self.downloads.is_startable(entry)), None)

    def wakeup(self) -> float | None:
        """When `tick` is due if nothing else happens; None for never."""
        times = [at for m in self._books.alive.values() if m.ttl is not None and (at := m.expires) is not None]
        if not self._levels.is_probing and not (self._line.by_turn and self.next_to_start()):
            times.append(self._next_look_at)
        if self._line.by_turn:
            if self.limits.queue_timeout and (oldest := self._line.longest_wait()) is not None:
                times.append(oldest + self.limits.queue_timeout)
            if self.limits.drain_timeout:
                times.append(self.planning.next_cut_at(self.limits))
            is_startable, all_ = self.downloads.is_startable, self._levels.returning
            polled = ((all_ or e.needs_room) and is_startable(e) for e in self._line.by_turn)
            if not self._levels.is_probing and any(polled):
                times.append(self.planning.next_poll_at)
        earliest = min(times, default=math.inf)
        return earliest if earliest < math.inf else None

    @property
    def _next_look_at(self) -> float:
        """When the memory is read again because other programs may have taken of it; infinity for never."""
        poll = self.limits.pressure_poll
        return self._levels.next_look(poll) if poll and self._books.alive else math.inf

    def why(self, name: str, now: float) -> Reason | None:
        """What the requests for this model wait for; None if none waits."""
        entry = self._line.by_arrival.get(name)
        return self.obstacles.why(entry, self.limits, now) if entry else None

    # Events: requests

    def lease_if_open(
        self,
        name: str,
        ticket: int,
        now: float,
        *,
        pinned: bool,
        ttl: float | None,
        min_loaded: float,
        background: bool,
    ) -> bool:
        """A request wants this model. If the model takes new work, the request is granted at once: most requests are,
        and this costs them little. Returns whether it was granted."""
        model = self._books.records.get(name)
        if model is None or not model.is_open:
            return False
        model.pinned, model.ttl, model.min_loaded = pinned, ttl, min_loaded
        self._books.lease(ticket, model, now, background=background)
        return True

    def acquire(self, ticket: Ticket, now: float) -> list[Effect]:
        """A request wants this model. It is answered by exactly one Grant or Refuse, now or later, unless cancelled."""
        pinned, ttl, min_loaded = ticket.pinned, ticket.ttl, ticket.min_loaded
        if self.lease_if_open(
            ticket.model, ticket.id, now, pinned=pinned, ttl=ttl, min_loaded=min_loaded, background=ticket.background
        ):
            return [Grant(ticket.id, ticket.model)]
        model = self._books.open(ticket.model)
        model.pinned, model.ttl, model.min_loaded = pinned, ttl, min_loaded
        if now < model.backoff_until:
            pause = model.backoff_until - now
            return [Refuse(ticket.id, model.name, Refusal.BACKING_OFF, model.why_backing_off, pause)]
        if model.name not in self._line.by_arrival:
            self._needs_plan = True
        entry = self._line.join(ticket, model, now)
        effects: list[Effect] = []
        if ticket.missing:
            self.downloads.want(model.name, is_kept=self.limits.finish_loads)
            effects += self.downloads.start(self.limits.downloads_max)
        if entry.needs_room:
            effects += self._answers.refuse_overflow(self.limits.queue_max)
        return [*effects, *self._advance(now)]

    def cancel(self, ticket: int, now: float) -> list[Effect]:
        """The client of a waiting ticket left."""
        model = self._line.by_ticket[ticket].model
        self._answers.leave(ticket)
        effects: list[Effect] = []
        if not self.waiting(model.name):
            if model.state is State.LOADING and not self.limits.finish_loads:
                effects.append(self._books.stop(model, Why(Cause.CANCELLED)))
            effects += self.downloads.abort_unless_kept(model)
        return [*effects, *self._advance(now)]

    def release(self, ticket: int, now: float, *, used: bool = True) -> list[Effect]:
        """A lease ended, however it ended. `used=False` does not count as a use: the model is no more recently used."""
        model = self._books.leased.pop(ticket)
        if ticket not in model.leases:
            return []  # the process on which it was granted is gone
        model.leases.remove(ticket)
        model.finished = now if used else model.finished
        if used and ticket not in model.background_leases:
            model.foreground_finished = now
        model.background_leases.discard(ticket)
        if model.leases:
            return []
        self._needs_plan = True
        effects: list[Effect] = [self._books.stop(model, model.closing)] if model.closing else []
        return [*effects, *self._advance(now)]

    def unload(self, name: str, now: float, *, force: bool = False, cause: Cause = Cause.UNLOAD) -> list[Effect]:
        """End the model's process once its running requests have ended, at once with `force`. The requests that wait
        for it now are refused. The failures of the model are forgotten."""
        model = self.model(name)
        model.clear_failures()
        effects: list[Effect] = []
        if entry := self._line.by_arrival.get(name):
            effects += self._answers.refuse(entry.tickets, Refusal.CANCELLED, "it was unloaded", 1.0)
        effects += self.downloads.abort(model)
        effects += self._books.close(model, Why(cause), now, force=force)
        return [*effects, *self._advance(now)]

    def renew(self, name: str, now: float, cause: Cause = Cause.SETTINGS) -> list[Effect]:
        """End the model's process as `unload` does, or its download. The requests that wait for it wait on, for the
        next process."""
        model = self.model(name)
        effects = self.downloads.restart(model)
        if not model.closing:
            effects += self._books.close(model, Why(cause), now)
        return [*effects, *self._advance(now)]

    def cancel_renew(self, name: str, now: float) -> list[Effect]:
        """Take back a `renew` for new settings that still waits for running requests to end: the process goes on, and
        takes new work."""
        model = self.model(name)
        if model.closing is None or model.closing.cause is not Cause.SETTINGS:
            return []
        model.closing = None
        self._needs_plan = True
        return [*(self._answers.grant_all(model, now) if model.is_open else ()), *self._advance(now)]

    def pin(self, name: str, pinned: bool, now: float) -> list[Effect]:
        """From now on no other model may evict this one, or they may again."""
        self.model(name).pinned = pinned
        self._needs_plan = True
        return self._advance(now)

    def set_demand(self, name: str, demand: Demand, now: float, *, missing: bool = False) -> list[Effect]:
        """The requests that wait for this model wait for this demand from now on; with `missing` for its files too."""
        effects = [] if missing else self.downloads.abort(self.model(name))
        if entry := self._line.by_arrival.get(name):
            entry.demand = demand
            self._needs_plan = True
            if missing:
                self.downloads.want(name, is_kept=self.limits.finish_loads)
        return [*effects, *self._advance(now)]

    def forget(self, name: str) -> None:
        """Forget a model for which nothing runs or waits. It may come back under the same name."""
        model = self._books.records.get(name)
        is_waited_for = name in self._line.by_arrival or self.downloads.is_wanted(name)
        if model is None or model.state not in STARTABLE or is_waited_for:
            return
        self._books.forget(model)
        self.planning.draining.discard(name)

    def clear_failures(self, name: str) -> None:
        """The failures until now do not count."""
        self.model(name).clear_failures()

    # Events: downloads

    def fetch(self, name: str, now: float) -> list[Effect]:
        """The model's files are wanted, even if no request waits for the model."""
        self._books.open(name).clear_failures()
        self.downloads.want(name, is_kept=True)
        return self._advance(now)

    def fetched(self, name: str, demand: Demand, now: float) -> list[Effect]:
        """The files are there, and this is what the model needs."""
        model = self.model(name)
        if model.state is not State.DOWNLOADING:
            return []
        self.downloads.finish(model, Event.FETCHED)
        model.failures = 0
        if entry := self._line.by_arrival.get(name):
            entry.demand, entry.own_load_ended_at = demand, now
            self._needs_plan = True
        return self._advance(now)

    def fetch_failed(self, name: str, reason: str, now: float, *, retry_after: float | None = None) -> list[Effect]:
        """The download ended without the files, for this reason. The next request tries again."""
        model = self.model(name)
        if model.state is not State.DOWNLOADING:
            return []
        self.downloads.finish(model, Event.EXIT)
        model.fail(State.DOWNLOADING, reason, now, self.limits.backoff_max)
        entry = self._line.by_arrival.get(name)
        effects = self._answers.refuse(entry.tickets, Refusal.FETCH_FAILED, reason, retry_after) if entry else []
        return [*effects, *self._advance(now)]

    # Events: the machine

    def probed(self, readings: tuple[Reading, ...], now: float, *, failure: str = "") -> list[Effect]:
        """The answer to a Probe. `failure` says why there is no reading. Then it is probed again in a while; after
        several times in a row the requests that need a reading are refused."""
        self._levels.is_probing = False
        if failure:
            self.planning.next_poll_at = now + self.limits.poll
            blind = [entry for entry in self._line.by_turn if self.downloads.is_startable(entry)]
            for entry in blind:
                entry.needs_room = True
            tickets = [ticket for entry in blind for ticket in entry.tickets] if self._levels.fail() else []
            return [*self._answers.refuse(tickets, Refusal.DEVICE_LOST, failure, LOST_RETRY_S), *self._advance(now)]
        if self._levels.reading_outdated:
            self._needs_plan = True
            return self._advance(now)
        self._levels.read(readings, self._books.alive.values())
        effects = self.planning.plan(readings, self.snapshot(readings), self.limits, now)
        return [*effects, *self._runs.relieve(readings, self.limits, now), *self._advance(now)]

    def ready(self, name: str, run: int, now: float) -> list[Effect]:
        """The child serves."""
        model = self.model(name)
        if model.has_moved_on(run):
            return []
        self._books.transit(model, Event.READY)
        model.ready_at = model.finished = now
        model.retrying = False
        self._needs_plan = self._levels.reading_outdated = True
        return [*self._answers.grant_all(model, now), *self._advance(now)]

    def hung(self, name: str, run: int, seconds: float, now: float) -> list[Effect]:
        """Requests run on the process, and it has shown no life for so many seconds. They fail, and the next request
        starts another one."""
        model = self.model(name)
        if model.has_moved_on(run) or not model.leases:
            return []
        why = Why(Cause.HUNG, requests=len(model.leases), seconds=seconds)
        return [self._books.stop(model, why, at_once=True), *self._advance(now)]

    def measured(self, name: str, run: int, held: Mapping[str, int], now: float) -> list[Effect]:
        """What the process really holds, by device key. This is booked from now on."""
        model = self.model(name)
        if model.has_moved_on(run) or model.held == held:
            return []
        self._levels.book(model.held, held)
        model.held = held
        self._needs_plan = True
        return self._advance(now)

    def exited(
        self,
        name: str,
        run: int,
        reason: str,
        now: float,
        *,
        out_of_memory: bool = False,
        device_lost: bool = False,
        pending_ticket: int | None = None,
    ) -> list[Effect]:
        """The process is gone. `reason` is for people, and counts only if the end was not wanted.

        A load that ran out of memory is tried once more, after every idle model that can help has made room. A load
        that lost its device is tried once more too, and no model goes for it. A load that only tried settings fails the
        ticket that wanted these (`pending_ticket`), and is not a failure of the model.
        """
        model = self.model(name)
        if model.run != run:
            return []
        effects = self._runs.exited(model, reason, now, self.limits, out_of_memory, device_lost, pending_ticket)
        self._needs_plan = self._levels.reading_outdated = True
        return [*effects, *self._advance(now)]

    def slept(self, name: str, run: int) -> None:
        """The child freed its weights. It takes them back by itself on the next request, so they stay booked."""
        model = self.model(name)
        if model.run == run and model.state is State.LOADED:  # else the news came twice, or too late
            self._books.transit(model, Event.SLEEP)
            self._levels.book(model.held, {})
            self._levels.reading_outdated = True

    def woke(self, name: str, run: int) -> None:
        """The child took its weights back."""
        model = self.model(name)
        if model.run == run and model.state is State.SLEEPING:
            self._books.transit(model, Event.WAKE)
            self._levels.book({}, model.held)
            self._levels.reading_outdated = True

    def tick(self, now: float) -> list[Effect]:
        """Time passed: idle models expire, waiting tickets time out, entries that need room are planned for again."""
        effects: list[Effect] = []
        for model in self._books.alive.values():
            if model.ttl is not None and (at := model.expires) is not None and at <= now:
                effects.append(self._books.stop(model, Why(Cause.TTL)))
        effects += self.planning.cut(self.limits, now)
        if timeout := self.limits.queue_timeout:
            overdue = self._line.overdue(now, timeout)
            for name, tickets in itertools.groupby(overdue, lambda ticket: self._line.by_ticket[ticket].model.name):
                why = self.obstacles.why_overdue(self._line.by_arrival[name], self.limits, now)
                effects += self._answers.refuse([*tickets], Refusal.QUEUE_TIMEOUT, why, 5.0)
        all_ = self._levels.returning
        self._needs_plan |= any((all_ or e.needs_room) and e.waits_for_room for e in self._line.by_turn)
        return [*effects, *self._advance(now)]

    # What follows

    def _advance(self, now: float) -> list[Effect]:
        """What is due now, whatever happened before: see the theory above."""
        effects = self.downloads.start(self.limits.downloads_max) if self.downloads else []
        head = next(filter(self.downloads.is_startable, self._line.by_turn), None)
        if head is None:
            self._needs_plan = self._answers.entry_left = False
            effects += self.planning.drain(set(), now) if self.planning.draining else []
            is_due = self._next_look_at <= now and not self._levels.is_probing
            return [*effects, self._levels.probe(self._books.alive.values(), now)] if is_due else effects
        if self._levels.is_probing or not (self._needs_plan or self._answers.entry_left):
            return effects
        self._needs_plan = self._answers.entry_left = False
        return [*effects, self._levels.probe(self._books.alive.values(), now, head.demand, head.model.retrying)]
