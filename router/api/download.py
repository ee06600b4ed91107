"""Models from the hub: llama.cpp's `POST /models` and `DELETE /models`, and downloads as Ollama's API has them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api.ollama import Progress
from router.api.openai import DIALECT
from router.errors import InvalidRequest, RouterError, Unavailable, Unsupported, UpstreamFailed
from router.hub.repo import bare
from router.node.border import Part
from router.pool.depot import Depot
from router.proxy.body import in_thread_if_large
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway
from router.proxy.routing import routing_fields


class Downloads:
    """The endpoints, and `ollama.Hub`."""

    # Seconds that the last requests of a model that is to be removed get.
    PATIENCE = 30.0

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pool = gateway.pool

    def routes(self) -> list[Route]:
        return [
            Route("/models", with_dialect_errors(DIALECT, self.begin), methods=["POST"]),
            Route("/models", with_dialect_errors(DIALECT, self.delete), methods=["DELETE"]),
        ]

    async def begin(self, request: Request) -> Response:
        """Answers once it is known what the name means and that there is room; the news tell the rest."""
        body = await self._gateway.read_body(request)
        name = (await in_thread_if_large(len(body), routing_fields, body, "application/json")).model
        if not name:
            raise InvalidRequest('model name is missing from the request; send {"model": "user/repo:QUANT"}')
        found = await self._begin(name)
        return JSONResponse({"success": True, "model": found, "status": self._pool.status(found).value})

    async def delete(self, request: Request) -> Response:
        name = request.query_params.get("model")
        if not name:
            raise InvalidRequest("model name is missing from the request; send ?model=user/repo:QUANT")
        return JSONResponse({"success": True, "freed": await self.remove(name)})

    async def pull(self, name: str) -> AsyncIterator[Progress]:
        async with self._pool.feed.subscribe() as news:
            found = await self._begin(name)
            told: dict[str, Part] = {}
            while self._pool.is_fetching(found):
                for part in self._pool.parts(found):
                    if told.get(part.url) != part:
                        told[part.url] = part
                        yield Progress(f"sha256:{part.oid}", part.total, part.done)
                if (item := await news.next()) is None:
                    return
                if item["model"] == found and item["event"] == "download_failed":
                    raise UpstreamFailed(item["data"]["error"])

    async def remove(self, name: str) -> int:
        """From the cache, once its last requests have ended; a download is given up. The bytes that this freed. Raises
        RouterErrors."""
        spec = self._pool.catalog.resolve(bare(name))
        if spec.source != "cache":
            raise InvalidRequest(f"{spec.name!r} was not downloaded into the cache; remove its file or its section")
        self._pool.unload(spec.name)
        if not await self._pool.ended(spec.name, self.PATIENCE):
            raise Unavailable(f"{spec.name!r} still serves requests; try again when they have ended.", retry_after=5.0)
        freed = await self._depot.remove(spec)
        self._pool.feed.publish(spec.name, "model_remove", {})
        return freed

    @property
    def _depot(self) -> Depot:
        if self._gateway.depot is None:
            raise Unsupported("Models cannot be downloaded or removed here.")
        return self._gateway.depot

    async def _begin(self, name: str) -> str:
        """The catalog's name for it, which is there or on its way."""
        found = await self._depot.find(bare(name))
        spec = self._pool.catalog.resolve(found)
        if spec.repo_to_download:
            try:
                self._pool.pull(spec.name)
            except RouterError:
                await self._depot.remove(spec)
                raise
        return spec.name
