"""PURE: names and aliases of models in stores, beside all other names.

`ollama cp` makes a second name of one model, and so does a library, whose `3b` and `latest` may be the same files with
the same settings. They become one model with aliases, so that they share a process. What an operator has named is never
overruled by what lies in a store: a name that is taken is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from router.models.catalog import LATEST_TAG
from router.models.folder import FoundModel

log = logging.getLogger("router.catalog")

STORES = frozenset({"ollama", "lmstudio"})


def folded(found: Mapping[str, FoundModel], taken: Collection[str]) -> dict[str, FoundModel]:
    """The found models, in which those that are the same have become one. `taken` are names and aliases of models that
    have been made already."""
    groups: dict[object, list[str]] = {}
    kept: dict[str, FoundModel] = {}
    for name, model in found.items():
        if model.source in STORES and name in taken:
            log.info("%s is an alias of another model: that of the store is left out", name)
        elif model.package is None or model.problem:
            kept[name] = model
        else:
            identity = (model.path, model.mmproj, model.adapters, model.package.settings)
            groups.setdefault(identity, []).append(name)
    for names in groups.values():
        first, *others = sorted(names, key=lambda name: (not name.endswith(LATEST_TAG), name))
        kept[first] = replace(found[first], aliases=(*found[first].aliases, *others))
    return kept
