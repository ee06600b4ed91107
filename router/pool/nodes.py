"""The machines that run children, taken together: how much memory is free, and which machine a child starts on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping

from router.memory.need import Need
from router.models.spec import ModelSpec
from router.node.interface import Node
from router.scheduling.effects import Refusal
from router.scheduling.policy import Reject, plan
from router.scheduling.refusals import error_of
from router.scheduling.resources import Allocation, Reading
from router.scheduling.scheduler import Scheduler
from router.scheduling.snapshot import Snapshot


class Nodes:
    """The nodes are handed in by the assembly; there is at least one."""

    def __init__(self, nodes: Iterable[Node], scheduler: Scheduler) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._scheduler = scheduler
        self._prefetched: ModelSpec | None = None

    def __repr__(self) -> str:
        return f"<Nodes {', '.join(self._nodes)}>"

    async def read(self, expected: Mapping[str, int]) -> tuple[Reading, ...]:
        """Free memory of all devices, now. `expected` is the one of `Node.probe`, in bytes by device key."""
        answers = await asyncio.gather(*(node.probe(expected) for node in self._nodes.values()))
        return tuple(itertools.chain.from_iterable(answers))

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
        """The node of these devices; the first node for a child that uses none."""
        devices = allocation.devices
        return self._nodes[devices[0].node] if devices else next(iter(self._nodes.values()))

    def prefetch(self, spec: ModelSpec | None) -> None:
        """This model is started next, once it can be: the nodes may read its files ahead. None ends that."""
        if spec is not self._prefetched:
            self._prefetched = spec
            for node in self._nodes.values():
                node.prefetch(spec.files_to_prefetch if spec else ())
