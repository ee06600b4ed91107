"""What Ollama's clients see of the models: `/api/tags`, `/api/ps` and `/api/show`."""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from router import threads
from router.api.details import details
from router.api.ollama.names import NamedModel, Names
from router.api.ollama.reply import rfc3339
from router.models import gguf
from router.models.catalog import Catalog
from router.models.metadata import ArrayInfo, Metadata, Value
from router.models.spec import ModelSpec
from router.pool.pool import Pool

FAR_FUTURE = "2300-01-01T00:00:00Z"  # clients show a date that far away as "forever"
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
        return [_entry(model, files) for model in self._names.listed()]

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
                    **_entry(NamedModel(spec), files),
                    "expires_at": FAR_FUTURE if left is None else rfc3339(now + datetime.timedelta(seconds=left)),
                    "size": sum(status.held.values()) or spec.size_bytes,
                    "size_vram": sum(held for key, held in status.held.items() if not _is_ram(key)),
                    "context_length": (status.info.get("meta") or {}).get("n_ctx") or spec.info.n_ctx_train or 0,
                }
            )
        return entries

    async def has_digest(self, digest: str) -> bool:
        return any(file.digest == digest for file in (await self._model_files()).values())

    async def show(self, model: NamedModel, *, verbose: bool) -> dict[str, Any]:
        """Raises GgufError."""
        spec, files = model.spec, await self._model_files()
        header = await self._header(spec) if spec.model_path and not spec.problem else None
        effective = self._pool.effective(spec.name)
        template = effective.template or (header.chat_template if header else None) or ""
        parameters = "\n".join(_parameter_lines(model.defaults.parameters))
        return {
            "modelfile": _modelfile(model, template, parameters),
            "parameters": parameters,
            "template": template,
            **({"system": model.defaults.system} if model.defaults.system else {}),
            "details": _details(model),
            "model_info": _model_info(header, spec, verbose=verbose) if header else {},
            "capabilities": [name for name in _CAPABILITIES if name in effective.info.capabilities],
            "modified_at": rfc3339(_modified_at(model, files)),
        }

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


def _entry(model: NamedModel, files: Mapping[str, ModelFile]) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": rfc3339(_modified_at(model, files)),
        "size": model.spec.size_bytes,
        "digest": files[model.spec.name].digest,
        "details": _details(model),
    }


def _model_file(spec: ModelSpec) -> ModelFile:
    try:
        status = spec.model_path.stat() if spec.model_path else None
    except OSError:
        status = None
    modified_ns = status.st_mtime_ns if status else 0
    identity = f"{spec.name}\0{spec.model_path}\0{spec.size_bytes}\0{modified_ns}"
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
    return ModelFile(digest, datetime.datetime.fromtimestamp(modified_ns // 10**9, datetime.UTC) if status else _EPOCH)


def _modified_at(model: NamedModel, files: Mapping[str, ModelFile]) -> datetime.datetime:
    return model.alias.created_at if model.alias else files[model.spec.name].modified_at


def _details(model: NamedModel) -> dict[str, Any]:
    return {"parent_model": model.spec.name if model.alias else "", **details(model.spec.info)}


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


def _modelfile(model: NamedModel, template: str, parameters: str) -> str:
    source = model.spec.model_path or model.spec.name
    parts = [f"FROM {source}", f'TEMPLATE """{template}"""' if template else ""]
    parts.append(f'SYSTEM """{model.defaults.system}"""' if model.defaults.system else "")
    parts += [f"PARAMETER {line}" for line in parameters.splitlines()]
    return "\n".join(filter(None, parts)) + "\n"
