"""PURE: what a new catalog means for the one before, by model name.

Called after each reload: the pool unloads what was removed, and the API and the log report the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from router.models.catalog import Catalog
from router.models.spec import ModelSpec

SHOWN_NAMES = 10  # of each kind, in the log


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of models. `changed` and `kept` are in both catalogs."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Catalog, after: Catalog, is_changed: Callable[[ModelSpec, ModelSpec], bool]) -> Changes:
        """`is_changed` decides about a model that is in both catalogs, by its old and its new form."""
        old = {spec.name: spec for spec in before.models}
        new = {spec.name: spec for spec in after.models}
        both = [name for name in old if name in new]
        changed = {name: None for name in both if is_changed(old[name], new[name])}  # in order
        return cls(
            added=tuple(name for name in new if name not in old),
            changed=tuple(changed),
            removed=tuple(name for name in old if name not in new),
            kept=tuple(name for name in both if name not in changed),
        )

    def __str__(self) -> str:
        return "; ".join(f"{len(names)} {kind}{_first(names)}" for kind, names in asdict(self).items())


def _first(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN_NAMES else ""
    return f" ({', '.join(names[:SHOWN_NAMES])}{more})" if names else ""
