"""Load, unload and settings of one model: llama.cpp's `/models/load` and `/models/unload`, with settings."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.engine.flags import render, shown, switch_of, value_of
from router.errors import InvalidRequest
from router.models.catalog import ModelSpec
from router.pool.overrides import OFF, read
from router.pool.pool import Pool
from router.proxy.body import in_thread_if_large, json_object
from router.proxy.gateway import Gateway
from router.proxy.routing import routing_fields


class Load:
    """The endpoints. A field that a load leaves out keeps what was asked for before, one that is null goes back to the
    model's own; and so do flags in `extra_args`, all of them at once: left out or null keeps, a list replaces."""

    def __init__(self, gateway: Gateway) -> None:
        self._pool: Pool = gateway.pool
        self._gateway = gateway

    async def load(self, request: Request) -> Response:
        """With settings it answers when the model serves with them; without, once the load is under way, as llama.cpp
        does. `"wait"` says otherwise."""
        spec, body = await self._named(request)
        wish = read(body, self._pool.table, others=("model", "wait"), load_args=self._gateway.load_args)
        wait = body.get("wait")
        if wait is not None and not isinstance(wait, bool):
            raise InvalidRequest('"wait" is true or false')
        loaded = await self._pool.load(spec.name, wish, wait=not wish.is_empty if wait is None else wait)
        told = {"success": True, "status": loaded.status, "changed": loaded.changed}
        return JSONResponse({**told, **settings(self._pool, spec.name)})

    async def unload(self, request: Request) -> Response:
        """Running requests are served to their end first, unless the body says `"force": true`."""
        spec, body = await self._named(request)
        if not self._pool.is_running(spec.name):
            raise InvalidRequest(f"model {spec.name!r} is not running")
        self._pool.unload(spec.name, force=body.get("force") is True)
        return JSONResponse({"success": True})

    async def settings(self, request: Request) -> Response:
        spec = self._pool.catalog.resolve(request.path_params["name"])
        return JSONResponse({**settings(self._pool, spec.name), "status": self._pool.status(spec.name).value})

    async def _named(self, request: Request) -> tuple[ModelSpec, dict[str, Any]]:
        body = await self._gateway.read_body(request)
        name = (await in_thread_if_large(len(body), routing_fields, body, "application/json")).model
        if not name:
            raise InvalidRequest('model name is missing from the request; send {"model": "NAME"}')
        return await self._gateway.resolve(name), await in_thread_if_large(len(body), json_object, body)


def settings(pool: Pool, name: str) -> dict[str, Any]:
    """What was requested of this model, and what that and its own settings come to. Contexts are in tokens: `ctx_size`
    of all slots together, `ctx_size_slot` what one has in the process that runs; null is not known yet."""
    spec, status, need = pool.effective(name), pool.status(name), pool.need(name)
    return {
        "model": name,
        "requested": pool.asked(name).as_json(),
        "effective": {
            "ctx_size": need.estimate.n_ctx if need and need.estimate else None,
            "ctx_size_slot": (status.info.get("meta") or {}).get("n_ctx"),
            "cache_type_k": value_of(spec.args, "--cache-type-k") or "f16",
            "cache_type_v": value_of(spec.args, "--cache-type-v") or "f16",
            "speculative_type": _speculative_type(spec),
            "chat_template": spec.template
            or value_of(spec.args, "--chat-template")
            or value_of(spec.args, "--chat-template-file"),
            "n_parallel": value_of(spec.args, "--parallel"),
            "args": render(shown(spec.args)),
        },
        "process": status.pid and {"pid": status.pid, "started": status.started},
    }


def _speculative_type(spec: ModelSpec) -> str:
    if switch_of(spec.args, "--spec-default"):
        return "default"
    drafts = value_of(spec.args, "--spec-draft-model") and "draft-simple"
    return value_of(spec.args, "--spec-type") or drafts or OFF
