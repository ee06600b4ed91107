"""The files of the dashboard's page, as they are served and as they are kept."""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib import resources

import pytest

from router.api.dashboard.page import NAMES, POLICY
from tests.programs import ROOT
from tests.routers import Router

UI = ROOT / "router/ui"
PATHS = ["/router", *(f"/router/{name}" for name in NAMES if name != "index.html")]


def anonymous(router: Router, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The raw answer to somebody without a key."""
    with router.client.stream(method, path, headers={"authorization": "", **headers}) as answer:
        return answer.status_code, dict(answer.headers), b"".join(answer.iter_raw())


# B-W2 B-T1
@pytest.mark.parametrize("path", PATHS)
def test_each_file_is_open_packed_and_under_the_policy(router: Router, path: str) -> None:
    kept = (UI / ("index.html" if path == "/router" else path.removeprefix("/router/"))).read_bytes()
    status, headers, body = anonymous(router, path)
    assert (status, gzip.decompress(body)) == (200, kept)
    assert headers["content-security-policy"] == POLICY
    assert headers["content-type"].startswith("text/")
    assert {headers["x-content-type-options"], headers["referrer-policy"]} == {"nosniff", "no-referrer"}
    plain = anonymous(router, path, **{"accept-encoding": "identity"})
    assert (plain[0], plain[2]) == (200, kept)
    assert plain[1]["etag"] != headers["etag"]
    assert anonymous(router, path, **{"if-none-match": headers["etag"]})[0] == 304
    assert anonymous(router, path, **{"if-none-match": plain[1]["etag"]})[0] == 200, "it is packed otherwise"
    status, asked, body = anonymous(router, path, "HEAD")
    assert (status, asked["content-length"], body) == (200, headers["content-length"], b"")


def test_no_other_file_is_served(router: Router) -> None:
    for path in ("index.html", "__init__.py", "..%2fsettings.py", "%2e%2e/settings.py", "nope.js"):
        assert anonymous(router, f"/router/{path}")[0] in (401, 404), path
        assert router.client.get(f"/router/{path}").status_code == 404, path


def test_a_slash_at_the_end_leads_to_the_page(router: Router) -> None:
    status, headers, _ = anonymous(router, "/router/")
    assert (status, headers["location"]) == (308, "../router")


# B-W2 B-T3
@pytest.mark.parametrize("path", ["/router/state", "/router/stream", "/router/events", "/router/requests"])
def test_what_the_page_shows_wants_a_key(router: Router, path: str) -> None:
    assert anonymous(router, path)[0] == 401


def test_the_page_can_run_nothing_but_its_own_files() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    index = (UI / "index.html").read_text()
    assert not re.search(r"<script[^>]*>[^<]|<style| style=| on\w+=", index), "inline code would not run"
    own = "".join((UI / name).read_text() for name in ("app.js", "data.js", "panel.js"))
    assert not re.search(r"innerHTML|dangerouslySet|insertAdjacent|document\.write|\beval\(|new Function", own)
    assert not re.search(r"https?://", own)


def test_the_module_of_others_is_the_one_of_npm() -> None:
    kept = (UI / "vendor.js").read_bytes()
    assert hashlib.sha256(kept).hexdigest() in (UI / "vendor.txt").read_text()
    packed = ROOT / "tests/clients/node_modules/htm/preact/standalone.module.js"
    if not packed.exists():
        pytest.skip("this machine has no npm packages of the tests: npm ci --prefix tests/clients")
    assert kept == packed.read_bytes()
    license = (packed.parents[1] / "LICENSE").read_text()
    assert license.strip() in (UI / "vendor.txt").read_text()


def test_all_files_of_the_package_are_served() -> None:
    kept = {file.name for file in (resources.files("router") / "ui").iterdir()}
    assert kept == set(NAMES)
