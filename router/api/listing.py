"""The list of models as JSON, kept ready: built again only where something changed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from router.api.details import details
from router.engine import flags
from router.engine.flags import Arg
from router.memory.estimate import Need
from router.models import presets
from router.models.catalog import Catalog, ModelSpec
from router.pool.pool import Pool
from router.pool.status import Status

# Tokens of context in which the tools that Open WebUI sends along with every message, 20 KB of them, leave no room.
SMALL = 8192


class Listing:
    """`whole` is the answer of `GET /models`, `one` that of `GET /v1/models/{id}`; both are JSON bytes."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._created = int(time.time())
        self._catalog: Catalog | None = None
        self._version = -1
        self._whole = b""
        self._listed: dict[str, ModelSpec] = {}
        self._parts: dict[str, bytes] = {}  # with the commas between them: some MB are joined once

    def whole(self) -> bytes:
        catalog, version = self._pool.catalog, self._pool.change_log.version
        if catalog is not self._catalog:
            self._listed = {spec.name: spec for spec in catalog.models if not spec.unlisted}
            self._parts = dict.fromkeys(self._listed, b"")
            self._renew(self._listed)
        elif version != self._version:
            self._renew(self._pool.change_log.since(self._version))
        else:
            return self._whole
        self._whole = b"".join((b'{"object":"list","data":[', *self._parts.values(), b"]}"))
        self._catalog, self._version = catalog, version
        return self._whole

    def one(self, spec: ModelSpec) -> bytes:
        return json.dumps(self._describe(spec)).encode()

    def _renew(self, names: Iterable[str]) -> None:
        first = next(iter(self._listed), None)
        for name in names:
            if spec := self._listed.get(name):
                self._parts[name] = b"," * (name != first) + self.one(spec)

    def _describe(self, spec: ModelSpec) -> dict[str, Any]:
        status, info = self._pool.status(spec.name), spec.info
        effective = self._pool.effective(spec.name)
        context = self._context(spec, effective.args, status)
        entry: dict[str, Any] = {
            "id": spec.name,
            "aliases": spec.aliases,
            "tags": spec.tags,
            "object": "model",
            "owned_by": "llamacpp",
            "created": self._created,
            "description": spec.description,
            "status": _status(effective, status),
            "architecture": {
                "input_modalities": info.input_modalities,
                "output_modalities": info.output_modalities,
            },
            "capabilities": info.capabilities,
            "reasoning": asdict(info.reasoning) if info.reasoning else None,
            "details": details(info),
            "size": spec.size_bytes,
            "context": context,
            "memory": _memory(self._pool.need(spec.name)),
            "info": {"meta": _meta(spec, context["effective"])},
            "source": spec.source,
            "can_remove": spec.source == "cache",
            "meta": {
                "n_ctx_train": info.n_ctx_train,
                "n_params": info.n_params,
                "size": spec.size_bytes,
                "architecture": info.architecture,
                "quantization": info.quantization,
            },
        }
        if status.value in ("loaded", "sleeping"):
            # What the child says of itself: added, and for the figures preferred.
            entry = {**status.info, **entry}
            entry["meta"] |= status.info.get("meta") or {}
        return entry

    def _context(self, spec: ModelSpec, args: Sequence[Arg], status: Status) -> dict[str, int | None]:
        """In tokens: what the model was trained for, what is asked for (0 and null are automatic), and what one request
        has: as the process tells, or as it is expected."""
        need = self._pool.need(spec.name)
        asked = flags.value_of(args, "--ctx-size") or ""
        slot = (status.info.get("meta") or {}).get("n_ctx")
        return {
            "trained": spec.info.n_ctx_train,
            "configured": int(asked) if asked.isdecimal() and len(asked) < 10 else None,
            "effective": slot or (need.estimate.n_slot if need and need.estimate else None),
        }


def _meta(spec: ModelSpec, context: int | None) -> dict[str, Any]:
    """What Open WebUI shows: a line under the name, tags, and which of its buttons make sense."""
    able = spec.info.capabilities
    capabilities = {"vision": "vision" in able, "usage": "completion" in able}
    if context and context < SMALL:
        capabilities["builtin_tools"] = False
    tags = [{"name": tag} for tag in spec.tags]
    return {"description": spec.description or None, "tags": tags, "capabilities": capabilities}


def _memory(need: Need | None) -> dict[str, Any] | None:
    """Bytes that it needs, whether it runs or not: over all GPUs, on each of them besides, and of RAM."""
    if need is None or need.estimate is None:
        return None
    demand = need.demand
    figures = {"split": demand.split, "fixed": demand.fixed, "host": demand.host, "total": demand.total}
    return {**figures, "context": need.estimate.n_ctx, "source": need.source}


def _status(spec: ModelSpec, status: Status) -> dict[str, Any]:
    shown = flags.shown(spec.args)
    told: dict[str, Any] = {
        "value": status.value,
        "args": flags.render(shown),
        "preset": presets.ini(spec.name, shown),
    }
    if status.progress:
        whole = {"total": status.progress.value} if status.value == "loading" else {}  # of downloads the keys are URLs
        told["progress"] = {**status.progress.payload, **whole}
    if status.failed:
        told |= {"failed": True, "exit_code": status.exit_code, "error": status.failure}
    elif problem := spec.problem or spec.info.problem:
        told["error"] = problem
    return told
