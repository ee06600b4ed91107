"""The routes of Ollama's API, and those that need no model to run: lists, aliases, downloads and removals.

Ollama's docs/api.md describes them. `inference` has the routes that a model answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from router.api.dialects import OLLAMA
from router.api.download import FileProgress, is_exact
from router.api.endless import STREAM_HEADERS
from router.api.ollama import cloud
from router.api.ollama.blobs import Blobs
from router.api.ollama.creation import creation
from router.api.ollama.fields import flag, model_name, required_model_name, text
from router.api.ollama.inference import Inference
from router.api.ollama.library import Library
from router.api.ollama.makers import Makers
from router.api.ollama.names import Names, without_tag
from router.api.ollama.reply import json_response, line, status_response
from router.api.ollama.version import VERSION
from router.errors import InvalidRequest, RouterError, UnknownModel, Unsupported
from router.hub.names import name_or_none, ollama_library_name, search_page
from router.hub.tokens import token_of
from router.models.spec import ModelSpec
from router.proxy.body import in_thread_if_large
from router.proxy.client_response import NDJSON
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway
from router.proxy.routing import all_fields


class OllamaStore(Protocol):
    """Where Ollama's clients download models from, and remove them: `download.Downloads`. Both raise RouterErrors."""

    def pull(self, name: str, token: str | None = None) -> AsyncIterator[FileProgress]: ...

    async def remove(self, name: str) -> object: ...


class OllamaEndpoints:
    """Without a `store`, downloads and removals are answered with Unsupported."""

    def __init__(self, gateway: Gateway, store: OllamaStore | None) -> None:
        self._gateway = gateway
        self._names = Names(gateway.pool, gateway.created)
        self._library = Library(gateway.pool, self._names)
        self._blobs = Blobs(gateway.created)
        self._makers = Makers(gateway, self._names, self._library, self._blobs)
        self._store = store

    def routes(self) -> list[Route]:
        inference = Inference(self._gateway, self._names)
        inferred = (
            ("/api/chat", inference.chat),
            ("/api/generate", inference.generate),
            ("/api/embed", inference.embed),
            ("/api/embeddings", inference.embeddings),
        )
        own = (
            ("/", "GET", self.greet),
            ("/api/version", "GET", self.version),
            ("/api/tags", "GET", self.tags),
            ("/api/ps", "GET", self.running),
            ("/api/show", "POST", self.show),
            ("/api/copy", "POST", self.copy),
            ("/api/create", "POST", self.create),
            ("/api/delete", "DELETE", self.delete),
            ("/api/pull", "POST", self.pull),
            ("/api/push", "POST", self.push),
            ("/api/blobs/{digest}", "HEAD", self.has_blob),
            ("/api/blobs/{digest}", "POST", self.take_blob),
            ("/api/status", "GET", cloud.status),
            *((path, method, cloud.refuse) for path, method in cloud.PATHS),
        )
        records = self._gateway.records
        return [
            *(
                Route(path, with_dialect_errors(OLLAMA, endpoint, records), methods=["POST"])
                for path, endpoint in inferred
            ),
            *(Route(path, with_dialect_errors(OLLAMA, endpoint), methods=[method]) for path, method, endpoint in own),
        ]

    # What there is

    async def greet(self, request: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    async def version(self, request: Request) -> Response:
        return json_response({"version": VERSION})

    async def tags(self, request: Request) -> Response:
        if self._gateway.hub_models:
            self._gateway.hub_models.refresh_soon()  # another program may have changed its store, or the cache
        return json_response({"models": await self._library.tags()})

    async def running(self, request: Request) -> Response:
        return json_response({"models": await self._library.running()})

    async def show(self, request: Request) -> Response:
        fields = await self._read_fields(request)
        model = self._names.find_ignoring_prefix(model_name(fields))
        await self._gateway.pool.exchange.learn(model.spec.name)
        model = self._names.find_ignoring_prefix(model_name(fields))
        return json_response(await self._library.show(model, verbose=flag(fields, "verbose")))

    # Names and models that clients make

    async def copy(self, request: Request) -> Response:
        fields = await self._read_fields(request)
        source, destination = text(fields, "source"), text(fields, "destination")
        if not source or not destination:
            raise InvalidRequest('Send {"source": NAME, "destination": NAME}.')
        await self._makers.copy(self._names.find(source), destination)
        return Response()

    async def create(self, request: Request) -> Response:
        fields = await self._read_fields(request)
        await self._makers.create(creation(fields))
        return status_response(["writing manifest", "success"], stream=flag(fields, "stream", True))

    async def delete(self, request: Request) -> Response:
        """Removes what a client made, or a model from the cache."""
        fields = await self._read_fields(request)
        model = self._names.find(required_model_name(fields))
        if model.alias:
            await self._makers.remove(model.alias)
        else:
            name = required_model_name(fields)
            await self._store_for("deleted").remove(name if name_or_none(name) else model.spec.name)
        return Response()

    async def has_blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        is_here = await self._library.has_digest(digest.removeprefix("sha256:")) or await self._blobs.has(digest)
        return Response(status_code=200 if is_here else 404)

    async def take_blob(self, request: Request) -> Response:
        length = request.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else None
        await self._blobs.receive(request.path_params["digest"], request.stream(), size)
        return Response(status_code=201)

    # Downloads

    async def pull(self, request: Request) -> Response:
        fields = await self._read_fields(request)
        name, store, token = without_tag(required_model_name(fields)), self._store_for("pulled"), token_of(fields)
        spec = self._find(name)
        if spec is not None and _is_here(name, spec):
            return status_response(["pulling manifest", "success"], stream=flag(fields, "stream", True))
        if spec is None and (library_name := ollama_library_name(name)):
            raise InvalidRequest(
                f"{library_name!r} is a name of Ollama's own library, which is not served here. Pull a repository of "
                f"Hugging Face that has GGUF files, as hf.co/USER/REPO:Q4_K_M; {search_page(library_name)} lists some."
            )
        if not flag(fields, "stream", True):
            async for _ in store.pull(name, token):
                pass
            return json_response({"status": "success"})
        return StreamingResponse(_pull_lines(store, name, token), media_type=NDJSON.decode(), headers=STREAM_HEADERS)

    async def push(self, request: Request) -> Response:
        raise Unsupported("Models cannot be pushed: this router has no account at a registry.")

    def _find(self, name: str) -> ModelSpec | None:
        try:
            return self._names.find(name).spec
        except (UnknownModel, InvalidRequest):
            return None

    def _store_for(self, verb: str) -> OllamaStore:
        if self._store is None:
            raise Unsupported(f"Models cannot be {verb} here: downloads are not available.")
        return self._store

    async def _read_fields(self, request: Request) -> dict[str, Any]:
        body = await self._gateway.read_body(request)
        return await in_thread_if_large(len(body), all_fields, body)


def _is_here(name: str, spec: ModelSpec) -> bool:
    """Whether there is nothing to download. What another program's store has is here, and only that program may change
    it. Raises InvalidRequest for a model there that cannot be used."""
    if spec.package is None:
        return is_exact(name, spec) and not (spec.repo_to_download or spec.problem)
    if spec.problem:
        raise InvalidRequest(spec.problem)
    return True


async def _pull_lines(store: OllamaStore, name: str, token: str | None) -> AsyncIterator[bytes]:
    yield line({"status": "pulling manifest"})
    try:
        async for file in store.pull(name, token):
            status = f"pulling {file.digest.removeprefix('sha256:')[:12]}"
            yield line({"status": status, "digest": file.digest, "total": file.total, "completed": file.completed})
    except RouterError as exc:
        yield OLLAMA.stream_error(exc, "")
        return
    for status in ("verifying sha256 digest", "writing manifest", "success"):
        yield line({"status": status})


def routes(gateway: Gateway, store: OllamaStore | None = None) -> list[Route]:
    return OllamaEndpoints(gateway, store).routes()
