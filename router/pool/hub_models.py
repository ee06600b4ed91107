"""Models on the Hugging Face hub: which of them requests may name, and their way into the cache and out of it.

A name that a request mentions becomes a model of the catalog at once, with its files still missing (`find`). The pool
downloads the files when a request needs them (`fetch`; see `downloads`). The gateway and the endpoints for downloads
call the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from router import threads
from router.engine.flags import value_of
from router.errors import ConfigError, RouterError
from router.hub import removal
from router.hub.fetch import fetch
from router.hub.layout import blob_path, partial_path
from router.hub.link_fetch import fetch_files, remote_files
from router.hub.names import Name, name_or_none, without_host
from router.models.links import link_sources
from router.models.sources import Sources
from router.models.spec import MODEL_FLAGS, ModelSpec
from router.pool.arriving import Arriving, check_arriving
from router.pool.download_source import CheckHeader, OnProgress
from router.pool.hub_names import HubNames
from router.units import size

log = logging.getLogger("router.depot")

MAX_WANTED = 1000  # names that clients want; the oldest is dropped
REFRESH_INTERVAL_S = 1.0  # between two looks at the cache that no request waits for


class HubModels:
    """Implements `DownloadSource`.

    `root` is the folder of the cache.
    `refresh` builds the catalog again from `sources`.
    `allowed` are glob patterns of the repositories that a request may download from.
    With `fallback`, a smaller quant is taken if the disk is too small for the one that was named.
    """

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
        self._allowed = [without_host(pattern) for pattern in allowed]
        self._offline = offline
        self._fallback = fallback
        self._names = HubNames(root, offline=offline)
        self._tokens: dict[str, str] = {}  # of requests, for downloads that run or are about to
        self._refreshing: asyncio.Task[bool] | None = None
        self._refreshed_at = 0.0

    def __repr__(self) -> str:
        return f"<HubModels in {self._root}, {len(self._sources.wanted)} wanted, {self._names!r}>"

    def allows(self, name: str) -> bool:
        """Whether a request that names this model may have it downloaded."""
        if self._offline or not self._allowed or not is_name(name):
            return False
        return any(fnmatchcase(Name.parse(name).repo, pattern) for pattern in self._allowed)

    def may_come(self, name: str) -> bool:
        """Whether another program may have brought a model of this name since the catalog was read."""
        return self._sources.has_places or is_name(name)

    async def find(self, name: str, token: str | None = None) -> str:
        """The catalog's name for this name on the hub. The model is in the catalog from then on, with or without its
        files. `token` is used in place of the router's own. Raises RouterErrors."""
        resolved = await self._names.resolve(Name.parse(name), token=token, fallback=self._fallback)
        self._want(resolved.name)
        await self._refresh()
        return resolved.name

    def lend_token(self, model: str, token: str | None) -> None:
        """The next download of this model uses the token. If it has one already, that of the first request holds."""
        if token is not None:
            self._tokens.setdefault(model, token)

    def take_back_token(self, model: str) -> None:
        """No download has begun with the token."""
        self._tokens.pop(model, None)

    async def refresh_if_changed(self) -> bool:
        """Build the catalog again if another program has changed the cache or a folder of models. Returns whether it
        was built."""
        if await threads.CATALOG.run(self._sources.is_current):
            return False
        try:
            await self._refresh()
        except ConfigError:  # the journal has it
            return False
        return True

    def refresh_soon(self) -> None:
        """`refresh_if_changed` in the background, at most once a second."""
        is_refreshing = self._refreshing is not None and not self._refreshing.done()
        if not is_refreshing and time.monotonic() - self._refreshed_at >= REFRESH_INTERVAL_S:
            self._refreshed_at = time.monotonic()
            self._refreshing = asyncio.create_task(self.refresh_if_changed())

    async def fetch(self, spec: ModelSpec, on_progress: OnProgress, check_header: CheckHeader) -> None:
        """See `DownloadSource`."""
        token = self._tokens.get(spec.name) or value_of(spec.args, "--hf-token") or None
        repo = None if value_of(spec.args, "--docker-repo") else value_of(spec.args, "--hf-repo")
        if spec.source == "cache":
            self._want(spec.name)  # an unload may have dropped it
        try:
            await self._fetch_links(spec, token, on_progress, check_header)
            if repo:
                await self._fetch_repository(spec, repo, token, on_progress, check_header)
        except RouterError:
            # The repository may have changed since it was listed.
            self._names.forget_answers()
            raise
        finally:
            self._tokens.pop(spec.name, None)
        if repo is None or Name.parse(repo).quant:  # without a quant, the listing of the cache leaves it out
            self.forget(spec.name)
        await self._refresh()

    async def _fetch_repository(
        self, spec: ModelSpec, repo: str, token: str | None, on_progress: OnProgress, check_header: CheckHeader
    ) -> None:
        file, kind = value_of(spec.args, "--hf-file"), spec.draft_kind
        resolved = await self._names.resolve(Name.parse(repo), file, token=token, drafting=kind)
        first = resolved.files[0]
        blob = blob_path(self._root, resolved.listing.repo, first.oid)
        arriving = Arriving((partial_path(blob), blob), first.size, resolved.bytes)
        checking = asyncio.create_task(check_arriving(spec, arriving, check_header))
        await _transfer_while(fetch(resolved, self._root, on_progress, token=token), checking)

    async def _fetch_links(
        self, spec: ModelSpec, token: str | None, on_progress: OnProgress, check_header: CheckHeader
    ) -> None:
        """What the model's preset names by addresses, or in a registry of Docker."""
        for flag, wanted, reference in link_sources(spec.args, self._root):
            found = await remote_files(wanted, reference, self._root, token=token, offline=self._offline)
            transfer = fetch_files(found, on_progress, token=token)
            if flag not in MODEL_FLAGS:
                await transfer
                continue
            first = found[0]
            arriving = Arriving((first.part, first.whole, first.link.path), first.size, sum(f.size for f in found))
            await _transfer_while(transfer, asyncio.create_task(check_arriving(spec, arriving, check_header)))

    def end(self) -> None:
        """Refuse all requests that wait for the hub, and all later ones."""
        self._names.end()

    def _want(self, name: str) -> None:
        if name not in self._sources.wanted:
            self._sources.wanted.append(name)
            del self._sources.wanted[:-MAX_WANTED]

    def forget(self, name: str) -> None:
        """The model is not wanted any more, until the next request for it."""
        if name in self._sources.wanted:
            self._sources.wanted.remove(name)

    async def remove(self, spec: ModelSpec) -> int:
        """Delete the files of this model from the cache; a missing model is only dropped. Returns the bytes freed.
        Raises RouterErrors."""
        self.forget(spec.name)
        freed = 0
        if not spec.repo_to_download:
            freed = await threads.CACHE.run(removal.remove, self._root, Name.parse(spec.name))
            log.info("%s: removed, which freed %s", spec.name, size(freed), extra={"model": spec.name})
        await self._refresh()
        return freed


def is_name(name: str) -> bool:
    """Whether this could be a name on the hub."""
    return name_or_none(name) is not None


async def _transfer_while(transfer: Awaitable[None], checking: asyncio.Task[None]) -> None:
    """Wait for the transfer. If the check of the header raises, end the transfer and raise the same."""
    transferring = asyncio.ensure_future(transfer)
    try:
        await asyncio.wait({transferring, checking}, return_when=asyncio.FIRST_COMPLETED)
        if checking.done():
            checking.result()
        await transferring
    finally:
        for task in (transferring, checking):
            task.cancel()
        await asyncio.gather(transferring, checking, return_exceptions=True)
