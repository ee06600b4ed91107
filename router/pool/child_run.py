"""One process of one model, from the decision to start it until it has ended.

A run knows its node, its child, and what the child reports. It does not know which requests wait for the model, or
which other models there are: `processes` starts it and says when it stops, and the scheduler books what it holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from router.errors import LoadFailed
from router.memory.footprints import Footprint
from router.models.spec import ModelSpec
from router.models.stamps import Stamp
from router.node.interface import Child, ChildEvent, Exit, Launch, LoadProgress, Node
from router.scheduling.causes import Why
from router.scheduling.resources import Allocation

log = logging.getLogger("router.run")

# A child that cannot be stopped is tried again after these pauses, in seconds. Then it counts as gone.
STOP_PAUSES_S = (0.1, 0.3, 1.0)
LOGGED_STEP = 0.2  # of a load, 0..1: the log gets a line each time that so much more is done


@dataclass(slots=True, repr=False)
class ChildRun:
    """`number` is the scheduler's number of this run.
    `args` are llama-server's arguments.
    `why_stopped` is None until the router decides to stop it, at `stopped_at` by the event loop's clock.
    `info` is what the child reported when it became ready.
    `ended` is set once the process is gone.
    `began` is when it was started, `progressed_at` when its load reported last, and `measured_at` when its memory was
    measured last, by the event loop's clock; `measured` is what it held then.
    `watch` is the task of `health_watch`.
    `stamp` is the one of the files that it was started with.
    `on_output` is the one of `Launch`.
    `report_unreachable` is a lease's (see `Lease`); it is made once, because every lease takes it.
    """

    spec: ModelSpec
    number: int
    args: tuple[str, ...]
    allocation: Allocation
    node: Node
    child: Child | None = None
    why_stopped: Why | None = None
    stopped_at: float | None = None
    progress: LoadProgress | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0
    progressed_at: float = 0.0
    measured_at: float = 0.0
    measured: Mapping[str, int] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    report_unreachable: Callable[[], bool] = lambda: False
    watch: asyncio.Task[None] | None = None
    stamp: Stamp = ()
    on_output: Callable[[Sequence[bytes]], None] = lambda lines: None
    _logged: float = field(default=0.0, init=False)  # the progress at the last line of the log
    _was_measured: bool = field(default=False, init=False)
    _given_up: asyncio.Event = field(default_factory=asyncio.Event, init=False)  # it cannot be stopped

    def __repr__(self) -> str:
        pid = self.child.pid if self.child else None
        stopping = f", stopping ({self.why_stopped.text})" if self.why_stopped else ""
        ended = ", ended" if self.ended.is_set() else ""
        return f"<ChildRun {self.number} of {self.spec.name}, pid {pid}{stopping}{ended}>"

    async def live(
        self, load_timeout: float, on_ready: Callable[[], None], on_event: Callable[[ChildEvent], None]
    ) -> Exit:
        """Start the process, and return when it has ended. Never raises.

        `load_timeout` is the one of `Launch`, in seconds. `on_ready` is called once the child serves.
        """
        life = asyncio.ensure_future(self._live(load_timeout, on_ready, on_event))
        given_up = asyncio.ensure_future(self._given_up.wait())
        try:
            ends: set[asyncio.Future[Any]] = {life, given_up}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            exit = life.result() if life.done() else Exit(1, f"{self.spec.name} cannot be stopped; it is given up")
        finally:
            life.cancel()
            given_up.cancel()
        return exit

    async def _live(
        self, load_timeout: float, on_ready: Callable[[], None], on_event: Callable[[ChildEvent], None]
    ) -> Exit:
        try:
            self.child = await self.node.spawn(self._launch(load_timeout, on_event))
            if self.why_stopped is None:
                self.info = await self.child.ready()
                on_ready()
                exit = await self.child.wait()
            else:  # it was to stop before there was a process
                exit = await self.child.stop()
        except LoadFailed as exc:
            exit = await self.child.wait() if self.child else Exit(1, exc.message)
            exit = replace(exit, sentence=exc.message)
        except Exception as exc:  # a defect must not leave the model "loading" for ever
            log.critical("a defect in the router", exc_info=exc)
            exit = Exit(1, f"a defect in the router: {exc!r}")
            await self.stop()
        return exit

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop the child, if there is one; `at_once` without time for its end. Never raises: a child that cannot be
        stopped is given up in the end, and `live` returns."""
        if self.child is None:
            return
        for pause in (*STOP_PAUSES_S, 0.0):
            try:
                await (self.child.kill() if at_once else self.child.stop())
                return
            except Exception as exc:
                log.critical("%s: its process %d cannot be stopped", self.spec.name, self.child.pid, exc_info=exc)
            await asyncio.sleep(pause)
        self._given_up.set()

    def _launch(self, load_timeout: float, on_event: Callable[[ChildEvent], None]) -> Launch:
        def handle(event: ChildEvent) -> None:
            if isinstance(event, LoadProgress):
                self._note_progress(event)
            on_event(event)

        return Launch(
            model=self.spec.name,
            args=self.args,
            devices=self.allocation.devices,
            layer_counts=self.allocation.layer_counts,
            env=(*self.spec.env, *self.spec.secret_env),
            stop_timeout=self.spec.stop_timeout,
            load_timeout=load_timeout,
            template=self.spec.template,
            engine=self.spec.engine,
            on_event=handle,
            on_output=self.on_output,
        )

    def _note_progress(self, progress: LoadProgress) -> None:
        self.progress, self.progressed_at = progress, asyncio.get_running_loop().time()
        if progress.value - self._logged >= LOGGED_STEP and progress.value < 1:
            self._logged = progress.value
            extra = {"model": self.spec.name}
            log.info("%s: loading, %.0f %%", self.spec.name, progress.value * 100, extra=extra)

    def mark_stopping(self, why: Why, now: float) -> None:
        """This run is to end. The caller stops its child if there is one; if there is none yet, `live` stops it as soon
        as it has started."""
        self.why_stopped, self.stopped_at = why, now

    async def measure(self) -> Mapping[str, int]:
        """The bytes that the child holds now, by device key, as far as the machine reports them."""
        assert self.child is not None, "measured without a child"
        return await self.node.footprint(self.child)

    def reconcile(self, measured: Mapping[str, int], booked: Mapping[str, int]) -> tuple[dict[str, int], Footprint]:
        """Compare a measurement with the books, both in bytes by device key. Returns what is to be booked from now on,
        and the footprint to remember for the next load."""
        gpus = {device.key for device in self.allocation.devices}
        # The prompt cache is empty just after a load, and grows with use. It is no need of the model: the next process
        # is promised another one.
        cache = self.allocation.prompt_cache
        reported = [key for key in gpus if measured.get(key)]  # containers and some drivers report nothing
        held: dict[str, int] = {}
        for key, count in booked.items():
            if key in reported:
                held[key] = measured[key]
            else:  # much RAM is taken only as it is used: the estimate is the least
                held[key] = max(count, measured.get(key, 0) + (0 if self._was_measured or key in gpus else cache))
        self._was_measured = True
        in_ram = sum(count for key, count in held.items() if key not in gpus) - cache
        return held, Footprint(sum(measured[key] for key in reported), len(reported), in_ram)
