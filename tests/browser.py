"""A real Chromium, for tests of pages: it runs without a window, reaches loopback alone, and keeps an account.

    def test_something(chromium: Chromium, router: Router) -> None:
        with chromium.visit(router.url) as visit:
            visit.page.get_by_role("button", name="Send").click()
            assert visit.requests("/v1/chat/completions")

At the end of the block nothing may have gone wrong: no error in the console or of a script, no violation of the page's
own policy, no request to another origin, no answer of 400 or more. What a test provokes it names beforehand, with
`visit.expect("401")`. A page waits PATIENCE_S for what a test wants of it, and everything ends with the fixture.

Import the fixture (`from tests.browser import chromium`) in modules whose tests are all synchronous: while a browser
runs, its thread has an event loop already.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

PATIENCE_S = 20.0
BOX = "box.test"  # loopback under a name of which the browser does not know that: as any machine, without TLS
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    "--disable-gpu",
    f"--host-resolver-rules=MAP {BOX} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
TELLS_VIOLATIONS = """
addEventListener("securitypolicyviolation", event =>
  reportViolation(`${event.effectiveDirective} forbids ${event.blockedURI || event.sample}`), true)
"""

expect.set_options(timeout=PATIENCE_S * 1000)


class Visit:
    """One person at one page, with nothing of earlier visits. `problems` is what went wrong so far."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.problems: list[str] = []
        self.sent: list[Request] = []
        self._expected: list[str] = []
        context.set_default_timeout(PATIENCE_S * 1000)
        context.expose_binding("reportViolation", lambda source, words: self.problems.append(f"policy: {words}"))
        context.add_init_script(TELLS_VIOLATIONS)
        # A pattern, not a function: requests that do not match it never wait for Python.
        context.route(re.compile(f"^(?!blob:|data:|{re.escape(_origin_of(url))}/)"), self._refuse)
        context.on("request", self._on_request)
        context.on("response", self._on_response)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.problems.append(f"script: {error.error}"))
        self.page: Page = context.new_page()

    def __repr__(self) -> str:
        return f"<Visit {self.url}, {len(self.sent)} requests, {len(self.problems)} problems>"

    def expect(self, *words: str) -> None:
        """Problems with one of these words are wanted."""
        self._expected += words

    def requests(self, end: str) -> list[Request]:
        """Those to a path that ends so, whatever their query."""
        return [request for request in self.sent if urlsplit(request.url).path.endswith(end)]

    def unexpected(self) -> list[str]:
        return [problem for problem in self.problems if not any(word in problem for word in self._expected)]

    def picture(self, path: Path) -> Path:
        """What is seen now, as a PNG."""
        self.page.screenshot(path=path)
        return path

    def _refuse(self, route: Any) -> None:
        self.problems.append(f"other origin: {route.request.url}")
        route.abort()

    def _on_request(self, request: Request) -> None:
        self.sent.append(request)

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"answer: {response.status} {response.request.method} {response.url}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location['url']})")


class Chromium:
    """A browser that runs. Each `visit` is a person of its own, who knows nothing of the others."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @contextlib.contextmanager
    def visit(self, url: str, path: str = "/", **context: Any) -> Iterator[Visit]:
        """Open a page. `context` is as for Playwright's `new_context`: `color_scheme`, `viewport`, `locale` ..."""
        with contextlib.closing(self._browser.new_context(**context)) as made:
            visit = Visit(made, url)
            visit.page.goto(f"{url}{path}", wait_until="load")
            yield visit
            assert not visit.unexpected(), "\n".join(visit.unexpected())


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """For all tests of a module, since its start takes a second."""
    if PROGRAM is None and not os.environ.get("CI"):
        pytest.skip("there is no Chromium: apt-get install chromium")
    assert PROGRAM, "there is no Chromium: apt-get install chromium"
    sandbox = [] if os.getuid() else ["--no-sandbox"]
    before = set(psutil.Process().children(recursive=True))
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=PROGRAM, args=[*FLAGS, *sandbox])
            yield Chromium(browser)
            browser.close()
    finally:
        for process in set(psutil.Process().children(recursive=True)) - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
