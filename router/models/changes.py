"""PURE: what a new catalog means for the one before, by model name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from router.models.catalog import Catalog, ModelSpec


@dataclass(frozen=True, slots=True)
class Changes:
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Catalog, after: Catalog, is_changed: Callable[[ModelSpec, ModelSpec], bool]) -> Changes:
        """`is_changed` tells of a model that is in both whether it is another one now."""
        old = {spec.name: spec for spec in before.models}
        new = {spec.name: spec for spec in after.models}
        both = [name for name in old if name in new]
        changed = tuple(name for name in both if is_changed(old[name], new[name]))
        return cls(
            tuple(name for name in new if name not in old),
            changed,
            tuple(name for name in old if name not in new),
            tuple(name for name in both if name not in changed),
        )

    def __str__(self) -> str:
        return "; ".join(f"{len(names)} {kind}{_few(names)}" for kind, names in asdict(self).items())


def _few(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})" if names else ""
