"""What operators see of each model and each device, as facts: the data API makes its answers of them.

The one idea: facts hold moments of the loop's clock, and no durations. So they are equal for as long as nothing but
time has passed, and whoever keeps what was made of them sees what has changed. `api.dashboard` reads them, some times
a second; nothing here waits or is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from router.memory.flag_values import slots_of
from router.models.spec import ModelSpec
from router.pool.child_run import ChildRun
from router.pool.core import Core
from router.pool.device_facts import DeviceFacts, device_facts
from router.pool.downloads import Downloads
from router.pool.processes import Processes
from router.pool.status import Status, word
from router.scheduling.books import ModelRecord
from router.scheduling.states import State

MEASURED_PROGRESS = 0.05  # of a load, 0..1: from then on its own speed says when it ends


class ModelFacts(NamedTuple):
    """One model, now. Times are moments of the loop's clock, in seconds; bytes are by device key.

    `state` is one of llama.cpp's words. A process that is `stopping`, and a model that has `failed`, are "unloaded".
    `draining`: it takes no new requests, and ends or makes room once those that run have ended.
    `progress` is that of a load or a download, 0..1, and `ends_at` when that will be at its end; None if unknown.
    `idle_since` is when its last request ended; None while requests run, and without a process.
    `need` are the bytes that a load takes, by `source`.
    `context` are the tokens that one request can have.
    `started` is when the process began, in seconds since 1970. `restarts` counts the processes after the first.
    `failures` counts the failures in a row; before `retry_at` it is not started again; `error` is the last one.
    """

    state: str
    need: int | None
    aliases: tuple[str, ...] = ()
    unlisted: bool = False
    pinned: bool = False
    error: str = ""
    warning: str = ""
    draining: bool = False
    stopping: bool = False
    failed: bool = False
    progress: float | None = None
    ends_at: float | None = None
    leases: int = 0
    slots: int | None = None
    waiting: int = 0
    ttl: float | None = None
    expires_at: float | None = None
    idle_since: float | None = None
    held: Mapping[str, int] | None = None
    source: str | None = None
    context: int | None = None
    pid: int | None = None
    started: float | None = None
    restarts: int = 0
    failures: int = 0
    retry_at: float | None = None
    tokens_per_second: float | None = None

    @property
    def is_quiet(self) -> bool:
        """There is no process, no download, no request and no failure."""
        return self.held is None


class QueueFacts(NamedTuple):
    """A model for which requests wait, as `scheduling.reasons.Waiting` and its reason have it. `since` is when the
    oldest of them came; at `until` time alone changes what it waits for."""

    position: int
    model: str
    requests: int
    background: bool
    since: float
    kind: str
    text: str
    blockers: tuple[tuple[str, int], ...]
    missing: Mapping[str, int]
    until: float | None


class Facts:
    """Example::

    facts.of("coder", waiting=3).state  # "loading"
    """

    def __init__(self, core: Core, processes: Processes, downloads: Downloads) -> None:
        self._core = core
        self._processes = processes
        self._downloads = downloads
        self._others: dict[str, int] = {}  # what other programs hold, by device key

    def __repr__(self) -> str:
        return f"<Facts of {self._core!r}>"

    def now(self) -> float:
        """The loop's clock, by which the facts are."""
        return self._core.now()

    def spec(self, name: str) -> ModelSpec | None:
        """The model with the settings that hold, or those of its process if it has left the catalog; None if it is
        neither in the catalog nor has a process."""
        if name in self._core.catalog:
            return self._core.effective(name)
        run = self._processes.runs.get(name)
        return run.spec if run else None

    def status(self, name: str) -> Status:
        """What clients see of this model."""
        return Status.of(
            self._core.scheduler.model(name),
            self._processes.runs.get(name),
            now=self._core.now(),
            waiting=self._core.scheduler.waiting(name),
            download=self._downloads.progress(name),
            is_queued=name in self._downloads.queued,
            exit_code=self._processes.exit_codes.get(name),
            warning=self._core.store.changes.failure(name),
        )

    def queue(self) -> list[QueueFacts]:
        """The models for which requests wait, in the order of their turns."""
        now = self.now()
        return [
            QueueFacts(
                entry.position,
                entry.model,
                entry.requests,
                entry.background,
                round(now - entry.waited, 3),
                entry.why.kind.value,
                entry.why.text,
                tuple((blocker.model, blocker.requests) for blocker in entry.why.blockers),
                entry.why.missing,
                None if entry.why.drain_in is None else round(now + entry.why.drain_in, 3),
            )
            for entry in self._core.scheduler.queue(now)
        ]

    def devices(self) -> list[DeviceFacts]:
        """What each device holds, by the last reading. It begins another one if that is not fresh, and waits for
        none."""
        nodes, scheduler = self._core.nodes, self._core.scheduler
        nodes.look()
        models = [scheduler.model(name) for name in self._processes.runs]
        found = device_facts(nodes.readings, models, scheduler.limits.margins, nodes.short, self._others)
        self._others = {device.key: device.other for device in found if device.other is not None}
        return found

    def of(self, name: str, *, waiting: int = 0, tokens_per_second: float | None = None) -> ModelFacts | None:
        """What is seen of this model, None if there is no such model any more. `waiting` counts its requests that wait;
        its running ones make so many tokens each second."""
        spec = self.spec(name)
        if spec is None:
            return None
        model, run = self._core.scheduler.model(name), self._processes.runs.get(name)
        need = self._core.plans.needs.get(name)
        policy = self._core.keep_alive.idle_policy(spec)
        own_ttl, is_pinned = (model.ttl, model.pinned) if run else policy[:2]
        failed, problem = model.state is State.FAILED, spec.problem or spec.info.problem or ""
        is_awaited = name in self._downloads.running or name in self._downloads.queued
        bytes_needed = need.demand.total if need and need.demand.total else None
        about = (spec.aliases, spec.unlisted, is_pinned)
        if not (run or failed or waiting or is_awaited or model.failures):
            return ModelFacts("unloaded", bytes_needed, *about, error=problem)
        progress, ends_at = self._progress(name, model, run)
        child, meta = (run.child, run.info.get("meta") or {}) if run else (None, {})
        is_serving = model.state in (State.LOADED, State.SLEEPING)
        return ModelFacts(
            "downloading" if name in self._downloads.queued else word(model.state),
            bytes_needed,
            *about,
            error=model.failure if failed else problem,
            warning=self._core.store.changes.failure(name),
            draining=model.draining or bool(model.closing),
            stopping=model.state is State.STOPPING,
            failed=failed,
            progress=progress,
            ends_at=ends_at,
            leases=len(model.leases),
            slots=slots_of(run.spec.args)[0] if run else None,
            waiting=waiting,
            ttl=None if own_ttl == math.inf else own_ttl,
            expires_at=model.expires if is_serving else None,
            idle_since=model.finished if is_serving and not model.leases else None,
            held=model.held,
            source=need.source if need and need.source != "unknown" else None,
            context=meta.get("n_ctx") or (need.estimate.n_slot if need and need.estimate else None),
            pid=child.pid if child else None,
            started=child.started if child else None,
            restarts=max(0, self._processes.starts.get(name, 0) - 1),
            failures=model.failures,
            retry_at=model.backoff_until if model.failures > 1 else None,
            tokens_per_second=tokens_per_second,
        )

    def _progress(self, name: str, model: ModelRecord, run: ChildRun | None) -> tuple[float | None, float | None]:
        """How far the load or the download has come, and when it will have ended."""
        if download := self._downloads.running.get(name):
            return download.progress.value, download.ends_at
        if run is None or model.state is not State.LOADING:
            return None, None
        value = run.progress.value if run.progress else 0.0
        if value >= MEASURED_PROGRESS:
            return value, run.began + (run.progressed_at - run.began) / value
        last = self._processes.load_seconds.get(name)
        return value, None if last is None else run.began + last
