"""Clients, operators, other programs and bad luck at random; the rig checks the rules after every event."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from random import Random

import pytest

from router.scheduling.causes import Cause
from router.scheduling.effects import Abort, Fetch, Grant, Probe, Refusal, Refuse, Spawn, Stop
from router.scheduling.reasons import Kind
from router.scheduling.resources import Demand
from tests.scheduling.bench import Bench
from tests.scheduling.records import Request
from tests.scheduling.truth import Judge

GIB = 1 << 30

SHAPES: dict[str, dict[str, object]] = {
    "cpu": {"room": 30},
    "cpu, three at most, short queue": {"room": 60, "models_max": 3, "queue_max": 5, "finish_loads": False},
    "one gpu": {"room": 40, "gpus": [24], "drain_grace": 0, "drain_timeout": 1.5},
    "two unequal gpus": {
        "room": 40,
        "gpus": [12, 24],
        "models_max": 5,
        "finish_loads": False,
        "queue_timeout": 0,
        "downloads_max": 1,
    },
    "four unequal gpus": {
        "room": 60,
        "gpus": [8, 12, 16, 24],
        "drain_grace": 2,
        "queue_timeout": 20,
        "drain_timeout": 8,
    },
    "eight unequal gpus": {"room": 40, "gpus": [2, 3, 4, 5, 6, 8, 10, 12], "models_max": 8},
    "cpu, under pressure": {"room": 30, "pressure_poll": 3.0, "stops_for_others": True},
    "one gpu, prompt caches in gibibytes": {"room": 40, "gpus": [24], "unit": GIB, "pressure_poll": 3.0},
    "nothing checked": {"room": 30, "checked": False, "models_max": 2, "queue_max": 0},
}


class Walk:
    """Clients, operators, other programs and bad luck, at random. A shape is in bytes, or in another `unit`: a prompt
    cache is promised in mebibytes."""

    def __init__(self, shape: str, seed: int) -> None:
        self.random = random = Random(f"{shape} {seed}")
        sizes = {**SHAPES[shape]}
        self.unit: int = sizes.pop("unit", 1)  # type: ignore[assignment]
        sizes["room"] = sizes["room"] * self.unit  # type: ignore[operator]
        sizes["gpus"] = [size * self.unit for size in sizes.get("gpus", ())]  # type: ignore[attr-defined]
        self.bench = bench = Bench(**sizes)  # type: ignore[arg-type]
        self.models = bench.needs
        for name in "abcdefghij":
            self.models[name] = self.demand()
        self.pinned = random.choice(["", "a", "ab"])
        self.stays = {name: random.choice([0.0, 0.0, 2.0, 30.0]) for name in self.models}
        self.open: list[Request] = []
        bench.load_seconds = lambda model: random.expovariate(1)
        bench.stop_seconds = lambda model: random.choice([0.0, 0.1, 2.0])
        bench.reclaim_seconds = lambda: random.choice([0.0, 0.0, 0.3, 5.0])
        bench.reclaim_steps = lambda: random.choice([1, 1, 2, 4])
        bench.load_steps = lambda: random.choice([1, 2, 2, 5, 20])
        self.judge = Judge(bench)
        bench.download_seconds = lambda model: random.choice([0.0, random.expovariate(0.3)])
        bench.probe_seconds = lambda: random.choice([0.0, 0.0, 0.05, 2.0])
        bench.measure_seconds = lambda: random.choice([0.0, 0.1, 3.0])
        bench.takes_less = lambda: random.random() < 0.5
        self.luck = {
            self.ask: 40,
            self.leave: 8,
            self.end: 30,
            self.unload: 2,
            self.load_with_settings: 4,
            self.renew: 1,
            self.lose_files: 1,
            self.pull: 1,
            self.crash: 1,
            self.hang: 1,
            self.sleep: 4,
            self.others: 2,
            self.lose: 1,
            self.breakage: 1,
        }
        self.pace = 0.2
        self.seen: Counter[Kind] = Counter()

    def demand(self) -> Demand:
        random = self.random
        need = random.choice([1, 3, 6, 10, 10, 15, 20, 35, 70])
        fixed, host = random.choice([0, 1, 3]), random.choice([0, 0, 1, 5])
        names = random.choice([(), (), (), ("GPU0",), ("GPU1", "GPU0")])
        cpu = len(self.bench.devices) == 1 or random.random() < 0.1
        need, fixed, host = need * self.unit, fixed * self.unit, host * self.unit
        cache = 8 * GIB if self.unit > 1 else 0
        return Demand(host=need, prompt_cache=cache) if cpu else Demand(need, fixed, host, names, prompt_cache=cache)

    def act(self) -> None:
        [what] = self.random.choices(list(self.luck), list(self.luck.values()))
        what()
        if self.bench.events % 7 == 0:
            self.look()
        # Rush and quiet take turns.
        if self.random.random() < 0.01:
            self.pace = self.random.choice([0.02, 0.2, 1.0, 4.0])
        self.bench.after(self.random.expovariate(1 / self.pace), self.act)

    def look(self) -> None:
        """What operators see of the queue in this moment."""
        scheduler, queue = self.bench.scheduler, self.bench.scheduler.queue(self.bench.now)
        assert [each.position for each in queue] == [*range(1, len(queue) + 1)]
        assert {each.model: each.requests for each in queue} == +self.bench.waiting
        for each in queue:
            assert each.why.text
            assert all(lack > 0 for lack in each.why.missing.values())
            assert each.why.drain_in is None or each.why.drain_in > 0
            for blocker in each.why.blockers:
                model, waits = scheduler.model(blocker.model), scheduler.waiting(blocker.model)
                assert blocker.model in each.why.text or "others" in each.why.text or each.model == blocker.model
                assert blocker.requests in (len(model.leases), waits, 0)
            self.seen[each.why.kind] += 1

    def ask(self) -> None:
        random = self.random
        # Some models are asked for more often than others.
        name = list(self.models)[min(random.randrange(10), random.randrange(10))]
        self.open.append(
            self.bench.ask(
                name,
                self.need(name),
                serve=random.choice([None, 0.0, random.expovariate(0.5)]),
                priority=random.choice([0, 0, 0, 1, -1]),
                pinned=name in self.pinned,
                ttl=random.choice([None, None, 0.0, 3.0]),
                background=random.random() < 0.2,
                min_loaded=self.stays[name],
            )
        )

    def need(self, name: str) -> Demand:
        """With the settings that are being tried, if there are any."""
        pending = self.bench.pending_loads.get(name)
        return pending.request.ticket.demand if pending else self.models[name]

    def leave(self) -> None:
        if waiting := [request for request in self.open if request.waits]:
            self.bench.leave(self.random.choice(waiting))

    def end(self) -> None:
        self.open = [r for r in self.open if r.waits or (r.granted and not r.ended)]
        if running := [request for request in self.open if request.granted]:
            self.bench.end(self.random.choice(running))

    def unload(self) -> None:
        self.bench.unload(self.random.choice(list(self.models)), force=self.random.random() < 0.3)

    def load_with_settings(self) -> None:
        """A load with settings. Loads of one model take turns, and a demand that does not fit is not tried."""
        name, demand = self.random.choice(list(self.models)), self.demand()
        if name not in self.bench.pending_loads and self.fits(demand):
            self.bench.load_with_settings(name, demand, self.models[name] if self.random.random() < 0.8 else None)

    def renew(self) -> None:
        """A new catalog: the pending load is discarded, and all waiting requests get the new model."""
        name = self.random.choice([*self.models, *self.bench.pending_loads])
        if name in self.bench.pending_loads:
            self.bench.discard_pending_load(name)
        self.models[name] = self.demand()
        self.bench.set_demand(name, self.models[name])
        self.bench.renew(name)

    def lose_files(self) -> None:
        """As `renew`, but the new model is not here."""
        name = self.random.choice(list(self.models))
        if name in self.bench.pending_loads:
            self.bench.discard_pending_load(name)
        self.models[name] = self.demand()
        self.bench.lose_files(name, self.models[name])

    def pull(self) -> None:
        if self.bench.missing:
            self.bench.pull(self.random.choice(sorted(self.bench.missing)))

    def crash(self) -> None:
        if self.bench.processes:
            self.bench.crash(self.random.choice(list(self.bench.processes)))

    def hang(self) -> None:
        busy = [name for name, process in self.bench.processes.items() if process.ready and self.bench.leases[name]]
        if busy:
            self.bench.hang(self.random.choice(busy))

    def sleep(self) -> None:
        for name in sorted(self.bench.loaded):
            if not self.bench.leases[name] and not self.bench.processes[name].asleep:
                self.bench.sleep(name)
                return

    def others(self) -> None:
        device, others = self.random.choice(self.bench.devices), self.bench.others
        before, others[device.key] = (
            others[device.key],
            self.random.choice([0, 0, 0, self.random.randrange(device.total)]),
        )
        if others[device.key] < before:
            self.bench.shrunk_at[device.key] = self.bench.now

    def lose(self) -> None:
        """A GPU falls off the bus, or is back."""
        if gpus := self.bench.devices[:-1]:
            self.bench.lost ^= {self.random.choice(gpus).key}

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
        """No new requests, no failures: in the end each request has its answer, and each model that fits is served."""
        bench, self.luck = self.bench, {lambda: None: 1}
        self.pace = 1e9
        bench.shrunk_at |= dict.fromkeys((key for key, held in bench.others.items() if held), bench.now)
        bench.others.clear()
        bench.lost.clear()
        bench.broken, bench.unreachable = set(), set()
        bench.starved.clear()
        bench.scheduler.limits = replace(bench.scheduler.limits, queue_max=1000, queue_timeout=0)
        for request in list(self.open):
            if request.granted:
                bench.end(request)
            elif request.waits:
                request.serve = 0.1
        bench.run(60 + bench.scheduler.limits.backoff_max)  # the last failures happen, and are waited out
        last = [bench.ask(name, self.need(name), serve=0.5, priority=5) for name in self.models for _ in "12"]
        bench.run(1000)
        assert bench.is_idle
        assert not bench.scheduler._line.by_turn
        assert not bench.scheduler.downloads
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
        assert walk.judge.wrong == []  # B-S17
        met.update(walk.judge.judged)
        met.update(walk.seen)
        met.update(type(effect) for effect in walk.bench.effects)
        stops = [effect for effect in walk.bench.effects if isinstance(effect, Stop)]
        met["pressure"] += sum(stop.why.cause is Cause.PRESSURE for stop in stops)
        spawns = [effect for effect in walk.bench.effects if isinstance(effect, Spawn)]
        met["caches"] += sum(spawn.allocation.prompt_cache > 0 for spawn in spawns)
        met["hung"] += sum(stop.at_once for stop in stops)
        met["cut"] += sum(stop.why.requests > 0 and not stop.at_once for stop in stops)
        answers = [request.answer for request in walk.bench.requests.values()]
        met.update(answer.refusal for answer in answers if isinstance(answer, Refuse))
        for request in walk.bench.requests.values():
            assert request.left or request.answer is not None
            if request.refused is Refusal.TOO_LARGE:
                assert not walk.fits(request.ticket.demand)  # B-S12
    # The walk met everything that it is there for.
    assert sum(met[kind] for kind in Kind) > 100 or not SHAPES[shape].get("queue_max", 1)  # B-O2
    assert shape == "nothing checked" or min(met["evictions"], met["drains"]) > 50
    assert met["excused"] < 20
    assert min(met[kind] for kind in (Probe, Spawn, Stop, Grant)) > 900
    assert met["pressure"] > 10 or not SHAPES[shape].get("stops_for_others")  # B-D9
    assert met["caches"] > 100 or not SHAPES[shape].get("unit")
    assert met["hung"] > 10  # B-S20
    assert met["cut"] > 10 or not SHAPES[shape].get("drain_timeout")  # B-S19
    assert min(met[kind] for kind in (Fetch, Abort, Refusal.FETCH_FAILED)) > 10
    assert min(met[refusal] for refusal in (Refusal.LOAD_FAILED, Refusal.BACKING_OFF, Refusal.CANCELLED)) > 10
