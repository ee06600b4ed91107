"""Random loads on a machine whose GPUs are lost and come back at random."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import pytest

from router import errors
from router.memory.need import Need
from router.models.catalog import Catalog
from router.node.interface import Launch
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device, Reading
from tests.clock import Clock
from tests.fakes import GIB, FakeChild, FakeNode
from tests.pool.bench import spec

GPUS = tuple(Device("local", f"CUDA{n}", "gpu", gib * GIB, n) for n, gib in enumerate((12, 12, 24, 48)))
MODELS = {f"m{gib}": gib for gib in (3, 5, 7, 10, 16, 20, 30, 40)}


@dataclass
class Unsteady(FakeNode):
    """Notes which GPUs were lost at the last reading. A child takes what was booked for it."""

    lost_then: frozenset[str] = frozenset()
    problems: list[str] = field(default_factory=list)

    async def probe(self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
        readings = await super().probe(expected, enough)
        self.lost_then = frozenset(reading.device.key for reading in readings if reading.lost)
        return readings

    async def spawn(self, launch: Launch) -> FakeChild:
        share = (MODELS[launch.model] * GIB) // len(launch.devices)
        self.held[launch.model] = {device.key: share for device in launch.devices}
        if lost := [device.key for device in launch.devices if device.key in self.lost_then]:
            self.problems.append(f"{launch.model} starts on {lost}")
        return await super().spawn(launch)


async def walk(seed: int, steps: int) -> Counter[str]:
    dice = Random(seed)
    specs = {name: spec(name) for name in MODELS}
    node = Unsteady((*GPUS, Device("local", "RAM", "host", 512 * GIB)))
    limits = Limits(models_max=0, margins={device.key: GIB for device in node.devices}, drain_grace=0.5)
    pool = Pool(Catalog(tuple(specs.values())), [node], limits, lambda s: Need(Demand(split=MODELS[s.name] * GIB)))
    ends: Counter[str] = Counter()

    async def client() -> None:
        for _ in range(steps):
            name = dice.choice([*MODELS])
            try:
                lease = await pool.lease(specs[name])
            except errors.DeviceLost as exc:
                largest = max((d.total for d in GPUS if d.key not in node.lost_then), default=0)
                together = sum(d.total - GIB for d in GPUS if d.key not in node.lost_then)
                if max(largest - GIB, together) >= MODELS[name] * GIB:
                    node.problems.append(f"{name} was refused, and would fit")
                ends["lost" if "cannot be read" in exc.message else exc.message] += 1
            else:
                ends["served"] += 1
                await asyncio.sleep(dice.random() / 5)
                lease.release()

    async def trouble() -> None:
        while True:
            await asyncio.sleep(dice.random())
            node.lost = {gpu.key: "it is lost" for gpu in GPUS if dice.random() < 0.4}

    troubles = asyncio.create_task(trouble())
    async with asyncio.timeout(10_000):  # of the rig's clock
        await asyncio.gather(*(client() for _ in range(4)))
    troubles.cancel()
    node.lost.clear()
    for name in MODELS:  # all are back: nothing is left of the losses
        (await pool.lease(specs[name])).release()
    await pool.close()
    assert node.problems == []
    return ends


@pytest.mark.parametrize("seed", range(2))
def test_gpus_that_are_lost_and_come_back_at_random(seed: int) -> None:  # B-S18
    with asyncio.Runner(loop_factory=Clock) as runner:
        ends = runner.run(walk(seed, 60))
    assert ends.keys() == {"served", "lost"}
    assert ends["served"] > 100
