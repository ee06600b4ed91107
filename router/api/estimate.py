"""`GET /models/estimate`: what a load would take, and whether it fits, waits, or evicts others. Nothing is loaded.

The query names settings as the body of `/models/load` does. `native` has the route.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.engine.allowlist import LoadArgs
from router.engine.flags import GROUPS
from router.errors import InvalidRequest, SettingsRefused
from router.memory.forecast import Forecast
from router.pool.outlook import Outlook
from router.pool.settings_patch import read_patch
from router.proxy.gateway import Gateway

MODEL, EXTRA_ARGS = "model", "extra_args"
COUNTS = ("ctx_size", "n_parallel")


class EstimateEndpoint:
    """`forecast` computes what a load would take and do."""

    def __init__(self, gateway: Gateway, forecast: Callable[[Outlook], Awaitable[Forecast]]) -> None:
        self._gateway = gateway
        self._forecast = forecast

    async def estimate(self, request: Request) -> Response:
        """For the settings that hold, with those of the query over them."""
        settings = self._gateway.pool.settings
        spec = self._gateway.pool.catalog.resolve(request.query_params.get(MODEL))
        # Anyone who may read may ask. So the query sets no more than a load may by default.
        load_args: LoadArgs = "none" if self._gateway.load_args == "none" else "safe"
        patch = read_patch(settings_of(request.query_params), settings.table, other_keys=(MODEL,), load_args=load_args)
        if spec.problem:
            raise InvalidRequest(f"{spec.name!r} cannot be estimated: {spec.problem}")
        outlook = await settings.outlook(spec.name, patch)
        try:
            return JSONResponse((await self._forecast(outlook)).as_json())
        except SettingsRefused as exc:
            raise InvalidRequest(f"{spec.name!r} cannot have these settings: {exc.fault}.") from exc


def settings_of(query: QueryParams) -> dict[str, Any]:
    """The query as the body of a load. Raises InvalidRequest.

    An empty value is null. `extra_args` is a list in JSON, one text as on a command line, or a parameter for each word.
    """
    body: dict[str, Any] = {}
    for name in query:
        values = query.getlist(name)
        if name == EXTRA_ARGS:
            body[name] = _words(values)
        elif len(values) > 1 and name in (*GROUPS, MODEL):
            raise InvalidRequest(f"{name} is given {len(values)} times: send it once")
        else:
            body[name] = _value(name, values[0])
    return body


def _value(name: str, value: str) -> str | int | None:
    if not value:
        return None
    # What is no number stays as it is: the reader of settings says what is wrong with it.
    return int(value) if name in COUNTS and value.isascii() and value.isdecimal() and len(value) < 12 else value


def _words(values: Sequence[str]) -> list[Any] | None:
    if len(values) > 1:
        return list(values)
    text = values[0].strip()
    if text == "null":
        return None
    try:
        found = json.loads(text) if text.startswith("[") else shlex.split(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"{EXTRA_ARGS} cannot be read ({exc}): send a list in JSON, or a word each time") from exc
    return list(found)
