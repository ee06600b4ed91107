"""T1 and C14: what a page of a browser may do. B-T1 B-C14

Tables of the decision alone, then real routers, on both ways of a request: the short one, which a small POST takes
whose model runs, and the ordinary one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from router.access.doors import Doors, Head, Keys, Preflight
from router.access.needs import ADMIN, GENERATE, READ, Need, RouteOf, Table
from router.access.origins import Hosts, Origins
from router.api.dialects import dialect_of
from router.errors import RouterError
from router.proxy.head import Head as RequestHead
from router.proxy.head import parse_head, with_host_of
from router.server.error_handlers import ErrorHandlers
from router.server.fast_path import FastPathApp, came_over_loopback
from router.settings import ORIGINS
from tests.conftest import Starter
from tests.routers import Router, start
from tests.security.asking import JSON, Answer, Pairs, ask, question
from tests.server.test_fast_path import application

CHAT = "/v1/chat/completions"
FOREIGN = "https://evil.example"
APP = application()
ROUTES = Table([RouteOf(route.methods or (), route.path, route.path_regex) for route in APP.routes])


def doors(
    origins: Sequence[str] = ("localhost",),
    *,
    allowed: Sequence[str] = (),
    own: Sequence[str] = ("box", "box.local"),
    keys: Sequence[str] = (),
    admin: Sequence[str] = (),
) -> Doors:
    return Doors(ROUTES, Hosts(allowed, own), Origins(origins), Keys(keys, admin))


def head(method: str = "POST", target: str = CHAT, *, host: str = "localhost", **more: str) -> Head:
    """`more` are headers; an empty host is none."""
    path, _, query = target.partition("?")
    headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in more.items()]
    return Head(method, path, query.encode(), [*([(b"host", host.encode())] if host else []), *headers], True)


def status(found: Doors, asked: Head) -> int:
    refusal = found.ask(asked).refusal
    return refusal.status if refusal else 200


# Origins

ALLOWED: dict[tuple[str, ...], dict[str, Need | None]] = {
    ("localhost",): {
        "http://localhost": ADMIN,
        "http://localhost:3000": ADMIN,
        "https://127.0.0.1:8443": ADMIN,
        "http://[::1]:3000": ADMIN,
        "http://localhost.evil.com": None,
        "http://localhost:80:80": None,
        "http://localhost:": None,
        "http://user@localhost": None,
        "http://localhost/": None,
        "ftp://localhost": None,
        "localhost": None,
        "http://": None,
        "": None,
        "null": None,
        "http://localhost, http://localhost": None,
        "app://obsidian.md": GENERATE,
        "file://": GENERATE,
        "tauri://localhost": GENERATE,
        "vscode-webview://0tq7kl3u0f9": GENERATE,
        "vscode-file://vscode-app": GENERATE,
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop": GENERATE,
        "moz-extension://7a5f0b1c-93b2-4c6b-8d0e-0123456789ab": GENERATE,
        "safari-web-extension://7A5F0B1C-93B2-4C6B-8D0E-0123456789AB": GENERATE,
        "app://evil.com/x": None,
        "app://user@x": None,
        "xapp://x": None,
        "chrome-extension:": None,
    },
    (): {"http://localhost:3000": None, "app://obsidian.md": None},
    ("*",): {
        FOREIGN: ADMIN,
        "http://[2001:db8::1]:1": ADMIN,
        "app://x": ADMIN,
        "null": None,
        "https://": None,
        "x": None,
    },
    ("*", "null"): {"null": ADMIN},
    ("https://*.example.com",): {
        "https://a.example.com": ADMIN,
        "https://a.b.example.com": ADMIN,
        "HTTPS://A.Example.com": ADMIN,
        "https://a.example.com:443": ADMIN,
        "https://example.com": None,
        "https://.example.com": None,
        "https://evilexample.com": None,
        "https://example.com.evil.com": None,
        "https://a.example.com.evil.com": None,
        "https://evil.com#.example.com": None,
        "https://evil.com/.example.com": None,
        "https://evil.com?.example.com": None,
        "https://evil.com@a.example.com": None,
        "https://evil.com\\.example.com": None,
        "https://evil.com:1.example.com": None,
        "https://evil.com\n.example.com": None,
        "https://evil.com\t.example.com": None,
        "https://a.example.com:8443": None,
        "https://axexample.com": None,
        "http://a.example.com": None,
        "null": None,
    },
    ("http://192.168.1.*:*",): {
        "http://192.168.1.7": ADMIN,
        "http://192.168.1.7:3000": ADMIN,
        "http://192.168.1.evil.com": None,
        "http://192.168.1.7.evil.com": None,
        "http://192.168.1.evil": None,
        "http://192.168.11.7": None,
        "https://192.168.1.7": None,
    },
    ("http://192.168.*",): {"http://192.168.1.7": ADMIN, "http://192.168.evil.com": None, "http://192.168.1.7:1": None},
    ("https://api-*.example.com:8*",): {
        "https://api-1.example.com:8443": ADMIN,
        "https://api-1.example.com": None,
        "https://api-1.evil.com.example.com:8443": None,
    },
    ("http://*:8080",): {"http://any.thing:8080": ADMIN, "http://[fe80::1]:8080": ADMIN, "http://any.thing": None},
    ("http://[fe80::*]:*",): {"http://[fe80::1:2]:8080": ADMIN, "http://[fd00::1]": None},
    ("https://example.com/", "https://other.example:443"): {
        "https://example.com": ADMIN,
        "https://other.example": ADMIN,
        "https://example.com.": None,
        "https://sub.example.com": None,
    },
    ("app://mine",): {"app://mine": ADMIN, "app://other": GENERATE},
}


@pytest.mark.parametrize("listed", ALLOWED, ids=str)
def test_origins(listed: tuple[str, ...]) -> None:
    origins = Origins(ORIGINS.read(",".join(listed)))
    assert {origin: origins.most(origin) for origin in ALLOWED[listed]} == ALLOWED[listed]


@pytest.mark.parametrize("word", ["example.com", "https://", "https://*/x", "https://a b", "https://a@b", "//x", "*.x"])
def test_what_is_no_origin_is_not_listed(word: str) -> None:
    with pytest.raises(ValueError, match=re.escape(word)):
        ORIGINS.read(word)


# Hosts

HOSTS = {
    "localhost": True,
    "localhost:8080": True,
    "LOCALHOST:8080": True,
    "localhost.": True,
    "app.localhost:1": True,
    "127.0.0.1:8080": True,
    "127.8.9.1": True,
    "127.1": True,
    "[::1]:8080": True,
    "[::ffff:127.0.0.1]": True,
    "0.0.0.0:8080": True,
    "192.168.1.7:8080": True,
    "box": True,
    "BOX.local:8080": True,
    "host.docker.internal:8080": True,
    "host.containers.internal": True,
    "allowed.example": True,
    "a.below.example:1": True,
    "below.example": False,
    "evil": False,
    "evil.example": False,
    "evil.example:8080": False,
    "evil.example.": False,
    "localhost.evil.example": False,
    "127.0.0.1.evil.example": False,
    "evil-localhost": False,
    "xbelow.example": False,
    "box.evil.example": False,
    "host.docker.internal.evil.example": False,
    "a.b.internal": False,
    "user@localhost": False,
    "localhost@evil.example": False,
    "localhost/": False,
    "localhost#": False,
    "localhost:8080:8080": False,
    "localhost:x": False,
    "localhost,evil.example": False,
    "local host": False,
    "[::1": False,
    "[::1].evil.example": False,
    "::1": False,
    ".": False,
    "": False,
    "127.0.0.1.": True,
    "löcalhost": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_loopback_listener_without_keys_answers_to_its_names(host: str) -> None:
    found = doors(allowed=("allowed.example", "*.below.example"))
    for method, target in (("GET", "/"), ("GET", "/health"), ("GET", "/models"), ("POST", CHAT), ("POST", "/nowhere")):
        path, _, _ = target.partition("?")
        asked = Head(method, path, b"", [(b"host", host.encode("latin-1"))], True)
        assert status(found, asked) == (200 if HOSTS[host] else 403), (method, target)
        assert status(found, asked._replace(is_local=False)) == 200  # a network has more names than we know
        assert status(doors(allowed=("*",)), asked) == 200
        assert status(doors(keys=["k"]), asked) in (200, 401)  # a page has no key
    assert "--allowed-hosts evil.example" in str(found.ask(head(host="evil.example:1")).refusal)


def test_hosts_that_are_none_or_two() -> None:
    one = [(b"host", b"localhost")]
    assert status(doors(), head(host="")) == 403
    assert status(doors(), head(host="")._replace(is_old=True)) == 200  # HTTP/1.0 knows none
    for other in (b"evil.example", b"localhost", b""):
        assert status(doors(), head()._replace(headers=[*one, (b"host", other)])) == 403
    for known in (False, True):  # it is remembered what was accepted
        found = doors()
        assert known is False or status(found, head()) == 200
        assert status(found, head(host="evil.example")) == 403


def test_the_host_of_a_whole_address_counts() -> None:
    for url, hosts, expected in (
        (b"/x", [b"localhost"], 200),
        (b"http://localhost/x", [b"LOCALHOST"], 200),
        (b"http://LocalHost:80/x", [], 200),
        (b"http://evil/x", [], 403),
        (b"http://evil/x", [b"localhost"], 403),
        (b"http://localhost/x", [b"evil"], 403),
        (b"HTTP://evil?x", [b"localhost"], 403),
        (b"http://localhost@evil/x", [b"localhost"], 403),
        (b"http://evil#localhost/", [b"localhost"], 403),
    ):
        headers = with_host_of(url, [(b"host", host) for host in hosts])
        assert status(doors(), Head("POST", "/x", b"", headers, True)) == expected, (url, hosts)
    found = parse_head(b"POST http://evil/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n", 1)
    assert found
    assert [value for name, value in found[0].headers if name == b"host"] == [b"localhost", b"evil"]


@pytest.mark.parametrize(
    ("server", "is_local"),
    [
        (("127.0.0.1", 8080), True),
        (("127.9.9.9", 8080), True),
        (("::1", 8080), True),
        (("::ffff:127.0.0.1", 8080), True),
        (("192.168.1.7", 8080), False),
        (("::ffff:192.168.1.7", 8080), False),
        (("2001:db8::1", 8080), False),
        (("/run/r.sock", None), False),
        (None, True),  # not known
    ],
)
def test_what_came_over_loopback(server: tuple[str, int | None] | None, is_local: bool) -> None:
    assert came_over_loopback(server) is is_local


# Pages

CROSS = {"sec_fetch_site": "cross-site"}
LINK = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
AGENT = {"user_agent": "Mozilla/5.0 (X11; Linux x86_64)"}
TYPE = {"content_type": "application/json"}

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
        "A": [("GET", "/models?reload=1"), ("HEAD", "/v1/models?a&reload=x"), ("GET", "/models?reload=&reload=1")],
    }
    if headers.get("sec_fetch_mode") == "navigate":
        asked["g"] = asked["a"] = []  # see the types: a form is no JSON
    for letter, requests in asked.items():
        for method, target in requests:
            told = status(doors(), head(method, target, host="localhost:8080", **TYPE, **headers))
            assert told == (200 if letter in may else 403), (method, target)


def test_two_origins_are_none() -> None:
    for second in ("http://localhost", FOREIGN):
        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", second.encode())]
        for method in ("GET", "POST"):
            assert status(doors(), Head(method, "/models", b"", headers, True)) == 403


def test_health_is_for_everybody() -> None:
    """Also where nobody may read it."""
    for headers in ({"origin": FOREIGN}, CROSS, {"origin": "null"}):
        verdict = doors().ask(head("GET", "/health", **headers))
        assert verdict == (None, None)
        assert status(doors(), head("GET", "/health", host="evil.example", **headers)) == 403


OWN_PAGES = {
    "http://localhost:8080": ("localhost:8080", True),
    "http://LOCALHOST:8080": ("localhost:8080", True),
    "https://box.local": ("box.local", True),  # TLS ends before us
    "https://box": ("box:443", True),
    "http://box": ("box:80", True),
    "https://box:8443": ("box", False),
    "http://192.168.1.7:8080": ("192.168.1.7:8080", True),
    "http://[fe80::1]:8080": ("[fe80::1]:8080", True),
    "http://gpu.lan:8080": ("gpu.lan:8080", False),  # who knows
    "http://evil.example": ("evil.example", False),  # rebound
    "app://box": ("box", True),
    "http://box:3000": ("box:8080", False),
}


@pytest.mark.parametrize("origin", OWN_PAGES)
def test_own_pages(origin: str) -> None:
    host, is_own = OWN_PAGES[origin]
    asked = head("POST", CHAT, host=host, origin=origin, **TYPE)._replace(is_local=False)
    assert status(doors(), asked) == (200 if is_own else 403)
    assert status(doors(keys=["k"]), head("GET", "/health", host=host, origin=origin)) == 200
    if not is_own and origin.endswith(host):
        assert f"--allowed-hosts {host.partition(':')[0]}" in str(doors().ask(asked).refusal)
        assert status(doors(allowed=[host]), asked) == 200
        assert status(doors(allowed=["*"]), asked) == 200
        assert status(doors(admin=["k"]), asked) == 403  # nobody needs a key for that
        assert status(doors(keys=["k"]), asked) == 401
        key = [*asked.headers, (b"x-api-key", b"k")]
        assert status(doors(keys=["k"]), asked._replace(headers=key)) == 200
        assert status(doors(admin=["k"]), asked._replace(headers=key)) == 200
    for site in ("cross-site", "same-site"):  # a page of http, where TLS ends before us
        other = head("POST", CHAT, host="box", origin="http://box", sec_fetch_site=site, **TYPE)
        assert status(doors(), other) == 403


def test_refusals_say_which_flag_helps() -> None:
    for origin, words in (
        (FOREIGN, f"--cors-origins {FOREIGN}"),
        ("null", "--cors-origins null"),
        ("app://x", "--cors-origins app://x"),
    ):
        refusal = doors().ask(head("POST", "/models/load", origin=origin, **TYPE)).refusal
        assert refusal
        assert refusal.status == 403
        assert words in refusal.message


# Types

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
                asked = head("POST", path, **page, **length, content_type=kind)
                assert status(doors(), asked) == (200 if TYPES[kind] else 415), (page, path)
    assert status(doors(), head("POST", CHAT, content_type=kind, content_length="9")) == 200


def test_a_browser_without_a_type() -> None:
    page = {"origin": "http://localhost:3000"}
    assert status(doors(), head("POST", "/models/reload", **page)) == 200
    assert status(doors(), head("POST", "/models/reload", **page, content_length="0")) == 200
    assert status(doors(), head("POST", "/models/reload", **page, content_length="1")) == 415
    assert status(doors(), head("POST", "/models/reload", **page, transfer_encoding="chunked")) == 415
    both = [*head(**page).headers, (b"content-type", b"application/json"), (b"content-type", b"text/plain")]
    assert status(doors(), head()._replace(headers=both)) == 415
    for path in ("/v1/audio/transcriptions", "/audio/transcriptions"):
        for kind, told in (("multipart/form-data; boundary=X", 200), ("text/plain", 415), ("multipart/mixed", 415)):
            assert status(doors(), head("POST", path, **page, content_type=kind, content_length="9")) == told
    assert status(doors(), head("GET", "/models", **page, content_type="text/plain")) == 200


def test_the_length_of_a_body_is_no_part_of_what_is_remembered(router: Router) -> None:
    """A page may ask without a body and without a type. With a body under the same head it may not."""
    page = [("Sec-Fetch-Site", "same-origin")]
    answers = [ask(router.url, "POST", CHAT, page, body).status for body in (b"", b"", question())]
    assert answers == [400, 400, 415]
    no_type = [(b"host", b"localhost"), (b"sec-fetch-site", b"same-origin"), (b"content-length", b"0")]
    assert APP.endpoint_for(RequestHead("POST", CHAT, CHAT.encode(), no_type), True) is None
    assert APP.endpoint_for(RequestHead("POST", CHAT, CHAT.encode(), no_type[::2]), True) is not None


def test_names_that_are_too_long() -> None:
    for host in ("a" * 300 + ".localhost", "9" * 60_000):
        assert status(doors(), head(host=host)) == 403
    assert Origins(["*"]).most("https://" + "a" * 400) is None


# Preflights


def preflight(found: Doors, method: str, target: str, **more: str) -> Sequence[str] | int:
    """The methods that it tells, or the status of the refusal."""
    told = found.preflight(head("OPTIONS", target, access_control_request_method=method, **more))
    if isinstance(told, Preflight):
        return told.methods
    assert isinstance(told, RouterError)
    return told.status


def test_a_preflight_tells_what_will_happen() -> None:  # B-T1
    """For every route and method, and every page."""
    pages = ("http://localhost:3000", "app://x", FOREIGN, "null", "http://localhost:8080")
    for route, page in itertools.product(APP.routes, pages):
        target = route.path.replace("{name:path}", "a").replace("{slot}", "0").replace("{digest}", "sha256:0")
        for method in ("GET", "POST", "DELETE", "PUT", "HEAD", "PATCH"):
            for query in ("", "?reload=1", "?autoload=1"):
                told = preflight(doors(), method, target + query, origin=page, host="localhost:8080")
                real = doors().ask(head(method, target + query, origin=page, host="localhost:8080", **TYPE))
                is_there = method in ROUTES.methods(target)
                is_readable = real.refusal is None and real.origin is not None and is_there
                assert is_readable == (not isinstance(told, int)), (page, method, target + query)
                if not isinstance(told, int):
                    assert method in told
                elif real.refusal or real.origin is None:
                    assert told == 403
                else:
                    assert told == 400
    methods = preflight(doors(), "GET", "/models", origin="app://x")
    assert not isinstance(methods, int)
    assert "DELETE" not in methods


def test_preflights_that_are_odd() -> None:
    page = "http://localhost:3000"
    assert preflight(doors(), "POST", CHAT, origin=page, host="evil.example") == 403
    assert not isinstance(preflight(doors(keys=["k"]), "POST", CHAT, origin=page, host="evil.example"), int)
    assert preflight(doors(), "post", CHAT, origin=page) == 400
    assert preflight(doors(), "", CHAT, origin=page) == 400
    assert not isinstance(preflight(doors(), "POST", "/nowhere", origin=page), int)  # a 404 that it may read
    assert doors().preflight(head("OPTIONS", CHAT, origin=page)) is None
    assert doors().preflight(head("OPTIONS", CHAT, access_control_request_method="POST")) is None
    twice = head("OPTIONS", CHAT, origin=page, access_control_request_method="POST")
    for name, value in ((b"origin", FOREIGN.encode()), (b"access-control-request-method", b"DELETE")):
        assert isinstance(doors().preflight(twice._replace(headers=[*twice.headers, (name, value)])), RouterError)


# No request of a foreign page has an effect

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
    ["/v1/models/a", "/slots/0", "/models/a/b/settings", "/nowhere", "/models/load\n", "/api/blobs/x", "/models/load/"]
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
    direct = FastPathApp(app, [], doors(keys=keys[0], admin=keys[1]), ErrorHandlers(dialect_of))
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
    scope |= {"server": address, "raw_path": path.encode()}
    asyncio.run(_run(direct, scope))
    assert not app.reached or (method in ("GET", "HEAD") and path in ("/health", "/v1/health") and not query)
    found = FastPathApp(app, APP.routes, doors(keys=keys[0], admin=keys[1]), ErrorHandlers(dialect_of))
    assert found.endpoint_for(RequestHead(method, path, path.encode(), headers), address[0] == "127.0.0.1") is None


async def _run(app: FastPathApp, scope: dict[str, Any]) -> None:
    await app(scope, _never, _nowhere)


# Real routers


@pytest.fixture(scope="module")
def router(fake: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Without keys, on loopback and on a unix socket; tiny-a runs."""
    place = tmp_path_factory.mktemp("origins")
    (place / "presets.ini").write_text(f"[extra]\nmodel = {tiny_models}/tiny-a.gguf\n")
    listening = f"127.0.0.1,{place}/r.sock"
    flags = ("--models-dir", str(tiny_models), "--models-preset", str(place / "presets.ini"), "--host", listening)
    router = start(place / "router", "--engine", fake, *flags, FAKE_JOURNAL=str(place / "journal"))
    assert router.chat("tiny-a").status_code == 200
    yield router
    router.stop()


def socket_of(router: Router) -> Path:
    return router.folder.parent / "r.sock"


EFFECTS: Sequence[tuple[str, str, Any]] = (
    ("POST", CHAT, "question"),
    ("POST", "/v1/messages", "question"),
    ("POST", "/api/chat", "question"),
    ("POST", "/completion", {"model": "tiny-a", "prompt": "x"}),
    ("POST", "/tokenize", {"model": "tiny-b", "content": "x"}),
    ("POST", "/models/load", {"model": "tiny-b", "extra_args": ["--log-file", "x"]}),
    ("POST", "/models/unload", {"model": "tiny-a"}),
    ("POST", "/models/reload", {}),
    ("POST", "/models", {"model": "a/b"}),
    ("POST", "/slots/0?action=erase&model=tiny-a", {}),
    ("POST", "/lora-adapters?model=tiny-a", []),
    ("POST", "/props", {"model": "tiny-a"}),
    ("DELETE", "/models?model=tiny-a", None),
    ("DELETE", "/api/delete", {"model": "tiny-a"}),
    ("POST", "/api/create", {"model": "made", "from": "tiny-a"}),
    ("POST", "/api/copy", {"source": "tiny-a", "destination": "made"}),
    ("POST", "/api/pull", {"model": "a/b"}),
    ("GET", "/models?reload=1", None),
    ("HEAD", "/models?reload=1", None),
    ("GET", "/slots?model=tiny-b&autoload=1", None),
    ("GET", "/props?model=tiny-b&autoload=true", None),
    ("GET", "/lora-adapters?model=tiny-b&autoload=1", None),
    ("GET", "/metrics?model=tiny-b&autoload=1", None),
)
FOREIGN_PAGES: Sequence[Pairs] = (
    [("Origin", FOREIGN)],
    [("origin", "null")],
    [("Origin", "http://localhost:1"), ("Origin", FOREIGN)],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-origin"), ("X-Forwarded-Host", "evil.example")],
)


def body_of(body: Any) -> bytes | None:
    return question() if body == "question" else None if body is None else json.dumps(body).encode()


@pytest.mark.parametrize("page", FOREIGN_PAGES, ids=str)
def test_a_foreign_page_gets_nowhere(router: Router, page: Pairs) -> None:  # B-T1
    """With its body, whatever its type, and without: that is not waited for."""
    before, started = router.listing(), router.loads()
    for method, target, body in EFFECTS:
        sent = body_of(body)
        for kind in (JSON, ("Content-Type", "text/plain")):
            for is_sent in (True, False):
                answer = ask(router.url, method, target, [*page, kind], sent, is_sent=is_sent)
                assert (answer.status, answer.cors) == (403, {}), (method, target)
                if method != "HEAD":
                    assert "--cors-origins" in answer.message or "several" in answer.message
    after = router.listing()
    for name in before:
        assert {**after[name], "status": 0} == {**before[name], "status": 0}
        assert after[name]["status"]["value"] == before[name]["status"]["value"]
    assert (router.loads(), after.keys()) == (started, before.keys())


def test_each_dialect_says_so(router: Router) -> None:
    page = [("Origin", FOREIGN), JSON]
    told = {
        path: json.loads(ask(router.url, "POST", path, page, b"{}").body)
        for path in (CHAT, "/v1/messages", "/api/chat")
    }
    assert told[CHAT]["error"]["type"] == told["/v1/messages"]["error"]["type"] == "permission_error"
    assert FOREIGN in told["/api/chat"]["error"]


def test_a_foreign_host_gets_nowhere(router: Router) -> None:  # B-T1
    own = [("Origin", "http://evil.example:8080"), ("Sec-Fetch-Site", "same-origin")]
    for host in (
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil.example.",
        "x@localhost",
        None,
        "",
    ):
        for page in ([], own):
            for method, target, body in (*EFFECTS, ("GET", "/models", None), ("GET", "/health", None)):
                answer = ask(router.url, method, target, [*page, JSON], body_of(body), host=host)
                assert (answer.status, answer.cors) == (403, {}), (host, method, target)
    answer = ask(router.url, "GET", f"http://evil.example{CHAT}", host="localhost")
    assert answer.status == 403
    assert ask(router.url, "GET", "/health", host=None, version="HTTP/1.0").status == 200


def test_an_answer_on_one_listener_is_none_on_another(router: Router) -> None:  # B-T1
    """The same head is remembered for its own listener alone."""
    for first, second in ((socket_of(router), router.url), (router.url, socket_of(router))):
        for where in (first, second, first):
            host = "first-by-socket.example" if first == socket_of(router) else "first-by-loopback.example"
            answer = ask(where, "POST", CHAT, [JSON], question(), host=host)
            assert answer.status == (200 if where == socket_of(router) else 403)


BOTH_WAYS = (question(), question(padding="x" * 200_000))  # the short one takes no such body


def test_an_allowed_page(router: Router) -> None:  # B-C14
    """What it is told, it may read."""
    for origin in ("http://localhost:3000", "http://127.0.0.1:1", "app://obsidian.md", "moz-extension://a-b-c"):
        page = [("Origin", origin), JSON]
        told = {"allow-origin": origin, "expose-headers": "x-request-id, request-id"}
        for body in BOTH_WAYS:
            answer = ask(router.url, "POST", CHAT, page, body)
            assert (answer.status, answer.cors, answer["vary"]) == (200, told, "Origin")
        for method, target, sent, status in (
            ("GET", "/models", None, 200),
            ("GET", "/v1/models/tiny-a", None, 200),
            ("GET", "/nowhere", None, 404),
            ("PUT", CHAT, None, 405),
            ("POST", CHAT, b'{"model": "nobody"}', 404),
            ("POST", CHAT, b"{", 400),
        ):
            answer = ask(router.url, method, target, page, sent)
            assert (answer.status, answer.cors) == (status, told), (method, target)
        answer = ask(router.url, "POST", CHAT, [("Origin", origin), ("Content-Type", "text/plain")], question())
        assert (answer.status, answer.cors) == (415, told)
        assert "application/json" in answer.message
    assert ask(router.url, "POST", "/models/reload", [("Origin", "http://localhost:3000")], b"").status == 200
    answer = ask(router.url, "POST", "/models/reload", [("Origin", "app://x")], b"")
    assert (answer.status, answer.cors["allow-origin"]) == (403, "app://x")
    assert "--cors-origins app://x" in answer.message


def test_what_is_no_page_sends_any_type(router: Router) -> None:  # B-T1
    """As curl does."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", None):
        for body in BOTH_WAYS:
            headers = [("Content-Type", kind)] if kind else []
            answer = ask(router.url, "POST", CHAT, headers, body)
            assert (answer.status, answer.cors) == (200, {})


def test_answers_that_are_kept_are_of_one_page(router: Router) -> None:
    for headers in ([], [("Origin", FOREIGN)], [("Origin", "http://localhost:1")]):
        for target in ("/models", "/health", "/nowhere", "/v1/models/tiny-a"):
            assert "Origin" in (ask(router.url, "GET", target, headers)["vary"] or "")


def asks(
    router: Router, method: str, target: str, *more: tuple[str, str], origin: str = "http://localhost:1"
) -> Answer:
    return ask(router.url, "OPTIONS", target, [("Origin", origin), ("Access-Control-Request-Method", method), *more])


def test_preflights(router: Router) -> None:  # B-T1
    headers = ("Access-Control-Request-Headers", "content-type,x-custom")
    network = ("Access-Control-Request-Private-Network", "true")
    answer = asks(router, "POST", CHAT, headers, network)
    assert (answer.status, answer["access-control-allow-origin"]) == (200, "http://localhost:1")
    assert answer.cors["allow-headers"] == "content-type,x-custom"
    assert answer.cors["allow-private-network"] == "true"
    assert "POST" in answer.cors["allow-methods"]
    assert "Origin" in (answer["vary"] or "")
    assert asks(router, "POST", CHAT).cors.keys() == {"allow-origin", "allow-methods", "max-age"}
    for method, target, origin, status in (
        ("POST", CHAT, FOREIGN, 403),
        ("POST", CHAT, "null", 403),
        ("POST", "/models/load", "app://x", 403),
        ("GET", "/models?reload=1", "app://x", 403),
        ("DELETE", CHAT, "http://localhost:1", 400),
        ("PUT", "/models", "http://localhost:1", 400),
    ):
        answer = asks(router, method, target, headers, network, origin=origin)
        assert (answer.status, answer.cors) == (status, {}), (method, target, origin)
        assert method in answer.message or "--cors-origins" in answer.message


def test_origins_and_hosts_that_were_listed(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-C14
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--allowed-hosts", "gpu.example,*.lan.example"),
        *("--cors-origins", "https://*.example.com,null"),
    )
    for host, told in (("gpu.example:8080", 200), ("a.lan.example", 200), ("lan.example", 403), ("localhost", 200)):
        assert ask(router.url, "GET", "/models", host=host).status == told
    assert ask(router.url, "GET", "/", [("Origin", "http://gpu.example")], host="gpu.example").status == 200
    for origin, told in (
        ("https://a.example.com", 200),
        ("null", 200),
        ("app://x", 200),
        ("http://localhost:1", 403),
        ("https://example.com", 403),
    ):
        answer = ask(router.url, "POST", CHAT, [("Origin", origin), JSON], question())
        assert (answer.status, answer.cors.get("allow-origin")) == (told, origin if told == 200 else None)


def test_with_keys_a_name_does_not_matter(routers: Starter, fake: str, tiny_models: Path) -> None:
    """A page has none. Whoever asks without one is told so in a way that his page may read."""
    router = routers("--engine", fake, "--models-dir", str(tiny_models), "--api-key", "k")
    page = [("Origin", "http://gpu.example"), JSON]
    for more, told in (([("X-Api-Key", "k")], 200), ([], 401)):
        for body in BOTH_WAYS:
            answer = ask(router.url, "POST", CHAT, [*page, *more], body, host="gpu.example")
            assert (answer.status, answer.cors["allow-origin"]) == (told, "http://gpu.example")
    assert ask(router.url, "POST", CHAT, [("Origin", FOREIGN), JSON, ("X-Api-Key", "k")], question()).status == 403
    assert asks(router, "POST", CHAT).status == 200  # without a key


def test_reading_takes_no_more_than_reading() -> None:
    """The examples above are about the right routes."""
    for method, path, query, need in (
        ("GET", "/models", b"", READ),
        ("GET", "/models", b"reload=", READ),
        ("GET", "/slots", b"autoload=0", READ),
        ("GET", "/slots", b"autoload=1", GENERATE),
        ("GET", "/models", b"autoload=1&reload=1", ADMIN),
        ("POST", CHAT, b"reload=1", GENERATE),
    ):
        assert ROUTES.need(method, path, query) == need
