from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count, pairwise, product
from random import Random
from typing import Any

import pytest

from router.scheduling.policy import Demand, Device, Phase, Reading, Resident
from router.scheduling.scheduler import (
    TRANSITIONS,
    Abort,
    Effect,
    Event,
    Fetch,
    Grant,
    IllegalTransition,
    Limits,
    Model,
    Probe,
    Refusal,
    Refuse,
    Scheduler,
    Spawn,
    State,
    Stop,
    Ticket,
)

RAM = "here/RAM"


@dataclass(eq=False)
class Request:
    """A client and what it was told; `left` if it went before it was told anything."""

    ticket: Ticket
    asked: float
    serve: float | None
    answer: Grant | Refuse | None = None
    answered: float = 0.0
    left: bool = False
    ended: bool = False

    @property
    def granted(self) -> bool:
        return isinstance(self.answer, Grant)

    @property
    def refused(self) -> Refusal | None:
        return self.answer.refusal if isinstance(self.answer, Refuse) else None

    @property
    def waits(self) -> bool:
        return self.answer is None and not self.left


@dataclass(eq=False)
class Process:
    spawn: Spawn
    held: Mapping[str, int]  # as the books should have it
    takes: Mapping[str, int]  # what it really holds once it serves
    ready: bool = False
    stopping: bool = False
    asleep: bool = False
    trial: Trial | None = None
    shown: float = 0.0  # the part of what it takes that the machine shows: a load takes it bit by bit

    def shows(self, key: str) -> int:
        return int(self.takes.get(key, 0) * self.shown)


@dataclass(eq=False)
class Trial:
    """A load with settings that change what the model needs; `before` is what it needed, None where nobody knows."""

    request: Request
    before: Demand | None
    process: Process | None  # that serves with what was before


class Bench:
    """Plays the pool and the machine: a clock, children that take time to load and to end, memory that comes back late,
    other programs. After every event it holds the scheduler's books against its own.

    `room` is what may be used of a device: it has one byte more, which is the margin.
    """

    def __init__(self, room: int = 9, *, gpus: Sequence[int] = (), checked: bool = True, **limits: float) -> None:
        sizes = {**{f"GPU{i}": size for i, size in enumerate(gpus)}, "RAM": room}
        self.devices = tuple(
            Device("here", name, "host" if name == "RAM" else "gpu", size + 1, index)
            for index, (name, size) in enumerate(sizes.items())
        )
        margins = {device.key: 1 for device in self.devices} if checked else {}
        self.scheduler = Scheduler(Limits(margins=margins, **{"models_max": 0, **limits}))  # type: ignore[arg-type]
        self.now = 1000.0
        self.load_seconds: Callable[[str], float] = lambda model: 1.0
        self.stop_seconds: Callable[[str], float] = lambda model: 0.5
        self.reclaim_seconds: Callable[[], float] = lambda: 0.0
        self.probe_seconds: Callable[[], float] = lambda: 0.0
        self.measure_seconds: Callable[[], float] = lambda: 0.0  # from when it serves
        self.takes_less: Callable[[], bool] = lambda: False  # than the estimate, by a tenth
        self.broken: set[str] = set()  # they end while they load
        self.starved: Counter[str] = Counter()  # that many loads of theirs run out of memory
        self.download_seconds: Callable[[str], float] = lambda model: 3.0
        self.missing: set[str] = set()  # their files are not here
        self.unreachable: set[str] = set()  # their downloads fail
        self.downloads: dict[str, object] = {}  # under way
        self.others: Counter[str] = Counter()  # bytes that other programs hold, by device key
        self.requests: dict[int, Request] = {}
        self.leases: defaultdict[str, set[int]] = defaultdict(set)
        self.waiting: Counter[str] = Counter()
        self.processes: dict[str, Process] = {}
        self.trials: dict[str, Trial] = {}
        self.needs: dict[str, Demand] = {}  # with what has proved itself
        self.effects: list[Effect] = []
        self.events = 0
        self._ids = count(1)
        self._lingering: Counter[str] = Counter()  # freed by its process, not yet by the machine
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._allowed_stop: tuple[str, bool] | None = None  # the model being unloaded, and whether by force
        self._told = 0  # effects that have effects

    # What clients and operators do

    def ask(
        self,
        model: str,
        need: int | Demand = 5,
        *,
        serve: float | None = None,
        priority: int = 0,
        pinned: bool = False,
        ttl: float | None = None,
    ) -> Request:
        """`serve` is how long it takes once granted; None is until `end`."""
        if isinstance(need, int):
            need = Demand(split=need) if len(self.devices) > 1 else Demand(host=need)
        missing = model in self.missing
        ticket = Ticket(next(self._ids), model, need, priority, pinned, ttl, missing=missing)
        return self._ask(Request(ticket, self.now, serve))

    def _ask(self, request: Request) -> Request:
        self.requests[request.ticket.id] = request
        self.waiting[request.ticket.model] += 1
        self._tell(self.scheduler.acquire(request.ticket, self.now))
        return request

    def attempt(self, model: str, need: int | Demand, before: int | Demand | None, **more: Any) -> Request:
        """A load with settings, with which the model needs this much instead."""
        needs = [Demand(host=amount) if isinstance(amount, int) else amount for amount in (need, before)]
        assert needs[0] is not None
        missing = model in self.missing
        request = Request(Ticket(next(self._ids), model, needs[0], missing=missing, **more), self.now, 0.0)
        self.trials[model] = Trial(request, needs[1], self.processes.get(model))
        self.amend(model, needs[0])
        if not missing:  # else its download is as good as another one
            self.renew(model)
        return self._ask(request)

    def abandon(self, model: str) -> None:
        """The model is another one now: what is tried does not matter any more."""
        trial = self.trials.pop(model)
        self.leave(trial.request)

    def renew(self, model: str) -> None:
        self._allowed_stop = model, False
        self._tell(self.scheduler.renew(model, self.now))
        self._allowed_stop = None

    def keep(self, model: str) -> None:
        self._tell(self.scheduler.keep(model, self.now))

    def amend(self, model: str, need: Demand) -> None:
        for request in self.requests.values():
            if request.waits and request.ticket.model == model:
                request.ticket = replace(request.ticket, demand=need)
        self._tell(self.scheduler.amend(model, need, self.now, missing=model in self.missing))

    def lose(self, model: str, need: Demand) -> None:
        """Its files are not here any more."""
        self.missing.add(model)
        self.amend(model, need)
        self.renew(model)

    def pull(self, model: str) -> None:
        self._tell(self.scheduler.fetch(model, self.now))

    def leave(self, request: Request) -> None:
        assert request.waits
        request.left = True
        self.waiting[request.ticket.model] -= 1
        self._tell(self.scheduler.cancel(request.ticket.id, self.now))

    def end(self, request: Request) -> None:
        assert request.granted
        if request.ended:
            return
        request.ended = True
        self.leases[request.ticket.model].discard(request.ticket.id)
        self._tell(self.scheduler.release(request.ticket.id, self.now))

    def unload(self, model: str, *, force: bool = False) -> None:
        self._allowed_stop = model, force
        self._tell(self.scheduler.unload(model, self.now, force=force))
        self._allowed_stop = None

    # What happens by itself

    def crash(self, model: str) -> None:
        self._exit(self.processes[model], "it crashed")

    def sleep(self, model: str) -> None:
        process = self.processes[model]
        process.shown, process.asleep = 0.0, True
        self.scheduler.slept(model, process.spawn.run)
        self._tell([])

    def wake(self, process: Process) -> None:
        if self.processes.get(process.spawn.model) is process and not process.stopping:
            process.shown = 1.0
        self.scheduler.woke(process.spawn.model, process.spawn.run)
        self._tell([])

    # The clock

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), what))

    def step(self, until: float) -> bool:
        """The next thing that happens; False if that is not before `until`."""
        wakeup = self.scheduler.wakeup()
        due = self._agenda[0][0] if self._agenda else None
        if wakeup is not None and (due is None or wakeup < due):
            if wakeup > until:
                return False
            self.now = max(self.now, wakeup)
            self._tell(self.scheduler.tick(self.now))
            again = self.scheduler.wakeup()
            assert again is None or again > self.now, "the timer would spin"
            return True
        if due is None or due > until:
            return False
        self.now, _, what = heapq.heappop(self._agenda)
        what()
        return True

    def run(self, seconds: float = 0.0) -> None:
        until = self.now + seconds
        while self.step(until):
            pass
        self.now = until

    # What can be seen

    @property
    def spawns(self) -> list[str]:
        return [effect.model for effect in self.effects if isinstance(effect, Spawn)]

    @property
    def stops(self) -> list[str]:
        return [effect.model for effect in self.effects if isinstance(effect, Stop)]

    @property
    def grants(self) -> list[str]:
        return [effect.model for effect in self.effects if isinstance(effect, Grant)]

    def last(self, kind: type[Effect]) -> Effect:
        return [effect for effect in self.effects if isinstance(effect, kind)][-1]

    @property
    def loaded(self) -> set[str]:
        return {model.name for model in self.scheduler.models() if model.state is State.LOADED}

    def state(self, model: str) -> State:
        return self.scheduler.model(model).state

    def free(self, device: Device) -> int:
        shown = sum(process.shows(device.key) for process in self.processes.values())
        return device.total - self.others[device.key] - self._lingering[device.key] - shown

    # Playing the effects

    def _tell(self, effects: list[Effect]) -> None:
        self.events += 1
        self._told += 1
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case Probe(expected):
                    self._probe(expected)
                case Spawn():
                    self._spawn(effect)
                case Stop():
                    self._stop(effect)
                case Fetch(model):
                    self._fetch(model)
                case Abort(model):
                    del self.downloads[model]
                case Grant() | Refuse():
                    self._answer(effect)
        self._told -= 1
        if not self._told:
            self.check()

    def _probe(self, expected: Mapping[str, int]) -> None:
        for device in self.devices:  # B-D6
            if device.key in expected:
                shown = sum(process.shows(device.key) for process in self.processes.values())
                assert expected[device.key] <= device.total - shown, "it will never be free"
        # The reading is as old as it can be: from the moment it was asked for. Other programs are as they are now, for
        # nobody can promise anything about what they take meanwhile.
        readings = tuple(Reading(d, self.free(d) + self.others[d.key]) for d in self.devices)

        def answer() -> None:
            known = tuple(Reading(r.device, (r.free or 0) - self.others[r.device.key]) for r in readings)
            self._tell(self.scheduler.probed(known, self.now))

        self.after(self.probe_seconds(), answer)

    def _fetch(self, model: str) -> None:
        assert model not in self.downloads, "one model is downloaded twice at once"  # B-H3
        assert model not in self.processes
        download = self.downloads[model] = object()
        self.after(self.download_seconds(model), lambda: self._arrive(model, download))

    def _arrive(self, model: str, download: object) -> None:
        if self.downloads.get(model) is not download:
            return
        del self.downloads[model]
        if model in self.unreachable:
            self._tell(self.scheduler.fetch_failed(model, "there is no hub", self.now, retry_after=7.0))
            return
        self.missing.discard(model)
        waiting = [r.ticket.demand for r in self.requests.values() if r.waits and r.ticket.model == model]
        need = [*waiting[:1], self.needs.get(model, Demand())][0]
        self._tell(self.scheduler.fetched(model, need, self.now))

    def _spawn(self, spawn: Spawn) -> None:
        assert spawn.model not in self.processes, "two processes of one model"  # B-L9
        assert spawn.model not in self.missing
        held = spawn.allocation.held
        takes = {key: count - count // 10 for key, count in held.items()} if self.takes_less() else held
        process = self.processes[spawn.model] = Process(spawn, held, takes)
        process.trial = self.trials.get(spawn.model)
        for device in self.devices:  # B-S11
            if self.scheduler.limits.margins and spawn.allocation.held.get(device.key):
                theirs = self.others[device.key] + self._lingering[device.key]
                ours = [
                    p.shows(device.key) if p.stopping else p.takes.get(device.key, 0) for p in self.processes.values()
                ]
                assert sum(ours) + theirs + 1 <= device.total, "the machine is full"
        seconds = self.load_seconds(spawn.model)
        self.after(seconds / 2, lambda: self._grow(process, 0.5))
        if self.starved[spawn.model]:
            self.starved[spawn.model] -= 1
            self.after(seconds / 2, lambda: self._exit(process, "out of memory"))
        if spawn.model in self.broken:
            self.after(seconds / 2, lambda: self._exit(process, "it is broken"))
        self.after(seconds, lambda: self._ready(process))

    def _grow(self, process: Process, part: float) -> None:
        if not process.stopping:
            process.shown = part

    def _ready(self, process: Process) -> None:
        """The news comes even when the process was stopped or has ended meanwhile."""
        self._grow(process, 1.0)
        process.ready = True
        self._tell(self.scheduler.ready(process.spawn.model, process.spawn.run, self.now))
        self.after(self.measure_seconds(), lambda: self._measure(process))

    def _measure(self, process: Process) -> None:
        if not process.stopping:
            process.held = process.takes
        self._tell(self.scheduler.measured(process.spawn.model, process.spawn.run, process.takes, self.now))

    def _stop(self, stop: Stop) -> None:
        process = self.processes[stop.model]
        assert process.spawn.run == stop.run
        asked, force = self._allowed_stop or ("", False)
        if stop.model != asked:
            assert process.ready or not self.scheduler.limits.finish_loads, "a load was stopped"  # B-S3
            assert process.ready or not self.waiting[stop.model]
        if stop.model != asked or not force:
            assert not self.leases[stop.model], "a busy model was stopped"  # B-S3
        process.stopping = True
        self.after(self.stop_seconds(stop.model), lambda: self._exit(process, "stopped"))

    def _exit(self, process: Process, reason: str) -> None:
        if self.processes.get(process.spawn.model) is not process:
            return
        del self.processes[process.spawn.model]
        freed = Counter({key: process.shows(key) for key in process.held})
        self._lingering += freed
        seconds = self.reclaim_seconds()
        if seconds:
            self.after(seconds, lambda: self._lingering.subtract(freed))
        else:
            self._lingering.subtract(freed)
        self.leases[process.spawn.model].clear()
        starved = reason == "out of memory"
        name, run = process.spawn.model, process.spawn.run
        trial = process.trial if process.trial and process.trial is self.trials.get(name) else None
        tried = trial if trial and trial.before else None
        was, failures, waiting = self.state(name), self.scheduler.model(name).failures, self.waiting[name]
        ticket = tried.request.ticket.id if tried else None
        effects = self.scheduler.exited(name, run, reason, self.now, out_of_memory=starved, tried_by=ticket)
        if tried and was is State.LOADING:
            assert self.scheduler.model(name).failures == failures  # B-L8
            assert [e.ticket for e in effects if isinstance(e, Refuse)] in ([], [ticket])
            assert waiting - self.scheduler.waiting(name) <= 1
        self._tell(effects)

    def _answer(self, answer: Grant | Refuse) -> None:
        request = self.requests[answer.ticket]
        assert request.waits, "answered twice, or after it left"  # B-S2
        assert request.ticket.model == answer.model
        request.answer, request.answered = answer, self.now
        self.waiting[answer.model] -= 1
        trial = self.trials.get(answer.model)
        if trial and trial.request is request:
            self._settle(trial, answer)
        if isinstance(answer, Refuse):
            return
        process = self.processes[answer.model]
        assert process.ready
        assert not process.stopping
        assert process.spawn.run == answer.run
        self.leases[answer.model].add(answer.ticket)
        if process.asleep:
            process.asleep = False
            self.after(0.1, lambda: self.wake(process))
        if request.serve is not None:
            self.after(request.serve, lambda: self.end(request))

    def _settle(self, trial: Trial, answer: Grant | Refuse) -> None:
        del self.trials[answer.model]
        if isinstance(answer, Grant):
            assert self.processes[answer.model].trial is trial, "not what was asked for serves"
            self.needs[answer.model] = trial.request.ticket.demand
            return
        if trial.before:
            self.amend(answer.model, trial.before)
        if self.processes.get(answer.model) is trial.process:
            self.keep(answer.model)
        if not trial.before and self.scheduler.waiting(answer.model):
            self.unload(answer.model)

    def check(self) -> None:
        """What holds after every event."""
        limits, models = self.scheduler.limits, list(self.scheduler.models())
        alive = {model.name: model for model in models if model.resident()}
        assert alive.keys() == self.processes.keys()
        assert not limits.models_max or len(alive) <= limits.models_max  # B-S4
        for device in self.devices:
            if limits.margins:
                booked = sum(model.held.get(device.key, 0) for model in alive.values())
                assert booked + 1 <= device.total, "the books are overcommitted"
        assert {model.name for model in models if model.state is State.DOWNLOADING} == self.downloads.keys()
        assert len(self.downloads) <= (limits.downloads_max or 1)
        startable = False
        for model in models:
            assert model.leases == self.leases[model.name]  # B-S2
            assert model.held == (self.processes[model.name].held if model.name in alive else {})
            assert self.scheduler.waiting(model.name) == self.waiting[model.name]
            assert not (model.is_open and self.waiting[model.name]), "somebody waits for an open model"
            startable |= bool(self.waiting[model.name]) and model.state in (State.UNLOADED, State.FAILED)
        assert startable or not any(model.draining for model in models), "a drain for nobody"  # B-S8
        self._check_order()

    def _check_order(self) -> None:
        """What the scheduler keeps so that it need not look for it."""
        scheduler = self.scheduler
        entries = [*scheduler._queue.values()]
        assert scheduler._line == sorted(entries, key=lambda entry: entry.rank() or ())
        assert [entry.order for entry in entries] == [entry.rank() for entry in entries]
        assert entries == sorted(entries, key=lambda entry: entry.began)
        assert scheduler._alive == {model.name: model for model in scheduler.models() if model.resident()}
        assert scheduler._draining >= {model.name for model in scheduler.models() if model.draining}
        parked = [entry.waiting_since for entry in entries if scheduler._is_parked(entry)]
        assert scheduler._longest_wait() == min(parked, default=None)


# The table


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_state_and_event(state: State, event: Event) -> None:
    scheduler = Scheduler(Limits())
    scheduler.acquire(Ticket(1, "a", Demand()), 0.0)
    model = scheduler.model("a")
    model.state = state
    if (state, event) in TRANSITIONS:
        scheduler._transit(model, event)
        assert model.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"^a: .*'{event.value}' in state '{state.value}'"):
            scheduler._transit(model, event)
        assert model.state is state


def test_a_process_comes_to_an_end_from_every_state_in_which_there_is_one() -> None:
    alive = {State.LOADING, State.LOADED, State.SLEEPING, State.STOPPING}
    assert {state for state in State if (state, Event.EXIT) in TRANSITIONS} == alive | {State.DOWNLOADING}
    assert {state for state in State if (state, Event.SPAWN) in TRANSITIONS} == {State.UNLOADED, State.FAILED}


# One model


def test_a_request_loads_its_model_and_is_served() -> None:  # B-S1
    bench = Bench()
    request = bench.ask("a")
    bench.run(0.9)
    assert request.waits
    assert bench.state("a") is State.LOADING
    bench.run(0.2)
    assert request.granted
    assert bench.state("a") is State.LOADED
    assert bench.ask("a").granted  # at once


def test_six_at_once_load_once() -> None:  # B-S6 B-L9
    bench = Bench()
    requests = [bench.ask("a") for _ in range(6)]
    bench.run(2)
    assert all(request.granted for request in requests)
    assert bench.spawns == ["a"]
    assert bench.grants == ["a"] * 6
    assert [e.ticket for e in bench.effects if isinstance(e, Grant)] == [r.ticket.id for r in requests]


def test_a_duplicate_that_comes_during_the_load_starts_nothing() -> None:  # B-L9
    bench = Bench()
    bench.ask("a")
    bench.run(0.5)
    second = bench.ask("a")
    bench.run(1)
    assert second.granted
    assert bench.spawns == ["a"]


def test_leases_are_counted_until_the_last_is_released() -> None:  # B-S2
    bench = Bench(room=9)
    first, second = bench.ask("a"), bench.ask("a")
    bench.run(2)
    bench.ask("b")
    bench.end(first)
    bench.run(5)
    assert bench.stops == []
    assert not bench.scheduler.is_idle()
    bench.end(second)
    bench.run(5)
    assert bench.stops == ["a"]


def test_a_lease_on_a_process_that_died_is_released_without_a_trace() -> None:  # B-S2
    bench = Bench()
    old = bench.ask("a")
    bench.run(2)
    bench.crash("a")
    new = bench.ask("a")
    bench.run(2)
    assert new.granted
    before = bench.scheduler.model("a").finished
    bench.end(old)
    assert bench.scheduler.model("a").leases == {new.ticket.id}
    assert bench.scheduler.model("a").finished == before
    assert bench.stops == []


# Room


def test_a_loading_model_is_no_victim_and_a_busy_one_is_not_cut_off() -> None:  # B-S3
    bench = Bench(room=9, drain_grace=0)
    bench.load_seconds = lambda model: 60.0
    a = bench.ask("a", serve=50)
    bench.run(1)
    b = bench.ask("b")
    bench.run(58)
    assert bench.stops == []
    assert b.waits
    bench.run(50)  # "a" serves
    assert a.granted
    assert bench.stops == []
    bench.run(62)
    assert bench.stops == ["a"]
    assert b.granted


def test_the_number_of_processes_is_limited_whatever_the_memory() -> None:  # B-S4
    bench = Bench(room=1000, models_max=2)
    for model in "abcd":
        bench.ask(model, 1, serve=0.1)
        bench.run(5)
    assert bench.spawns == ["a", "b", "c", "d"]
    assert bench.stops == ["a", "b"]


def test_no_limit_and_no_checks_let_everything_run() -> None:  # B-S4
    bench = Bench(room=1, checked=False)
    requests = [bench.ask(f"m{i}", 500) for i in range(40)]
    bench.run(5)
    assert all(request.granted for request in requests)
    assert bench.stops == []


def test_several_victims_go_in_one_step_and_no_more_than_needed() -> None:  # B-S5
    bench = Bench(room=12)
    for model in "abcd":
        bench.ask(model, 3, serve=0.1)
        bench.run(5)
    big = bench.ask("big", 6)
    bench.run(0.1)
    assert bench.stops == ["a", "b"]
    bench.run(5)
    assert big.granted
    assert bench.stops == ["a", "b"]


def test_only_on_the_device_where_room_is_needed() -> None:  # B-S5
    bench = Bench(gpus=[9, 19])
    for model, need in [("small", 9), ("large", 19)]:
        bench.ask(model, need, serve=0.1)
        bench.run(5)
    assert bench.ask("other", 15).waits
    bench.run(5)
    assert bench.stops == ["large"]


def test_the_least_recently_finished_goes_not_the_first_started() -> None:  # B-S10
    bench = Bench(room=10)
    long = bench.ask("a", serve=100)
    bench.run(2)
    bench.ask("b", serve=1)
    bench.run(150)
    assert long.ended
    bench.ask("c")
    bench.run(5)
    assert bench.stops == ["b"]


def test_a_model_nobody_used_yet_counts_from_when_it_was_ready() -> None:  # B-S10
    bench = Bench(room=10)
    bench.ask("a", serve=1)
    bench.run(3)
    unused = bench.ask("b")
    bench.run(0.5)
    bench.leave(unused)
    bench.run(3)
    assert bench.loaded == {"a", "b"}
    bench.ask("c")
    bench.run(3)
    assert bench.stops == ["a"]


def test_a_pinned_model_is_never_evicted() -> None:  # B-S10
    bench = Bench(room=9, drain_grace=0, queue_timeout=30)
    pinned = bench.ask("a", pinned=True, ttl=1)
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(10)
    bench.end(pinned)
    bench.run(50)
    assert waiter.refused is Refusal.QUEUE_TIMEOUT
    assert bench.stops == []
    bench.unload("a")  # but whoever says so can
    bench.run(2)
    assert bench.stops == ["a"]


def test_an_idle_model_ends_after_its_time_to_live() -> None:  # B-S10
    bench = Bench()
    request = bench.ask("a", ttl=20)
    bench.run(100)
    assert bench.stops == []  # it is in use
    bench.end(request)
    bench.run(19)
    assert bench.stops == []
    bench.ask("a", serve=5, ttl=20)
    bench.run(24)
    assert bench.stops == []
    bench.run(2)
    assert bench.stops == ["a"]
    assert bench.state("a") is State.UNLOADED


def test_a_time_to_live_of_zero_ends_it_with_its_last_request() -> None:  # B-S10
    bench = Bench()
    bench.ask("a", serve=5, ttl=0)
    bench.run(5.9)
    assert bench.stops == []
    bench.run(1)
    assert bench.stops == ["a"]


def test_the_capacity_is_checked_again_at_the_moment_of_the_spawn() -> None:  # B-S11
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(5)
    waiter = bench.ask("b")
    bench.run(0.1)
    assert bench.stops == ["a"]  # decided, when there was nobody else
    bench.others[RAM] = 5
    bench.run(30)
    assert waiter.waits
    assert bench.spawns == ["a"]
    bench.others[RAM] = 4
    bench.run(3)
    assert waiter.granted


def test_memory_taken_while_the_probe_is_out_is_not_given_away() -> None:  # B-S11
    bench = Bench(room=9)
    bench.probe_seconds = lambda: 0.2
    waiter = bench.ask("a")
    bench.others[RAM] = 5
    bench.run(10)
    assert waiter.waits
    assert bench.spawns == []


def test_too_large_is_refused_at_once_and_costs_nothing() -> None:  # B-S12
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(5)
    request = bench.ask("b", 10)
    bench.run(0)
    assert request.refused is Refusal.TOO_LARGE
    assert isinstance(request.answer, Refuse)
    assert "of RAM; this machine has" in request.answer.reason
    assert request.answer.retry_after is None
    assert bench.stops == []


def test_loads_run_in_parallel_on_two_devices_and_one_by_one_on_one() -> None:  # B-S15
    for gpus, at_once, seconds in [([9, 9], 2, 1.5), ([19], 1, 2.5)]:
        bench = Bench(gpus=gpus)
        a, b = bench.ask("a", 8), bench.ask("b", 8)
        bench.run(0.5)
        assert len(bench.processes) == at_once
        bench.run(seconds - 0.5)
        assert a.granted
        assert b.granted


def test_loads_that_do_not_fit_together_are_not_both_begun() -> None:  # B-S15
    bench = Bench(room=9, gpus=[9, 9])
    a, b = bench.ask("a", Demand(split=5, host=6)), bench.ask("b", Demand(split=5, host=6))
    bench.run(1.5)
    assert bench.spawns == ["a"]
    bench.end(a)
    bench.run(5)
    assert b.granted


# Two worlds that do not fit together


def test_two_models_with_room_for_one_are_both_served_in_two_loads() -> None:  # B-S6
    bench = Bench(room=9)
    requests = [bench.ask(model, serve=2) for model in "ababab"]
    bench.run(30)
    assert all(request.ended for request in requests)
    assert bench.spawns == ["a", "b"]


def test_three_models_with_room_for_two_are_all_served() -> None:  # B-S6
    bench = Bench(room=10)
    requests = [bench.ask(model, serve=2) for model in "abcabc"]
    bench.run(30)
    assert all(request.ended for request in requests)
    assert bench.spawns == ["a", "b", "c"]


def test_alternating_requests_are_all_served() -> None:  # B-S6
    bench = Bench(room=9)
    for model in "abab":
        request = bench.ask(model, serve=1)
        bench.run(10)
        assert request.ended
    assert bench.spawns == ["a", "b", "a", "b"]


def test_concurrent_load_does_not_thrash() -> None:  # B-S6 B-S7
    """Three clients for each of two models, each asking again as soon as it was served, for 200 s."""
    bench = Bench(room=9, drain_grace=10)
    clients = {client: bench.ask("ab"[client % 2], serve=1 + client / 10) for client in range(6)}
    served: Counter[str] = Counter()
    end = bench.now + 200
    while bench.step(end):
        for client, request in clients.items():
            if request.ended:
                served[request.ticket.model] += 1
                clients[client] = bench.ask("ab"[client % 2], serve=1 + client / 10)
    assert len(bench.spawns) <= 200 / 10 + 1
    assert min(served.values()) > 100
    loads = bench.spawns
    assert all(one != other for one, other in pairwise(loads))


def test_steady_traffic_cannot_starve_a_waiter() -> None:  # B-S7
    bench = Bench(room=9, drain_grace=10)
    waiter: Request | None = None
    traffic: list[Request] = []
    start = bench.now
    for second in range(40):
        traffic.append(bench.ask("a", serve=1.7))
        if second == 5:
            waiter = bench.ask("b", serve=1)
        bench.run(1)
    assert waiter is not None
    assert waiter.ended
    # Ten seconds of grace, what was running ends, one stop, one load.
    assert 15 <= waiter.answered - start <= 15 + 1.7 + 0.5 + 1 + 0.5
    during = [r for r in traffic if start + 15 < r.asked < waiter.answered]
    assert during
    assert all(r.granted and r.answered > waiter.answered for r in during)
    order = [(r.answered, r.ticket.id) for r in traffic if r.granted]
    assert order == sorted(order)
    assert bench.spawns == ["a", "b", "a"]


def test_a_drain_begins_when_the_grace_ends() -> None:  # B-S7
    bench = Bench(room=9, drain_grace=10, poll=1000)
    bench.ask("a")
    bench.run(2)
    bench.ask("b")
    bench.run(9.9)
    assert bench.ask("a").granted
    bench.run(0.2)
    assert bench.ask("a").waits


def test_without_grace_a_drain_begins_at_once() -> None:  # B-S7
    bench = Bench(room=9, drain_grace=0)
    running = bench.ask("a")
    bench.run(2)
    first = bench.ask("b")
    bench.run(0)
    late = bench.ask("a")
    assert late.waits
    bench.end(running)
    bench.run(2)
    assert first.granted
    bench.end(first)
    bench.run(3)
    assert late.granted


def test_a_waiter_that_leaves_costs_nobody_an_eviction() -> None:  # B-S8
    bench = Bench(room=9)
    bench.probe_seconds = lambda: 0.2
    bench.ask("a", serve=0.1)
    bench.run(5)
    waiter = bench.ask("b")
    bench.leave(waiter)
    bench.run(5)
    assert bench.stops == []
    assert bench.loaded == {"a"}


def test_room_promised_to_one_who_leaves_goes_to_the_next_at_once() -> None:  # B-S8
    bench = Bench(room=12, drain_grace=1000, poll=1000)
    bench.ask("a", 6)
    bench.run(2)
    big, small = bench.ask("big", 12), bench.ask("small", 6)
    bench.run(5)
    assert small.waits
    bench.leave(big)
    bench.run(1)
    assert small.granted


def test_a_drain_ends_when_the_one_who_asked_leaves() -> None:  # B-S8
    bench = Bench(room=9, drain_grace=10)
    bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(11)
    held_up = bench.ask("a")
    assert held_up.waits
    bench.leave(waiter)
    assert held_up.granted
    assert bench.spawns == ["a"]
    bench.run(60)
    assert bench.stops == []


def test_a_drain_goes_on_while_another_one_needs_it() -> None:  # B-S8
    bench = Bench(room=9, drain_grace=10)
    running = bench.ask("a")
    bench.run(2)
    one, other = bench.ask("b"), bench.ask("b")
    bench.run(11)
    bench.leave(one)
    bench.run(1)
    assert bench.ask("a").waits
    bench.end(running)
    bench.run(5)
    assert other.granted


def test_a_drained_model_stays_closed_until_the_others_have_ended_too() -> None:  # B-S7
    bench = Bench(room=10, drain_grace=0)
    a, b = bench.ask("a"), bench.ask("b")
    bench.run(5)
    big = bench.ask("big", 10)
    bench.run(1)
    bench.end(a)
    bench.run(1)
    late = bench.ask("a")
    assert late.waits
    bench.end(b)
    bench.run(5)
    assert big.granted
    assert bench.spawns == ["a", "b", "big"]


def test_an_idle_model_serves_while_a_drain_waits_for_another() -> None:  # B-S7
    bench = Bench(room=10, drain_grace=0)
    bench.ask("idle", serve=0)
    bench.ask("busy")
    bench.run(5)
    bench.ask("big", 10)
    bench.run(1)
    assert bench.ask("busy").waits
    assert bench.ask("idle").granted


# The queue


def test_models_are_served_in_the_order_in_which_they_were_asked_for() -> None:  # B-S9
    bench = Bench(room=9)
    requests = [bench.ask(model, serve=1) for model in "abcdbea"]
    bench.run(60)
    assert all(request.ended for request in requests)
    assert bench.spawns == ["a", "b", "c", "d", "e"]


def test_priorities_come_first() -> None:  # B-S9
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(0.5)
    for model, priority in [("low", -1), ("one", 0), ("two", 0), ("high", 5)]:
        bench.ask(model, serve=1, priority=priority)
    bench.run(60)
    assert bench.spawns == ["a", "high", "one", "two", "low"]


def test_a_small_one_does_not_overtake_into_room_that_was_promised() -> None:  # B-S9
    bench = Bench(room=12, drain_grace=10)
    running = bench.ask("a", 6)
    bench.run(2)
    big = bench.ask("big", 12)
    small = bench.ask("small", 6)
    bench.run(5)
    assert small.waits  # although 6 are free
    bench.end(running)
    bench.run(5)
    assert big.granted
    bench.end(big)
    bench.run(5)
    assert small.granted


def test_a_small_one_goes_ahead_where_that_harms_nobody() -> None:  # B-S9
    bench = Bench(room=12)
    bench.ask("a", 6)
    bench.run(2)
    blocked = bench.ask("big", 8)
    small = bench.ask("small", 4)
    bench.run(2)
    assert blocked.waits
    assert small.granted


def test_when_others_hold_the_memory_it_is_waited_for_without_keeping_anyone_out() -> None:  # B-S9
    bench = Bench(room=12)
    bench.others[RAM] = 6
    big, small = bench.ask("big", 10), bench.ask("small", 5)
    bench.run(3)
    assert big.waits
    assert small.granted
    bench.end(small)
    bench.others[RAM] = 0
    bench.run(3)
    assert big.granted
    assert bench.stops == ["small"]


def test_a_queue_of_none_refuses_at_once_what_would_wait_for_others() -> None:  # B-S9
    bench = Bench(room=9, queue_max=0)
    running = bench.ask("a")
    bench.run(0.5)
    early = bench.ask("b")
    bench.run(0)
    assert early.refused is Refusal.QUEUE_FULL  # another model's load is in the way
    assert isinstance(early.answer, Refuse)
    assert early.answer.retry_after
    bench.run(1)
    assert running.granted  # an own load is no waiting in the queue
    late = bench.ask("b")
    bench.run(0)
    assert late.refused is Refusal.QUEUE_FULL
    bench.unload("a")
    closed = bench.ask("a")
    assert closed.refused is Refusal.QUEUE_FULL
    bench.end(running)
    bench.run(1)
    own = [bench.ask("b") for _ in range(50)]
    bench.run(2)
    assert all(request.granted for request in own)


def test_a_queue_of_none_still_evicts_idle_ones() -> None:  # B-S9
    bench = Bench(room=9, queue_max=0)
    bench.ask("a", serve=0.1)
    bench.run(5)
    request = bench.ask("b")
    bench.run(5)
    assert request.granted


@pytest.mark.parametrize("bound", [1, 3])
def test_the_newest_over_the_bound_are_refused(bound: int) -> None:  # B-S9
    bench = Bench(room=9, queue_max=bound)
    bench.ask("a", serve=5)
    bench.run(2)
    waiters = []
    for model in "bcbdcb":
        waiters.append(bench.ask(model, serve=1))
        bench.run(0)
    assert [request.waits for request in waiters] == [index < bound for index in range(6)]
    assert {request.refused for request in waiters[bound:]} == {Refusal.QUEUE_FULL}
    bench.run(30)
    assert all(request.granted for request in waiters[:bound])


def test_the_bound_counts_those_behind_a_drain_too() -> None:  # B-S9
    bench = Bench(room=9, queue_max=1)
    bench.ask("a", 9)
    bench.run(2)
    waiters = [bench.ask(model, 4) for model in "bcccc"]
    bench.run(1)
    assert [request.waits for request in waiters] == [True, False, False, False, False]


def test_nobody_waits_longer_than_the_bound() -> None:  # B-S9
    bench = Bench(room=9, queue_timeout=30, drain_grace=100, poll=1000)
    bench.ask("a")
    bench.run(2)
    first = bench.ask("b")
    bench.run(20)
    second = bench.ask("b")
    bench.run(20)
    assert first.refused is Refusal.QUEUE_TIMEOUT
    assert first.answered - first.asked == 30
    assert isinstance(first.answer, Refuse)
    assert first.answer.retry_after
    assert second.waits
    bench.run(20)
    assert second.refused is Refusal.QUEUE_TIMEOUT


def test_a_long_load_is_no_waiting_in_the_queue() -> None:
    bench = Bench(queue_timeout=30)
    bench.load_seconds = lambda model: 300
    request = bench.ask("a")
    bench.run(301)
    assert request.granted


def test_a_load_that_is_tried_again_is_no_waiting_in_the_queue() -> None:  # B-S13
    bench = Bench(queue_timeout=30)
    bench.load_seconds = lambda model: 100
    bench.starved["a"] = 1
    request = bench.ask("a")
    bench.run(250)
    assert request.granted


def test_a_download_is_no_waiting_in_the_queue() -> None:
    scheduler = Scheduler(Limits(margins={}, queue_timeout=30))
    assert scheduler.acquire(Ticket(1, "a", Demand(), missing=True), 0.0) == [Fetch("a")]
    assert scheduler.tick(1000.0) == []
    assert scheduler.fetched("a", Demand(host=5), 1000.0) == [Probe({})]
    assert scheduler.tick(1029.0) == []
    assert [type(effect) for effect in scheduler.tick(1030.0)] == [Refuse]


def test_a_wait_without_a_bound() -> None:
    bench = Bench(room=9, queue_timeout=0, drain_grace=10_000)
    bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(3 * Limits().queue_timeout)
    assert waiter.waits


def test_a_queue_longer_than_what_is_planned_at_once_comes_to_its_end() -> None:
    bench = Bench(room=9, drain_grace=1)
    requests = [bench.ask(f"m{i}", serve=0.5) for i in range(3 * Scheduler.LOOKAHEAD)]
    bench.run(300)
    assert all(request.granted for request in requests)
    assert len(bench.spawns) == len(requests)


def test_the_last_of_those_who_are_planned_for_at_once_may_be_refused() -> None:
    bench = Bench(9)
    bench.probe_seconds = lambda: 0.1
    many = Scheduler.LOOKAHEAD
    needs = [*[5] * (many - 1), 50, *[5] * many]
    requests = [bench.ask(f"m{i}", need, serve=0.5) for i, need in enumerate(needs)]
    bench.run(1.0)
    assert [i for i, request in enumerate(requests) if request.refused] == [many - 1]
    bench.run(300.0)
    assert all(request.granted for i, request in enumerate(requests) if i != many - 1)


def test_policy_sees_a_model_as_it_is_now() -> None:
    model = Model("a", State.LOADED, held={RAM: 5}, ready_at=1.0)
    first = model.resident()
    assert first == Resident("a", {RAM: 5}, Phase.IDLE)
    changes: list[tuple[str, object, dict[str, object]]] = [
        ("leases", {1}, {"phase": Phase.BUSY}),
        ("draining", True, {"draining": True}),
        ("held", {RAM: 4}, {"held": {RAM: 4}}),
        ("pinned", True, {"pinned": True}),
        ("finished", 2.0, {"finished": 2.0}),
        ("leases", set(), {"phase": Phase.IDLE}),
        ("state", State.SLEEPING, {"sleeping": True}),
        ("state", State.STOPPING, {"sleeping": False, "phase": Phase.STOPPING}),
        ("ready_at", 0.0, {"half_loaded": True}),
    ]
    expected = first
    for name, value, seen in changes:
        setattr(model, name, value)
        expected = replace(expected, **seen)  # type: ignore[arg-type]
        assert model.resident() == expected
    model.state = State.UNLOADED
    assert model.resident() is None


# Failures


def test_sleep_that_is_told_twice_or_out_of_turn_is_no_news() -> None:
    bench = Bench()
    bench.ask("a", serve=0.1)
    bench.run(0.5)
    run = bench.scheduler.model("a").run
    bench.scheduler.slept("a", run)
    assert bench.state("a") is State.LOADING
    bench.run(2)
    bench.scheduler.woke("a", run)
    assert bench.state("a") is State.LOADED
    for _ in range(2):
        bench.scheduler.slept("a", run)
    assert bench.state("a") is State.SLEEPING


def test_a_load_out_of_memory_is_tried_once_more_when_the_idle_ones_have_gone() -> None:  # B-S13
    bench = Bench(room=9)
    for name in ("a", "b"):
        bench.ask(name, 2, serve=0.1)
    busy = bench.ask("c", 1)
    bench.run(5)
    bench.starved["d"] = 1
    requests = [bench.ask("d", 3) for _ in range(2)]
    bench.run(5)
    assert all(request.granted for request in requests)
    assert bench.spawns[-2:] == ["d", "d"]
    assert sorted(bench.stops) == ["a", "b"]
    assert busy.granted
    assert bench.effects.index(bench.last(Spawn)) > bench.effects.index(bench.last(Stop))


def test_the_second_try_waits_until_the_room_is_free() -> None:  # B-S13
    bench = Bench(room=9)
    bench.stop_seconds = lambda model: 5.0
    bench.ask("a", 2, serve=0.1)
    bench.run(2)
    bench.starved["d"] = 1
    request = bench.ask("d", 3)
    bench.run(3)  # `a` is going; what the books know would do for `d`
    assert bench.spawns == ["a", "d"]
    bench.run(10)
    assert request.granted


def test_a_load_that_runs_out_of_memory_again_has_failed() -> None:  # B-S13
    bench = Bench(room=9)
    bench.starved["d"] = 2
    request = bench.ask("d", 3)
    bench.run(5)
    assert request.refused is Refusal.LOAD_FAILED
    assert isinstance(request.answer, Refuse)
    assert request.answer.reason == "out of memory"
    assert bench.spawns == ["d", "d"]
    bench.starved["d"] = 1
    again = bench.ask("d", 3)  # a new request is tried twice again
    bench.run(5)
    assert again.granted


def test_nothing_is_retried_for_nobody() -> None:  # B-S13 B-S8
    bench = Bench(room=9)
    bench.ask("a", 2, serve=0.1)
    bench.run(2)
    bench.starved["d"] = 1
    bench.leave(bench.ask("d", 3))
    request = bench.ask("d", 3)
    bench.run(0.1)
    bench.leave(request)
    bench.run(5)
    assert bench.spawns == ["a", "d"]
    assert bench.stops == []


def test_a_load_that_is_being_stopped_may_hold_more_than_the_reading_showed() -> None:  # B-S11
    bench = Bench(room=9)
    bench.stop_seconds = lambda model: 5.0
    bench.probe_seconds = lambda: 0.1
    loading = bench.ask("a", 5)
    bench.run(0.2)
    bench.others["here/RAM"] = 2
    wanted = bench.ask("b", 4)  # the reading on its way shows nothing of `a` yet
    bench.unload("a")
    bench.run(2)
    assert loading.refused is Refusal.CANCELLED
    assert wanted.waits
    bench.run(10)
    assert wanted.granted


def test_after_a_crash_the_next_request_loads_again() -> None:  # B-S14
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.crash("a")
    assert bench.state("a") is State.FAILED
    request = bench.ask("a")
    bench.run(2)
    assert request.granted
    assert bench.spawns == ["a", "a"]


def test_all_who_wait_for_a_load_that_fails_are_told_why() -> None:  # B-S14
    bench = Bench()
    bench.broken = {"a"}
    requests = [bench.ask("a") for _ in range(3)]
    bench.run(2)
    assert {request.refused for request in requests} == {Refusal.LOAD_FAILED}
    assert all(isinstance(r.answer, Refuse) and r.answer.reason == "it is broken" for r in requests)


def test_repeated_failures_back_off_and_say_why() -> None:  # B-S14
    bench = Bench(backoff_max=5)
    bench.broken = {"a"}
    pauses: list[float] = []
    for _ in range(6):
        assert bench.ask("a").waits
        bench.run(0.5)  # it fails
        refused = bench.ask("a")
        if not pauses and refused.waits:
            bench.run(0.5)  # the first failure is forgiven: this was a load again
            refused = bench.ask("a")
        assert refused.refused is Refusal.BACKING_OFF
        assert isinstance(refused.answer, Refuse)
        assert "last: it is broken" in refused.answer.reason
        assert refused.answer.retry_after is not None
        pauses.append(refused.answer.retry_after)
        bench.run(refused.answer.retry_after)
    assert pauses == [1, 2, 4, 5, 5, 5]


def test_no_number_of_failures_breaks_the_books() -> None:
    bench = Bench(backoff_max=1)
    bench.broken = {"a"}
    for _ in range(1100):
        bench.ask("a")
        bench.run(2)
    assert bench.scheduler.model("a").failures == 1100


def test_a_crash_long_after_the_load_is_a_first_one() -> None:  # B-S14
    bench = Bench()
    for _ in range(4):
        request = bench.ask("a")
        bench.run(2)
        assert request.granted
        bench.run(Scheduler.STEADY)
        bench.crash("a")


def test_crashes_soon_after_the_load_back_off() -> None:  # B-S14
    bench = Bench()
    for _ in range(2):
        bench.ask("a")
        bench.run(2)
        bench.crash("a")
    assert bench.ask("a").refused is Refusal.BACKING_OFF
    bench.run(1)
    assert bench.ask("a").waits


def test_who_waits_for_a_drained_model_that_keeps_crashing_is_told() -> None:  # B-S14
    bench = Bench(room=9, drain_grace=0)
    bench.ask("a")
    bench.run(2)
    bench.crash("a")
    bench.ask("a")
    bench.run(2)
    other = bench.ask("b")
    bench.run(0)
    waiter = bench.ask("a")
    assert waiter.waits
    bench.crash("a")
    assert waiter.refused is Refusal.BACKING_OFF
    bench.run(2)
    assert other.granted


def test_an_unload_forgives_the_failures() -> None:  # B-S14
    bench = Bench()
    bench.broken = {"a"}
    for _ in range(2):
        bench.ask("a")
        bench.run(1)
    assert bench.ask("a").refused is Refusal.BACKING_OFF
    bench.broken = set()
    bench.unload("a")
    request = bench.ask("a")
    bench.run(2)
    assert request.granted


def test_a_load_that_was_called_off_forgives_nothing() -> None:  # B-S14
    bench = Bench(finish_loads=False)
    bench.broken = {"a"}
    bench.ask("a")
    bench.run(1)
    left = bench.ask("a")
    bench.run(0.1)
    bench.leave(left)
    bench.run(5)
    assert bench.stops == ["a"]
    bench.ask("a")
    bench.run(0.6)
    assert bench.ask("a").refused is Refusal.BACKING_OFF


def test_an_orderly_stop_after_service_forgets_the_failures() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.crash("a")
    bench.ask("a", serve=1, ttl=1)
    bench.run(10)
    assert bench.stops == ["a"]
    assert bench.scheduler.model("a").failures == 0


# Clients that leave during a load


def missing(*names: str, **limits: Any) -> Bench:
    bench = Bench(**limits)
    bench.missing |= set(names)
    return bench


def test_what_is_missing_is_fetched_before_it_is_started() -> None:  # B-H3
    bench = missing("a", room=9)
    bench.ask("b", 9, serve=1)
    bench.run(2.5)
    requests = [bench.ask("a", 9, serve=1) for _ in range(10)]
    bench.run(2)
    assert (bench.state("a"), bench.state("b")) == (State.DOWNLOADING, State.LOADED), "a download needs no room"
    bench.run(10)
    assert all(request.granted for request in requests)
    assert [effect for effect in bench.effects if isinstance(effect, Fetch)] == [Fetch("a")]


def test_as_many_downloads_as_may_be_at_once() -> None:
    bench = missing(*"abc", downloads_max=2)
    for name in "abc":
        bench.ask(name, 1, serve=1)
    assert (set(bench.downloads), set(bench.scheduler.queued())) == ({"a", "b"}, {"c"})
    assert bench.scheduler.is_fetching("c")
    bench.run(3)
    assert (set(bench.downloads), set(bench.scheduler.queued())) == ({"c"}, set())
    bench.run(10)
    assert sorted(bench.grants) == ["a", "b", "c"]


def test_who_waits_for_the_downloads_of_others_waits_in_the_queue() -> None:  # B-S9
    bench = missing(*"abc", downloads_max=1, queue_max=1, queue_timeout=30)
    bench.download_seconds = lambda model: 100
    first, second, third = (bench.ask(name) for name in "abc")
    assert third.refused is Refusal.QUEUE_FULL
    bench.run(31)
    assert (first.waits, second.refused) == (True, Refusal.QUEUE_TIMEOUT)
    bench.run(75)
    assert first.granted
    assert bench.downloads.keys() == {"b"}, "what was begun to be wanted is fetched"


def test_what_nobody_waits_for_is_not_fetched_if_so_set() -> None:  # B-S16
    bench = missing(*"abc", downloads_max=1, queue_timeout=10, finish_loads=False)
    bench.download_seconds = lambda model: 100
    under_way, left, late = (bench.ask(name) for name in "abc")
    bench.leave(left)
    bench.run(11)
    assert (under_way.waits, late.refused) == (True, Refusal.QUEUE_TIMEOUT)
    bench.leave(under_way)
    assert (bench.state("a"), bench.downloads) == (State.UNLOADED, {})
    assert not any(bench.scheduler.is_fetching(name) for name in "abc")


def test_what_was_pulled_is_fetched_whoever_leaves() -> None:
    bench = missing("a", finish_loads=False)
    bench.pull("a")
    bench.leave(bench.ask("a"))
    bench.run(5)
    assert (bench.state("a"), bench.spawns) == (State.UNLOADED, [])


def test_an_unload_ends_a_download_and_one_that_has_not_begun() -> None:  # B-L10
    bench = missing(*"ab", downloads_max=1)
    requests = [bench.ask(name) for name in "ab"]
    for name in "ba":
        bench.unload(name)
    assert [request.refused for request in requests] == [Refusal.CANCELLED] * 2
    assert [effect for effect in bench.effects if isinstance(effect, Fetch | Abort)] == [Fetch("a"), Abort("a")]
    bench.run(5)
    assert not any(bench.scheduler.is_fetching(name) for name in "ab")


def test_a_download_that_fails_is_told_to_all_and_tried_again() -> None:  # B-S14
    bench = missing("a")
    bench.unreachable = {"a"}
    requests = [bench.ask("a") for _ in range(3)]
    bench.run(4)
    assert [request.refused for request in requests] == [Refusal.FETCH_FAILED] * 3
    assert requests[0].answer == Refuse(1, "a", Refusal.FETCH_FAILED, "there is no hub", 7.0)
    assert bench.state("a") is State.FAILED
    second = bench.ask("a")
    bench.run(3)
    assert second.refused is Refusal.FETCH_FAILED
    third = bench.ask("a")
    assert third.refused is Refusal.BACKING_OFF
    bench.unreachable = set()
    bench.pull("a")
    fourth = bench.ask("a", serve=1)
    bench.run(10)
    assert fourth.granted


def test_who_waits_gets_the_other_model_that_a_name_means_now() -> None:
    bench = missing("a")
    request = bench.ask("a")
    bench.run(1)
    bench.lose("a", Demand(host=3))  # the preset names another repository
    assert [effect for effect in bench.effects if isinstance(effect, Fetch | Abort)] == [
        Fetch("a"),
        Abort("a"),
        Fetch("a"),
    ]
    bench.missing.clear()  # now one that is here
    bench.amend("a", Demand(host=4))
    bench.run(3)
    assert request.granted
    assert bench.scheduler.model("a").held == {RAM: 4}


@pytest.mark.parametrize("state", State)
def test_news_of_a_download_that_is_no_more(state: State) -> None:
    scheduler = Scheduler(Limits(margins={}))
    scheduler.acquire(Ticket(1, "a", Demand(), missing=True), 0.0)
    scheduler.unload("a", 0.0)
    scheduler.model("a").state = state
    if state is not State.DOWNLOADING:
        assert scheduler.fetched("a", Demand(), 1.0) == []
        assert scheduler.fetch_failed("a", "late", 1.0) == []
        assert scheduler.model("a").state is state


@pytest.mark.parametrize("state", State)
def test_what_a_pull_does_in_each_state(state: State) -> None:
    scheduler = Scheduler(Limits(margins={}))
    scheduler.acquire(Ticket(1, "a", Demand()), 0.0)
    scheduler.model("a").state = state
    begins = state in (State.UNLOADED, State.FAILED)
    assert [effect for effect in scheduler.fetch("a", 1.0) if isinstance(effect, Fetch)] == [Fetch("a")] * begins
    assert scheduler.is_fetching("a")


def test_a_load_that_others_wait_for_goes_on() -> None:  # B-S16
    for finish_loads in (True, False):
        bench = Bench(finish_loads=finish_loads)
        one, other = bench.ask("a"), bench.ask("a")
        bench.run(0.5)
        bench.leave(one)
        bench.run(1)
        assert other.granted
        assert bench.stops == []


def test_a_load_with_no_waiter_left_goes_on() -> None:  # B-S16
    bench = Bench()
    request = bench.ask("a")
    bench.run(0.5)
    bench.leave(request)
    bench.run(1)
    assert bench.loaded == {"a"}
    assert bench.scheduler.is_idle()


def test_a_load_with_no_waiter_left_is_stopped_if_so_set() -> None:  # B-S16
    bench = Bench(finish_loads=False)
    request = bench.ask("a")
    bench.run(0.5)
    bench.leave(request)
    assert bench.stops == ["a"]
    again = bench.ask("a")  # comes too late to save it, and is served by the next
    bench.run(5)
    assert again.granted
    assert bench.spawns == ["a", "a"]


# Unload


def test_an_unload_cancels_a_load_and_those_who_waited_for_it() -> None:  # B-L10
    bench = Bench()
    before = [bench.ask("a"), bench.ask("a")]
    bench.run(0.5)
    bench.unload("a")
    after = bench.ask("a")
    assert {request.refused for request in before} == {Refusal.CANCELLED}
    assert bench.stops == ["a"]
    bench.run(5)
    assert after.granted
    assert bench.spawns == ["a", "a"]


def test_an_unload_cancels_what_is_queued() -> None:  # B-L10
    bench = Bench(room=9)
    bench.ask("a")
    bench.run(2)
    queued = bench.ask("b")
    bench.run(1)
    bench.unload("b")
    assert queued.refused is Refusal.CANCELLED
    bench.run(60)
    assert bench.spawns == ["a"]
    assert bench.stops == []


def test_an_unload_waits_for_running_requests_and_lets_nobody_in() -> None:  # B-L10
    bench = Bench()
    running = bench.ask("a")
    bench.run(2)
    bench.unload("a")
    late = bench.ask("a")
    bench.run(20)
    assert late.waits
    assert bench.stops == []
    bench.end(running)
    assert bench.stops == ["a"]
    bench.run(5)
    assert late.granted
    assert bench.spawns == ["a", "a"]


def test_a_forced_unload_does_not_wait() -> None:
    bench = Bench()
    running = bench.ask("a")
    bench.run(2)
    bench.unload("a", force=True)
    assert bench.stops == ["a"]
    bench.run(1)
    assert bench.state("a") is State.UNLOADED
    bench.end(running)
    assert bench.scheduler.is_idle()


def test_an_unload_may_be_made_forcible() -> None:
    bench = Bench()
    running = bench.ask("a")
    bench.run(2)
    bench.unload("a")
    bench.unload("a", force=True)
    bench.end(running)
    assert bench.stops == ["a"]
    bench.unload("a", force=True)  # while it stops: nothing more to do
    bench.run(1)
    bench.unload("a")  # nor now
    bench.unload("never heard of")
    assert bench.stops == ["a"]


def test_a_crash_settles_an_unload() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.unload("a")
    waiter = bench.ask("a")
    bench.crash("a")
    bench.run(2)
    assert waiter.granted
    assert bench.ask("a").granted
    bench.end(waiter)
    assert bench.stops == []


def test_a_storm_of_unloads_and_loads_keeps_to_one_process() -> None:  # B-L9
    bench = Bench()
    for step in range(60):
        bench.ask("a")
        bench.run(0.35)
        bench.unload("a", force=step % 2 == 0)  # the bench would see a second process
    request = bench.ask("a")
    bench.run(5)
    assert request.granted


def test_an_unload_frees_room_for_those_who_wait() -> None:
    bench = Bench(room=9, drain_grace=1000)
    bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(5)
    bench.unload("a", force=True)
    bench.run(3)
    assert waiter.granted


# Settings


@pytest.mark.parametrize(
    ("seconds", "busy", "before", "after", "spawns"),
    [
        (0.5, False, State.LOADING, State.STOPPING, 2),
        (2.0, False, State.LOADED, State.STOPPING, 2),
        (2.0, True, State.LOADED, State.LOADED, 2),
    ],
)
def test_who_waits_gets_the_next_process_of_a_model_that_is_renewed(
    seconds: float, busy: bool, before: State, after: State, spawns: int
) -> None:  # B-L9
    bench = Bench()
    first = bench.ask("a", serve=None if busy else 0.1)
    bench.run(seconds)
    assert bench.state("a") is before
    bench.renew("a")
    assert bench.state("a") is after
    late = bench.ask("a")
    assert late.waits
    bench.renew("a")  # once more is no more
    if busy:
        bench.end(first)
    bench.run(5)
    assert (first.granted, late.granted, len(bench.spawns)) == (True, True, spawns)


def test_a_sleeper_is_renewed_and_what_has_no_process_has_nothing_to_renew() -> None:
    bench = Bench()
    bench.ask("a", serve=0.1)
    bench.run(2)
    bench.sleep("a")
    bench.renew("a")
    assert bench.state("a") is State.STOPPING
    bench.renew("a")
    bench.run(2)
    for name in ("a", "never heard of"):
        bench.renew(name)
        bench.keep(name)
    assert (bench.stops, bench.state("a")) == (["a"], State.UNLOADED)


def test_what_is_kept_serves_who_waited_and_what_is_unloaded_is_not_kept() -> None:  # B-L8
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.renew("a")
    waiter = bench.ask("a")
    bench.keep("a")
    assert waiter.granted
    bench.unload("a")
    bench.renew("a")
    bench.keep("a")
    assert bench.ask("a").waits


def test_a_load_that_waits_in_vain_leaves_the_process_to_those_behind_it() -> None:  # B-L8 B-S9
    bench = Bench(queue_timeout=10)
    bench.ask("a", 5)
    bench.run(2)
    trial = bench.attempt("a", 6, 5)
    bench.run(5)
    late = bench.ask("a", 6)
    bench.run(6)
    assert (trial.refused, late.granted, bench.spawns) == (Refusal.QUEUE_TIMEOUT, True, ["a"])


@pytest.mark.parametrize(("starved", "spawns"), [(0, 2), (1, 2), (2, 3)])
def test_a_trial_that_fails_is_nobody_elses_failure(starved: int, spawns: int) -> None:  # B-L8 B-S13
    bench = Bench()
    bench.starved["a"] = starved
    if not starved:
        bench.broken.add("a")
    trial = bench.attempt("a", 6, 5)
    other = bench.ask("a", 6)
    bench.run(0.1)
    bench.broken.clear()  # for the next process
    bench.run(5)
    assert (trial.refused, other.granted) == ((None, True) if starved == 1 else (Refusal.LOAD_FAILED, True))
    assert len(bench.spawns) == spawns
    assert bench.scheduler.model("a").failures == 0
    assert other.ticket.demand == Demand(host=6 if starved == 1 else 5)


# News


def test_news_of_a_process_that_is_gone_is_ignored() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(0.5)
    bench.unload("a")
    old = bench.processes["a"].spawn.run
    bench.run(0.5)
    assert bench.state("a") is State.UNLOADED
    request = bench.ask("a")
    bench.run(0)
    assert bench.processes["a"].spawn.run > old
    scheduler, now = bench.scheduler, bench.now
    for effects in (scheduler.ready("a", old, now), scheduler.exited("a", old, "late", now)):
        assert effects == []
    scheduler.slept("a", old)
    scheduler.woke("a", old)
    assert bench.state("a") is State.LOADING
    bench.run(5)
    assert request.granted


def test_news_that_crosses_the_end_of_its_process_is_ignored() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(0.5)
    bench.crash("a")
    assert bench.scheduler.ready("a", 1, bench.now) == []
    bench.scheduler.slept("a", 1)
    bench.scheduler.woke("a", 1)
    assert bench.state("a") is State.FAILED


def test_a_sleeper_is_served_and_keeps_its_memory_in_the_books() -> None:
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(3)
    bench.sleep("a")
    assert bench.state("a") is State.SLEEPING
    assert bench.scheduler.model("a").held == {RAM: 5}
    bench.others[RAM] = 2
    waiter = bench.ask("b", 3)
    bench.run(0)
    assert bench.stops == ["a"]  # it goes, rather than being robbed of what it will want back
    bench.run(3)
    assert waiter.granted
    bench.end(waiter)
    again = bench.ask("a", serve=1)
    bench.run(5)
    bench.sleep("a")
    assert again.ended
    assert bench.ask("a").granted
    bench.run(1)
    assert bench.state("a") is State.LOADED


# Probes


def probes(bench: Bench) -> list[Mapping[str, int]]:
    return [effect.expected for effect in bench.effects if isinstance(effect, Probe)]


def test_the_probe_after_an_exit_tells_what_should_come_back() -> None:  # B-D6
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(5)
    bench.ask("b")
    bench.run(5)
    assert probes(bench) == [{}, {}, {RAM: 10}]
    bench.ask("c", 4)
    assert probes(bench)[-1] == {}  # it was waited for


def test_several_exits_are_expected_together() -> None:  # B-D6
    bench = Bench(room=90)
    for model in "ab":
        bench.ask(model, 40, serve=1)
        bench.run(5)
    bench.reclaim_seconds = lambda: 1.0
    bench.ask("c", 90)
    bench.run(0.5)
    # The first answer may be there before the end of the second is told; an estimate may be a tenth too high.
    assert probes(bench)[-2:] == [{RAM: 11 + 36}, {RAM: 11 + 36 + 36}]


def test_what_others_take_meanwhile_is_not_expected() -> None:  # B-D6
    bench = Bench(room=90)
    bench.ask("a", 40, serve=1)
    bench.run(5)
    bench.ask("b", 20, serve=1)
    bench.run(5)
    bench.unload("a")  # nobody looked at the machine since b was loaded
    bench.ask("c", 60)
    bench.run(5)
    assert probes(bench)[-1] == {RAM: 91 - 40 - 20 + 36}


def test_a_load_that_ends_gives_back_what_it_took() -> None:  # B-D6
    bench = Bench(room=90)
    bench.broken.add("a")
    bench.ask("a", 40)
    bench.run(0.5)
    bench.ask("b", 60)
    bench.run(5)
    assert probes(bench)[-1] == {RAM: 91}


def test_what_was_measured_is_expected_back() -> None:  # B-D6 B-D7
    bench = Bench(room=90)
    bench.takes_less = lambda: True
    bench.ask("a", 40, serve=1)
    bench.run(5)
    bench.ask("b", 80)
    bench.run(5)
    assert probes(bench)[-1] == {RAM: 91 - 36 + 33}


def test_what_others_were_measured_to_take_is_not_expected() -> None:  # B-D6 B-D7
    bench = Bench(room=90)
    bench.takes_less = lambda: True
    for model in "ab":
        bench.ask(model, 40)
        bench.run(5)
    bench.crash("a")  # nobody looked at the machine since b was loaded
    bench.ask("a", 40)
    assert probes(bench)[-1] == {RAM: 91 - 36 + 33 - 36}


def test_an_exit_of_long_ago_is_not_waited_for() -> None:  # B-D6
    bench = Bench(room=9)
    bench.ask("a", serve=1, ttl=1)
    bench.run(10)
    assert bench.stops == ["a"]
    bench.run(Scheduler.SETTLE_WINDOW)
    bench.ask("b")
    assert probes(bench) == [{}, {}]


def test_a_reading_from_before_an_exit_is_not_decided_upon() -> None:  # B-S11
    bench = Bench(room=9)
    a = bench.ask("a", 4)
    bench.run(2)
    bench.probe_seconds = lambda: 0.2
    b = bench.ask("b", 9)
    bench.crash("a")
    bench.run(0.2)
    assert probes(bench)[-2:] == [{}, {RAM: 10}]
    assert bench.spawns == ["a"]
    bench.run(5)
    assert a.granted
    assert b.granted


def test_a_reading_from_before_a_wake_up_is_not_decided_upon() -> None:  # B-S11
    bench = Bench(room=9)
    bench.ask("a", serve=0)
    bench.run(2)
    bench.sleep("a")
    bench.others[RAM] = 4
    bench.ask("a")
    bench.probe_seconds = lambda: 1.0
    waiter = bench.ask("b", 2)  # the bench wakes "a" while the probe is out
    bench.run(5)
    assert waiter.waits


def test_memory_that_comes_back_late_is_waited_for() -> None:
    bench = Bench(room=9)
    bench.reclaim_seconds = lambda: 3.0
    bench.ask("a", serve=1)
    bench.run(5)
    waiter = bench.ask("b")
    bench.run(3)
    assert bench.spawns == ["a"]
    bench.run(3)
    assert waiter.granted


def test_one_probe_at_a_time() -> None:
    bench = Bench(room=9)
    bench.probe_seconds = lambda: 0.2
    for model in "abcdef":
        bench.ask(model, 1)
    assert probes(bench) == [{}]
    bench.run(0.2)
    assert bench.spawns == ["a"]


def test_nothing_is_due_where_nothing_waits() -> None:
    bench = Bench()
    assert bench.scheduler.wakeup() is None
    bench.ask("a", serve=1)
    bench.run(5)
    assert bench.scheduler.wakeup() is None
    assert bench.scheduler.is_idle()


# A long walk


SHAPES: dict[str, dict[str, object]] = {
    "cpu": {"room": 30},
    "cpu, three at most, short queue": {"room": 60, "models_max": 3, "queue_max": 5, "finish_loads": False},
    "one gpu": {"room": 40, "gpus": [24], "drain_grace": 0},
    "two unequal gpus": {
        "room": 40,
        "gpus": [12, 24],
        "models_max": 5,
        "finish_loads": False,
        "queue_timeout": 0,
        "downloads_max": 1,
    },
    "four unequal gpus": {"room": 60, "gpus": [8, 12, 16, 24], "drain_grace": 2, "queue_timeout": 20},
    "eight unequal gpus": {"room": 40, "gpus": [2, 3, 4, 5, 6, 8, 10, 12], "models_max": 8},
    "nothing checked": {"room": 30, "checked": False, "models_max": 2, "queue_max": 0},
}


class Walk:
    """Clients, operators, other programs and bad luck, at random."""

    def __init__(self, shape: str, seed: int) -> None:
        self.random = random = Random(f"{shape} {seed}")
        self.bench = bench = Bench(**SHAPES[shape])  # type: ignore[arg-type]
        self.models = bench.needs
        for name in "abcdefghij":
            self.models[name] = self.demand()
        self.pinned = random.choice(["", "a", "ab"])
        self.open: list[Request] = []
        bench.load_seconds = lambda model: random.expovariate(1)
        bench.stop_seconds = lambda model: random.choice([0.0, 0.1, 2.0])
        bench.reclaim_seconds = lambda: random.choice([0.0, 0.0, 0.3, 5.0])
        bench.download_seconds = lambda model: random.choice([0.0, random.expovariate(0.3)])
        bench.probe_seconds = lambda: random.choice([0.0, 0.0, 0.05, 2.0])
        bench.measure_seconds = lambda: random.choice([0.0, 0.1, 3.0])
        bench.takes_less = lambda: random.random() < 0.5
        self.luck = {
            self.ask: 40,
            self.leave: 8,
            self.end: 30,
            self.unload: 2,
            self.attempt: 4,
            self.renew: 1,
            self.lose: 1,
            self.pull: 1,
            self.crash: 1,
            self.sleep: 4,
            self.others: 2,
            self.breakage: 1,
        }
        self.pace = 0.2

    def demand(self) -> Demand:
        random = self.random
        need = random.choice([1, 3, 6, 10, 10, 15, 20, 35, 70])
        fixed, host = random.choice([0, 1, 3]), random.choice([0, 0, 1, 5])
        names = random.choice([(), (), (), ("GPU0",), ("GPU1", "GPU0")])
        cpu = len(self.bench.devices) == 1 or random.random() < 0.1
        return Demand(host=need) if cpu else Demand(need, fixed, host, names)

    def act(self) -> None:
        [what] = self.random.choices(list(self.luck), list(self.luck.values()))
        what()
        # Rush and quiet take turns.
        if self.random.random() < 0.01:
            self.pace = self.random.choice([0.02, 0.2, 1.0, 4.0])
        self.bench.after(self.random.expovariate(1 / self.pace), self.act)

    def ask(self) -> None:
        random = self.random
        # Some models are asked for more often than others.
        name = list(self.models)[min(random.randrange(10), random.randrange(10))]
        trial = self.bench.trials.get(name)
        self.open.append(
            self.bench.ask(
                name,
                trial.request.ticket.demand if trial else self.models[name],
                serve=random.choice([None, 0.0, random.expovariate(0.5)]),
                priority=random.choice([0, 0, 0, 1, -1]),
                pinned=name in self.pinned,
                ttl=random.choice([None, None, 0.0, 3.0]),
            )
        )

    def leave(self) -> None:
        if waiting := [request for request in self.open if request.waits]:
            self.bench.leave(self.random.choice(waiting))

    def end(self) -> None:
        self.open = [r for r in self.open if r.waits or (r.granted and not r.ended)]
        if running := [request for request in self.open if request.granted]:
            self.bench.end(self.random.choice(running))

    def unload(self) -> None:
        self.bench.unload(self.random.choice(list(self.models)), force=self.random.random() < 0.3)

    def attempt(self) -> None:
        """A load with settings; loads of one model take their turns, and what does not fit is not tried."""
        name, demand = self.random.choice(list(self.models)), self.demand()
        if name not in self.bench.trials and self.fits(demand):
            self.bench.attempt(name, demand, self.models[name] if self.random.random() < 0.8 else None)

    def renew(self) -> None:
        """A new catalog: what is tried is abandoned, and all who wait get the new model."""
        name = self.random.choice([*self.models, *self.bench.trials])
        if name in self.bench.trials:
            self.bench.abandon(name)
        self.models[name] = self.demand()
        self.bench.amend(name, self.models[name])
        self.bench.renew(name)

    def lose(self) -> None:
        """As `renew`, but the new model is not here."""
        name = self.random.choice(list(self.models))
        if name in self.bench.trials:
            self.bench.abandon(name)
        self.models[name] = self.demand()
        self.bench.lose(name, self.models[name])

    def pull(self) -> None:
        if self.bench.missing:
            self.bench.pull(self.random.choice(sorted(self.bench.missing)))

    def crash(self) -> None:
        if self.bench.processes:
            self.bench.crash(self.random.choice(list(self.bench.processes)))

    def sleep(self) -> None:
        for name in sorted(self.bench.loaded):
            if not self.bench.leases[name] and not self.bench.processes[name].asleep:
                self.bench.sleep(name)
                return

    def others(self) -> None:
        device = self.random.choice(self.bench.devices)
        self.bench.others[device.key] = self.random.choice([0, 0, 0, self.random.randrange(device.total)])

    def breakage(self) -> None:
        self.bench.broken = {name for name in self.models if self.random.random() < 0.1}
        self.bench.unreachable = {name for name in self.models if self.random.random() < 0.2}
        self.bench.starved.update(name for name in self.models if self.random.random() < 0.02)

    def fits(self, demand: Demand) -> bool:
        """On the empty machine."""
        if not self.bench.scheduler.limits.margins:
            return any(not demand.names or d.name in demand.names for d in self.bench.devices[:-1]) or not demand.split
        *gpus, ram = self.bench.devices
        spare = [g.total - 1 - demand.fixed for g in gpus if not demand.names or g.name in demand.names]
        spare = [room for room in spare if room >= 0]
        on_gpus = not demand.split and not demand.fixed
        on_gpus = on_gpus or any(
            sum(some) >= demand.split for n in range(len(spare)) for some in combinations(spare, n + 1)
        )
        return on_gpus and ram.total - 1 >= demand.host

    def quiesce(self) -> None:
        """Nobody asks any more, all goes well: in the end each has its answer, and each model that fits can be had."""
        bench, self.luck = self.bench, {lambda: None: 1}
        self.pace = 1e9
        bench.others.clear()
        bench.broken, bench.unreachable = set(), set()
        bench.starved.clear()
        bench.scheduler.limits = replace(bench.scheduler.limits, queue_max=1000, queue_timeout=0)
        for request in list(self.open):
            if request.granted:
                bench.end(request)
            elif request.waits:
                request.serve = 0.1
        bench.run(60 + bench.scheduler.limits.backoff_max)  # the last failures happen, and are waited out
        last = [bench.ask(name, need, serve=0.5, priority=5) for name, need in self.models.items() for _ in "12"]
        bench.run(1000)
        assert bench.scheduler.is_idle()
        assert (bench.scheduler._queue, bench.scheduler._missing) == ({}, {})
        for request in last:
            expected = None if self.fits(request.ticket.demand) else Refusal.TOO_LARGE
            assert request.refused is expected, request


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_long_walk(shape: str) -> None:
    met: Counter[object] = Counter()
    for seed in range(5):
        walk = Walk(shape, seed)
        walk.act()
        while walk.bench.events < 10_000:
            walk.bench.step(float("inf"))
        walk.quiesce()
        met.update(type(effect) for effect in walk.bench.effects)
        answers = [request.answer for request in walk.bench.requests.values()]
        met.update(answer.refusal for answer in answers if isinstance(answer, Refuse))
        for request in walk.bench.requests.values():
            assert request.left or request.answer is not None
            if request.refused is Refusal.TOO_LARGE:
                assert not walk.fits(request.ticket.demand)  # B-S12
    # The walk went through what it is there for.
    assert min(met[kind] for kind in (Probe, Spawn, Stop, Grant)) > 900
    assert min(met[kind] for kind in (Fetch, Abort, Refusal.FETCH_FAILED)) > 10
    assert min(met[refusal] for refusal in (Refusal.LOAD_FAILED, Refusal.BACKING_OFF, Refusal.CANCELLED)) > 10
