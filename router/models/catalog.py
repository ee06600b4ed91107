"""Names to models: one frozen listing, replaced whole when the sources are read again.

A request names a model by its name, by an alias, or by its repository on the hub with or without a quantization, in any
case; `resolve` turns each of these into a `ModelSpec`, and a wrong name into an error that names the nearest ones.
Names of the hub compare as names (`hub.names`), also where they are aliases. Called for every request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar

from router.errors import CatalogError, InvalidRequest, UnknownModel
from router.hub.names import canonical_quant, name_or_none
from router.hub.repo import DEFAULT_QUANTS
from router.models.spec import ModelSpec
from router.near import nearest
from router.text import model_name

LATEST_TAG = ":latest"
SHOWN_CHARACTERS = 80  # of a wrong name, in the error


class Named(Protocol):
    """What has a name and aliases: a model, or a section of a preset file."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


_Named = TypeVar("_Named", bound=Named)


class Catalog:
    """All models; immutable. `left_out` says of names of files that are no models what they are.

    Raises CatalogError if one name means two models, or if there is no model of the default's name.

    ::

        catalog = Catalog([ModelSpec("a", ...), ModelSpec("user/repo:Q4_K_M", ...)])
        catalog.resolve("user/repo")  # the second
        catalog.resolve("b")          # raises UnknownModel
    """

    def __init__(
        self,
        models: Iterable[ModelSpec],
        default_name: str | None = None,
        left_out: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.models = tuple(models)
        self.left_out = left_out
        self.default_name = default_name
        self._by_name = {spec.name: spec for spec in self.models}
        for spec in self.models:
            self._by_name |= dict.fromkeys(spec.aliases, spec)
        for _, sentence in alias_clashes(self.models):
            raise CatalogError(sentence)
        self._by_folded: dict[str, ModelSpec | None] = {}  # names in lower case; None if they name several models
        for name, spec in self._by_name.items():
            self._by_folded[name.casefold()] = None if self._by_folded.get(name.casefold(), spec) is not spec else spec
        self._by_repo = _by_repository(self._by_name)
        self._default = self.models[0] if len(self.models) == 1 else None
        if default_name is not None:
            self._default = self.find(default_name)
            if self._default is None:
                hint = self._hint(default_name, "llama-router list tells what there is")
                raise CatalogError(f"--models-default: there is no model {quoted(default_name)}; {hint}")

    def with_models(self, models: Iterable[ModelSpec], left_out: Mapping[str, str] | None = None) -> Catalog:
        """A catalog of these models in place of its own, and of these files that are none. Raises CatalogError."""
        return Catalog(models, self.default_name, self.left_out if left_out is None else left_out)

    def __repr__(self) -> str:
        return f"<Catalog of {len(self.models)} models, default {self._default.name if self._default else None}>"

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, name: str) -> bool:
        """Whether a model has exactly this name; an alias does not count."""
        return name in self._by_name and self._by_name[name].name == name

    def resolve(self, name: str | None) -> ModelSpec:
        """The model that a request names; without a name the default model, or the only one.

        `user/repo` means its Q4_K_M, Q8_0, or else its first model. A name may be written in any case, as long as that
        leaves no doubt, and with Ollama's tag `latest`. Raises UnknownModel, and InvalidRequest if there is no name
        and no default.
        """
        if not name:
            if self._default is None:
                raise InvalidRequest('name a "model": there is no default, and GET /v1/models lists what there is')
            return self._default
        spec = self.find(name)
        if spec is None:
            if kind := self.left_out.get(name) or self.left_out.get(name.removesuffix(LATEST_TAG)):
                raise UnknownModel(f"{quoted(name)} is no model: {kind}").about(name)
            hint = self._hint(name, "GET /v1/models lists what there is")
            raise UnknownModel(f"there is no model {quoted(name)}; {hint}").about(name)
        return spec

    def find(self, name: str) -> ModelSpec | None:
        """As `resolve`, for a name that may be wrong: None then."""
        found = self._by_name.get(name) or self._find_loosely(name) or self._find_in_repo(name)
        if found is None and (escaped := model_name(name)) != name:
            return self.find(escaped)  # the file's own name, with characters that nobody can see
        return found

    def _find_loosely(self, name: str) -> ModelSpec | None:
        """By a name in another case, as Ollama's clients may write it. They also add the tag `latest` to a name
        without a tag, and leave it out."""
        folded = name.casefold()
        short = folded.removesuffix(LATEST_TAG)
        for each in (folded, short if short != folded else folded + LATEST_TAG):
            if spec := self._by_folded.get(each):
                return spec
        return None

    def _find_in_repo(self, name: str) -> ModelSpec | None:
        """By a name on the hub. A quant means the model with the same prefix, else the only one that differs in its
        prefix alone."""
        parsed = name_or_none(name)
        quants = self._by_repo.get((parsed.repo.casefold(), parsed.revision), {}) if parsed else {}
        if parsed is None or not quants:
            return None
        if parsed.quant is None:
            return next((quants[each] for each in ("", *DEFAULT_QUANTS) if each in quants), next(iter(quants.values())))
        if spec := quants.get(parsed.quant.upper()):
            return spec
        word = canonical_quant(parsed.quant)
        similar = {spec.name: spec for quant, spec in quants.items() if canonical_quant(quant) == word}
        return next(iter(similar.values())) if len(similar) == 1 else None

    def _hint(self, name: str, otherwise: str) -> str:
        near = nearest(name, (known for known, spec in self._by_name.items() if not spec.unlisted), 3)
        return f"did you mean {' or '.join(near)}?" if near else otherwise


def _by_repository(names: Mapping[str, ModelSpec]) -> dict[tuple[str, str], dict[str, ModelSpec]]:
    """The models whose names are names on the hub: by repository in lower case and revision, then by quant in upper
    case, "" for none."""
    found: dict[tuple[str, str], dict[str, ModelSpec]] = {}
    for text, spec in names.items():
        if "/" in text and (name := name_or_none(text)):
            quants = found.setdefault((name.repo.casefold(), name.revision), {})
            quants.setdefault((name.quant or "").upper(), spec)
    return found


def alias_clashes(models: Sequence[_Named]) -> Iterator[tuple[_Named, str]]:
    """Each model with an alias that is also a name of another model, and a sentence that says so."""
    owners = {model.name: model for model in models}
    for model in models:
        for alias in model.aliases:
            other = owners.setdefault(alias, model)
            if other is not model:
                sentence = f"the alias {alias!r} of model {model.name!r} is also a name of model {other.name!r}"
                yield model, f"{sentence}: change one"


def quoted(name: str) -> str:
    """A name or a value for an error: in quotes, shortened if it is very long."""
    return repr(name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}...")
