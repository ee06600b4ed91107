"""The list of models as JSON, which is kept: only the entries of models that changed are rendered again.

`native` answers `GET /models` with it. Clients poll that, so it must be cheap with thousands of models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from router.api.details import details
from router.api.lone import ollama_entry
from router.engine import flags
from router.engine.flags import Arg
from router.memory.need import Need
from router.models import ini
from router.models.catalog import Catalog
from router.models.created import CreatedStore
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.pool.status import Status

# Open WebUI sends its built-in tools, about 20 KB, with every message. In a smaller context (in tokens) they leave no
# room for the conversation.
MIN_TOKENS_FOR_TOOLS = 8192


class Listing:
    """`render` returns the answer of `GET /models`, `render_entry` that of `GET /v1/models/{id}`: JSON as bytes. Names
    that clients have made are shown as aliases of their models."""

    def __init__(self, pool: Pool, names: CreatedStore | None = None) -> None:
        self._pool = pool
        self._names = CreatedStore() if names is None else names
        self._created = int(time.time())
        self._catalog: Catalog | None = None
        self._version = -1  # of the pool's statuses, as far as they are rendered
        self._rendered = b""
        self._listed: dict[str, ModelSpec] = {}
        # Each entry but the first begins with its comma, so that all of it, some MB, is copied only once.
        self._entries: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Listing {len(self._listed)} models, {len(self._rendered)} bytes, version {self._version}>"

    def render(self) -> bytes:
        catalog, version = self._pool.catalog, self._pool.change_log.version
        if catalog is not self._catalog:
            self._listed = {spec.name: spec for spec in catalog.models if not spec.unlisted}
            self._entries = dict.fromkeys(self._listed, b"")
            self._update(self._listed)
        elif version != self._version:
            self._update(self._pool.change_log.since(self._version))
        else:
            return self._rendered
        self._rendered = b"".join((b"{", self._lone(), b'"object":"list","data":[', *self._entries.values(), b"]}"))
        self._catalog, self._version = catalog, version
        return self._rendered

    def _lone(self) -> bytes:
        """The member `models`, if there is exactly one model; else nothing."""
        if len(self._listed) != 1:
            return b""
        (spec,) = self._listed.values()
        return b'"models":' + json.dumps([ollama_entry(self._pool.effective(spec.name))]).encode() + b","

    def render_entry(self, spec: ModelSpec) -> bytes:
        return json.dumps(self._describe(spec)).encode()

    def context(self, spec: ModelSpec) -> int | None:
        """How many tokens one request has: as the process reports it, else as the estimate expects it."""
        effective = self._pool.effective(spec.name)
        return self._context(spec, effective.args, self._pool.status(spec.name))["effective"]

    def _update(self, names: Iterable[str]) -> None:
        first = next(iter(self._listed), None)
        for name in names:
            if spec := self._listed.get(name):
                entry = self.render_entry(spec)
                self._entries[name] = entry if name == first else b"," + entry

    def _describe(self, spec: ModelSpec) -> dict[str, Any]:
        status, effective = self._pool.status(spec.name), self._pool.effective(spec.name)
        info = effective.info  # as it is loaded, or would be
        context = self._context(spec, effective.args, status)
        entry: dict[str, Any] = {
            "id": spec.name,
            "aliases": [*spec.aliases, *self._names.names_of(spec.name)],
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
            "info": {"meta": _meta(effective, context["effective"])},
            "source": spec.source,
            "can_remove": spec.source == "cache",
            "pinned": self._pool.pins.is_pinned(spec),
            "meta": {
                "n_ctx_train": info.n_ctx_train,
                "n_params": info.n_params,
                "size": spec.size_bytes,
                "architecture": info.architecture,
                "quantization": info.quantization,
            },
        }
        if problem := spec.problem or spec.info.problem:
            entry["problem"] = problem
        if status.value in ("loaded", "sleeping"):
            # What the child reports: its other fields are added, and its figures replace those of the header.
            entry = {**status.info, **entry}
            entry["meta"] |= status.info.get("meta") or {}
        return entry

    def _context(self, spec: ModelSpec, args: Sequence[Arg], status: Status) -> dict[str, int | None]:
        """Contexts in tokens.

        `trained`: the context that the model was trained for.
        `configured`: the value of --ctx-size; 0 and null mean automatic.
        `effective`: what one request has, as the process reports it, else as the estimate expects it."""
        need = self._pool.need(spec.name)
        configured = flags.value_of(args, "--ctx-size") or ""
        slot = (status.info.get("meta") or {}).get("n_ctx")
        return {
            "trained": spec.info.n_ctx_train,
            "configured": int(configured) if configured.isdecimal() and len(configured) < 10 else None,
            "effective": slot or (need.estimate.n_slot if need and need.estimate else None),
        }


def _meta(spec: ModelSpec, context: int | None) -> dict[str, Any]:
    """For Open WebUI: a line under the name, tags, and which of its buttons make sense."""
    known = spec.info.capabilities
    capabilities = {"vision": "vision" in known, "usage": "completion" in known}
    if context and context < MIN_TOKENS_FOR_TOOLS:
        capabilities["builtin_tools"] = False
    tags = [{"name": tag} for tag in spec.tags]
    return {"description": spec.description or None, "tags": tags, "capabilities": capabilities}


def _memory(need: Need | None) -> dict[str, Any] | None:
    """The model's need in bytes, whether it runs or not; None while it is unknown.

    `split` is divided over the GPUs, `fixed` is needed on each of them, `host` is RAM."""
    if need is None or need.estimate is None:
        return None
    demand = need.demand
    figures = {"split": demand.split, "fixed": demand.fixed, "host": demand.host, "total": demand.total}
    return {**figures, "context": need.estimate.n_ctx, "source": need.source}


def _status(spec: ModelSpec, status: Status) -> dict[str, Any]:
    shown = flags.without_secrets(spec.args)
    entry: dict[str, Any] = {
        "value": status.value,
        "args": flags.shown_words(spec.args),
        "preset": ini.write_section(spec.name, shown),
    }
    if status.progress:
        # A download's progress has only URLs as keys, so `total` is not added to it.
        total = {"total": status.progress.value} if status.value == "loading" else {}
        entry["progress"] = {**status.progress.payload, **total}
    if status.value in ("loaded", "sleeping"):
        entry["prompt_cache"] = status.prompt_cache  # bytes of RAM that old prompts may fill
    if status.failed:
        entry |= {"failed": True, "exit_code": status.exit_code, "error": status.failure}
    elif problem := spec.problem or spec.info.problem:
        entry["error"] = problem
    warnings = [spec.info.warning] if spec.info.warning else []
    if status.warning:
        warnings.append(f"its changed settings cannot be loaded, so those before hold: {status.warning}")
    if warnings:
        entry["warning"] = "; ".join(warnings)
    return entry
