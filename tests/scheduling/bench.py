"""A rig for the scheduler: plays the pool, the machine, clients and operators on a clock of its own."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from router.scheduling.causes import Cause
from router.scheduling.effects import Abort, Effect, Fetch, Grant, Probe, Refuse, Spawn, Stop
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.scheduler import Scheduler
from router.scheduling.states import SERVING, State
from router.scheduling.timing import LAST_CALL_S
from router.scheduling.waiting_line import Ticket
from tests.scheduling.records import PendingLoad, Process, Request

RAM = "here/RAM"


class Bench:
    """Plays the pool and the machine: a clock, children that take time to load and to end, memory that comes back late,
    other programs. After every event it compares the scheduler's books with its own. Example::

    bench = Bench(room=9)
    request = bench.ask("a", 5)
    bench.run(2)  # seconds of the rig's clock
    request.granted  # True

    `room` is what may be used of a device. The device has one byte more: the margin.
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
        self.load_steps: Callable[[], int] = lambda: 2  # in which a load takes its memory
        self.reclaim_steps: Callable[[], int] = lambda: 1  # in which it comes back, over `reclaim_seconds`
        self.lost: set[str] = set()  # keys of GPUs that cannot be read
        self.on_probed: Callable[[Sequence[Effect]], None] = lambda effects: None  # before they are performed
        self.takes_less: Callable[[], bool] = lambda: False  # than the estimate, by a tenth
        self.broken: set[str] = set()  # these models end while they load
        self.starved: Counter[str] = Counter()  # how many loads of a model run out of memory
        self.download_seconds: Callable[[str], float] = lambda model: 3.0
        self.missing: set[str] = set()  # models without files
        self.unreachable: set[str] = set()  # models whose downloads fail
        self.downloads: dict[str, object] = {}  # under way
        self.others: Counter[str] = Counter()  # bytes that other programs hold, by device key
        self.shrunk_at: dict[str, float] = {}  # when other programs last gave memory back, by device key
        self.lingering: Counter[str] = Counter()  # freed by a process, not yet by the driver, by device key
        self.lingering_when_read = self.lingering
        self.requests: dict[int, Request] = {}
        self.leases: defaultdict[str, set[int]] = defaultdict(set)
        self.waiting: Counter[str] = Counter()
        self.processes: dict[str, Process] = {}
        self.pending_loads: dict[str, PendingLoad] = {}
        self.needs: dict[str, Demand] = {}  # of the settings that loaded last
        self.effects: list[Effect] = []
        self.events = 0
        self._ids = count(1)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._allowed_stop: tuple[str, bool] | None = None  # the model being unloaded, and whether by force
        self._closed: dict[str, float] = {}  # since when a model that serves takes no new work
        self._depth = 0  # of effects that have effects

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
        **more: Any,
    ) -> Request:
        """`serve` is how long the request runs once granted; None: until `end`."""
        if isinstance(need, int):
            need = Demand(split=need) if len(self.devices) > 1 else Demand(host=need)
        missing = model in self.missing
        ticket = Ticket(next(self._ids), model, need, priority, pinned, ttl, missing=missing, **more)
        return self._ask(Request(ticket, self.now, serve))

    def _ask(self, request: Request) -> Request:
        self.requests[request.ticket.id] = request
        self.waiting[request.ticket.model] += 1
        self._perform(self.scheduler.acquire(request.ticket, self.now))
        return request

    def load_with_settings(self, model: str, need: int | Demand, before: int | Demand | None, **more: Any) -> Request:
        """Load the model with settings that make it need this much instead."""
        needs = [Demand(host=amount) if isinstance(amount, int) else amount for amount in (need, before)]
        assert needs[0] is not None
        missing = model in self.missing
        request = Request(Ticket(next(self._ids), model, needs[0], missing=missing, **more), self.now, 0.0)
        self.pending_loads[model] = PendingLoad(request, needs[1], self.processes.get(model))
        self.set_demand(model, needs[0])
        if not missing:  # else its download serves as well
            self.renew(model)
        return self._ask(request)

    def discard_pending_load(self, model: str) -> None:
        """The model is another one now: its pending load does not matter any more."""
        pending = self.pending_loads.pop(model)
        self.leave(pending.request)

    def renew(self, model: str) -> None:
        self._allowed_stop = model, False
        self._perform(self.scheduler.renew(model, self.now))
        self._allowed_stop = None

    def pin(self, model: str, pinned: bool) -> None:
        self._perform(self.scheduler.pin(model, pinned, self.now))

    def cancel_renew(self, model: str) -> None:
        self._perform(self.scheduler.cancel_renew(model, self.now))

    def set_demand(self, model: str, need: Demand) -> None:
        for request in self.requests.values():
            if request.waits and request.ticket.model == model:
                request.ticket = replace(request.ticket, demand=need)
        self._perform(self.scheduler.set_demand(model, need, self.now, missing=model in self.missing))

    def lose_files(self, model: str, need: Demand) -> None:
        """The model's files are gone, and it needs this much now."""
        self.missing.add(model)
        self.set_demand(model, need)
        self.renew(model)

    def pull(self, model: str) -> None:
        self._perform(self.scheduler.fetch(model, self.now))

    def leave(self, request: Request) -> None:
        assert request.waits
        request.left = True
        self.waiting[request.ticket.model] -= 1
        self._perform(self.scheduler.cancel(request.ticket.id, self.now))

    def end(self, request: Request) -> None:
        assert request.granted
        if request.ended:
            return
        request.ended = True
        self.leases[request.ticket.model].discard(request.ticket.id)
        self._perform(self.scheduler.release(request.ticket.id, self.now))

    def unload(self, model: str, *, force: bool = False) -> None:
        self._allowed_stop = model, force
        self._perform(self.scheduler.unload(model, self.now, force=force))
        self._allowed_stop = None

    # What happens by itself

    def crash(self, model: str) -> None:
        self._exit(self.processes[model], "it crashed")

    def hang(self, model: str) -> None:
        """The process shows no life, and requests run on it."""
        run = self.processes[model].spawn.run
        self._perform(self.scheduler.hung(model, run, 30.0, self.now))

    def sleep(self, model: str) -> None:
        process = self.processes[model]
        process.shown, process.asleep = 0.0, True
        self.scheduler.slept(model, process.spawn.run)
        self._perform([])

    def wake(self, process: Process) -> None:
        if self.processes.get(process.spawn.model) is process and not process.stopping:
            process.shown = 1.0
        self.scheduler.woke(process.spawn.model, process.spawn.run)
        self._perform([])

    # The clock

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), what))

    def step(self, until: float) -> bool:
        """Let the next thing happen; False if nothing happens before `until`."""
        wakeup = self.scheduler.wakeup()
        due = self._agenda[0][0] if self._agenda else None
        if wakeup is not None and (due is None or wakeup < due):
            if wakeup > until:
                return False
            self.now = max(self.now, wakeup)
            self._perform(self.scheduler.tick(self.now))
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
    def is_idle(self) -> bool:
        """No ticket waits and no lease is out."""
        return not self.scheduler._line.by_ticket and not self.scheduler._books.leased

    @property
    def loaded(self) -> set[str]:
        return {model.name for model in self.scheduler.models() if model.state is State.LOADED}

    def state(self, model: str) -> State:
        return self.scheduler.model(model).state

    def free(self, device: Device) -> int:
        shown = sum(process.shows(device.key) for process in self.processes.values())
        return device.total - self.others[device.key] - self.lingering[device.key] - shown

    # Playing the effects

    def _perform(self, effects: list[Effect]) -> None:
        self.events += 1
        self._depth += 1
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
        self._depth -= 1
        if not self._depth:
            self.check()

    def _probe(self, expected: Mapping[str, int]) -> None:
        for device in self.devices:  # B-D6
            if device.key in expected:
                shown = sum(process.shows(device.key) for process in self.processes.values())
                assert expected[device.key] <= device.total - shown, "it will never be free"
        # The reading is as old as it can be: from the moment of the Probe. What other programs hold is up to date: no
        # scheduler can foresee what they take meanwhile.
        readings = tuple(Reading(d, self.free(d) + self.others[d.key]) for d in self.devices)
        self.lingering_when_read = Counter(self.lingering)

        def answer() -> None:
            known = tuple(
                Reading(r.device, None, "it fell off the bus")
                if r.device.key in self.lost
                else Reading(r.device, (r.free or 0) - self.others[r.device.key])
                for r in readings
            )
            is_planned_upon = not self.scheduler._levels.reading_outdated
            effects = self.scheduler.probed(known, self.now)
            if is_planned_upon:
                self.on_probed(effects)
            self._perform(effects)

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
            self._perform(self.scheduler.fetch_failed(model, "there is no hub", self.now, retry_after=7.0))
            return
        self.missing.discard(model)
        waiting = [r.ticket.demand for r in self.requests.values() if r.waits and r.ticket.model == model]
        need = [*waiting[:1], self.needs.get(model, Demand())][0]
        self._perform(self.scheduler.fetched(model, need, self.now))

    def _spawn(self, spawn: Spawn) -> None:
        assert spawn.model not in self.processes, "two processes of one model"  # B-L9
        assert spawn.model not in self.missing
        held = spawn.allocation.held
        takes = {key: count - count // 10 for key, count in held.items()} if self.takes_less() else held
        process = self.processes[spawn.model] = Process(spawn, held, takes)
        process.pending = self.pending_loads.get(spawn.model)
        for device in self.devices:  # B-S11
            if self.scheduler.limits.margins and spawn.allocation.held.get(device.key):
                theirs = self.others[device.key] + self.lingering[device.key]
                ours = [
                    p.shows(device.key) if p.stopping else p.takes.get(device.key, 0) for p in self.processes.values()
                ]
                assert sum(ours) + theirs + 1 <= device.total, "the machine is full"
        seconds = self.load_seconds(spawn.model)
        steps = self.load_steps()
        for step in range(1, steps):
            self.after(seconds * step / steps, partial(self._grow, process, step / steps))
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
        """The report comes even if the process was stopped or has ended meanwhile."""
        self._grow(process, 1.0)
        process.ready, process.ready_at = True, self.now
        self._perform(self.scheduler.ready(process.spawn.model, process.spawn.run, self.now))
        self.after(self.measure_seconds(), lambda: self._measure(process))

    def _measure(self, process: Process) -> None:
        if not process.stopping:
            process.held = process.takes
        self._perform(self.scheduler.measured(process.spawn.model, process.spawn.run, process.takes, self.now))

    def _stop(self, stop: Stop) -> None:
        process = self.processes[stop.model]
        assert process.spawn.run == self.scheduler.model(stop.model).run
        asked, force = self._allowed_stop or ("", False)
        if stop.model != asked:
            assert process.ready or not self.scheduler.limits.finish_loads, "a load was stopped"  # B-S3
            assert process.ready or not self.waiting[stop.model]
        if self.leases[stop.model] and not stop.at_once and (stop.model != asked or not force):
            self._check_cut(stop)
        self._check_explanation(stop)
        if stop.why.cause.is_eviction:
            self._check_age(stop, process)
        if stop.why.cause is Cause.PRESSURE:  # B-D9
            model = self.scheduler.model(stop.model)
            assert process.ready, "a load was stopped"
            assert not self.leases[stop.model], "a busy model was stopped"
            assert not model.pinned
            assert self.now >= process.ready_at + model.min_loaded - 1e-9, "a young model ended"
        for ticket in [*self.leases[stop.model]]:  # those that run on it are cut
            self.after(0.0, partial(self.end, self.requests[ticket]))
        process.stopping = True
        self.after(self.stop_seconds(stop.model), lambda: self._exit(process, "stopped"))

    def _check_explanation(self, stop: Stop) -> None:
        """An eviction names a model that waits, and what it misses; or it was wanted by the number of models alone."""
        why = stop.why
        assert (why.cause is Cause.MEMORY) == bool(why.cause.is_eviction and why.shortage.missing), why
        if why.cause.is_eviction:
            assert any(request.waits and request.ticket.model == why.model for request in self.requests.values())
        if why.cause is Cause.COUNT:
            assert self.scheduler.limits.models_max, why

    def _check_cut(self, stop: Stop) -> None:
        """Requests are cut only when the model was closed for long enough, and never for those in the background."""
        timeout = self.scheduler.limits.drain_timeout
        assert timeout, "a busy model was stopped"  # B-S3
        assert self.now >= self._closed[stop.model] + timeout - 1e-9, "cut too early"  # B-S19
        if any(not self.requests[ticket].ticket.background for ticket in self.leases[stop.model]):
            waiting = [r for r in self.requests.values() if r.waits and not r.ticket.background]
            assert any(self.now >= r.asked + timeout - 1e-9 for r in waiting), "cut for nobody"

    def _check_age(self, stop: Stop, process: Process) -> None:
        """A young model goes only for a request whose wait is nearly over."""
        stays, timeout = self.scheduler.model(stop.model).min_loaded, self.scheduler.limits.queue_timeout
        if process.ready and self.now < process.ready_at + stays - 1e-9:  # B-S22
            waiting = [r for r in self.requests.values() if r.waits and r.ticket.model == stop.why.model]
            latest = timeout - min(LAST_CALL_S, timeout / 2)
            assert timeout
            assert any(self.now >= r.asked + latest - 1e-9 for r in waiting), "a young model was evicted"

    def _exit(self, process: Process, reason: str) -> None:
        if self.processes.get(process.spawn.model) is not process:
            return
        del self.processes[process.spawn.model]
        freed = Counter({key: process.shows(key) for key in process.held})
        self.lingering += freed
        seconds, steps = self.reclaim_seconds(), self.reclaim_steps()
        for step in range(1, steps + 1):
            part = {key: held * step // steps - held * (step - 1) // steps for key, held in freed.items()}
            if seconds:
                self.after(seconds * step / steps, partial(self.lingering.subtract, part))
            else:
                self.lingering.subtract(part)
        self.leases[process.spawn.model].clear()
        starved = reason == "out of memory"
        name, run = process.spawn.model, process.spawn.run
        pending = process.pending if process.pending and process.pending is self.pending_loads.get(name) else None
        tried = pending if pending and pending.before else None
        was, failures, waiting = self.state(name), self.scheduler.model(name).failures, self.waiting[name]
        ticket = tried.request.ticket.id if tried else None
        effects = self.scheduler.exited(name, run, reason, self.now, out_of_memory=starved, pending_ticket=ticket)
        if tried and was is State.LOADING:
            assert self.scheduler.model(name).failures == failures  # B-L8
            assert [e.ticket for e in effects if isinstance(e, Refuse)] in ([], [ticket])
            assert waiting - self.scheduler.waiting(name) <= 1
        self._perform(effects)

    def _answer(self, answer: Grant | Refuse) -> None:
        request = self.requests[answer.ticket]
        assert request.waits, "answered twice, or after it left"  # B-S2
        assert request.ticket.model == answer.model
        request.answer, request.answered = answer, self.now
        self.waiting[answer.model] -= 1
        pending = self.pending_loads.get(answer.model)
        if pending and pending.request is request:
            self._settle(pending, answer)
        if isinstance(answer, Refuse):
            return
        process = self.processes[answer.model]
        assert process.ready
        assert not process.stopping
        assert process.spawn.run == self.scheduler.model(answer.model).run
        self.leases[answer.model].add(answer.ticket)
        if process.asleep:
            process.asleep = False
            self.after(0.1, lambda: self.wake(process))
        if request.serve is not None:
            self.after(request.serve, lambda: self.end(request))

    def _settle(self, pending: PendingLoad, answer: Grant | Refuse) -> None:
        del self.pending_loads[answer.model]
        if isinstance(answer, Grant):
            assert self.processes[answer.model].pending is pending, "not what was asked for serves"
            self.needs[answer.model] = pending.request.ticket.demand
            return
        if pending.before:
            self.set_demand(answer.model, pending.before)
        if self.processes.get(answer.model) is pending.process:
            self.cancel_renew(answer.model)
        if not pending.before and self.scheduler.waiting(answer.model):
            self.unload(answer.model)

    def check(self) -> None:
        """What holds after every event."""
        limits, models = self.scheduler.limits, list(self.scheduler.models())
        alive = {model.name: model for model in models if model.resident()}
        assert alive.keys() == self.processes.keys()
        running = [model for model in alive.values() if model.state is not State.STOPPING]
        assert not limits.models_max or len(running) <= limits.models_max  # B-S4
        ends = limits.models_max if limits.margins else 0  # beside those that run
        assert not limits.models_max or len(alive) <= limits.models_max + ends  # B-S21
        for model in models:
            if model.is_open or model.state not in SERVING:
                self._closed.pop(model.name, None)
            else:
                self._closed.setdefault(model.name, self.now)
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
        assert startable or not any(model.draining for model in models), "a drain without a reason"  # B-S8
        self._check_order()

    def _check_order(self) -> None:
        """What the scheduler keeps up to date, compared with what it would find by searching."""
        scheduler, line = self.scheduler, self.scheduler._line
        entries = [*line.by_arrival.values()]
        assert line.by_turn == sorted(entries, key=lambda entry: entry.computed_rank() or ())
        assert [entry.rank for entry in entries] == [entry.computed_rank() for entry in entries]
        assert entries == sorted(entries, key=lambda entry: entry.began)
        assert line.by_ticket.keys() == {ticket for entry in entries for ticket in entry.tickets}
        assert scheduler._books.alive == {model.name: model for model in scheduler.models() if model.resident()}
        assert scheduler.planning.draining >= {model.name for model in scheduler.models() if model.draining}
        starts = [entry.waiting_since for entry in entries if entry.waits_for_room]
        assert line.longest_wait() == min(starts, default=None)
