"""What all parts of the pool share: the scheduler, the catalog, the books on models, and the ways back into the pool.

The pool hands each part this object, and not itself: a part can read and write the books and report events, but it
cannot lease, unload or end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from router import threads
from router.engine.flags import FlagTable
from router.errors import RouterError
from router.events import log_lines
from router.events.change_log import ChangeLog
from router.events.feed import Feed
from router.events.journal import Journal
from router.memory.need import Need, SharedEstimates
from router.models.catalog import Catalog
from router.models.describe import describe
from router.models.spec import ModelSpec
from router.node.interface import Node
from router.pool.keep_alive import KeepAlive
from router.pool.launch_plans import LaunchPlans
from router.pool.nodes import Nodes
from router.pool.queue_news import QueueNews
from router.pool.settings_store import SettingsStore
from router.pool.task_set import TaskSet
from router.pool.unload_generations import UnloadGenerations
from router.scheduling.effects import Effect
from router.scheduling.limits import Limits
from router.scheduling.scheduler import Scheduler

# llama.cpp's router announces a load with `model_status`; all that follows is a `status_change`.
LOAD_BEGINS = "model_status"
STATUS_CHANGE = "status_change"


class Core:
    """The first parameters are the pool's (see `Pool`).

    `apply` performs the effects that a call of the scheduler returned. Call both in one step, without an `await`
    between them: `core.apply(core.scheduler.renew(name, core.now()))`.
    `publish` sends the status of a model to all subscribers: its name, the kind of event, and further fields.
    `forget` drops the books of a model that has left the catalog, unless something still needs them.
    """

    def __init__(
        self,
        catalog: Catalog,
        nodes: Iterable[Node],
        limits: Limits,
        need: Callable[[ModelSpec], Need],
        *,
        table: FlagTable,
        load_timeout: float,
        ttl: float | None,
        min_loaded: float,
        apply: Callable[[list[Effect]], None],
        publish: Callable[[str, str, Mapping[str, Any]], None],
        forget: Callable[[str], None],
    ) -> None:
        self.catalog = catalog  # `CatalogExchange` alone writes it
        self.scheduler = Scheduler(limits)
        self.estimates = SharedEstimates(need, min(threads.DISK_TIMEOUT_S, load_timeout))
        self.journal = Journal()
        log_lines.listen(self.journal)
        self.queue_news = QueueNews(self.scheduler, self.journal)
        self.nodes = Nodes(nodes, self.scheduler, self.journal)
        self.change_log = ChangeLog(Feed())
        self.plans = LaunchPlans(self.change_log)
        self.store = SettingsStore(table)
        self.keep_alive = KeepAlive(ttl, min_loaded)
        self.unloads = UnloadGenerations()
        self.tasks = TaskSet()
        self.apply = apply
        self.publish = publish
        self.forget = forget

    def __repr__(self) -> str:
        return f"<Core {len(self.catalog)} models, {self.tasks!r}>"

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # costs a system call each time

    def now(self) -> float:
        """The event loop's time, in seconds."""
        return self.loop.time()

    def effective(self, name: str) -> ModelSpec:
        """The model of this name with the settings that were requested for it. Raises UnknownModel."""
        return self.store.effective(self.catalog.resolve(name))

    async def described(self, spec: ModelSpec) -> ModelSpec:
        """The model with what its files say about it as it is loaded: its template and its projector may come from a
        load. The same object if they do not answer."""
        what = f"The model file {spec.model_path} of {spec.name!r}"
        try:
            return await threads.FILES.run(describe, spec, timeout=threads.DISK_TIMEOUT_S, what=what)
        except RouterError:
            return spec

    async def need_or_none(self, spec: ModelSpec) -> Need | None:
        """What this model needs; None if it cannot be estimated."""
        try:
            return await self.estimates.need(spec)
        except RouterError:
            return None
