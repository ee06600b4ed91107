"""Requests and guards for the tests of access."""

from __future__ import annotations

from collections.abc import Sequence

from router.access.guard import Guard, RequestFacts
from router.access.hosts import AllowedHosts
from router.access.keys import Keys
from router.access.origins import AllowedOrigins
from router.access.permissions import PermissionTable, RoutePattern
from tests.server.test_fast_path import application

CHAT = "/v1/chat/completions"


FOREIGN = "https://evil.example"


APP = application()


TABLE = PermissionTable([RoutePattern(route.methods or (), route.path, route.path_regex) for route in APP.routes])


def guard(
    origins: Sequence[str] = ("localhost",),
    *,
    allowed: Sequence[str] = (),
    own: Sequence[str] = ("box", "box.local"),
    keys: Sequence[str] = (),
    admin: Sequence[str] = (),
) -> Guard:
    return Guard(TABLE, AllowedHosts(allowed, own), AllowedOrigins(origins), Keys(keys, admin))


def facts(method: str = "POST", target: str = CHAT, *, host: str = "localhost", **more: str) -> RequestFacts:
    """`more` are headers; an empty host is none."""
    path, _, query = target.partition("?")
    headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in more.items()]
    return RequestFacts(method, path, query.encode(), [*([(b"host", host.encode())] if host else []), *headers], True)


def status(found: Guard, asked: RequestFacts) -> int:
    refusal = found.check(asked).refusal
    return refusal.status if refusal else 200


TYPE = {"content_type": "application/json"}
