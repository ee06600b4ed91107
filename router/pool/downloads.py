"""Downloads of models whose files are missing.

The scheduler decides which downloads run and which wait (`Fetch`, `Abort`); they are performed here, with the files
coming from a `DownloadSource`. When the files are there, the model is estimated, and the scheduler goes on with the
requests that wait for it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from router import errors
from router.events import kinds
from router.hub.progress import DownloadProgress
from router.models.spec import ModelSpec
from router.node.interface import LoadProgress
from router.pool.core import STATUS_CHANGE, Core
from router.pool.download_source import DownloadSource
from router.scheduling.states import State

log = logging.getLogger("router.pool")

CANCELLED = "The download was cancelled; what has arrived is kept, and the next download goes on from there."
PROGRESS_INTERVAL_S = 0.2  # between two pieces of news of one download


@dataclass(slots=True)
class Download:
    """One running download. `files` are its files by URL, `repo` is where they come from."""

    repo: str = ""
    task: asyncio.Task[None] | None = None
    files: dict[str, DownloadProgress] = field(default_factory=dict)
    _first: tuple[float, int] | None = field(default=None, init=False)  # when how much was here, at the first news
    _last: tuple[float, int] = field(default=(0.0, 0), init=False)
    _published_at: float = field(default=0.0, init=False)

    def update(self, file: DownloadProgress, now: float) -> bool:
        """Note how much of this file is here. Returns whether to publish it: a while after the last time, or when the
        file is complete."""
        self.files[file.url] = file
        self._last = now, sum(file.done for file in self.files.values())
        self._first = self._first or self._last
        if now - self._published_at < PROGRESS_INTERVAL_S and file.done != file.total:
            return False
        self._published_at = now
        return True

    @property
    def ends_at(self) -> float | None:
        """When all is here if it goes on as fast as until now; None as long as that is not known."""
        if self._first is None or self._last[1] <= self._first[1] or self._last[0] <= self._first[0]:
            return None
        speed = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        left = sum(max(0, file.total - file.done) for file in self.files.values())
        return self._last[0] + left / speed

    @property
    def progress(self) -> LoadProgress:
        done = sum(file.done for file in self.files.values())
        total = sum(file.total for file in self.files.values())
        payload = {file.url: {"done": file.done, "total": file.total} for file in self.files.values()}
        return LoadProgress("download", min(1.0, done / total) if total else 0.0, payload)


class Downloads:
    """`source` is set by the assembly. Without a source, children download their models by themselves."""

    # Downloads that may wait for others to end.
    MAX_QUEUED = 100

    def __init__(self, core: Core) -> None:
        self._core = core
        self.source: DownloadSource | None = None
        self.running: dict[str, Download] = {}
        self.queued: frozenset[str] = frozenset()  # as clients know it: `publish_queue_changes` keeps it
        self.failures: dict[str, errors.RouterError] = {}  # why each model's last download failed
        self.received: dict[str, int] = {}  # bytes by repository, since the start
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<Downloads {', '.join(self.running) or 'none'} running, {len(self.queued)} queued>"

    # Requests

    def pull(self, name: str) -> None:
        """Download the model's files, with or without a request for the model. Raises UnknownModel, QueueFull,
        Cancelled."""
        core = self._core
        if self._has_ended:
            raise errors.Cancelled.by_shutdown()
        if not self.is_fetching(name) and len(self.queued) >= self.MAX_QUEUED:
            raise errors.QueueFull(f"{len(self.queued)} downloads wait already. Try again later.", retry_after=60.0)
        core.plans.specs.setdefault(name, core.effective(name))
        core.apply(core.scheduler.fetch(name, core.now()))

    def is_fetching(self, name: str) -> bool:
        """Whether the model is being downloaded, or waits for other downloads."""
        return self._core.scheduler.downloads.is_wanted(name)

    def is_needed(self, spec: ModelSpec) -> bool:
        """Whether the model's files must be downloaded before it can be started."""
        return self.source is not None and spec.repo_to_download is not None

    def files(self, name: str) -> tuple[DownloadProgress, ...]:
        """The files of a running download."""
        download = self.running.get(name)
        return tuple(download.files.values()) if download else ()

    def progress(self, name: str) -> LoadProgress | None:
        """How far a running download is."""
        download = self.running.get(name)
        return download.progress if download else None

    def found(self, name: str) -> ModelSpec:
        """The model that the hub has just found, as the catalog has it. Raises why it is not there: its download may
        have been given up meanwhile."""
        if spec := self._core.catalog.find(name):
            return spec
        raise self.failure(name) or errors.Cancelled(CANCELLED)

    def failure(self, name: str) -> errors.RouterError | None:
        """Why the model's files are not here, after a download has ended; None if they are here."""
        try:
            spec = self._core.effective(name)
        except errors.UnknownModel:
            spec = None
        if spec is not None and not spec.repo_to_download:
            return errors.LoadFailed(spec.problem) if spec.problem else None
        if self._has_ended:
            return errors.Cancelled.by_shutdown()
        return self.failures.get(name) or errors.Cancelled(CANCELLED)

    def kind_of_failure(self, name: str) -> type[errors.RouterError] | None:
        """The class of the error with which the model's last download ended, or the nearest one above it that is made
        of a sentence."""
        kinds = type(self.failures[name]).__mro__ if name in self.failures else ()
        made_of = ["message", "retry_after"]
        return next((kind for kind in kinds if list(inspect.signature(kind).parameters) == made_of), None)

    def wanted(self) -> set[str]:
        """The models that are being downloaded, or wait for that."""
        return {*self.running, *self._core.scheduler.downloads.not_begun()}

    def forget_wanted(self, name: str) -> None:
        """The model was given up before it arrived."""
        if self.source:
            self.source.forget(name)

    def end(self) -> None:
        """Refuse all that wait for the source, and all later downloads."""
        self._has_ended = True
        if self.source:
            self.source.end()

    # Effects

    def start(self, name: str, on_failure: Callable[[Exception], None]) -> None:
        """`on_failure` is called if the download ends with an exception; then `fail` has to be."""
        self.failures.pop(name, None)
        download = self.running[name] = Download(repo_name(self._core.plans.specs.get(name)))
        download.task = self._core.tasks.start(self._run(name, download), on_failure)

    def fail(self, name: str, exc: Exception) -> None:
        """The download could not be carried through: it counts as failed, so that nothing waits for it."""
        if (download := self.running.get(name)) and download.task:
            download.task.cancel()
        self._on_failure(name, exc)

    def abort(self, name: str) -> None:
        if task := self.running.pop(name).task:
            task.cancel()
        self._tell(name, "cancelled")
        self._core.publish(name, STATUS_CHANGE, {})
        self._core.publish(name, "download_failed", {"error": CANCELLED})

    def publish_queue_changes(self) -> None:
        """Publish which models have joined or left the queue since the last call."""
        before, self.queued = self.queued, self._core.scheduler.downloads.not_begun()
        for name in before ^ self.queued:
            if self._core.scheduler.model(name).state is not State.DOWNLOADING:  # else `_run` publishes it
                self._core.publish(name, STATUS_CHANGE, {})

    async def _run(self, name: str, download: Download) -> None:
        """One download, until the files are there or it has failed."""
        assert self.source is not None
        core = self._core
        started = core.now()
        self._tell(name, "started")
        core.publish(name, STATUS_CHANGE, {})
        try:
            await self.source.fetch(
                core.effective(name), lambda file: self._on_progress(name, download, file), self._check_header
            )
            spec = core.effective(name)
            if spec.repo_to_download:
                raise errors.UpstreamFailed(f"{name!r} was downloaded, and is still not there: read the router's log")
            need = await core.estimates.need(spec)
        except Exception as exc:
            if self.running.get(name) is download:  # else it was aborted
                self._on_failure(name, exc)
            return
        self._tell(name, "finished", seconds=core.now() - started)
        del self.running[name]
        core.plans.set(spec, need)
        core.apply(core.scheduler.fetched(name, need.demand, core.now()))
        core.publish(name, "download_finished", {})

    def _tell(self, name: str, step: str, why: str = "", seconds: float | None = None) -> None:
        self._core.journal.emit(kinds.Download(name, step, kinds.shortened(why), seconds))

    def _on_failure(self, name: str, exc: Exception) -> None:
        core = self._core
        if not isinstance(exc, errors.RouterError):  # a defect must not leave the model "downloading" for ever
            log.critical("a defect in the router", exc_info=exc)
            exc = errors.RouterError(f"a defect in the router: {exc!r}")
        self._tell(name, "failed", exc.message)
        self.failures[name] = exc
        self.running.pop(name, None)
        core.apply(core.scheduler.fetch_failed(name, exc.message, core.now(), retry_after=exc.retry_after))
        core.publish(name, "download_failed", {"error": exc.message})
        core.forget(name)

    def _on_progress(self, name: str, download: Download, file: DownloadProgress) -> None:
        before = download.files.get(file.url)
        if before is not None and file.done > before.done:  # the first report tells what was here already
            self.received[download.repo] = self.received.get(download.repo, 0) + file.done - before.done
        # A download that was aborted may still report.
        if self.running.get(name) is download and download.update(file, self._core.now()):
            self._core.change_log.publish(name, "download_progress", {"progress": download.progress.payload})

    async def _check_header(self, spec: ModelSpec) -> None:
        """The model's header has arrived. Raises ModelTooLarge if the model will not fit."""
        need = await self._core.estimates.need(spec)
        self._core.plans.set_need(spec.name, need)
        await self._core.nodes.check_fits(spec, need)


def repo_name(spec: ModelSpec | None) -> str:
    """Where the model's files come from: a repository's name, or only the host of an address, which may hold keys."""
    source = (spec and spec.repo_to_download) or ""
    return (urlsplit(source).hostname or "") if "://" in source else source.partition(":")[0]
