"""(d) The scheduler with many models, devices and waiting tickets: the time of one event, and its growth.

It is CPU time: nothing in an event waits, and what else the machine does is no matter.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import mean, quantiles

from router.scheduling.effects import Effect, Grant, Probe, Refuse, Spawn, Stop
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.scheduler import Scheduler
from router.scheduling.waiting_line import Ticket
from tests.benchmarks.report import OURS, Row, Target

GIB = 2**30
MODELS, DEVICES, TICKETS = 1000, 64, 10_000
SCALES = (0.5, 1.0, 2.0)


def measure(seconds: float, scales: tuple[float, ...] = SCALES, size: float = 1.0) -> Iterator[Row]:
    """`size` is for a smaller machine than the one that counts."""
    means = {}
    for scale in scales:
        factor = scale * size
        machine = Machine(int(MODELS * factor), max(1, int(DEVICES * factor)), int(TICKETS * factor))
        machine.run(seconds)
        case = f"{machine.models} models, {machine.devices} GPUs, {int(TICKETS * factor)} tickets"
        for event, times in machine.times.items():
            yield Row("scheduler", case, f"{event}: mean", "us", {OURS: 1e6 * mean(times)})
        every = [took for times in machine.times.values() for took in times]
        means[scale] = mean(every)
        yield Row("scheduler", case, "all events: p99", "us", {OURS: 1e6 * quantiles(every, n=100)[-1]})
        targets = (Target("below 200 us", means[scale] < 200e-6),) if scale == 1 else ()
        yield Row("scheduler", case, "all events: mean", "us", {OURS: 1e6 * means[scale]}, targets)
    for small, large in pairwise(scales):
        growth = means[large] / means[small]
        target = Target("no worse than linear", growth <= large / small)
        yield Row("scheduler", f"{small}x to {large}x", "growth of the mean", "x", {OURS: growth}, (target,))


@dataclass(slots=True)
class Load:
    """A process that has been started: its run and what it holds."""

    run: int
    held: dict[str, int]


class Machine:
    """GPUs full of busy models, every other model in the queue; then whatever happens, at random, event by event."""

    def __init__(self, models: int, devices: int, tickets: int) -> None:
        self.models, self.devices = models, devices
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self._random = Random(1)
        self._gpus = [Device("here", f"CUDA{n}", "gpu", 48 * GIB, n) for n in range(devices)]
        margins = {device.key: GIB for device in self._gpus}
        self._scheduler = Scheduler(Limits(0, margins, queue_max=10 * tickets, queue_timeout=1e9))
        self._demands = [Demand(split=self._random.randint(4, 40) * GIB, fixed=GIB // 2) for _ in range(models)]
        self._now = 0.0
        self._ticket = 0
        self._processes: dict[str, Load] = {}
        self._leases: list[int] = []
        self._waiting: list[int] = []
        self._models_of: dict[int, str] = {}
        self._loading: list[str] = []
        self._stopping: list[str] = []
        self._probing = False
        while len(self._waiting) < tickets:
            self._acquire()
        while self._probing or self._loading:  # until it is full
            self._probed() if self._probing else self._ready()
        self.times.clear()

    def run(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self._now += 0.01
            if self._probing:
                self._probed()
            elif self._stopping:
                self._exited()
            elif self._loading:
                self._ready()
            else:
                self._random.choice((self._acquire, self._acquire, self._release, self._cancel, self._tick))()

    def _timed(self, event: str, began: float, effects: list[Effect]) -> None:
        self.times[event].append(time.thread_time() - began)
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._leases.append(ticket)
                    self._models_of.pop(ticket, None)
                case Refuse(ticket):
                    self._models_of.pop(ticket, None)
                case Spawn(model, run, allocation):
                    self._processes[model] = Load(run, dict(allocation.held))
                    self._loading.append(model)
                case Stop(model):
                    self._stopping.append(model)
                    self._loading = [name for name in self._loading if name != model]
                case Probe():
                    self._probing = True

    def _acquire(self) -> None:
        number = self._random.randrange(self.models)
        self._ticket += 1
        ticket = Ticket(self._ticket, f"model-{number}", self._demands[number])
        self._models_of[ticket.id] = ticket.model
        self._waiting.append(ticket.id)
        began = time.thread_time()
        self._timed("acquire", began, self._scheduler.acquire(ticket, self._now))

    def _release(self) -> None:
        if self._leases:
            ticket = self._leases.pop(self._random.randrange(len(self._leases)))
            began = time.thread_time()
            self._timed("release", began, self._scheduler.release(ticket, self._now))

    def _cancel(self) -> None:
        while self._waiting:
            ticket = self._waiting.pop(self._random.randrange(len(self._waiting)))
            if self._models_of.pop(ticket, None):
                began = time.thread_time()
                self._timed("cancel", began, self._scheduler.cancel(ticket, self._now))
                return

    def _tick(self) -> None:
        began = time.thread_time()
        self._timed("tick", began, self._scheduler.tick(self._now))
        began = time.thread_time()
        self._scheduler.wakeup()
        self.times["wakeup"].append(time.thread_time() - began)

    def _probed(self) -> None:
        self._probing = False
        free = {device.key: device.total for device in self._gpus}
        for process in self._processes.values():
            for key, count in process.held.items():
                free[key] -= count
        readings = tuple(Reading(device, free[device.key]) for device in self._gpus)
        began = time.thread_time()
        self._timed("probed", began, self._scheduler.probed(readings, self._now))

    def _ready(self) -> None:
        name = self._loading.pop(0)
        began = time.thread_time()
        self._timed("ready", began, self._scheduler.ready(name, self._processes[name].run, self._now))

    def _exited(self) -> None:
        name = self._stopping.pop(0)
        run = self._processes.pop(name).run
        began = time.thread_time()
        self._timed("exited", began, self._scheduler.exited(name, run, "stopped", self._now))
