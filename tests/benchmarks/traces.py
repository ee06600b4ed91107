"""(g) Who is evicted, on traces of requests: bytes loaded and time waited, in simulated time.

The real scheduler and policy decide; a machine that is only arithmetic does what they say. Other orders of victims are
the same scheduler, with what it takes for the time of a model's last use replaced by a rank: the lowest goes first.
`by count` has a limit of processes instead of memory: the largest that can never overflow it. `Ollama` ends what was
idle for five minutes and evicts by name. `clairvoyant` evicts what is asked for again last; like every order it loads
whole models on demand, and it is no bound. The bound is that of Berger, Beckmann and Harchol-Balter ("Practical Bounds
on Optimal Caching with Variable Object Sizes", 2018), PFOO-L: the pauses between two requests for a model compete for
memory times length, the shortest first, and however the rest would have to be divided. No order that answers requests
as they come can load fewer bytes; one that makes requests wait, and answers those for one model together, can.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from statistics import mean

from router.scheduling.effects import Effect, Grant, Probe, Refuse, Spawn, Stop
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.scheduler import Scheduler
from router.scheduling.snapshot import Snapshot
from router.scheduling.waiting_line import Ticket
from tests.benchmarks.report import Row

GB = 10**9
DEVICE = Device("here", "CUDA0", "gpu", 96 * GB)
BANDWIDTH = 2 * GB  # bytes a second that a load reads
FIXED_TIME = 1.0  # seconds of a load besides
STOP_TIME = 0.2
MODELS = 40
REQUESTS = 1500
SEEDS = (1, 2)


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    model: str
    service: float


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    sizes: Mapping[str, int]
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Bytes loaded, and seconds from arrival to answer for each request that was answered."""

    loaded: int
    waits: tuple[float, ...]
    refused: int


def measure(requests: int = REQUESTS, seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    for make in (zipf, sessions, agents):
        traces = [make(Random(seed), requests) for seed in seeds]
        name = traces[0].name
        found = {order: [simulate(trace, order) for trace in traces] for order in ORDERS}
        total = {order: mean(outcome.loaded for outcome in outcomes) / GB for order, outcomes in found.items()}
        total["bound"] = mean(bound(trace) for trace in traces) / GB
        yield Row("traces", name, "loaded", "GB", total)
        waits = {order: [wait for outcome in outcomes for wait in outcome.waits] for order, outcomes in found.items()}
        yield Row("traces", name, "mean wait", "s", {order: mean(every) for order, every in waits.items()})
        tails = {order: sorted(every)[int(0.95 * len(every))] for order, every in waits.items()}
        yield Row("traces", name, "wait p95", "s", tails)
        refused = {order: mean(outcome.refused for outcome in outcomes) for order, outcomes in found.items()}
        yield Row("traces", name, "refused", "1", refused)


# Traces

Maker = Callable[[Random, int], Trace]


def _sizes(random: Random) -> dict[str, int]:
    """Log-normal around 8 GB: most between 2 and 30, none larger than the machine."""
    return {
        f"model-{n:02}": int(min(80.0, max(0.3, random.lognormvariate(math.log(8), 0.9))) * GB) for n in range(MODELS)
    }


def _popularity(random: Random, names: Sequence[str]) -> tuple[list[str], list[float]]:
    """Zipf with exponent 1."""
    ranked = random.sample(names, len(names))
    return ranked, [1 / (rank + 1) for rank in range(len(ranked))]


def zipf(random: Random, count: int) -> Trace:
    """Requests one by one; every few hundred, other models are the popular ones."""
    sizes = _sizes(random)
    requests: list[Request] = []
    now = 0.0
    for number in range(count):
        if number % 400 == 0:
            names, weights = _popularity(random, sorted(sizes))
        now += random.expovariate(1 / 15)
        requests.append(Request(now, random.choices(names, weights)[0], random.expovariate(1 / 5)))
    return Trace("Zipf, shifting", sizes, tuple(requests))


def sessions(random: Random, count: int) -> Trace:
    """People who stay with one model for some questions, with pauses to read and think."""
    sizes = _sizes(random)
    names, weights = _popularity(random, sorted(sizes))
    requests: list[Request] = []
    begin = 0.0
    while len(requests) < count:
        begin += random.expovariate(1 / 150)
        now, model = begin, random.choices(names, weights)[0]
        for _ in range(min(40, 1 + int(random.expovariate(1 / 10)))):
            requests.append(Request(now, model, random.expovariate(1 / 8)))
            now += 10 + random.expovariate(1 / 45)
    return Trace("sessions", sizes, tuple(sorted(requests, key=lambda r: r.at)))


def agents(random: Random, count: int) -> Trace:
    """Each agent goes round its own two or three models, quickly, for a while; then another agent begins."""
    sizes = _sizes(random)
    requests: list[Request] = []
    begin = 0.0
    while len(requests) < count:
        begin += random.expovariate(1 / 400)
        now, team = begin, random.sample(sorted(sizes), random.choice((2, 3)))
        for turn in range(random.randint(20, 60)):
            requests.append(Request(now, team[turn % len(team)], random.expovariate(1 / 3)))
            now += 3 + random.expovariate(1 / 5)
    return Trace("agents", sizes, tuple(sorted(requests, key=lambda r: r.at)))


# Orders of victims


class History:
    """What the orders may look at; `clock` is the age that a model is given when it is used."""

    def __init__(self, trace: Trace) -> None:
        self.sizes = trace.sizes
        self.started: dict[str, float] = {}
        self.finished: dict[str, float] = {}
        self.uses: Counter[str] = Counter()
        self.heat: defaultdict[str, float] = defaultdict(float)
        self.clock = 0.0
        self.credit: dict[str, float] = {}
        self.coming: dict[str, list[float]] = defaultdict(list)
        for request in reversed(trace.requests):
            self.coming[request.model].append(request.at)

    def arrived(self, request: Request) -> None:
        self.coming[request.model].pop()

    def used(self, model: str, now: float) -> None:
        idle = now - self.started.get(model, now)
        self.heat[model] = 1 + self.heat[model] * 0.5 ** (idle / HALF_LIFE)
        self.started[model] = now
        self.uses[model] += 1
        self.credit[model] = self.clock + self.uses[model] * load_time(self.sizes[model]) / (self.sizes[model] / GB)

    def ended(self, model: str, now: float) -> None:
        self.finished[model] = now

    def evicted(self, model: str) -> None:
        self.clock = max(self.clock, self.credit.get(model, 0.0))
        self.uses[model] = 0  # as GreedyDual-Size-Frequency forgets what it does not hold


HALF_LIFE = 600.0  # seconds


def load_time(size: int) -> float:
    return FIXED_TIME + size / BANDWIDTH


def _heat(history: History, model: str, now: float) -> float:
    """Uses, each counting half as much after the half-life, by what a byte of it costs to load."""
    idle = now - history.started.get(model, now)
    weight: float = 0.5 ** (idle / HALF_LIFE)
    return history.heat[model] * weight * load_time(history.sizes[model]) / history.sizes[model]


Rank = Callable[[History, str, float], float]


@dataclass(frozen=True, slots=True)
class Order:
    """`rank` None leaves the router's own; `ttl` in seconds ends idle models."""

    rank: Rank | None = None
    by_count: bool = False
    ttl: float | None = None


ORDERS: Mapping[str, Order] = {
    "llama-router": Order(),
    "LRU by count": Order(by_count=True),
    "llama.cpp": Order(lambda history, model, now: history.started.get(model, 0.0), by_count=True),
    "Ollama": Order(lambda history, model, now: 0.0, ttl=300.0),
    "GDSF": Order(lambda history, model, now: history.credit.get(model, 0.0)),
    "decayed use": Order(_heat),
    "size x age": Order(lambda h, model, now: -load_time(h.sizes[model]) * (now - h.finished.get(model, now))),
    "clairvoyant": Order(lambda history, model, now: -(history.coming[model] or [math.inf])[-1]),
}


class Ranked(Scheduler):
    """The scheduler with another order of victims."""

    def __init__(self, limits: Limits, rank: Rank | None, history: History) -> None:
        super().__init__(limits)
        self._rank, self._history, self.time = rank, history, 0.0

    def snapshot(self, readings: tuple[Reading, ...]) -> Snapshot:
        seen = super().snapshot(readings)
        if self._rank is None:
            return seen
        rank = {r.model: self._rank(self._history, r.model, self.time) for r in seen.residents}
        residents = tuple(replace(r, finished=rank[r.model]) for r in seen.residents)
        return replace(seen, residents=residents)


# The machine


class Simulation:
    def __init__(self, trace: Trace, order: Order) -> None:
        self._trace, self._order = trace, order
        self._history = History(trace)
        # Where only the count is limited, so many of the largest fit together; margin 0 checks no memory.
        room, count = DEVICE.total, 0
        for size in sorted(trace.sizes.values(), reverse=True):
            room -= size
            count += room >= 0
            if room < 0:
                break
        limits = Limits(
            models_max=count if order.by_count else 0,
            margins={} if order.by_count else {DEVICE.key: 1},
            queue_max=10**6,
            queue_timeout=3600.0,
            drain_grace=10.0,
        )
        self._scheduler = Ranked(limits, order.rank, self._history)
        self._events: list[tuple[float, int, Callable[[float], list[Effect]]]] = []
        self._serial = 0
        self._held: dict[str, int] = {}
        self._requests: dict[int, Request] = {}
        self._wakeup = math.inf
        self._disk = 0.0
        self._loaded = 0
        self._waits: list[float] = []
        self._refused = 0

    def run(self) -> Outcome:
        for number, request in enumerate(self._trace.requests):
            self._requests[number] = request
            self._at(request.at, partial(self._arrive, number))
        while self._events:
            now, _, event = heapq.heappop(self._events)
            self._scheduler.time = now
            self._perform(event(now), now)
            self._plan_wakeup(now)
        return Outcome(self._loaded, tuple(self._waits), self._refused)

    def _at(self, when: float, event: Callable[[float], list[Effect]]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (when, self._serial, event))

    def _plan_wakeup(self, now: float) -> None:
        when = self._scheduler.wakeup()
        if when is not None and not now < self._wakeup <= when:
            self._wakeup = max(when, now + 0.001)
            self._at(self._wakeup, self._scheduler.tick)

    def _arrive(self, number: int, now: float) -> list[Effect]:
        request = self._requests[number]
        self._history.arrived(request)
        demand = Demand(split=self._trace.sizes[request.model])
        return self._scheduler.acquire(Ticket(number, request.model, demand, ttl=self._order.ttl), now)

    def _perform(self, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Probe():
                    free = DEVICE.total - sum(self._held.values())
                    self._at(now, partial(self._scheduler.probed, (Reading(DEVICE, free),)))
                case Spawn(model, run):
                    size = self._held[model] = self._trace.sizes[model]
                    self._loaded += size
                    self._disk = max(now, self._disk) + size / BANDWIDTH  # which loads at the same time share
                    ready = self._disk + FIXED_TIME
                    self._at(ready, partial(self._scheduler.ready, model, run))
                case Stop(model):
                    self._history.evicted(model)
                    self._at(now + STOP_TIME, partial(self._exit, model, self._scheduler.model(model).run))
                case Grant(ticket, model):
                    request = self._requests[ticket]
                    self._history.used(model, now)
                    self._waits.append(now - request.at)
                    self._at(now + request.service, partial(self._release, ticket, model))
                case Refuse():
                    self._refused += 1

    def _exit(self, model: str, run: int, now: float) -> list[Effect]:
        del self._held[model]
        return self._scheduler.exited(model, run, "stopped", now)

    def _release(self, ticket: int, model: str, now: float) -> list[Effect]:
        self._history.ended(model, now)
        return self._scheduler.release(ticket, now)


def simulate(trace: Trace, order: str) -> Outcome:
    return Simulation(trace, ORDERS[order]).run()


def bound(trace: Trace) -> float:
    """Bytes; see PFOO-L above. Memory times length is counted in requests between two uses."""
    last: dict[str, int] = {}
    pauses: list[tuple[int, int]] = []
    for number, request in enumerate(trace.requests):
        if request.model in last:
            pauses.append((number - last[request.model], trace.sizes[request.model]))
        last[request.model] = number
    left = float(DEVICE.total * len(trace.requests))
    loaded = float(sum(trace.sizes[model] for model in last))
    for length, size in sorted(pauses):
        kept = min(1.0, left / (length * size))
        left -= kept * length * size
        loaded += (1 - kept) * size
    return loaded
