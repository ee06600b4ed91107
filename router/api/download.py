"""Downloads of models from Hugging Face, and their removal, as clients ask for them.

It knows nothing of HTTP or of a dialect: `native` has llama.cpp's endpoints for it (`POST /models`, `DELETE /models`),
`ollama.endpoints` has Ollama's (`/api/pull`, `/api/delete`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from router.errors import InvalidRequest, RouterError, Unavailable, UnknownModel, Unsupported
from router.hub.names import name_or_none
from router.hub.progress import DownloadProgress
from router.hub.repo import is_of_quant
from router.models.spec import ModelSpec
from router.pool.hub_models import HubModels
from router.pool.pool import Pool
from router.proxy.gateway import Gateway


def is_exact(name: str, spec: ModelSpec) -> bool:
    """Whether a name on the hub means the very file of this model. Requests may leave out a quant and its prefix; to
    download or to remove a model they may not."""
    parsed = name_or_none(name)
    if parsed is None or str(parsed) in (spec.name, *spec.aliases) or spec.model_path is None:
        return True
    return parsed.quant is not None and is_of_quant(PurePosixPath(spec.model_path), parsed.quant)


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How far the download of one file is, in bytes. `digest` is `sha256:` and the hash of its content."""

    digest: str
    total: int
    completed: int


class Downloads:
    """Downloads and removals by a model's name on the hub, `user/repo:QUANT`.

    All methods raise RouterErrors; Unsupported where the router has no cache to download into."""

    # Seconds for a model's last requests to finish before it is removed.
    REMOVE_PATIENCE_S = 30.0

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pool: Pool = gateway.pool

    def __repr__(self) -> str:
        return f"<Downloads {'on' if self._gateway.hub_models else 'off'}>"

    async def begin(self, name: str, token: str | None = None) -> str:
        """Start the download if the files are missing; returns the catalog's name for the model. `token` opens the hub
        in place of the router's own. A section of a preset whose files are missing is downloaded by its name.

        It returns once the hub has said what the name means and the files are known to fit on the disk."""
        hub_models, spec = self._hub_models, self._pool.catalog.find(name)
        if spec is None or spec.source == "cache" or not spec.repo_to_download:
            spec = self._pool.downloads.found(await hub_models.find(name, token))
        if spec.repo_to_download:
            hub_models.lend_token(spec.name, token)
            try:
                self._pool.downloads.pull(spec.name)
            except RouterError:
                hub_models.take_back_token(spec.name)
                await hub_models.remove(spec)
                raise
        return spec.name

    async def pull(self, name: str, token: str | None = None) -> AsyncIterator[FileProgress]:
        """Download the model; yields the progress of each file whenever it changed.

        It ends when the files are here. However else the download ends, it raises: that a client cancelled it, and
        that the router ends, too."""
        feed, news = self._pool.feed, self._pool.feed.subscribe()
        try:
            model = await self.begin(name, token)
            reported: dict[str, DownloadProgress] = {}
            while self._pool.downloads.is_fetching(model):
                for part in self._pool.downloads.files(model):
                    if reported.get(part.url) != part:
                        reported[part.url] = part
                        yield FileProgress(f"sha256:{part.oid}", part.total, part.done)
                if await news.next() is None:  # no news, or its reader is so slow that it missed some
                    if feed.is_closed:
                        break
                    news = feed.subscribe()
        finally:
            news.end()
        if failure := self._pool.downloads.failure(model):
            raise failure

    async def remove(self, name: str) -> int:
        """Remove the model from the cache once its last requests have ended; returns the bytes that this freed.

        A download that still runs is cancelled."""
        spec = self._pool.catalog.resolve(name)
        if program := {"ollama": "Ollama", "lmstudio": "LM Studio"}.get(spec.store):
            raise InvalidRequest(
                f"{spec.name!r} is a model of {program}, whose files are only read here: remove it with that program"
            )
        parsed = name_or_none(name)
        if parsed and parsed.quant and not is_exact(name, spec):
            raise UnknownModel(f"{name} is not in the cache; the cache has {spec.name}")
        if spec.source != "cache":
            raise InvalidRequest(f"{spec.name!r} was not downloaded into the cache; remove its file or its section")
        self._pool.unload(spec.name)
        if not await self._pool.processes.wait_until_ended(spec.name, self.REMOVE_PATIENCE_S):
            raise Unavailable(f"{spec.name!r} still serves requests; try again when they have ended.", retry_after=5.0)
        freed = await self._hub_models.remove(spec)
        self._pool.feed.publish(spec.name, "model_remove", {})
        return freed

    @property
    def _hub_models(self) -> HubModels:
        if self._gateway.hub_models is None:
            raise Unsupported("Models cannot be downloaded or removed here.")
        return self._gateway.hub_models
