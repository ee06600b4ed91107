"""One process of one model, from the decision to start it until it is gone.

It knows its node, its child and what that tells. It knows neither who waits for it nor what else there is: whoever
started it says when to stop, and books what it holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from router.errors import LoadFailed
from router.memory.footprints import Footprint
from router.models.spec import ModelSpec
from router.node.interface import Child, ChildEvent, Exit, Launch, LoadProgress, Node
from router.scheduling.resources import Allocation
from router.units import size

log = logging.getLogger("router.run")

STRIDE = 0.2  # how much further a load must be before the log tells of it again


@dataclass(slots=True)
class Run:
    """`number` is the scheduler's; `args` are llama-server's. `measured_at` is when its memory was measured last."""

    spec: ModelSpec
    number: int
    args: tuple[str, ...]
    allocation: Allocation
    node: Node
    child: Child | None = None
    stop_reason: str | None = None
    progress: LoadProgress | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    measured_at: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)
    renounce: Callable[[], bool] = lambda: False  # see `Lease`; made once, as every request takes it
    _told: float = field(default=0.0, init=False)  # the progress that the log has told

    async def live(
        self, load_timeout: float, on_ready: Callable[[], None], on_event: Callable[[ChildEvent], None]
    ) -> Exit:
        """From spawn to exit; `on_ready` is called once it serves. `load_timeout` is a `Launch`'s."""
        started = asyncio.get_running_loop().time()
        log.info("%s: starting, booked %s", self.spec.name, _shown(self.allocation.held))
        try:
            self.child = await self.node.spawn(self._launch(load_timeout, on_event))
            if self.stop_reason is None:
                self.info = await self.child.ready()
                seconds = asyncio.get_running_loop().time() - started
                log.info("%s: ready after %.2f s, pid %d", self.spec.name, seconds, self.child.pid)
                on_ready()
                exit = await self.child.wait()
            else:
                exit = await self.child.stop()
        except LoadFailed as exc:
            exit = await self.child.wait() if self.child else Exit(1, exc.message)
            exit = replace(exit, sentence=exc.message)
        except Exception as exc:  # a model must not stay "loading" for ever because of a defect
            log.critical("a defect in the router", exc_info=exc)
            exit = Exit(1, f"a defect in the router: {exc!r}")
            if self.child is not None:
                await self.child.stop()
        if self.stop_reason is None:
            log.error("%s: %s", self.spec.name, exit.sentence)
        else:
            log.info("%s: stopped (%s)", self.spec.name, self.stop_reason)
        return exit

    def _launch(self, load_timeout: float, on_event: Callable[[ChildEvent], None]) -> Launch:
        def hear(event: ChildEvent) -> None:
            if isinstance(event, LoadProgress):
                self._advance(event)
            on_event(event)

        return Launch(
            model=self.spec.name,
            args=self.args,
            devices=self.allocation.devices,
            counts=self.allocation.layer_counts,
            env=(*self.spec.env, *self.spec.secret_env),
            stop_timeout=self.spec.stop_timeout,
            load_timeout=load_timeout,
            template=self.spec.template,
            on_event=hear,
        )

    def _advance(self, progress: LoadProgress) -> None:
        self.progress = progress
        if progress.value - self._told >= STRIDE and progress.value < 1:
            self._told = progress.value
            log.info("%s: loading, %.0f %%", self.spec.name, progress.value * 100)

    def dismiss(self, reason: str) -> None:
        """It is wanted no more. Whoever says so stops its child if there is one; else none will be left running."""
        self.stop_reason = reason
        log.info("%s: stopping (%s), frees %s", self.spec.name, reason, _shown(self.allocation.held))

    async def holds(self) -> Mapping[str, int]:
        """The bytes that it holds now by device key, as far as the machine tells."""
        assert self.child is not None, "measured without a child"
        return await self.node.footprint(self.child)

    def weighed(self, found: Mapping[str, int], booked: Mapping[str, int]) -> tuple[dict[str, int], Footprint]:
        """What is to be booked instead of `booked` if it holds what was `found`, and what is to be remembered."""
        gpus = {device.key for device in self.allocation.devices}
        told = [key for key in gpus if found.get(key)]  # not in every container, nor by every driver
        # Of RAM much is taken only as it is used: there the estimate is the least.
        held = {key: found[key] if key in told else max(count, found.get(key, 0)) for key, count in booked.items()}
        in_ram = sum(count for key, count in held.items() if key not in gpus)
        return held, Footprint(sum(found[key] for key in told), len(told), in_ram)


def _shown(held: Mapping[str, int]) -> str:
    return ", ".join(f"{size(count)} on {key}" for key, count in held.items()) or "nothing"
