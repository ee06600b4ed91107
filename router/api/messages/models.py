"""The list of models in Anthropic's shape, for its clients: they send the header `anthropic-version`.

Claude Code offers only models whose names begin with `claude` or `anthropic`. So such an alias is an entry of its own,
and so is each name that `--claude-map` maps without a wildcard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.api.dialects import ANTHROPIC
from router.api.messages.names import catalog_name
from router.errors import InvalidRequest
from router.models.spec import ModelSpec
from router.models.template import Reasoning
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway

MAX_ENTRIES = 1000  # of one answer, as in Anthropic's API; here it is the default too

_CLAUDE = ("claude", "anthropic")
_WILDCARDS = frozenset("*?[")
_LEVELS = ("low", "medium", "high", "xhigh", "max")
_UNKNOWN_TIME = "1970-01-01T00:00:00Z"  # the API says so if the release date is unknown


def is_anthropic_client(headers: Headers) -> bool:
    return "anthropic-version" in headers


class AnthropicModels:
    """`context` tells how many tokens one request to a model has, or None if that is unknown."""

    def __init__(self, gateway: Gateway, context: Callable[[ModelSpec], int | None]) -> None:
        self._gateway = gateway
        self._context = context
        self.list = with_dialect_errors(ANTHROPIC, self._list)
        self.retrieve = with_dialect_errors(ANTHROPIC, self._retrieve)

    async def _list(self, request: Request) -> Response:
        return JSONResponse(self.page(request.query_params))

    async def _retrieve(self, request: Request) -> Response:
        return JSONResponse(await self.entry(request.path_params["name"]))

    def page(self, query: QueryParams) -> dict[str, Any]:
        """Entries after or before one of them. Raises InvalidRequest."""
        limit = _limit(query)
        lifecycles = {*query.getlist("lifecycle"), *query.getlist("lifecycle[]")}
        entries = list(self._named()) if not lifecycles or "active" in lifecycles else []
        names = [name for name, _ in entries]
        after, before = query.get("after_id"), query.get("before_id")
        start = names.index(after) + 1 if after in names else 0
        end = names.index(before) if before in names else len(names)
        if (after and after not in names) or (before and before not in names):
            raise InvalidRequest("after_id and before_id must be ids of this list.")
        has_more = end - start > limit
        if before and not after:
            start = max(start, end - limit)
        chosen = entries[start : min(end, start + limit)]
        data = [self._entry(name, spec) for name, spec in chosen]
        ids = [name for name, _ in chosen]
        return {
            "data": data,
            "has_more": has_more,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }

    async def entry(self, name: str) -> dict[str, Any]:
        """One model, by a name of the list or any that a request may use. Raises UnknownModel."""
        spec = dict(self._named()).get(name) or self._gateway.find(catalog_name(self._gateway, name))
        return self._entry(name, await self._gateway.described(spec))

    def _named(self) -> Iterator[tuple[str, ModelSpec]]:
        """Each name that is an entry, with its model."""
        gateway = self._gateway
        listed = [spec for spec in gateway.pool.catalog.models if not spec.unlisted]
        for spec in listed:
            yield spec.name, spec
        for spec in listed:
            for alias in spec.aliases:
                if alias.lower().startswith(_CLAUDE):
                    yield alias, spec
        for pattern, model in gateway.claude_map:
            if _WILDCARDS.isdisjoint(pattern) and not gateway.has_model(pattern) and gateway.has_model(model):
                yield pattern, gateway.pool.catalog.resolve(model)

    def _entry(self, name: str, spec: ModelSpec) -> dict[str, Any]:
        context = self._context(spec)
        return {
            "type": "model",
            "id": name,
            "display_name": name if name == spec.name else f"{name} ({spec.name})",
            "created_at": _UNKNOWN_TIME,
            "lifecycle": "active",
            "max_input_tokens": context,
            "max_tokens": context,
            "capabilities": _capabilities(self._gateway.pool.effective(spec.name)),  # as it is loaded
        }


def _limit(query: QueryParams) -> int:
    given = query.get("limit", str(MAX_ENTRIES))
    limit = int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else 0
    if not 1 <= limit <= MAX_ENTRIES:
        raise InvalidRequest(f"limit: must be a whole number from 1 to {MAX_ENTRIES}.")
    return limit


def _capabilities(spec: ModelSpec) -> dict[str, Any]:
    """All that Anthropic's API names, as far as it can be had here."""
    info = spec.info
    reasoning = info.reasoning
    levels = _levels(reasoning)
    has_switch = reasoning is not None and reasoning.control != "always"
    kinds = {
        "adaptive": reasoning is not None,
        "between_tools": has_switch,
        "disabled": reasoning is None or has_switch,
        "enabled": reasoning is not None,
    }
    return {
        **{name: _supported(False) for name in ("batch", "citations", "code_execution", "pdf_input")},
        "context_management": {**_supported(True), "clear_thinking_20251015": _supported(True)},
        "effort": {**_supported(bool(levels)), **{level: _supported(level in levels) for level in _LEVELS}},
        "image_input": _supported("vision" in info.capabilities),
        "server_tools": {**_supported(False), "code_execution": _supported(False), "web_search": _supported(False)},
        "structured_outputs": _supported(True),
        "thinking": {
            **_supported(reasoning is not None),
            "types": {name: _supported(has) for name, has in kinds.items()},
        },
    }


def _levels(reasoning: Reasoning | None) -> tuple[str, ...]:
    return reasoning.levels if reasoning else ()


def _supported(value: bool) -> Mapping[str, bool]:
    return {"supported": value}
