"""The names by which Ollama's clients ask for models: the catalog's, and those that clients made.

`/api/copy` and `/api/create` make names. `models.created` keeps them, and every API knows them.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from router.api.ollama.options import AliasDefaults, engine_options
from router.errors import InvalidRequest, UnknownModel
from router.models.catalog import LATEST_TAG, quoted
from router.models.created import Created, CreatedStore
from router.models.spec import ModelSpec, Package
from router.pool.pool import Pool

MAX_NAME_LENGTH = 200
MAX_DEFAULTS_BYTES = 2**16  # of all that is kept of a name, as JSON


class NamedModel(NamedTuple):
    """A model, and the name that a client made for it, if it was named so.

    `called` is another name that Ollama's store has for it. The filters of the model are those of its preset: what its
    name adds to a request are the `defaults`, which only this API says in its own words."""

    spec: ModelSpec
    alias: Created | None = None
    called: str = ""

    @classmethod
    def of(cls, spec: ModelSpec, alias: Created | None = None, called: str = "") -> NamedModel:
        return cls(replace(spec, filters=spec.package.operator_filters) if spec.package else spec, alias, called)

    @property
    def name(self) -> str:
        return self.alias.name if self.alias else self.called or self.spec.name

    @property
    def package(self) -> Package | None:
        """What another program's store says of it, unless a client has made the name."""
        return None if self.alias else self.spec.package

    @property
    def defaults(self) -> AliasDefaults:
        if package := self.package:
            return AliasDefaults(package.system, package.parameters, package.messages)
        if self.alias is None:
            return AliasDefaults()
        return AliasDefaults(self.alias.system, self.alias.parameters, self.alias.messages)

    @property
    def parent(self) -> str:
        """The model that the name was made from; empty for a model that no client made."""
        return self.alias.model if self.alias else ""

    @property
    def created_at(self) -> datetime.datetime | None:
        seconds = self.alias.created_at if self.alias else self.package.modified_at if self.package else None
        return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)

    @property
    def licenses(self) -> Sequence[str]:
        """The texts that a client has sent; those of a store are in files."""
        return self.alias.license if self.alias else ()


class Names:
    """Finds models by name, and makes names.

    For example, with a model `qwen3` in the catalog::

        names.add("mine", names.find("qwen3:latest"), AliasDefaults("Be brief."))
        names.find("Mine:latest").spec.name  # "qwen3"
    """

    def __init__(self, pool: Pool, created: CreatedStore | None = None) -> None:
        self._pool = pool
        self._created = CreatedStore() if created is None else created

    def __repr__(self) -> str:
        return f"<Names {len(self._created)} made by clients>"

    def find(self, name: str | None) -> NamedModel:
        """The model of this name. The catalog's names win.

        Raises UnknownModel, or InvalidRequest if there is no name and no default model."""
        catalog = self._pool.catalog
        spec, created = catalog.find(name) if name else None, self._created.get(name or "")
        if spec is None and created and created.model in catalog:
            return NamedModel.of(catalog.resolve(created.model), created)
        try:
            spec = spec or catalog.find(_without_registry(name or "")) or catalog.resolve(name)
        except UnknownModel as exc:
            raise not_found(name, exc) from None
        return NamedModel.of(spec, self._created.made(spec))

    def made(self, spec: ModelSpec) -> Created | None:
        """What a client made this model of the catalog of; None for all others."""
        return self._created.made(spec)

    def find_ignoring_prefix(self, name: str | None) -> NamedModel:
        """As `find`, also for `PREFIX.NAME`: Open WebUI sends some requests with the prefix of the connection."""
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

    def add(self, name: str, model: NamedModel | None, defaults: AliasDefaults, **more: Any) -> Created:
        """Make a name for a model, or with `digests` for files. `more` are further fields of Created.

        Raises InvalidRequest if it cannot become a name."""
        name = without_tag(name)
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise InvalidRequest(
                f"A model's name has 1 to {MAX_NAME_LENGTH} characters, none of them control characters."
            )
        if self._is_of_others(name):
            raise InvalidRequest(f"{name!r} is a model of the catalog and cannot be changed; choose another name.")
        made = Created(
            name,
            "" if model is None else model.spec.name,
            time.time(),
            defaults.system,
            defaults.parameters,
            engine_options({}, defaults),
            tuple(defaults.messages),
            **more,
        )
        if not _is_small(made):
            raise InvalidRequest(
                "The prompts, the template, the license and the parameters of a name take at most "
                f"{MAX_DEFAULTS_BYTES} bytes together."
            )
        self._created.put(made)
        return made

    def remove(self, alias: Created) -> None:
        self._created.remove(alias.name)

    def listed(self) -> Iterator[NamedModel]:
        """All models that clients may see, then the names that clients made for models that still exist."""
        catalog = self._pool.catalog
        for spec in catalog.models:
            if not spec.unlisted:
                made = self._created.made(spec)
                yield NamedModel.of(spec, made)
                for alias in spec.aliases if spec.package and made is None else ():
                    if LATEST_TAG[0] in alias:
                        yield NamedModel.of(spec, called=alias)
        for created in self._created:
            if not created.is_own_model and created.model in catalog:
                yield NamedModel.of(catalog.resolve(created.model), created)

    def _is_of_others(self, name: str) -> bool:
        """Whether the catalog has this name, and no client made it."""
        try:
            spec = self._pool.catalog.resolve(name)
        except UnknownModel:
            return False
        return self._created.made(spec) is None


def without_tag(name: str) -> str:
    """The name without the tag `latest`."""
    return name[: -len(LATEST_TAG)] if name.lower().endswith(LATEST_TAG) else name


def _without_registry(name: str) -> str:
    """The name without what Ollama takes for granted."""
    for prefix in ("registry.ollama.ai/", "ollama.com/", "library/"):
        name = name.removeprefix(prefix)
    return name


def not_found(name: str | None, exc: UnknownModel) -> UnknownModel:
    """The error in the words that Ollama's clients look for."""
    return UnknownModel(f"model {quoted(name or '')} not found: {exc.message}").about(name or "")


def _is_small(made: Created) -> bool:
    texts = (made.system, made.template or "", *made.license)
    if sum(map(len, texts)) > MAX_DEFAULTS_BYTES:  # then it is not made into JSON first, which takes a while
        return False
    try:
        return len(json.dumps([texts, made.parameters, made.messages])) <= MAX_DEFAULTS_BYTES
    except (RecursionError, ValueError):
        return False
