"""PURE: what the query of a request for data says, without a guess at what it may have meant."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from router.errors import InvalidRequest

MAX_DIGITS = 15  # of a number in a query


def query_of(request: Request, known: Collection[str]) -> dict[str, str]:
    """The query. Raises InvalidRequest for what is not known here, or given twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            may = f"it knows {', '.join(known)}" if known else "it takes none"
            raise InvalidRequest(f"{request.url.path} has no parameter {name[:40]!a}: {may}")
        if name in found:
            raise InvalidRequest(f"{name} is given twice: send it once")
        found[name] = value
    return found


def number(query: dict[str, str], name: str, default: int, *, least: int = 0) -> int:
    if name not in query:
        return default
    value = query[name]
    if not (value.isascii() and value.isdecimal() and len(value) <= MAX_DIGITS and int(value) >= least):
        raise InvalidRequest(f"{name} is a number from {least} on, without a sign or a point")
    return int(value)
