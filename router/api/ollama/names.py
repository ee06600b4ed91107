"""The names by which Ollama's clients ask for models: the catalog's, with or without a tag, and aliases of their own.

`/api/copy` and `/api/create` make aliases; they live as long as the router.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from router.api.ollama.options import AliasDefaults
from router.errors import InvalidRequest, UnknownModel
from router.models.spec import ModelSpec
from router.pool.pool import Pool

LATEST_TAG = ":latest"  # Ollama's clients add it to a name without a tag
MAX_ALIASES = 1000
MAX_NAME_LENGTH = 200
MAX_DEFAULTS_BYTES = 2**16  # of an alias's system prompt and parameters as JSON, since they are kept for each alias


@dataclass(frozen=True, slots=True)
class Alias:
    """A client's own name for a model of the catalog."""

    name: str
    model: str
    created_at: datetime.datetime
    defaults: AliasDefaults = field(default_factory=AliasDefaults)


class NamedModel(NamedTuple):
    """A model, and the alias by which the client named it, if any."""

    spec: ModelSpec
    alias: Alias | None = None

    @property
    def name(self) -> str:
        return self.alias.name if self.alias else self.spec.name

    @property
    def defaults(self) -> AliasDefaults:
        return self.alias.defaults if self.alias else AliasDefaults()


class Names:
    """Finds models by name, and keeps the aliases.

    For example, with a model `qwen3` in the catalog::

        names.add("mine", names.find("qwen3:latest"), AliasDefaults("Be brief."))
        names.find("mine:latest").spec.name  # "qwen3"
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._aliases: dict[str, Alias] = {}

    def __repr__(self) -> str:
        return f"<Names {len(self._aliases)} aliases>"

    def find(self, name: str | None) -> NamedModel:
        """The model of this name. The catalog's names win over aliases.

        Raises UnknownModel, or InvalidRequest if there is no name and no default model."""
        try:
            return NamedModel(self._pool.catalog.resolve(name))
        except UnknownModel:
            assert name is not None
            short = name.removesuffix(LATEST_TAG)
            if alias := self._aliases.get(short):
                return NamedModel(self._pool.catalog.resolve(alias.model), alias)
            if short == name:
                raise
        try:
            return NamedModel(self._pool.catalog.resolve(short))
        except InvalidRequest:  # the name is nothing but a tag
            raise UnknownModel(f"there is no model {name!r}") from None

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

    def add(self, name: str, model: NamedModel, defaults: AliasDefaults) -> None:
        """Raises InvalidRequest if the name cannot become an alias."""
        name = name.removesuffix(LATEST_TAG)
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise InvalidRequest(
                f"A model's name has 1 to {MAX_NAME_LENGTH} characters, none of them control characters."
            )
        if self._is_in_catalog(name):
            raise InvalidRequest(f"{name!r} is a model of the catalog and cannot be changed; choose another name.")
        if name not in self._aliases and len(self._aliases) >= MAX_ALIASES:
            raise InvalidRequest(f"There are {MAX_ALIASES} names already; delete one first.")
        if not _is_small(defaults):
            raise InvalidRequest(
                f"The system prompt and the parameters of a name take at most {MAX_DEFAULTS_BYTES} bytes together."
            )
        created_at = datetime.datetime.now(datetime.UTC)
        self._aliases[name] = Alias(name, model.spec.name, created_at, defaults)

    def remove(self, alias: Alias) -> None:
        del self._aliases[alias.name]

    def listed(self) -> Iterator[NamedModel]:
        """All models that clients may see, then the aliases of models that still exist."""
        catalog = self._pool.catalog
        yield from (NamedModel(spec) for spec in catalog.models if not spec.unlisted)
        for alias in self._aliases.values():
            if spec := next((spec for spec in catalog.models if spec.name == alias.model), None):
                yield NamedModel(spec, alias)

    def _is_in_catalog(self, name: str) -> bool:
        try:
            self._pool.catalog.resolve(name)
        except UnknownModel:
            return False
        return True


def _is_small(defaults: AliasDefaults) -> bool:
    if len(defaults.system) > MAX_DEFAULTS_BYTES:  # then it is not made into JSON first, which takes a while
        return False
    try:
        return len(json.dumps([defaults.system, defaults.parameters])) <= MAX_DEFAULTS_BYTES
    except RecursionError:
        return False
