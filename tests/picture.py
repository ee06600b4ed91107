"""Makes the README's picture of the dashboard: `python -m tests.picture [FILE]`.

It starts `llama-router demo --busy`, waits until there is something to see (models that come and go, and a request that
waits), and takes the picture in Chromium. Everything on it happened.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.browser import PROGRAM
from tests.routers import environment
from tests.waiting import until

ROOT = Path(__file__).parents[1]
PATIENCE_S = 90.0
LEAST_S = 70.0  # until there is a past to be shown
SOMETHING_TO_SEE = """
() => document.querySelector(".models .mark.busy") &&
  [...document.querySelectorAll(".queue li")].some(line => !line.textContent.includes("own load"))
"""
URL = re.compile(r"http://127\.0\.0\.1:\d+")


def main(argv: list[str]) -> int:
    target = Path(argv[0]) if argv else ROOT / "docs/dashboard.png"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "router", "demo", "--busy"]
            demo = subprocess.Popen(command, stdout=out, stderr=out, env=environment(Path(folder)), cwd=ROOT)
        try:
            found = until(lambda: URL.search(log.read_text(errors="replace")), PATIENCE_S)
            assert found, log.read_text()
            take(found[0], target)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(30)
    print(target)
    return 0


def take(url: str, target: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1360, "height": 860}, color_scheme="light")
        page.goto(f"{url}/router")
        page.wait_for_timeout(LEAST_S * 1000)
        wait_for_a_wait(page)
        page.screenshot(path=target)
        browser.close()


def wait_for_a_wait(page: Page) -> None:
    """For another model's memory, while a third one serves."""
    page.wait_for_function(SOMETHING_TO_SEE, timeout=PATIENCE_S * 1000, polling=50)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
