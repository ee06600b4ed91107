"""Ollama's view of the catalog: names with tags, names that clients made, and what is told of a model."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from router import threads
from router.api.details import details
from router.api.prompt import Defaults
from router.api.reply import rfc3339
from router.errors import InvalidRequest, UnknownModel
from router.models import gguf
from router.models.catalog import Catalog
from router.models.metadata import ArrayInfo, Metadata, Value
from router.models.spec import ModelSpec
from router.pool.pool import Pool

LATEST = ":latest"  # which Ollama's clients add to a name without a tag
MOST_ALIASES = 1000
LONGEST = 200
LARGEST = 2**16  # bytes, as JSON, of what a name adds to requests: it is kept, for each name
NEVER = "2300-01-01T00:00:00Z"  # clients read a date that far away as for ever
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
# What Ollama calls the things that a model can do.
_CAPABILITIES = ("completion", "tools", "insert", "vision", "audio", "embedding", "thinking")


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that a client gave to a model of the catalog."""

    name: str
    model: str
    made: datetime.datetime
    defaults: Defaults = field(default_factory=Defaults)


class Found(NamedTuple):
    spec: ModelSpec
    alias: Alias | None = None

    @property
    def defaults(self) -> Defaults:
        return self.alias.defaults if self.alias else Defaults()


class File(NamedTuple):
    """A model's file, as it was when the catalog was read; `digest` stands for its identity, not for its content."""

    digest: str
    modified: datetime.datetime


class Library:
    """Aliases live as long as the router."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._aliases: dict[str, Alias] = {}
        self._catalog: Catalog | None = None
        self._files: dict[str, File] = {}

    def find(self, name: str | None) -> Found:
        """The model of this name; the operator's names come before those of clients. Raises UnknownModel, or
        InvalidRequest for no name."""
        try:
            return Found(self._pool.catalog.resolve(name))
        except UnknownModel:
            assert name is not None
            short = name.removesuffix(LATEST)
            if alias := self._aliases.get(short):
                return Found(self._pool.catalog.resolve(alias.model), alias)
            if short == name:
                raise
        try:
            return Found(self._pool.catalog.resolve(short))
        except InvalidRequest:  # nothing but a tag
            raise UnknownModel(f"there is no model {name!r}") from None

    def find_prefixed(self, name: str | None) -> Found:
        """Also below the prefix of a connection, which Open WebUI leaves before a name here and there."""
        try:
            return self.find(name)
        except UnknownModel:
            rest = (name or "").partition(".")[2]
            if not rest:
                raise
            try:
                return self.find(rest)
            except UnknownModel:
                pass
            raise

    def add(self, name: str, found: Found, defaults: Defaults) -> None:
        """Raises InvalidRequest when the name cannot be given."""
        name = name.removesuffix(LATEST)
        if not name.isprintable() or not 0 < len(name) <= LONGEST:
            raise InvalidRequest(f"A model's name has 1 to {LONGEST} characters, none of them control characters.")
        if self._is_of_catalog(name):
            raise InvalidRequest(f"{name!r} is a model of the operator's and stays as it is; choose another name.")
        if name not in self._aliases and len(self._aliases) >= MOST_ALIASES:
            raise InvalidRequest(f"There are {MOST_ALIASES} names already; delete one first.")
        if not _is_small(defaults):
            raise InvalidRequest(
                f"The system prompt and the parameters of a name take at most {LARGEST} bytes together."
            )
        made = datetime.datetime.now(datetime.UTC)
        self._aliases[name] = Alias(name, found.spec.name, made, defaults)

    def remove(self, alias: Alias) -> None:
        del self._aliases[alias.name]

    def _is_of_catalog(self, name: str) -> bool:
        try:
            self._pool.catalog.resolve(name)
        except UnknownModel:
            return False
        return True

    # What is told

    async def tags(self) -> list[dict[str, Any]]:
        files = await self._read()
        return [self._entry(found, files) for found in self._listed()]

    async def running(self) -> list[dict[str, Any]]:
        """Those that take memory and would answer at once."""
        files, now, entries = await self._read(), datetime.datetime.now(datetime.UTC), []
        for spec in self._pool.catalog.models:
            status = self._pool.status(spec.name)
            if status.value not in ("loaded", "sleeping"):
                continue
            left, gpus = status.expires_in, {k: v for k, v in status.held.items() if not k.endswith("/RAM")}
            entries.append(
                {
                    **self._entry(Found(spec), files),
                    "expires_at": NEVER if left is None else rfc3339(now + datetime.timedelta(seconds=left)),
                    "size": sum(status.held.values()) or spec.size_bytes,
                    "size_vram": sum(gpus.values()),
                    "context_length": (status.info.get("meta") or {}).get("n_ctx") or spec.info.n_ctx_train or 0,
                }
            )
        return entries

    async def has(self, digest: str) -> bool:
        return any(file.digest == digest for file in (await self._read()).values())

    async def show(self, found: Found, *, verbose: bool) -> dict[str, Any]:
        """Raises GgufError."""
        spec, files = found.spec, await self._read()
        header = await self._header(spec) if spec.model_path and not spec.problem else None
        template = self._pool.effective(spec.name).template or (header.chat_template if header else None) or ""
        parameters = "\n".join(_lines(found.defaults.parameters))
        return {
            "modelfile": _modelfile(found, template, parameters),
            "parameters": parameters,
            "template": template,
            **({"system": found.defaults.system} if found.defaults.system else {}),
            "details": _details(found),
            "model_info": _model_info(header, spec, verbose=verbose) if header else {},
            "capabilities": _capabilities(spec),
            "modified_at": rfc3339(_modified(found, files)),
        }

    async def _header(self, spec: ModelSpec) -> Metadata:
        what = f"The model file {spec.model_path} of {spec.name!r}"
        return await threads.FILES.run(gguf.read, spec.model_path, patience=threads.PATIENCE, what=what)

    def _listed(self) -> Iterator[Found]:
        catalog = self._pool.catalog
        yield from (Found(spec) for spec in catalog.models if not spec.unlisted)
        for alias in self._aliases.values():
            if spec := next((spec for spec in catalog.models if spec.name == alias.model), None):
                yield Found(spec, alias)

    def _entry(self, found: Found, files: Mapping[str, File]) -> dict[str, Any]:
        name = found.alias.name if found.alias else found.spec.name
        return {
            "name": name,
            "model": name,
            "modified_at": rfc3339(_modified(found, files)),
            "size": found.spec.size_bytes,
            "digest": files[found.spec.name].digest,
            "details": _details(found),
        }

    async def _read(self) -> Mapping[str, File]:
        """By model name; looked up once for each catalog."""
        catalog = self._pool.catalog
        if catalog is not self._catalog:
            files = await threads.FILES.run(
                lambda: {spec.name: _file(spec) for spec in catalog.models},
                patience=threads.PATIENCE,
                what="A model file",
            )
            self._catalog, self._files = catalog, files
            return files
        return self._files


def _is_small(defaults: Defaults) -> bool:
    try:
        return len(defaults.system) <= LARGEST and len(json.dumps([defaults.system, defaults.parameters])) <= LARGEST
    except RecursionError:
        return False


def _file(spec: ModelSpec) -> File:
    try:
        status = spec.model_path.stat() if spec.model_path else None
    except OSError:
        status = None
    changed = status.st_mtime_ns if status else 0
    identity = f"{spec.name}\0{spec.model_path}\0{spec.size_bytes}\0{changed}"
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
    return File(digest, datetime.datetime.fromtimestamp(changed // 10**9, datetime.UTC) if status else _EPOCH)


def _modified(found: Found, files: Mapping[str, File]) -> datetime.datetime:
    return found.alias.made if found.alias else files[found.spec.name].modified


def _details(found: Found) -> dict[str, Any]:
    return {"parent_model": found.spec.name if found.alias else "", **details(found.spec.info)}


def _capabilities(spec: ModelSpec) -> list[str]:
    return [name for name in _CAPABILITIES if name in spec.info.capabilities]


def _model_info(header: Metadata, spec: ModelSpec, *, verbose: bool) -> dict[str, Any]:
    """The header's fields. The template is told elsewhere; of arrays there is null unless the client wants them, and
    of vocabularies always: headers are read without."""
    fields = {key: value for key, value in header.fields.items() if key != "tokenizer.chat_template"}
    told = {key: _value(value, verbose=verbose) for key, value in fields.items()}
    return told if spec.info.n_params is None else {**told, "general.parameter_count": spec.info.n_params}


def _value(value: Value, *, verbose: bool) -> Any:
    if isinstance(value, tuple):
        return [_value(each, verbose=verbose) for each in value] if verbose else None
    if isinstance(value, ArrayInfo) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _lines(parameters: Mapping[str, Any]) -> Iterator[str]:
    for name, value in parameters.items():
        for each in value if isinstance(value, list) else [value]:
            yield f"{name:<30} {each!r}" if isinstance(each, str) else f"{name:<30} {each}"


def _modelfile(found: Found, template: str, parameters: str) -> str:
    source = found.spec.model_path or found.spec.name
    parts = [f"FROM {source}", f'TEMPLATE """{template}"""' if template else ""]
    parts.append(f'SYSTEM """{found.defaults.system}"""' if found.defaults.system else "")
    parts += [f"PARAMETER {line}" for line in parameters.splitlines()]
    return "\n".join(filter(None, parts)) + "\n"
