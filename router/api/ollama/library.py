"""What Ollama's clients see of the models: `/api/tags`, `/api/ps` and `/api/show`."""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from router import threads
from router.api.details import context_of, details
from router.api.ollama.names import NamedModel, Names
from router.api.ollama.reply import rfc3339
from router.models import gguf
from router.models.catalog import Catalog
from router.models.describe import overriding_template
from router.models.metadata import ArrayInfo, Metadata, Value
from router.models.spec import ModelSpec
from router.models.stores import blobs
from router.pool.pool import Pool
from router.text import valid

FAR_FUTURE = "2300-01-01T00:00:00Z"  # clients show a date that far away as "forever"
_GO_TEMPLATE = "The template is that of the model file: those of Ollama's store are in Go's language, and are not used."
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
# Ollama's names for what a model can do, in its order.
_CAPABILITIES = ("completion", "tools", "insert", "vision", "audio", "embedding", "thinking")


class ModelFile(NamedTuple):
    """A model's file as it was when the catalog was read.

    `digest` is made from its name, path, size and time, not from its content: reading it would take too long."""

    digest: str
    modified_at: datetime.datetime


class Library:
    """Entries of models, in Ollama's fields. Files are looked at once for each catalog, in a thread."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self._pool = pool
        self._names = names
        self._catalog: Catalog | None = None
        self._files: dict[str, ModelFile] = {}

    def __repr__(self) -> str:
        return f"<Library {len(self._files)} files>"

    async def tags(self) -> list[dict[str, Any]]:
        files = await self._model_files()
        return [self._entry(model, files) for model in self._names.listed()]

    async def running(self) -> list[dict[str, Any]]:
        """The models that are loaded, asleep or not."""
        files, now, entries = await self._model_files(), datetime.datetime.now(datetime.UTC), []
        for spec in self._pool.catalog.models:
            status = self._pool.status(spec.name)
            if status.value not in ("loaded", "sleeping"):
                continue
            left = status.expires_in
            entries.append(
                {
                    **self._entry(NamedModel.of(spec, self._names.made(spec)), files),
                    "expires_at": FAR_FUTURE if left is None else rfc3339(now + datetime.timedelta(seconds=left)),
                    "size": sum(status.held.values()) or spec.size_bytes,
                    "size_vram": sum(held for key, held in status.held.items() if not _is_ram(key)),
                    "context_length": context_of(self._pool, spec) or 0,
                }
            )
        return entries

    def _entry(self, model: NamedModel, files: Mapping[str, ModelFile]) -> dict[str, Any]:
        file = files.get(model.spec.name) or _model_file(model.spec)  # a catalog may have come meanwhile
        package = model.package
        return {
            "name": model.name,
            "model": model.name,
            "modified_at": rfc3339(model.created_at or file.modified_at),
            "size": package.size if package else model.spec.size_bytes,
            "digest": (package and package.digest) or file.digest,
            "details": self._details(model),
            "capabilities": _capabilities(self._pool.effective(model.spec.name)),
        }

    def _details(self, model: NamedModel) -> dict[str, Any]:
        """`context_length` is the context that one request has."""
        info = self._pool.effective(model.spec.name).info
        lengths = {"context_length": context_of(self._pool, model.spec), "embedding_length": info.n_embd}
        known = {name: length for name, length in lengths.items() if length}
        stored = model.package.details if model.package else {}
        return {"parent_model": model.parent, **details(info), **stored, **known}

    async def has_digest(self, digest: str) -> bool:
        return any(file.digest == digest for file in (await self._model_files()).values())

    async def show(self, model: NamedModel, *, verbose: bool) -> dict[str, Any]:
        """Raises GgufError."""
        spec, files = model.spec, await self._model_files()
        header = await self._header(spec) if spec.model_path and not spec.problem else None
        template = await self.template(spec, header)
        context = context_of(self._pool, spec)
        # What a request gets: a context that the name was made with counts only if its model was loaded with it.
        lasting = {**model.defaults.parameters, **({"num_ctx": context} if context else {})}
        parameters = "\n".join(_parameter_lines(lasting))
        messages = [{"role": m["role"], "content": m["content"]} for m in model.defaults.messages]
        licenses = await self.licenses(model)
        return {
            **({"license": "\n".join(licenses)} if licenses else {}),
            "modelfile": _modelfile(model, template, parameters, licenses),
            "parameters": parameters,
            "template": template,
            **({"system": model.defaults.system} if model.defaults.system else {}),
            **({"messages": messages} if messages else {}),
            "details": self._details(model),
            "model_info": _model_info(header, spec, verbose=verbose) if header else {},
            "capabilities": _capabilities(self._pool.effective(spec.name)),
            "modified_at": self._entry(model, files)["modified_at"],
        }

    async def licenses(self, model: NamedModel) -> Sequence[str]:
        """Those that a client has sent, or those of a store."""
        if model.package is None or not model.package.licenses:
            return model.licenses
        what = f"A license of {model.name!r}"
        return await threads.FILES.run(blobs.licenses, model.package, timeout=threads.DISK_TIMEOUT_S, what=what)

    async def template(self, spec: ModelSpec, header: Metadata | None = None) -> str:
        """The chat template that the model runs with, or would run with. Raises GgufError."""
        override = await threads.FILES.run(
            overriding_template,
            self._pool.effective(spec.name),
            timeout=threads.DISK_TIMEOUT_S,
            what=f"The chat template of {spec.name!r}",
        )
        if override is not None:
            return override
        if header is None and spec.model_path and not spec.problem:
            header = await self._header(spec)
        return (header.chat_template if header else None) or ""

    async def _header(self, spec: ModelSpec) -> Metadata:
        what = f"The model file {spec.model_path} of {spec.name!r}"
        return await threads.FILES.run(gguf.read, spec.model_path, timeout=threads.DISK_TIMEOUT_S, what=what)

    async def _model_files(self) -> Mapping[str, ModelFile]:
        """The files of all models, by model name."""
        catalog = self._pool.catalog
        if catalog is not self._catalog:
            files = await threads.FILES.run(
                lambda: {spec.name: _model_file(spec) for spec in catalog.models},
                timeout=threads.DISK_TIMEOUT_S,
                what="A model file",
            )
            self._catalog, self._files = catalog, files
            return files
        return self._files


def _is_ram(device_key: str) -> bool:
    """A device's key is NODE/NAME, and the RAM of each node has the name RAM."""
    return device_key.rpartition("/")[2] == "RAM"


def _capabilities(spec: ModelSpec) -> list[str]:
    return [name for name in _CAPABILITIES if name in spec.info.capabilities]


def _model_file(spec: ModelSpec) -> ModelFile:
    try:
        status = spec.model_path.stat() if spec.model_path else None
    except OSError:
        status = None
    modified_ns = status.st_mtime_ns if status else 0
    identity = f"{spec.name}\0{spec.model_path}\0{spec.size_bytes}\0{modified_ns}"
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
    return ModelFile(digest, datetime.datetime.fromtimestamp(modified_ns // 10**9, datetime.UTC) if status else _EPOCH)


def _model_info(header: Metadata, spec: ModelSpec, *, verbose: bool) -> dict[str, Any]:
    """The header's fields, without the chat template, which has a field of its own.

    Arrays are null unless `verbose` is set. Vocabularies are always null: headers are read without them."""
    fields = {key: value for key, value in header.fields.items() if key != "tokenizer.chat_template"}
    info = {key: _json_value(value, verbose=verbose) for key, value in fields.items()}
    return info if spec.info.n_params is None else {**info, "general.parameter_count": spec.info.n_params}


def _json_value(value: Value, *, verbose: bool) -> Any:
    if isinstance(value, tuple):
        return [_json_value(each, verbose=verbose) for each in value] if verbose else None
    if isinstance(value, ArrayInfo) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _parameter_lines(parameters: Mapping[str, Any]) -> Iterator[str]:
    for name, value in parameters.items():
        for each in value if isinstance(value, list) else [value]:
            yield f"{name:<30} {each!r}" if isinstance(each, str) else f"{name:<30} {each}"


def _modelfile(model: NamedModel, template: str, parameters: str, licenses: Sequence[str]) -> str:
    source = valid(str(model.spec.model_path or model.spec.name))
    parts = [f"# {note}" for note in (_GO_TEMPLATE, *model.package.notes)] if model.package else []
    parts += [f"FROM {source}", f'TEMPLATE """{template}"""' if template else ""]
    parts.append(f'SYSTEM """{model.defaults.system}"""' if model.defaults.system else "")
    parts += [f"PARAMETER {line}" for line in parameters.splitlines()]
    parts += [f'MESSAGE {message["role"]} """{message["content"]}"""' for message in model.defaults.messages]
    parts += [f'LICENSE """{each}"""' for each in licenses]
    return "\n".join(filter(None, parts)) + "\n"
