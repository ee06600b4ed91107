"""Thousands of random loads on machines with 1, 2, 4 and 8 unequal GPUs, through pynvml and the simulated driver below
it: the true devices and pool, children that only take and give back the driver's memory, and a clock that jumps to
whatever happens next. Other programs take memory and give it back, and what a child held comes back late.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pynvml
import pytest

from router import errors
from router.memory.need import Need
from router.memory.weights import split_by_shares
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.node.devices import Devices
from router.node.interface import Child as AnyChild
from router.node.interface import Exit, Launch
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.snapshot import Phase
from router.scheduling.states import State
from router.wire.address import Address
from tests.clock import Clock
from tests.events.replay import Replay
from tests.nvml import FakeNvml, Gpu
from tests.whole.explained import Explained

MIB, GIB = 2**20, 2**30
CONTEXT = GIB // 2
MACHINES = {1: (24,), 2: (12, 24), 4: (8, 24, 12, 16), 8: (10, 6, 48, 8, 32, 12, 24, 16)}
LOADS = 350  # on each machine


# The machine


class Child:
    """Takes its memory step by step; what is not there ends it."""

    def __init__(self, node: Node, launch: Launch, pid: int, wanted: Mapping[int, int]) -> None:
        self.launch, self.pid = launch, pid
        self.address, self.key, self.log = Address(path=f"/storm/{launch.model}"), "key", ()
        self.started = 0.0
        self._node, self._wanted = node, wanted
        self._others = dict(node.seen)  # what other programs held when this one was placed
        self._stopping = asyncio.Event()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def ready(self) -> Mapping[str, Any]:
        steps = self._node.random.choice([1, 2, 2, 5, 12])
        for part in (step / steps for step in range(1, steps + 1)):
            await self._node.some_time(0.4 / steps)
            if not self._exit.done() and not self._take(part):
                self._end(Exit(1, "out of memory", out_of_memory=True))
            if self._exit.done():
                raise errors.LoadFailed(self._exit.result().sentence)
        return {}

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def shows_life(self, within: float) -> bool:
        return True

    async def kill(self) -> Exit:
        return await self.stop()

    async def stop(self) -> Exit:
        self._node.on_stop(self.launch.model)
        await self._node.some_time(0.1)
        if not self._exit.done():
            self._end(Exit(0, "it was stopped"))
        return await self.wait()

    def _take(self, part: float) -> bool:
        node = self._node
        wanted = {gpu: int(size * part) for gpu, size in self._wanted.items()}
        held = node.claims.get(self.pid, {})
        for gpu, size in wanted.items():
            if size - held.get(gpu, 0) > node.free(gpu):
                if node.foreign[gpu] <= self._others[gpu]:
                    node.problems.append(
                        f"{self.launch.model}: out of memory on GPU {gpu}, which nobody else has taken"
                    )
                return False
        node.hold(self.pid, wanted)
        for gpu in wanted:
            over = node.ours(gpu) + self._others[gpu] + node.margin - node.nvml.gpus[gpu].total
            if over > 0:
                node.problems.append(f"{self.launch.model}: {over} bytes over the margin of GPU {gpu}")
        return True

    def _end(self, exit: Exit) -> None:
        self._node.release(self.pid)
        self._exit.set_result(exit)


class Node:
    """This machine's devices as they are, and children that are none. `foreign` is what other programs hold, by GPU
    number, and `seen` what they held at the last reading."""

    name = "local"

    def __init__(self, folder: Path, sizes: Sequence[int], random: Random, pids: Sequence[int]) -> None:
        self.random, self.margin = random, GIB
        buses = random.sample(range(1, 100), len(sizes))
        self.nvml = FakeNvml(folder, *(Gpu(size * GIB, bus=bus) for size, bus in zip(sizes, buses, strict=True)))
        self.models: dict[str, tuple[Demand, float, int]] = {}
        self.claims: dict[int, dict[int, int]] = {}
        self.foreign: Counter[int] = Counter()
        self.seen: dict[int, int] = {}
        self.late: Counter[int] = Counter()  # freed by a child, not yet by the driver
        self.problems: list[str] = []
        self.loads = self.robberies = self.waits = 0
        self.stalls = 0  # waits for memory that was never to come, while nobody else took any
        self.probing = False
        self.shrunk_at = -1e9  # when another program last gave memory back
        self.on_stop: Callable[[str], None] = lambda model: None
        self._pids = pids
        self.devices: Devices

    def look(self) -> None:
        self.devices = Devices({})
        order = sorted(range(len(self.nvml.gpus)), key=lambda number: self.nvml.gpus[number].bus)
        assert [device.total for device in self.gpus] == [self.nvml.gpus[number].total for number in order]
        self.numbers = {device.key: number for device, number in zip(self.gpus, order, strict=True)}

    @property
    def gpus(self) -> tuple[Device, ...]:
        return self.devices.list()[:-1]

    async def some_time(self, most: float) -> None:
        await asyncio.sleep(self.random.choice([0.0, most * self.random.random()]))

    async def probe(self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
        began = asyncio.get_running_loop().time()
        self.probing = True
        readings = await self.devices.settle(expected, enough)
        self.seen, self.probing = {gpu: self.foreign[gpu] for gpu in range(len(self.nvml.gpus))}, False
        if expected:
            self.waits += 1
            self.stalls += not self.robberies and asyncio.get_running_loop().time() - began > 1.8
        return readings

    async def footprint(self, child: AnyChild) -> Mapping[str, int]:
        return await self.devices.footprint([child.pid])

    def prefetch(self, files: Sequence[Path]) -> None:
        pass

    async def spawn(self, launch: Launch) -> Child:
        demand, part, number = self.models[launch.model]
        assert self._pids[number] not in self.claims, "two processes of one model"  # B-L9
        counts = launch.layer_counts or (1,)
        shares = demand.user_split or split_by_shares(demand.layers, counts)
        assert not demand.user_split or not launch.layer_counts
        wanted = {
            self.numbers[device.key]: int((share + demand.fixed) * part)
            for device, share in zip(launch.devices, shares, strict=True)
        }
        self.loads += 1
        self.claims[self._pids[number]] = {}
        return Child(self, launch, self._pids[number], wanted)

    def free(self, gpu: int) -> int:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(gpu)).free)

    def ours(self, gpu: int) -> int:
        return self.late[gpu] + sum(held.get(gpu, 0) for held in self.claims.values())

    def hold(self, pid: int, held: Mapping[int, int]) -> None:
        self.claims[pid] = dict(held)
        self.nvml.claim(pid, held)

    def release(self, pid: int) -> None:
        """Ended; its memory may take a while to be back."""
        held = self.claims.pop(pid)
        self.late.update(held)
        for gpu in held:
            self._tell(gpu)
        self.nvml.claim(pid, {})

        def back() -> None:
            self.late.subtract(held)
            for gpu in held:
                self._tell(gpu)

        asyncio.get_running_loop().call_later(self.random.choices([0.0, 0.03, 0.3, 1.0], [20, 6, 3, 1])[0], back)

    def rob(self, gpu: int, amount: int) -> None:
        """Another program takes of what is free, or gives back."""
        amount = min(amount, self.foreign[gpu] + self.free(gpu))
        self.robberies += amount > self.foreign[gpu]
        if amount < self.foreign[gpu]:
            self.shrunk_at = asyncio.get_running_loop().time()
        self.foreign[gpu] = amount
        self._tell(gpu)

    def _tell(self, gpu: int) -> None:
        self.nvml.change(gpu, others=self.foreign[gpu] + self.late[gpu])


# The models and their clients


def demands(random: Random, gpus: Sequence[Device]) -> Iterator[Demand]:
    """Small and large ones, for one GPU and for all; the last but one is divided by its user, the last too large."""
    whole = sum(device.total for device in gpus)
    for part in (0.02, 0.05, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.8):
        size, gpu = int(whole * part), random.choice(gpus)
        yield layered(random, size, (gpu.name,) if size < gpu.total // 2 and random.random() < 0.5 else ())
    half = min(device.total for device in gpus) // 3
    yield Demand(half * len(gpus), CONTEXT, layers=(half,) * len(gpus), user_split=(half,) * len(gpus))
    yield layered(random, whole, ())


def layered(random: Random, size: int, names: tuple[str, ...]) -> Demand:
    """Layers of one size or of two, and an output that is larger or smaller."""
    sizes = [random.choice([10, random.choice([10, 15])]) for _ in range(random.randint(8, 80))]
    unit = size // (sum(sizes) + 10)
    layers = (*(n * unit for n in sizes), random.choice([3, 10, 30]) * unit)
    return Demand(sum(layers), CONTEXT, names=names, layers=layers)


def fits(demand: Demand, rooms: Sequence[tuple[str, int]]) -> bool:
    """On the empty machine: whether there is any set of GPUs that, each filled as far as it goes, take all layers."""
    if demand.user_split:
        return all(share + demand.fixed <= room for share, (_, room) in zip(demand.user_split, rooms, strict=True))
    spare = [room - demand.fixed for name, room in rooms if not demand.names or name in demand.names]

    def all_of(some: Sequence[int]) -> bool:
        left = list(demand.layers)
        for room in some:
            while left and left[0] <= room:
                room -= left.pop(0)
        return not left

    return any(all_of(some) for n in range(len(spare)) for some in combinations(spare, n + 1))


class Storm:
    def __init__(self, node: Node) -> None:
        self.node, self.random = node, node.random
        self.rooms = [(device.name, device.total - node.margin) for device in node.gpus]
        for number, demand in enumerate(demands(self.random, node.gpus)):
            node.models[f"m{number}"] = demand, self.random.choice([1.0, 0.95, 0.9]), number
        self.fitting = {name for name, (demand, *_) in node.models.items() if fits(demand, self.rooms)}
        self.specs = [ModelSpec(name, "preset", ()) for name in node.models]
        margins = {device.key: node.margin for device in node.gpus}
        limits = Limits(models_max=0, margins=margins, queue_timeout=0, queue_max=1000, drain_grace=0.3)
        self.pool = Pool(Catalog(self.specs), [node], limits, lambda spec: Need(node.models[spec.name][0]))
        self.answers: Counter[str] = Counter()
        self.judged = 0
        self.replay = Replay(self.pool)
        self.explained = Explained(self.pool, self._true_rooms, self._held_by)
        node.on_stop = self.judge

    def judge(self, model: str) -> None:
        """A model goes. Nobody may go for the first in the queue if that one would fit beside all, when every load has
        ended and all memory is back. Memory that other programs give back at the same time looks like the latter."""
        scheduler, node = self.pool._scheduler, self.node
        why, first = self.pool.processes.runs[model].why_stopped, scheduler.next_to_start()
        if first is None or scheduler.model(first).retrying:  # all idle ones go for a load that ran out of memory
            return
        if why is None or why.model != first or asyncio.get_running_loop().time() - node.shrunk_at < 30:
            return
        self.judged += 1
        rooms, names = self._rooms(), {device.key: device.name for device in node.gpus}
        if fits(node.models[first][0], [(names[key], room) for key, room in rooms.items()]):
            node.problems.append(f"{model} went without need, for {first}")

    def _true_rooms(self, model: str) -> dict[str, int]:
        """As `_rooms`, with what processes hold, not what is booked; without starts behind this model in the queue."""
        turns = [entry.model.name for entry in self.pool.scheduler.line.by_turn]
        return self._rooms(frozenset(turns[turns.index(model) :]), self._held_by)

    def _rooms(
        self, behind: Collection[str] = (), held_by: Callable[[str], dict[str, int] | None] = lambda name: None
    ) -> dict[str, int]:
        """By device key: what is left if none goes that was there when this step was decided, or was started in it."""
        scheduler, node = self.pool._scheduler, self.node
        then = scheduler._levels.last_snapshot  # before anything was decided in this step
        before = {r.model: r.held for r in then.residents if r.phase is not Phase.STOPPING} if then else {}
        placed = {m.name: m.held for m in scheduler.models() if m.state is State.LOADING}
        placed = {name: held for name, held in placed.items() if name not in behind}
        staying = [held_by(name) or held for name, held in (before | placed).items()]
        return {
            device.key: room - node.seen[node.numbers[device.key]] - sum(held.get(device.key, 0) for held in staying)
            for device, (_, room) in zip(node.gpus, self.rooms, strict=True)
        }

    def _held_by(self, model: str) -> dict[str, int] | None:
        """By device key: what the model's process holds; None if it has not begun, or takes its memory yet."""
        run, keys = self.pool.processes.runs.get(model), {number: key for key, number in self.node.numbers.items()}
        if run is None or run.child is None or not self.pool.scheduler.model(model).ready_at:
            return None
        return {keys[gpu]: size for gpu, size in self.node.claims.get(run.child.pid, {}).items()}

    async def ask(self, spec: ModelSpec, patience: float | None = None) -> None:
        """As long as it is not its model that is at fault: once."""
        try:
            async with asyncio.timeout(patience):
                lease = await self.pool.lease(spec)
        except TimeoutError:
            self.answers["left"] += 1
        except errors.ModelTooLarge:
            self.answers["too large"] += 1
            if spec.name in self.fitting:
                self.node.problems.append(f"{spec.name} was refused, and fits on the empty machine")
        except (errors.LoadFailed, errors.BackingOff) as exc:
            self.answers["robbed"] += 1
            if not self.node.robberies:
                self.node.problems.append(f"{spec.name} failed although nobody took its memory: {exc}")
            await asyncio.sleep(exc.retry_after or 0.1)
        else:
            self.answers["served"] += 1
            await self.node.some_time(0.4)
            lease.release()

    async def client(self) -> None:
        while self.node.loads < LOADS:
            await self.ask(self.random.choice(self.specs), self.random.choice([None, None, None, 0.2]))

    async def others(self) -> None:
        """Quiet for the first half, then they come and go."""
        while True:
            await asyncio.sleep(self.random.expovariate(5))
            gpu = self.random.randrange(len(self.rooms))
            if self.node.loads > LOADS / 2 and not self.node.probing:
                total = self.node.nvml.gpus[gpu].total
                self.node.rob(gpu, int(total * self.random.choice([0, 0, 0, 0.1, self.random.random()])))

    async def run(self) -> None:
        others = asyncio.create_task(self.others())
        await asyncio.gather(*(self.client() for _ in range(5)))
        others.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await others
        for gpu in range(len(self.rooms)):
            self.node.rob(gpu, 0)
        await asyncio.sleep(100)  # until failures are forgiven
        for spec in self.specs:  # whatever happened: in the end each can be had
            served = self.answers["served"]
            await self.ask(spec)
            assert (spec.name in self.fitting) == (self.answers["served"] > served)
        await self.pool.close()
        assert self.node.claims == {}


@pytest.mark.timeout(600)  # a minute of computing with eight GPUs
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("gpus", MACHINES)
def test_a_storm_of_loads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gpus: int
) -> None:  # B-S2 B-S5 B-S11 B-S12 B-S17 B-D6 B-L9 B-O1
    random = Random(gpus)
    with contextlib.ExitStack() as stack:
        # The driver tells what living processes hold: one for each model lends its number.
        lenders = [stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE)) for _ in range(12)]
        memory = Path("/dev/shm")  # renaming files on a disk would take most of the time
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None))
        node = Node(Path(folder), MACHINES[gpus], random, [lender.pid for lender in lenders])
        monkeypatch.setenv("FAKE_NVML", str(node.nvml.folder))
        node.look()
        storm = Storm(node)
        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(storm.run())
    assert node.problems == []
    assert node.stalls == 0
    assert min(node.waits, storm.pool.processes.evictions, storm.answers["left"]) > LOADS / 10
    assert node.robberies > 10
    assert storm.judged > 10
    storm.explained.end()
    assert storm.explained.wrong == []
    assert min(storm.explained.checked, storm.explained.compared, storm.explained.freed) > LOADS / 10
    assert storm.replay.wrong == []
    assert storm.replay.compared > LOADS
    assert "a defect" not in caplog.text
