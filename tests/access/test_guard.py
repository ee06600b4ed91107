"""What a page of a browser may do, decided from a head alone. B-T1 B-C14"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from router.access.guard import Guard, Preflight, RequestFacts
from router.access.permissions import REQUIRED, Permission
from router.api.dialects import dialect_of
from router.errors import RouterError
from router.proxy.head import Head as ProxyHead
from router.server.error_handlers import ErrorHandlers
from router.server.fast_path import FastPathApp
from tests.access.guards import APP, CHAT, FOREIGN, TABLE, TYPE, facts, guard, status

CROSS = {"sec_fetch_site": "cross-site"}


LINK = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


AGENT = {"user_agent": "Mozilla/5.0 (X11; Linux x86_64)"}


# headers of a page; then what it may: read, generate, administer; GETs that generate, and that administer
PAGES: dict[str, tuple[dict[str, str], str]] = {
    "curl": ({}, "rga GA"),
    "Node": ({"sec_fetch_mode": "cors"}, "rga GA"),
    "localhost": ({"origin": "http://localhost:3000"}, "rga GA"),
    "localhost, which is another site": ({"origin": "http://localhost:3000", **CROSS}, "rga GA"),
    "own": ({"origin": "http://localhost:8080", "sec_fetch_site": "same-origin"}, "rga GA"),
    "own, reading": ({"sec_fetch_site": "same-origin"}, "rga GA"),
    "program": ({"origin": "app://obsidian.md", **CROSS}, "rg- G-"),
    "extension": ({"origin": "chrome-extension://abc"}, "rg- G-"),
    "extension that may ask here": ({"sec_fetch_site": "none", "sec_fetch_mode": "cors"}, "rga GA"),
    "foreign": ({"origin": FOREIGN}, "--- --"),
    "foreign, as it says": ({"origin": FOREIGN, **CROSS}, "--- --"),
    "foreign, as it does not say": ({"origin": FOREIGN, "sec_fetch_site": "same-origin"}, "--- --"),
    "another port": ({"origin": "http://box:3000", "sec_fetch_site": "same-site"}, "--- --"),
    "null": ({"origin": "null"}, "--- --"),
    "NULL": ({"origin": "NULL"}, "--- --"),
    "empty": ({"origin": ""}, "--- --"),
    "image": ({**CROSS, "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, "--- --"),
    "image of the same site": ({"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors"}, "--- --"),
    "said twice": ({"sec_fetch_site": "same-origin, cross-site"}, "--- --"),
    "not known yet": ({"sec_fetch_site": "same-universe"}, "--- --"),
    "link": ({**CROSS, **LINK}, "r-- --"),
    "link of the same site": ({"sec_fetch_site": "same-site", **LINK}, "r-- --"),
    "typed": ({"sec_fetch_site": "none", **LINK}, "r-- --"),  # or sent on by a page that was typed
    "frame": ({**CROSS, "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, "--- --"),
    "old browser": (AGENT, "rga --"),
    "old browser, own page": ({**AGENT, "referer": "http://localhost:8080/x?y"}, "rga GA"),
    "old browser, allowed page": ({**AGENT, "referer": "http://127.0.0.1:3000/"}, "rga GA"),
    "old browser, foreign page": ({**AGENT, "referer": f"{FOREIGN}/http://localhost:8080/"}, "rga --"),
    "old browser, hidden page": ({**AGENT, "referer": "http://localhost:8080@evil.example/"}, "rga --"),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages(name: str) -> None:
    headers, may = PAGES[name]
    asked = {
        "r": [("GET", "/models"), ("HEAD", "/"), ("GET", "/v1/models/a")],
        "g": [("POST", CHAT), ("POST", "/api/chat"), ("POST", "/tokenize"), ("DELETE", "/v1/stream")],
        "a": [("POST", "/models/load"), ("DELETE", "/models"), ("POST", "/slots/0"), ("POST", "/models/load\n")],
        "G": [
            *(("GET", "/slots?model=x&autoload=1"), ("HEAD", "/props?autoload=true&model=x")),
            ("GET", "/slots?autoloa%64=1"),
        ],
        "A": [
            *(("GET", "/models?reload=1"), ("HEAD", "/v1/models?a&reload=x"), ("GET", "/models?reload=&reload=1")),
            *(("GET", "/models/a/log"), ("HEAD", "/models/a/log?follow=1")),
        ],
    }
    if headers.get("sec_fetch_mode") == "navigate":
        asked["g"] = asked["a"] = []  # see the types: a form is no JSON
    for letter, requests in asked.items():
        for method, target in requests:
            answer = status(guard(), facts(method, target, host="localhost:8080", **TYPE, **headers))
            assert answer == (200 if letter in may else 403), (method, target)


@pytest.mark.parametrize("name", PAGES)
def test_the_quick_look_lets_in_nothing_that_is_refused(name: str) -> None:
    for keys, admin in (((), ()), (("k",), ()), ((), ("k",)), (("k",), ("a",))):
        found = guard(keys=keys, admin=admin)
        for row in REQUIRED:
            method, _, path = row.replace("{name:path}", "a").partition(" ")
            for each in (method, "HEAD") if method == "GET" else (method,):
                request = facts(each, path, host="localhost:8080", **TYPE, **PAGES[name][0])
                refusal = found.check(request).refusal  # and the host is known now
                named = dict(request.headers)
                quick = found.is_surely_allowed(each, path, b"", request.headers, named, request.is_local)
                assert not (quick and refusal), row


def test_two_origin_headers_are_refused() -> None:
    for second in ("http://localhost", FOREIGN):
        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", second.encode())]
        for method in ("GET", "POST"):
            assert status(guard(), RequestFacts(method, "/models", b"", headers, True)) == 403


def test_health_is_for_everybody() -> None:
    """Also from a page that may not read the answer."""
    for headers in ({"origin": FOREIGN}, CROSS, {"origin": "null"}):
        verdict = guard().check(facts("GET", "/health", **headers))
        assert verdict == (None, None)
        assert status(guard(), facts("GET", "/health", host="evil.example", **headers)) == 403


OWN_PAGES = {
    "http://localhost:8080": ("localhost:8080", True),
    "http://LOCALHOST:8080": ("localhost:8080", True),
    "https://box.local": ("box.local", True),  # TLS ends before us
    "https://box": ("box:443", True),
    "http://box": ("box:80", True),
    "https://box:8443": ("box", False),
    "http://192.168.1.7:8080": ("192.168.1.7:8080", True),
    "http://[fe80::1]:8080": ("[fe80::1]:8080", True),
    "http://gpu.lan:8080": ("gpu.lan:8080", False),  # it may be ours or not
    "http://evil.example": ("evil.example", False),  # rebound
    "app://box": ("box", True),
    "http://box:3000": ("box:8080", False),
}


@pytest.mark.parametrize("origin", OWN_PAGES)
def test_own_pages(origin: str) -> None:
    host, is_own = OWN_PAGES[origin]
    asked = facts("POST", CHAT, host=host, origin=origin, **TYPE)._replace(is_local=False)
    assert status(guard(), asked) == (200 if is_own else 403)
    assert status(guard(keys=["k"]), facts("GET", "/health", host=host, origin=origin)) == 200
    if not is_own and origin.endswith(host):
        assert f"--allowed-hosts {host.partition(':')[0]}" in str(guard().check(asked).refusal)
        assert status(guard(allowed=[host]), asked) == 200
        assert status(guard(allowed=["*"]), asked) == 200
        assert status(guard(admin=["k"]), asked) == 403  # generating takes no key
        assert status(guard(keys=["k"]), asked) == 401
        key = [*asked.headers, (b"x-api-key", b"k")]
        assert status(guard(keys=["k"]), asked._replace(headers=key)) == 200
        assert status(guard(admin=["k"]), asked._replace(headers=key)) == 200
    for site in ("cross-site", "same-site"):  # a page of http, where TLS ends before us
        other = facts("POST", CHAT, host="box", origin="http://box", sec_fetch_site=site, **TYPE)
        assert status(guard(), other) == 403


def test_refusals_say_which_flag_helps() -> None:
    for origin, words in (
        (FOREIGN, f"--cors-origins {FOREIGN}"),
        ("null", "--cors-origins null"),
        ("app://x", "--cors-origins app://x"),
    ):
        refusal = guard().check(facts("POST", "/models/load", origin=origin, **TYPE)).refusal
        assert refusal
        assert refusal.status == 403
        assert words in refusal.message


TYPES = {
    "application/json": True,
    "Application/JSON; charset=utf-8": True,
    "application/json;x": True,
    "text/json": True,
    "application/vnd.api+json": True,
    "text/plain": False,
    "text/plain;charset=UTF-8": False,
    "text/plain; application/json": False,
    "application/x-www-form-urlencoded": False,
    "multipart/form-data; boundary=X": False,
    "application/jsonx": False,
    "application/octet-stream": False,
    "": False,
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_browser_sends_json(kind: str) -> None:
    """Also one that may ask: a form, or plain text, is sent without asking. Whoever is none sends what he likes."""
    for page in ({"origin": "http://localhost:3000"}, {"sec_fetch_site": "same-origin"}, {"origin": "app://x"}):
        for path in (CHAT, "/api/chat", "/v1/messages", "/tokenize"):
            for length in ({"content_length": "9"}, {"transfer_encoding": "chunked"}):
                asked = facts("POST", path, **page, **length, content_type=kind)
                assert status(guard(), asked) == (200 if TYPES[kind] else 415), (page, path)
    assert status(guard(), facts("POST", CHAT, content_type=kind, content_length="9")) == 200


def test_browser_request_with_body_needs_a_type() -> None:
    page = {"origin": "http://localhost:3000"}
    assert status(guard(), facts("POST", "/models/reload", **page)) == 200
    assert status(guard(), facts("POST", "/models/reload", **page, content_length="0")) == 200
    assert status(guard(), facts("POST", "/models/reload", **page, content_length="1")) == 415
    assert status(guard(), facts("POST", "/models/reload", **page, transfer_encoding="chunked")) == 415
    both = [*facts(**page).headers, (b"content-type", b"application/json"), (b"content-type", b"text/plain")]
    assert status(guard(), facts()._replace(headers=both)) == 415
    for path in ("/v1/audio/transcriptions", "/audio/transcriptions"):
        for kind, expected in (("multipart/form-data; boundary=X", 200), ("text/plain", 415), ("multipart/mixed", 415)):
            assert status(guard(), facts("POST", path, **page, content_type=kind, content_length="9")) == expected
    assert status(guard(), facts("GET", "/models", **page, content_type="text/plain")) == 200


def preflight(found: Guard, method: str, target: str, **more: str) -> Sequence[str] | int:
    """The methods in the answer, or the status of the refusal."""
    answer = found.preflight(facts("OPTIONS", target, access_control_request_method=method, **more))
    if isinstance(answer, Preflight):
        return answer.methods
    assert isinstance(answer, RouterError)
    return answer.status


def test_preflight_answers_as_the_request_would_be_answered() -> None:  # B-T1
    """For every route and method, and every page."""
    pages = ("http://localhost:3000", "app://x", FOREIGN, "null", "http://localhost:8080")
    for route, page in itertools.product(APP.routes, pages):
        target = (
            route.path.replace("{name:path}", "a")
            .replace("{name:page_file}", "x.js")
            .replace("{slot}", "0")
            .replace("{digest}", "sha256:0")
        )
        for method in ("GET", "POST", "DELETE", "PUT", "HEAD", "PATCH"):
            for query in ("", "?reload=1", "?autoload=1"):
                answer = preflight(guard(), method, target + query, origin=page, host="localhost:8080")
                real = guard().check(facts(method, target + query, origin=page, host="localhost:8080", **TYPE))
                is_there = method in TABLE.methods(target)
                is_readable = real.refusal is None and real.origin is not None and is_there
                assert is_readable == (not isinstance(answer, int)), (page, method, target + query)
                if not isinstance(answer, int):
                    assert method in answer
                elif real.refusal or real.origin is None:
                    assert answer == 403
                else:
                    assert answer == 400
    methods = preflight(guard(), "GET", "/models", origin="app://x")
    assert not isinstance(methods, int)
    assert "DELETE" not in methods


def test_malformed_preflights_are_refused() -> None:
    page = "http://localhost:3000"
    assert preflight(guard(), "POST", CHAT, origin=page, host="evil.example") == 403
    assert not isinstance(preflight(guard(keys=["k"]), "POST", CHAT, origin=page, host="evil.example"), int)
    assert preflight(guard(), "post", CHAT, origin=page) == 400
    assert preflight(guard(), "", CHAT, origin=page) == 400
    assert not isinstance(preflight(guard(), "POST", "/nowhere", origin=page), int)  # a 404 that it may read
    assert guard().preflight(facts("OPTIONS", CHAT, origin=page)) is None
    assert guard().preflight(facts("OPTIONS", CHAT, access_control_request_method="POST")) is None
    twice = facts("OPTIONS", CHAT, origin=page, access_control_request_method="POST")
    for name, value in ((b"origin", FOREIGN.encode()), (b"access-control-request-method", b"DELETE")):
        assert isinstance(guard().preflight(twice._replace(headers=[*twice.headers, (name, value)])), RouterError)


_word = st.sampled_from(
    [
        *("http://localhost", "http://localhost:8080", FOREIGN, "null", "", "same-origin", "cross-site", "none"),
        *("same-site", "navigate", "cors", "document", "application/json", "text/plain", "localhost:8080"),
        *("evil.example", "app://x", "Bearer k", "k", "Mozilla/5.0", "0", "12", "http://evil.example/"),
    ]
) | st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n\0"), max_size=12)


_name = st.sampled_from(
    [
        *("origin", "host", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "content-type", "content-length"),
        *("referer", "user-agent", "authorization", "x-api-key", "transfer-encoding"),
    ]
)


_target = st.sampled_from(sorted({route.path for route in APP.routes if "{" not in route.path})) | st.sampled_from(
    [
        *("/v1/models/a", "/slots/0", "/models/a/b/settings", "/models/a/log", "/nowhere", "/models/load\n"),
        *("/api/blobs/x", "/models/load/"),
    ]
)


_origin = st.sampled_from([FOREIGN, "null", "http://evil.example:8080", "http://localhost.evil.example", "", "x"])


class Recorder:
    """Stands where the application stands."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1


async def _never() -> Message:
    raise AssertionError("a body was read")


async def _nowhere(message: Message) -> None:
    pass


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "PATCH"]),
    path=_target,
    query=st.sampled_from(["", "reload=1", "autoload=1", "model=a&autoload=true", "%72eload=1", "x"]),
    origin=_origin,
    others=st.lists(st.tuples(_name, _word), max_size=6),
    place=st.integers(0, 6),
    address=st.sampled_from([("127.0.0.1", 8080), ("192.168.1.7", 8080), ("/r.sock", None)]),
    keys=st.sampled_from([((), ()), (("k",), ()), ((), ("k",)), (("k",), ("a",))]),
)
def test_a_foreign_page_never_has_an_effect(
    method: str,
    path: str,
    query: str,
    origin: str,
    others: list[tuple[str, str]],
    place: int,
    address: tuple[str, int | None],
    keys: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    """Whatever else it says, on neither way; nor is its body read. It may know whether the router is there."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in others if name != "host"]
    pairs.insert(place, (b"origin", origin.encode()))
    headers = [(b"host", b"localhost:8080"), *pairs]
    app = Recorder()
    direct = FastPathApp(app, [], guard(keys=keys[0], admin=keys[1]), ErrorHandlers(dialect_of))
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
    scope |= {"server": address, "raw_path": path.encode()}
    asyncio.run(_run(direct, scope))
    is_open = REQUIRED.get(f"GET {path}") is Permission.OPEN and query in ("", "x")  # the others have an effect
    assert not app.reached or (method in ("GET", "HEAD") and is_open)
    found = FastPathApp(app, APP.routes, guard(keys=keys[0], admin=keys[1]), ErrorHandlers(dialect_of))
    assert found.endpoint_for(ProxyHead(method, path, path.encode(), headers), address[0] == "127.0.0.1") is None


async def _run(app: FastPathApp, scope: dict[str, Any]) -> None:
    await app(scope, _never, _nowhere)
