"""Real routers and what pages of browsers get from them, on both ways of a request: the short one, which a small POST
takes whose model runs, and the ordinary one. B-T1 B-C14"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from router.proxy.head import Head as ProxyHead
from tests.access.guards import APP, CHAT, FOREIGN
from tests.conftest import Starter
from tests.routers import Router, start
from tests.security.asking import JSON, Answer, Pairs, ask, question


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
    ("POST", "/models/tiny-a/pin", {"pinned": True}),
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


def test_decision_about_a_browser_is_not_remembered_by_head(router: Router) -> None:
    """A page may ask without a body and without a type. With a body under the same head it may not."""
    page = [("Sec-Fetch-Site", "same-origin")]
    answers = [ask(router.url, "POST", CHAT, page, body).status for body in (b"", b"", question())]
    assert answers == [400, 400, 415]
    no_type = [(b"host", b"localhost"), (b"sec-fetch-site", b"same-origin"), (b"content-length", b"0")]
    assert APP.endpoint_for(ProxyHead("POST", CHAT, CHAT.encode(), no_type), True) is None
    assert APP.endpoint_for(ProxyHead("POST", CHAT, CHAT.encode(), no_type[::2]), True) is not None


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


def test_refusal_of_a_page_in_each_dialect(router: Router) -> None:
    page = [("Origin", FOREIGN), JSON]
    answers = {
        path: json.loads(ask(router.url, "POST", path, page, b"{}").body)
        for path in (CHAT, "/v1/messages", "/api/chat")
    }
    assert answers[CHAT]["error"]["type"] == answers["/v1/messages"]["error"]["type"] == "permission_error"
    assert FOREIGN in answers["/api/chat"]["error"]


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


def test_accepted_host_is_remembered_for_its_own_listener_only(router: Router) -> None:  # B-T1
    """The same head is remembered for its own listener alone."""
    for first, second in ((socket_of(router), router.url), (router.url, socket_of(router))):
        for where in (first, second, first):
            host = "first-by-socket.example" if first == socket_of(router) else "first-by-loopback.example"
            answer = ask(where, "POST", CHAT, [JSON], question(), host=host)
            assert answer.status == (200 if where == socket_of(router) else 403)


BOTH_WAYS = (question(), question(padding="x" * 200_000))  # the short one takes no such body


def test_an_allowed_page(router: Router) -> None:  # B-C14
    """It may read its answers."""
    for origin in ("http://localhost:3000", "http://127.0.0.1:1", "app://obsidian.md", "moz-extension://a-b-c"):
        page = [("Origin", origin), JSON]
        cors = {"allow-origin": origin, "expose-headers": "x-request-id, request-id"}
        if origin.startswith("http"):
            cors["allow-credentials"] = "true"
        for body in BOTH_WAYS:
            answer = ask(router.url, "POST", CHAT, page, body)
            assert (answer.status, answer.cors, answer["vary"]) == (200, cors, "Origin")
        for method, target, sent, status in (
            ("GET", "/models", None, 200),
            ("GET", "/v1/models/tiny-a", None, 200),
            ("GET", "/nowhere", None, 404),
            ("PUT", CHAT, None, 405),
            ("POST", CHAT, b'{"model": "nobody"}', 404),
            ("POST", CHAT, b"{", 400),
        ):
            answer = ask(router.url, method, target, page, sent)
            assert (answer.status, answer.cors) == (status, cors), (method, target)
        answer = ask(router.url, "POST", CHAT, [("Origin", origin), ("Content-Type", "text/plain")], question())
        assert (answer.status, answer.cors) == (415, cors)
        assert "application/json" in answer.message
    assert ask(router.url, "POST", "/models/reload", [("Origin", "http://localhost:3000")], b"").status == 200
    answer = ask(router.url, "POST", "/models/reload", [("Origin", "app://x")], b"")
    assert (answer.status, answer.cors["allow-origin"]) == (403, "app://x")
    assert "--cors-origins app://x" in answer.message


def test_programs_may_send_any_content_type(router: Router) -> None:  # B-T1
    """As curl does."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", None):
        for body in BOTH_WAYS:
            headers = [("Content-Type", kind)] if kind else []
            answer = ask(router.url, "POST", CHAT, headers, body)
            assert (answer.status, answer.cors) == (200, {})


def test_answers_vary_by_origin(router: Router) -> None:
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
    assert asks(router, "POST", CHAT).cors.keys() == {
        *("allow-origin", "allow-credentials", "allow-methods", "max-age")
    }
    assert "allow-credentials" not in asks(router, "POST", CHAT, origin="app://x").cors
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
    for host, expected in (("gpu.example:8080", 200), ("a.lan.example", 200), ("lan.example", 403), ("localhost", 200)):
        assert ask(router.url, "GET", "/models", host=host).status == expected
    assert ask(router.url, "GET", "/", [("Origin", "http://gpu.example")], host="gpu.example").status == 200
    for origin, expected in (
        ("https://a.example.com", 200),
        ("null", 200),
        ("app://x", 200),
        ("http://localhost:1", 403),
        ("https://example.com", 403),
    ):
        answer = ask(router.url, "POST", CHAT, [("Origin", origin), JSON], question())
        assert (answer.status, answer.cors.get("allow-origin")) == (expected, origin if expected == 200 else None)


def test_a_page_that_nobody_named_brings_no_cookies(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-T1
    """With `*` any page may ask, but not with what a proxy knows the person by."""
    router = routers("--engine", fake, "--models-dir", str(tiny_models), "--cors-origins", "*,null,http://my.example")
    for origin, credentials in ((FOREIGN, None), ("null", None), ("app://x", None), ("http://my.example", "true")):
        for answer in (
            asks(router, "POST", CHAT, origin=origin),
            ask(router.url, "GET", "/models", [("Origin", origin)]),
        ):
            assert answer.status == 200
            assert (answer.cors["allow-origin"], answer.cors.get("allow-credentials")) == (origin, credentials)


def test_with_api_keys_any_host_name_is_accepted(routers: Starter, fake: str, tiny_models: Path) -> None:
    """A page has no key. A request without one is refused in a way that its page may read."""
    router = routers("--engine", fake, "--models-dir", str(tiny_models), "--api-key", "k")
    page = [("Origin", "http://gpu.example"), JSON]
    for more, expected in (([("X-Api-Key", "k")], 200), ([], 401)):
        for body in BOTH_WAYS:
            answer = ask(router.url, "POST", CHAT, [*page, *more], body, host="gpu.example")
            assert (answer.status, answer.cors["allow-origin"]) == (expected, "http://gpu.example")
    assert ask(router.url, "POST", CHAT, [("Origin", FOREIGN), JSON, ("X-Api-Key", "k")], question()).status == 403
    assert asks(router, "POST", CHAT).status == 200  # without a key
