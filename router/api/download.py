"""Downloads of models from Hugging Face, and their removal, as clients ask for them.

It knows nothing of HTTP or of a dialect: `native` has llama.cpp's endpoints for it (`POST /models`, `DELETE /models`),
`ollama.endpoints` has Ollama's (`/api/pull`, `/api/delete`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from router.errors import InvalidRequest, RouterError, Unavailable, Unsupported, UpstreamFailed
from router.hub.names import without_host
from router.hub.progress import DownloadProgress
from router.pool.hub_models import HubModels
from router.pool.pool import Pool
from router.proxy.gateway import Gateway


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
        in place of the router's own.

        It returns once the hub has said what the name means and the files are known to fit on the disk."""
        model = await self._hub_models.find(without_host(name), token)
        spec = self._pool.catalog.resolve(model)
        if spec.repo_to_download:
            self._hub_models.lend_token(spec.name, token)
            try:
                self._pool.downloads.pull(spec.name)
            except RouterError:
                self._hub_models.take_back_token(spec.name)
                await self._hub_models.remove(spec)
                raise
        return spec.name

    async def pull(self, name: str, token: str | None = None) -> AsyncIterator[FileProgress]:
        """Download the model; yields the progress of each file whenever it changed."""
        async with self._pool.feed.subscribe() as news:
            model = await self.begin(name, token)
            reported: dict[str, DownloadProgress] = {}
            while self._pool.downloads.is_fetching(model):
                for part in self._pool.downloads.files(model):
                    if reported.get(part.url) != part:
                        reported[part.url] = part
                        yield FileProgress(f"sha256:{part.oid}", part.total, part.done)
                if (item := await news.next()) is None:
                    return
                if item["model"] == model and item["event"] == "download_failed":
                    raise UpstreamFailed(item["data"]["error"])

    async def remove(self, name: str) -> int:
        """Remove the model from the cache once its last requests have ended; returns the bytes that this freed.

        A download that still runs is cancelled."""
        spec = self._pool.catalog.resolve(without_host(name))
        if program := {"ollama": "Ollama", "lmstudio": "LM Studio"}.get(spec.store):
            raise InvalidRequest(
                f"{spec.name!r} is a model of {program}, whose files are only read here: remove it with that program"
            )
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
