"""What a browser gets at `/`, and what programs get there."""

from __future__ import annotations

import gzip
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from router.api.home import wants_page
from router.page.chat_page import ChatPage
from router.page.shelf import Shelf
from tests.conftest import Starter
from tests.fakes import FakeNode
from tests.routers import FAKE, Router, start

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "accept-encoding": "gzip"}
GREETING = "Ollama is running"


@pytest.fixture(scope="module")
def router(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    made = start(tmp_path_factory.mktemp("home") / "r", "--engine", FAKE, "--models-dir", str(tiny_models))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def script(router: Router) -> str:
    """The path of the page's program."""
    page = router.client.get("/", headers=BROWSER)
    return "/_app/immutable/" + page.text.split("./_app/immutable/", 1)[1].split('"', 1)[0]


def raw(router: Router, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer as it is sent, for a path as it is written."""
    connection = http.client.HTTPConnection(urlsplit(router.url).netloc)
    connection.putrequest("GET", path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER["accept"], True),
        ("text/html", True),
        ("application/json, TEXT/HTML;q=0.1", True),
        ("*/*", False),
        ("", False),
        ("text/html;q=0", False),
        ("text/htmlx, text/*", False),
        ("application/json", False),
    ],
)
def test_browsers_get_the_page_and_programs_the_greeting(router: Router, accept: str, is_page: bool) -> None:  # B-W1
    answer, body = raw(router, "/", accept=accept) if accept else raw(router, "/")
    assert (b"<!doctype html>" in body) == is_page
    assert (body.decode() == GREETING) != is_page
    assert router.client.head("/", headers=BROWSER).headers["content-length"] == str(len(GREETING))
    if is_page:
        assert answer.headers["content-security-policy"] == "frame-ancestors 'self'"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        assert "Accept" in (answer.headers["vary"] or "")


def test_the_service_worker_gets_the_page_too() -> None:
    """Else it would keep the greeting, and show it as the page from then on."""
    assert wants_page(b"", [(b"accept", b"*/*"), (b"sec-fetch-site", b"same-origin")])
    assert wants_page(b"__WB_REVISION__=1", [(b"accept", b"*/*")])
    assert not wants_page(b"", [(b"accept", b"*/*"), (b"sec-fetch-site", b"cross-site")])


def test_files_are_packed_or_not_as_the_client_can(router: Router, script: str) -> None:
    packed, body = raw(router, script, accept_encoding="br, gzip;q=0.5")
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"] or 0) == len(body)
    for encoding in ("identity", "gzip;q=0", "gzipped"):
        plain, whole = raw(router, script, accept_encoding=encoding)
        assert plain.headers["content-encoding"] is None
        assert whole == gzip.decompress(body)
    assert packed.headers["etag"] != plain.headers["etag"]
    head = router.client.head(script, headers={"accept-encoding": "gzip"})
    assert (head.headers["etag"], head.headers["content-length"]) == (packed.headers["etag"], str(len(body)))


def test_browsers_keep_what_never_changes_and_ask_for_the_rest(router: Router, script: str) -> None:
    assert router.client.get(script).headers["cache-control"] == "public, max-age=31536000, immutable"
    for path in ("/", "/index.html", "/sw.js", "/manifest.webmanifest", "/build.json", "/favicon.svg", script):
        first = router.client.get(path, headers=BROWSER)
        assert first.status_code == 200
        assert first.headers["x-content-type-options"] == "nosniff"
        assert path == script or first.headers["cache-control"] == "no-cache"
        for known in (first.headers["etag"], f'"x", W/{first.headers["etag"]}', "*"):
            again = router.client.get(path, headers={**BROWSER, "if-none-match": known})
            assert (again.status_code, again.content) == (304, b"")
        assert router.client.get(path, headers={**BROWSER, "if-none-match": '"x"'}).status_code == 200


ELSEWHERE = (
    "/../router/__init__.py /..%2f..%2fetc/passwd.txt /_app/../index.html /_app/%2e%2e/index.html //index.html "
    "/nowhere.js /page.json /%00.js /index.html%00.js /index.html%0a /v1/index.html /models/index.html /api/index.html"
)


@pytest.mark.parametrize("path", ELSEWHERE.split())
def test_only_whole_names_of_the_page_are_found(router: Router, path: str) -> None:
    answer, body = raw(router, path, **{name.replace("-", "_"): value for name, value in BROWSER.items()})
    assert answer.status in (400, 404, 405)
    assert b"<!doctype html>" not in body


def test_it_needs_no_key_but_all_else_does(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-key", "k")
    for path, status in (
        ("/", 200),
        ("/sw.js", 200),
        ("/nowhere.js", 401),
        ("/llm/index.html", 401),
        ("/tools", 401),
        ("/props", 401),
    ):
        assert router.client.get(path, headers=BROWSER).status_code == status
    assert router.client.get("/").status_code == 401  # what programs get is as it was
    assert router.client.post("/index.html").status_code == 405


async def test_a_page_that_was_not_looked_for_may_have_any_file(tmp_path: Path) -> None:
    """A service worker asks for its own files before anybody asks for the index."""
    page = ChatPage(FakeNode(), [], Shelf(tmp_path))
    assert page.may_have("sw.js")
    assert not page.may_have("v1/x.js")
    await page.files()
    assert not page.may_have("sw.js")


def test_a_foreign_name_gets_no_page(router: Router) -> None:
    for path in ("/", "/sw.js"):
        assert router.client.get(path, headers={**BROWSER, "host": "evil.example"}).status_code == 403


def test_what_the_page_calls_is_answered(router: Router) -> None:
    client = router.client
    assert client.get("/build.json").json()["version"]
    assert client.get("/tools").json() == []
    assert "no tools" in client.post("/tools", json={"tool": "exec_shell_command", "params": {}}).json()["error"]
    assert client.get("/props").json()["role"] == "router"
    assert client.post("/v1/streams/lookup", json={"conversation_ids": []}).status_code == 200


@pytest.mark.parametrize("flag", ["--no-ui", "--no-webui", "LLAMA_ARG_NO_UI", "LLAMA_ARG_UI", "LLAMA_ARG_WEBUI"])
def test_it_can_be_turned_off(routers: Starter, tiny_models: Path, flag: str) -> None:
    flags, environ = ((flag,), {}) if flag.startswith("--") else ((), {flag: "off"})
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), *flags, **environ)
    found = router.client.get("/", headers=BROWSER)
    assert (found.status_code, found.headers["location"]) == (302, "router")  # the dashboard
    assert router.client.get("/", headers=BROWSER, follow_redirects=True).status_code == 200
    for path in ("/sw.js", "/build.json", "/favicon.ico"):
        assert router.client.get(path).status_code == 404
    assert not (router.folder / "llama-router" / "page").exists()


def test_below_a_prefix(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-prefix", "/llm")
    base: Any = httpx.URL(router.url).copy_with(path="/")
    with httpx.Client(base_url=base, headers=BROWSER) as client:
        lost = client.get("/llm")
        assert (lost.status_code, lost.headers["location"]) == (302, "/llm/")
        assert "<!doctype html>" in client.get("/llm/").text
        assert client.get("/llm/sw.js").status_code == 200
        assert client.get("/sw.js").status_code == 404


def test_below_a_prefix_without_the_page(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-prefix", "/llm", "--no-ui")
    base: Any = httpx.URL(router.url).copy_with(path="/")
    with httpx.Client(base_url=base, headers=BROWSER, follow_redirects=True) as client:
        for path in ("/llm", "/llm/", "/llm/index.html"):
            assert client.get(path).url.path == "/llm/router"
