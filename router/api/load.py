"""Load, unload and settings of one model: llama.cpp's `/models/load` and `/models/unload`, with settings added."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.engine.flags import shown_words, switch_of, value_of
from router.errors import InvalidRequest
from router.hub import tokens
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.pool.settings_patch import OFF, read_patch
from router.proxy.body import in_thread_if_large, json_object
from router.proxy.gateway import Gateway
from router.proxy.routing import routing_fields
from router.text import valid


class LoadEndpoints:
    """A load request changes the settings of its model:

    - a field that is left out keeps what an earlier load requested;
    - a field that is null goes back to the model's own setting;
    - `extra_args` is one field: left out or null keeps all its flags, a list replaces all of them."""

    def __init__(self, gateway: Gateway) -> None:
        self._pool: Pool = gateway.pool
        self._gateway = gateway

    async def load(self, request: Request) -> Response:
        """With settings, the answer comes when the model serves with them. Without, it comes when the load has begun,
        as llama.cpp's does. `"wait"` in the body overrides both."""
        spec, body = await self._model_and_body(request)
        keys, load_args = ("model", "wait", tokens.FIELD), self._gateway.load_args
        patch = read_patch(body, self._pool.settings.table, other_keys=keys, load_args=load_args)
        wait = body.get("wait")
        if wait is not None and not isinstance(wait, bool):
            raise InvalidRequest('"wait" is true or false')
        with self._lent(spec, tokens.token_of(body)):
            loaded = await self._pool.settings.load(spec.name, patch, wait=not patch.is_empty if wait is None else wait)
        outcome = {"success": True, "status": loaded.status, "changed": loaded.changed}
        return JSONResponse({**outcome, **settings(self._pool, spec.name)})

    async def unload(self, request: Request) -> Response:
        """Running requests finish first, unless the body says `"force": true`."""
        spec, body = await self._model_and_body(request)
        if not self._pool.is_running(spec.name):
            raise InvalidRequest(f"model {spec.name!r} is not running")
        self._pool.unload(spec.name, force=body.get("force") is True)
        return JSONResponse({"success": True})

    async def settings(self, request: Request) -> Response:
        spec = self._pool.catalog.resolve(request.path_params["name"])
        return JSONResponse({**settings(self._pool, spec.name), "status": self._pool.status(spec.name).value})

    async def _model_and_body(self, request: Request) -> tuple[ModelSpec, dict[str, Any]]:
        body = await self._gateway.read_body(request)
        name = (await in_thread_if_large(len(body), routing_fields, body, "application/json")).model
        if not name:
            raise InvalidRequest('model name is missing from the request; send {"model": "NAME"}')
        fields = await in_thread_if_large(len(body), json_object, body)
        return await self._gateway.resolve(name, hub_token=tokens.token_of(fields)), fields

    @contextlib.contextmanager
    def _lent(self, spec: ModelSpec, token: str | None) -> Iterator[None]:
        """The client's token is for the download that this load begins, and for nothing else."""
        hub_models = self._gateway.hub_models
        if hub_models is None or token is None or not spec.repo_to_download:
            yield
            return
        hub_models.lend_token(spec.name, token)
        try:
            yield
        finally:
            if not self._pool.downloads.is_fetching(spec.name):
                hub_models.take_back_token(spec.name)


def settings(pool: Pool, name: str) -> dict[str, Any]:
    """The settings that loads requested for this model, and the effective ones.

    `ctx_size` is the context of all slots together, in tokens.
    `ctx_size_slot` is the context of one slot in the running process.
    Both are null while they are unknown."""
    spec, status, need = pool.effective(name), pool.status(name), pool.need(name)
    return {
        "model": name,
        "requested": pool.settings.requested(name).as_json(),
        "effective": {
            "ctx_size": need.estimate.n_ctx if need and need.estimate else None,
            "ctx_size_slot": (status.info.get("meta") or {}).get("n_ctx"),
            "cache_type_k": value_of(spec.args, "--cache-type-k") or "f16",
            "cache_type_v": value_of(spec.args, "--cache-type-v") or "f16",
            "speculative_type": _speculative_type(spec),
            "chat_template": spec.template
            or value_of(spec.args, "--chat-template")
            or valid(value_of(spec.args, "--chat-template-file") or "")
            or None,
            "n_parallel": value_of(spec.args, "--parallel"),
            "args": shown_words(spec.args),
        },
        "process": status.pid and {"pid": status.pid, "started": status.started},
    }


def _speculative_type(spec: ModelSpec) -> str:
    if switch_of(spec.args, "--spec-default"):
        return "default"
    drafts = value_of(spec.args, "--spec-draft-model") and "draft-simple"
    return value_of(spec.args, "--spec-type") or drafts or OFF
