"""Models that are not here yet: what their names mean on the hub, who may have them fetched, and the fetching."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from router import threads
from router.engine.flags import value_of
from router.errors import Cancelled, ConfigError, GgufError, HubUnavailable, InvalidRequest, RouterError
from router.hub.fetch import fetch
from router.hub.layout import blob_path, partial_path
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.removal import remove
from router.hub.repo import Resolved
from router.hub.resolve import resolve
from router.models import gguf
from router.models.sources import Sources
from router.models.spec import ModelSpec
from router.node.interface import Part
from router.units import size

log = logging.getLogger("router.depot")

FRESH = 60.0  # seconds that the hub is not asked again what a name means
FAILED = 5.0  # and where it did not tell
MOST = 1000  # names that are remembered, of those that clients want or ask for
AT_ONCE = 4  # questions to the hub
GLANCE = 1.0  # seconds between two looks at the cache that nobody waits for
PEEK = 1 << 20  # bytes of a file with which its header is looked for first; then with twice as many each time
OnPart = Callable[[Part], None]
Check = Callable[[ModelSpec], Awaitable[None]]
Key = tuple[str, str | None, str | None, str | None, bool]


class Depot:
    """`allowed` are glob patterns of the repositories that a request may have fetched. `refresh` has the catalog made
    again from the sources. With `fallback` a smaller quant is taken where the disk is too small."""

    def __init__(
        self,
        root: Path,
        sources: Sources,
        refresh: Callable[[], Awaitable[object]],
        *,
        allowed: Sequence[str] = (),
        offline: bool = False,
        fallback: bool = False,
    ) -> None:
        self._root = root
        self._sources = sources
        self._refresh = refresh
        self._allowed = allowed
        self._offline = offline
        self._fallback = fallback
        self._looking: asyncio.Task[bool] | None = None
        self._looked_at = 0.0
        self._resolving: dict[Key, tuple[float, asyncio.Task[Resolved]]] = {}
        self._asking = asyncio.Semaphore(AT_ONCE)
        self._ended = False

    def allows(self, name: str) -> bool:
        """Whether a request that names it may have it fetched."""
        if self._offline or not self._allowed or not is_name(name):
            return False
        return any(fnmatchcase(Name.parse(name).repo, pattern) for pattern in self._allowed)

    async def find(self, name: str) -> str:
        """The catalog's name for what is called so on the hub; it is in the catalog then, be it here or missing.
        Raises RouterErrors."""
        resolved = await self._resolve(Name.parse(name), None, fallback=self._fallback)
        self._want(resolved.name)
        await self._refresh()
        return resolved.name

    async def look(self) -> bool:
        """Have the catalog made again if another program has changed the cache; whether it was."""
        if await threads.CATALOG.run(self._sources.is_current):
            return False
        try:
            await self._refresh()
        except ConfigError as exc:
            log.error("the cache has changed, but the models are left as they are: %s", exc)
            return False
        return True

    def glance(self) -> None:
        """`look`, but nobody waits for it, and not more than once a second."""
        if (self._looking is None or self._looking.done()) and time.monotonic() - self._looked_at >= GLANCE:
            self._looked_at = time.monotonic()
            self._looking = asyncio.create_task(self.look())

    async def fetch(self, spec: ModelSpec, on_part: OnPart, check: Check) -> None:
        assert spec.repo_to_download is not None
        file, token = value_of(spec.args, "--hf-file"), value_of(spec.args, "--hf-token")
        if spec.source == "cache":
            self._want(spec.name)  # again, after it was given up
        try:
            resolved = await self._resolve(
                Name.parse(spec.repo_to_download), file, token=token, drafting=spec.draft_kind
            )
            looking = asyncio.create_task(self._look(spec, resolved, check))
            arriving = fetch(resolved, self._root, lambda progress: on_part(_part(progress)), token=token)
            await _both(arriving, looking)
        except RouterError:
            # The repository may have changed since it was listed.
            self._resolving = {key: known for key, known in self._resolving.items() if not known[1].done()}
            raise
        if Name.parse(spec.repo_to_download).quant:  # else the listing of the cache leaves it out
            self.forget(spec.name)
        await self._refresh()

    def end(self) -> None:
        """Refuse whoever waits for the hub's answer, and whoever comes."""
        self._ended = True
        for _, task in self._resolving.values():
            task.cancel()

    def _want(self, name: str) -> None:
        if name not in self._sources.wanted:
            self._sources.wanted.append(name)
            del self._sources.wanted[:-MOST]

    def forget(self, name: str) -> None:
        """It is wanted no more, unless somebody asks for it again."""
        if name in self._sources.wanted:
            self._sources.wanted.remove(name)

    async def remove(self, spec: ModelSpec) -> int:
        """Delete what the cache has of it; of one that is missing, nothing is wanted any more. The bytes that this
        freed. Raises RouterErrors."""
        self.forget(spec.name)
        freed = 0
        if not spec.repo_to_download:
            freed = await threads.CACHE.run(remove, self._root, Name.parse(spec.name))
            log.info("%s: removed, which freed %s", spec.name, size(freed))
        await self._refresh()
        return freed

    async def _resolve(
        self,
        name: Name,
        file: str | None,
        *,
        token: str | None = None,
        drafting: str | None = None,
        fallback: bool = False,
    ) -> Resolved:
        """The hub is asked once, however many ask for the same; what it said counts for a while."""
        key = (str(name), file, token, drafting, fallback)
        now = time.monotonic()
        self._resolving = {one: known for one, known in self._resolving.items() if _is_fresh(*known, now)}
        if self._ended:
            raise _ended()
        if key not in self._resolving:
            if len(self._resolving) >= MOST:
                raise HubUnavailable("The hub is being asked for too many names. Try again later.", retry_after=FAILED)
            task = asyncio.create_task(self._ask(name, file, token, drafting, fallback))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may have left
            self._resolving[key] = now, task
        known = self._resolving[key]
        try:
            resolved = await asyncio.shield(known[1])
        except asyncio.CancelledError:
            if known[1].cancelled():
                raise _ended() from None
            raise
        self._resolving.setdefault((resolved.name, file, token, drafting, False), known)
        return resolved

    async def _ask(
        self, name: Name, file: str | None, token: str | None, drafting: str | None, fallback: bool
    ) -> Resolved:
        async with self._asking:
            return await resolve(
                name,
                self._root,
                file=file,
                token=token,
                offline=self._offline,
                fallback=fallback,
                drafting=drafting,
            )

    async def _look(self, spec: ModelSpec, resolved: Resolved, check: Check) -> None:
        """Ask whether the model will fit as soon as its header has come."""
        first = resolved.files[0]
        blob = blob_path(self._root, resolved.listing.repo, first.oid)
        least = PEEK
        while True:
            await asyncio.sleep(0.2)
            for path in (partial_path(blob), blob):
                with contextlib.suppress(OSError, GgufError):
                    if path.stat().st_size >= min(least, first.size):
                        least *= 2
                        await threads.CACHE.run(gguf.read, path)
                        await check(replace(spec, model_path=path, size_bytes=resolved.bytes))
                        return


def is_name(name: str) -> bool:
    """It could be one on the hub."""
    try:
        Name.parse(name)
    except InvalidRequest:
        return False
    return True


def _ended() -> Cancelled:
    return Cancelled("The router is shutting down.", retry_after=5.0)


def _is_fresh(began: float, task: asyncio.Task[Resolved], now: float) -> bool:
    if not task.done():
        return True
    return now - began < (FAILED if task.cancelled() or task.exception() else FRESH)


def _part(progress: DownloadProgress) -> Part:
    return Part(progress.url, progress.done, progress.total, progress.oid)


async def _both(transfer: Awaitable[None], looking: asyncio.Task[None]) -> None:
    """Wait for the transfer, and end it if looking at what has come of it raises."""
    moving = asyncio.ensure_future(transfer)
    try:
        await asyncio.wait({moving, looking}, return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            looking.result()
        await moving
    finally:
        for task in (moving, looking):
            task.cancel()
        await asyncio.gather(moving, looking, return_exceptions=True)
