"""The machines that run children, taken together: how much memory is free, and which machine a child starts on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import Iterable, Mapping

from router import errors
from router.events.journal import Journal
from router.memory.need import Need
from router.models.spec import ModelSpec
from router.node.interface import Node
from router.pool.device_news import DeviceNews
from router.pool.status import DeviceStatus
from router.scheduling.effects import Refusal
from router.scheduling.policy import Reject, plan
from router.scheduling.refusals import error_of
from router.scheduling.resources import Allocation, Device, Reading
from router.scheduling.scheduler import Scheduler
from router.scheduling.snapshot import Snapshot

log = logging.getLogger("router.pool")

GLANCE_S = 2.0  # a reading is fresh for so long, for those who only look
LOOK_S = 1.0  # and so long for those who look all the time, and do not wait
PROBE_LIMIT_S = 10.0  # a node answers within two seconds; one that does not counts as failed


class Nodes:
    """The nodes are handed in by the assembly; there is at least one."""

    def __init__(self, nodes: Iterable[Node], scheduler: Scheduler, journal: Journal) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._scheduler = scheduler
        self.news = DeviceNews(scheduler, journal)
        self._prefetched: ModelSpec | None = None
        self._devices: dict[str, tuple[Device, ...]] = {}  # of each node, as of its last answer
        self.readings: tuple[Reading, ...] = ()  # the last ones
        self._read_at = self._looked_at = -math.inf
        self._glance: asyncio.Task[object] | None = None

    def __repr__(self) -> str:
        return f"<Nodes {', '.join(self._nodes)}>"

    async def read(self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
        """Free memory of all devices, now. `expected` and `enough` are those of `Node.probe`, in bytes by device key.

        The devices of a node that fails count as lost. Raises DeviceLost if no node answers.
        """
        answers = await asyncio.gather(
            *(self._probe(node, expected, enough) for node in self._nodes.values()), return_exceptions=True
        )
        readings: list[tuple[Reading, ...]] = []
        for name, answer in zip(self._nodes, answers, strict=True):
            if isinstance(answer, tuple):
                readings.append(answer)
            elif not isinstance(answer, Exception):
                raise answer
            else:
                log.error("the memory of %s cannot be read", name, exc_info=answer)
                lost = f"its machine does not answer ({answer!r})"
                readings.append(tuple(Reading(device, None, lost) for device in self._devices.get(name, ())))
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if len(failures) == len(answers):
            raise errors.DeviceLost(f"the free memory of {', '.join(self._nodes)} cannot be read: {failures[0]!r}")
        self.readings = tuple(itertools.chain.from_iterable(readings))
        self._read_at = asyncio.get_running_loop().time()
        self.news.tell_lost(self.readings)
        return self.readings

    async def glance(self) -> list[DeviceStatus]:
        """The devices for those who only look: the last readings if they are fresh. Never raises; those who look at the
        same time share one reading."""
        if asyncio.get_running_loop().time() - self._read_at > GLANCE_S:
            with contextlib.suppress(errors.RouterError):
                await asyncio.shield(self._shared_reading())
        return [DeviceStatus.of(reading, short=reading.device.key in self.short) for reading in self.readings]

    def look(self) -> None:
        """Have `readings` brought up to date in the background if they are not fresh. Returns at once: a driver may
        hang."""
        now = asyncio.get_running_loop().time()
        if now - max(self._read_at, self._looked_at) > LOOK_S:
            self._looked_at = now
            self._shared_reading()

    @property
    def short(self) -> Mapping[str, int]:
        """The devices on which other programs hold memory that is to stay free, and how much of it."""
        return self._scheduler.pressure.missing

    def _shared_reading(self) -> asyncio.Task[object]:
        if self._glance is None or self._glance.done():
            self._glance = asyncio.create_task(self.read({}))
            self._glance.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._glance

    async def _probe(
        self, node: Node, expected: Mapping[str, int], enough: Mapping[str, int] | None
    ) -> tuple[Reading, ...]:
        async with asyncio.timeout(PROBE_LIMIT_S):
            readings = await node.probe(expected, enough)
        self._devices[node.name] = tuple(reading.device for reading in readings)
        return readings

    async def snapshot(self) -> Snapshot:
        """All devices and processes, as the policy sees them."""
        return self._scheduler.snapshot(await self.read({}))

    async def check_fits(self, spec: ModelSpec, need: Need) -> None:
        """Raises ModelTooLarge if the model would not fit even on the empty machines: then nothing is stopped for
        it."""
        empty = Snapshot(await self.read({}), margins=self._scheduler.limits.margins)
        result = plan(empty, need.demand)
        if isinstance(result, Reject):
            raise error_of(Refusal.TOO_LARGE, spec.name, result.reason)

    def of(self, allocation: Allocation) -> Node:
        """The node of these devices; the first node if any will do."""
        return self._nodes[allocation.node or next(iter(self._nodes))]

    def prefetch(self, spec: ModelSpec | None) -> None:
        """This model is started next, once it can be: the nodes may read its files ahead. None ends that."""
        if spec is not self._prefetched:
            self._prefetched = spec
            for node in self._nodes.values():
                try:
                    node.prefetch(spec.files_to_prefetch if spec else ())
                except Exception as exc:  # the start will read them
                    log.warning("%s cannot read files ahead", node.name, exc_info=exc)
