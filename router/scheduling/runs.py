"""SANS-I/O: what the start and the end of a process mean: for the books, for requests that wait, for other models.

All starts of one pass over the queue are booked together, each with what its prompt cache may take: a cache gets of
what is left once all of them have their memory. So none takes what a model behind in the queue is started upon.

An end that was wanted means nothing more. An end that was not is a failure of the model, unless something else was to
blame: settings that a load only tried, a GPU that was lost, or memory that was short after all.

Owned by `scheduler`. `prompt_caches` has the rule for caches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from router.scheduling import timing
from router.scheduling.answers import Answers
from router.scheduling.books import Books, ModelRecord
from router.scheduling.downloads import WantedDownloads
from router.scheduling.effects import Effect, Refusal, Spawn, Stop
from router.scheduling.limits import Limits
from router.scheduling.memory_levels import MemoryLevels
from router.scheduling.prompt_caches import left_in_ram, promise, with_cache
from router.scheduling.resources import Allocation, Reading
from router.scheduling.states import Event, State
from router.scheduling.waiting_line import Entry, WaitingLine


class Runs:
    """`answers` answers the requests that wait; the scheduler uses it too."""

    def __init__(self, books: Books, line: WaitingLine, levels: MemoryLevels, downloads: WantedDownloads) -> None:
        self._books, self._line, self._levels = books, line, levels
        self.answers = Answers(books, line, downloads)

    def __repr__(self) -> str:
        return f"<Runs: {len(self._books.alive)} processes>"

    def start(
        self, starts: Sequence[tuple[Entry, Allocation]], readings: Iterable[Reading], limits: Limits
    ) -> list[Spawn]:
        """Book these starts, in their order."""
        going = {entry.model.name for entry, _ in starts}
        hosts = {reading.device.node: reading for reading in readings if reading.device.kind == "host"}
        found = []
        for at, (entry, claim) in enumerate(starts):
            rest = [later for _, later in starts[at:]]
            place = self._with_cache(entry, claim, rest, going, hosts, limits)
            entry.model.ram_need = entry.demand.host
            found.append(self._books.spawn(entry.model, place))
            self._levels.book({}, place.held)
        return found

    def _with_cache(
        self,
        entry: Entry,
        claim: Allocation,
        rest: Sequence[Allocation],
        going: set[str],
        hosts: dict[str, Reading],
        limits: Limits,
    ) -> Allocation:
        """`rest` are the places of this start and of those after it. `going` are the models of all of them."""
        most = entry.demand.prompt_cache
        if limits.prompt_caches is not None:
            given = sum(model.prompt_cache for model in self._books.alive.values())
            most = min(most, limits.prompt_caches - given)
        reading = hosts.get(claim.node or next(iter(hosts), ""))
        if most <= 0 or reading is None:
            return claim
        key, alive = reading.device.key, list(self._books.alive.values())
        now = sum(place.held.get(key, 0) for place in rest)
        left = left_in_ram(
            reading,
            limits.margins.get(key, 0),
            booked=now + sum(model.held.get(key, 0) for model in alive),
            hidden=now + sum(model.hidden_part(key) for model in alive),
            promised=sum(model.prompt_cache for model in alive if model.held.get(key)),
            ending=sum(m.held[key] - m.prompt_cache for m in alive if m.is_ending and m.held.get(key)),
            expected=self._expected(going),
            slots=self._slots(len(rest), limits.models_max),
        )
        return with_cache(claim, key, promise(left, most))

    def _slots(self, starts: int, models_max: int) -> float:
        """How many more models may run at once."""
        running = sum(not model.is_gone_soon for model in self._books.alive.values())
        return models_max - running - starts if models_max else math.inf

    def _expected(self, going: set[str]) -> Iterable[int]:
        """What further models will need: those that wait, then those that ran before, the last used first."""
        waiting = {entry.model.name: entry.demand.host for entry in self._line.by_turn}
        before = sorted(self._books.records.values(), key=lambda model: -model.finished)
        ran = {model.name: model.ram_need for model in before if model.ram_need and model.name not in waiting}
        for name, need in (waiting | ran).items():
            if name not in going and self._books.find(name).is_gone_soon:
                yield need

    def relieve(self, readings: Iterable[Reading], limits: Limits, now: float) -> list[Stop]:
        """Notice what other programs have taken of the memory that is to stay free, and end idle models for it if the
        operator wishes that."""
        pressure, alive = self._levels.pressure, self._books.alive.values()
        pressure.read(readings, alive, limits.margins, self._levels.returning, now)
        if not limits.stops_for_others or not pressure.missing:
            return []
        why = pressure.why(readings)
        return [self._books.stop(model, why) for model in pressure.victims(alive, now)]

    def exited(
        self,
        model: ModelRecord,
        reason: str,
        now: float,
        limits: Limits,
        out_of_memory: bool,
        device_lost: bool,
        pending_ticket: int | None,
    ) -> list[Effect]:
        """The process of this model has exited: see `Scheduler.exited`."""
        was, was_retrying, held = model.state, model.retrying, model.held
        entry = self._line.by_arrival.get(model.name)
        self._books.transit(model, Event.EXIT)
        self._levels.give_back(model, now)
        may_retry = was is State.LOADING and not was_retrying and entry is not None
        model.retrying = may_retry and (out_of_memory or device_lost)
        if entry and not model.ready_at:
            entry.own_load_ended_at = now
        self._books.empty(model)
        if was is State.STOPPING:
            model.failures = 0 if model.ready_at else model.failures
        elif entry and model.retrying:
            model.failure = reason  # it may not get that far: it waits now, or is refused
            snapshot = self._levels.last_snapshot if out_of_memory else None
            victims = timing.room_for_retry(entry, snapshot, self._books, limits, now) if snapshot else []
            why = timing.why_retried(model.name, held)
            return [self._books.stop(idle, why) for idle in victims]
        elif was is State.LOADING and pending_ticket is not None:
            model.failure = reason
            if pending_ticket in self._line.by_ticket:
                return self.answers.refuse([pending_ticket], Refusal.LOAD_FAILED, reason)
        else:
            model.fail(was, reason, now, limits.backoff_max)
            if entry and was is State.LOADING:
                return self.answers.refuse(entry.tickets, Refusal.LOAD_FAILED, reason)
            if entry and now < model.backoff_until:
                pause = model.backoff_until - now
                return self.answers.refuse(entry.tickets, Refusal.BACKING_OFF, model.why_backing_off, pause)
        return []
