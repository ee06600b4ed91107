"""What a load of one model needs: the demand to plan with, and arguments that its child gets besides the model's own.

`SharedEstimates` finds the need of a model in a thread, once for all requests that need it at the same time. The
pool calls it for each load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router import threads
from router.errors import LoadFailed
from router.memory.demand import Estimate
from router.models.spec import ModelSpec
from router.models.stamps import Stamp
from router.scheduling.resources import Demand


@dataclass(frozen=True, slots=True)
class Need:
    """What a load needs.

    `args` go to the child besides the model's own.
    `source` is where `demand` comes from: "footprint", "engine" or "header".
    `estimate` is None for a model whose file is not here yet.
    `stamp` is the one of its files, as they were when this was estimated.
    `left_out` is why the child does not get the projector that the router found; empty if it gets all files.
    """

    demand: Demand
    args: tuple[str, ...] = ()
    source: str = "unknown"
    estimate: Estimate | None = None
    stamp: Stamp = ()
    left_out: str = ""


class SharedEstimates:
    """The estimates under way. Several requests for the same model share one.

    `need` blocks, so it runs in a thread. After `patience` seconds without an answer its model fails: the file may lie
    on a disk that hangs, and other models must not wait for it.

    ::

        estimates = SharedEstimates(estimator.need)
        need = await estimates.need(spec)
    """

    def __init__(self, need: Callable[[ModelSpec], Need], patience: float = threads.DISK_TIMEOUT_S) -> None:
        self._need = need
        self._patience = patience
        self._tasks: dict[ModelSpec, asyncio.Task[Need]] = {}

    def __repr__(self) -> str:
        return f"<SharedEstimates: {', '.join(spec.name for spec in self._tasks) or 'none'} under way>"

    async def need(self, spec: ModelSpec) -> Need:
        """Raises LoadFailed for a model that cannot be loaded at all, GgufError, and Unanswered."""
        if problem := spec.problem or (spec.info.other_kind and spec.info.problem):
            raise LoadFailed(f"{spec.name!r} cannot be loaded: {problem}")
        task = self._tasks.get(spec)
        if task is None:
            what = f"The model file {spec.model_path} of {spec.name!r}"
            answer = threads.ESTIMATES.run(self._need, spec, timeout=self._patience, what=what)
            task = self._tasks[spec] = asyncio.create_task(answer)
            task.add_done_callback(lambda done: self._done(spec, done))
        return await asyncio.shield(task)

    def _done(self, spec: ModelSpec, task: asyncio.Task[Need]) -> None:
        del self._tasks[spec]
        if not task.cancelled():
            task.exception()  # else asyncio complains about an error that no request has waited for
