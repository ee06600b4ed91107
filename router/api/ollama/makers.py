"""What `/api/create`, `/api/copy` and `/api/delete` do: names and models that clients make, and their files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from router import threads
from router.api.ollama.blobs import Blobs
from router.api.ollama.creation import Creation
from router.api.ollama.library import Library
from router.api.ollama.names import NamedModel, Names
from router.api.ollama.options import AliasDefaults
from router.errors import ConfigError, GgufError, InvalidRequest, RouterError, Unsupported
from router.models import gguf
from router.models.created import Created
from router.proxy.gateway import Gateway

log = logging.getLogger("router.created")


class Makers:
    """One change at a time: a change may read the catalog again, and writes a file."""

    def __init__(self, gateway: Gateway, names: Names, library: Library, blobs: Blobs) -> None:
        self._gateway = gateway
        self._created = gateway.created
        self._names = names
        self._library = library
        self._blobs = blobs
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Makers of {self._created!r}, {'changing' if self._changing.locked() else 'idle'}>"

    async def create(self, wanted: Creation) -> None:
        """Raises RouterErrors."""
        async with self._changing:
            if wanted.digests:
                digests, trained = await self._files(wanted.digests)
                more: dict[str, Any] = {"digests": digests, "template": wanted.template, "license": wanted.license}
                await self._add(wanted.name, None, _within(trained, wanted.defaults), **more)
                return
            model = self._names.find(wanted.origin)
            before, after = model.defaults, wanted.defaults
            inherited = dict(before.parameters)
            if model.package or (model.alias and model.alias.is_own_model):
                inherited.pop("num_ctx", None)  # its process has that context already
            defaults = AliasDefaults(
                after.system or before.system,
                {**inherited, **after.parameters},
                after.messages or before.messages,
            )
            license = wanted.license or await self._library.licenses(model)
            template = None if wanted.template == await self._library.template(model.spec) else wanted.template
            defaults = _within(model.spec.info.n_ctx_train, defaults)
            await self._add(wanted.name, model, defaults, license=license, template=template)

    async def copy(self, model: NamedModel, destination: str) -> None:
        """A name of its own: it outlives the one that it was copied from. Raises RouterErrors."""
        async with self._changing:
            alias, license = model.alias, await self._library.licenses(model)
            origin: NamedModel | None = model
            more: dict[str, Any] = {}
            if alias and alias.is_own_model:
                more = {"template": alias.template, "digests": alias.digests}
                origin = NamedModel(self._gateway.pool.catalog.resolve(alias.model)) if alias.model else None
            defaults = model.defaults
            if model.package:  # its process has that context already
                lasting = {name: value for name, value in defaults.parameters.items() if name != "num_ctx"}
                defaults = replace(defaults, parameters=lasting)
            await self._add(destination, origin, defaults, license=license, **more)

    async def remove(self, alias: Created) -> None:
        """Raises RouterErrors."""
        async with self._changing:
            self._names.remove(alias)
            await self._keep(alias.is_own_model, alias)
            await self._blobs.remove(alias.digests)

    async def _add(self, name: str, model: NamedModel | None, defaults: AliasDefaults, **more: Any) -> None:
        before = self._created.get(name)
        made = self._names.add(name, model, defaults, **more)
        try:
            if made.is_own_model and self._gateway.refresh is None:
                raise Unsupported("Models cannot be made here, only names for them.")
            await self._keep(made.is_own_model or (before is not None and before.is_own_model), made, before)
        except RouterError:
            self._names.remove(made)
            if before:
                self._created.put(before)
            raise
        if before:
            await self._blobs.remove(before.digests)

    async def _keep(self, is_in_catalog: bool, *changed: Created | None) -> None:
        """Read the catalog again if it has changed, and write the file. Lists show names as aliases of their models."""
        for created in changed:
            if created and created.model in self._gateway.pool.catalog:
                self._gateway.pool.change_log.mark_changed(created.model)
        if is_in_catalog and self._gateway.refresh:
            try:
                await self._gateway.refresh()
            except ConfigError as exc:
                log.error("a model of a client was left out: %s", exc)
                raise RouterError(f"The models cannot be read again: {exc}.") from exc
        await threads.RECORDS.run(self._created.save)

    async def _files(self, digests: Sequence[str]) -> tuple[list[str], int | None]:
        """The digests, that of the model first, and the context that it was trained for. Raises InvalidRequest for
        files of which no model can be made."""
        kinds: dict[str, str] = {}
        trained = None
        for digest in digests:
            path = self._blobs.path(digest)
            if not await self._blobs.has(digest):
                raise InvalidRequest(f"The file sha256:{digest} is not here: send it to /api/blobs first.")
            try:
                header = await threads.FILES.run(
                    gguf.read, path, timeout=threads.DISK_TIMEOUT_S, what=f"The file {path.name}"
                )
            except GgufError as exc:
                reason = str(exc).replace(str(path), "it")  # a client need not know the folder
                raise InvalidRequest(f"The file sha256:{digest} is no model that can be used here: {reason}") from exc
            if isinstance(parts := header.fields.get("split.count"), int) and parts > 1:
                raise Unsupported(
                    f"The file sha256:{digest} is one of {parts} parts of a model: join them with "
                    "llama-gguf-split --merge, or put them into the folder of --models-dir."
                )
            kind = "projector" if header.architecture == "clip" else str(header.fields.get("general.type") or "model")
            kinds.setdefault(kind, digest)
            trained = header.context_length if kind == "model" else trained
        if "adapter" in kinds:
            raise Unsupported('An adapter is not supported here: it is a flag of a preset, "lora = FILE".')
        if "model" not in kinds or len(kinds) != len(digests):
            raise InvalidRequest('"files" must be one model, and one projector if it has one.')
        return [kinds["model"], *(digest for kind, digest in kinds.items() if kind != "model")], trained or None


def _within(trained: int | None, defaults: AliasDefaults) -> AliasDefaults:
    """No larger context than the model was trained for, as in Ollama."""
    context = defaults.parameters.get("num_ctx")
    if not context or not trained or context <= trained:
        return defaults
    return replace(defaults, parameters={**defaults.parameters, "num_ctx": trained})
