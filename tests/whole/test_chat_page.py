"""llama.cpp's chat page in a real browser, in front of a real router: what people do there, by its buttons."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests import nginx
from tests.browser import Chromium, chromium  # noqa: F401 - a fixture
from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.routers import FAKE, Router, start
from tests.scripted import Script
from tests.waiting import until

MIB = 2**20
A_MODEL = re.compile(r"tiny-|<img|user/")
HOSTILE = "<img src=x onerror=hacked()>"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Script:
    return Script(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def router(answers: Script, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Three models, and one whose name is markup."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "models.ini").write_text(f"[{HOSTILE}]\nmodel = {tiny_models / 'tiny-a.gguf'}\n")
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--models-preset", str(folder / "models.ini"))
    made = start(folder / "router", *flags, "--offline", **answers.environ)
    yield made
    made.stop()


def choose(page: Page, model: str) -> None:
    """By the selector beside the message, which shows the name of a model."""
    page.locator("form").last.get_by_role("button").filter(has_text=A_MODEL).click()
    page.get_by_role("option").filter(has=page.get_by_title(model, exact=True)).click()


def send(page: Page, words: str) -> None:
    page.locator("textarea").last.fill(words)
    # A note that a model was loaded may lie over the button. It stays as long as the mouse points at it.
    page.mouse.move(0, 0)
    expect(page.locator("[data-sonner-toast]")).to_have_count(0)
    page.get_by_role("button", name="Send", exact=True).click()


def open_models(page: Page) -> Locator:
    """The dialog "Models"."""
    page.get_by_role("button", name="Models", exact=True).first.click()
    return page.get_by_role("dialog")


def row(dialog: Locator, model: str) -> Locator:
    """What the dialog says of a model, with its buttons, which show under the mouse."""
    found = dialog.locator(f"div:has(> button [title='{model}'])")
    found.hover()
    return found


def test_choose_send_read_and_switch(chromium: Chromium, router: Router, answers: Script) -> None:  # noqa: F811  # B-W1
    answers.play({"contains": "first", "text": "The answer of one."}, {"text": "The answer of another."})
    with chromium.visit(router.url) as visit:
        page = visit.page
        choose(page, "tiny-b")
        send(page, "my first question")
        expect(page.get_by_text("The answer of one.")).to_be_visible()
        choose(page, "tiny-c")
        send(page, "my second question")
        expect(page.get_by_text("The answer of another.")).to_be_visible()
        until(lambda: router.status("tiny-b") == router.status("tiny-c") == "loaded")
        asked = [json.loads(request.post_data or "")["model"] for request in visit.requests("/v1/chat/completions")]
        assert asked == ["tiny-b", "tiny-c"]


def test_load_and_unload_by_its_buttons(chromium: Chromium, router: Router) -> None:  # noqa: F811
    with chromium.visit(router.url) as visit:
        dialog = open_models(visit.page)
        row(dialog, "tiny-a").get_by_role("button", name="Load model").click()
        until(lambda: router.status("tiny-a") == "loaded")
        expect(dialog.get_by_text("Loaded models")).to_be_visible()
        row(dialog, "tiny-a").get_by_role("button", name="Unload model").click()
        until(lambda: router.status("tiny-a") == "unloaded")
        expect(row(dialog, "tiny-a").get_by_role("button", name="Load model")).to_be_attached()


def test_names_answers_and_errors_are_text(chromium: Chromium, router: Router, answers: Script) -> None:  # noqa: F811
    answers.play(
        {"contains": "fail", "error": {"code": 400, "message": f"{HOSTILE} failed", "type": "invalid_request_error"}},
        {"text": f"{HOSTILE} <script>hacked()</script> [link](javascript:hacked())"},
    )
    with chromium.visit(router.url) as visit:
        page = visit.page
        page.evaluate("() => { window.hacks = 0; window.hacked = () => window.hacks++ }")
        choose(page, HOSTILE)
        send(page, "question")
        expect(page.get_by_text("link").last).to_be_visible()
        visit.expect("400 POST", "status of 400", "failed")
        send(page, "now fail")
        expect(page.get_by_text(f"{HOSTILE} failed").last).to_be_visible()
        assert page.evaluate("window.hacks") == 0


def test_a_download_is_seen_stopped_and_resumed(
    chromium: Chromium,  # noqa: F811
    routers: Starter,
    tiny_models: Path,
) -> None:
    data = (tiny_models / "tiny-a.gguf").read_bytes()
    gate = threading.Event()
    file = RepoFile(data + bytes(8 * MIB), cut_at=4 * MIB, gate=gate)
    with HubServer({"user/tiny": Repo({"tiny-Q8_0.gguf": file})}) as hub:
        router = routers("--engine", FAKE, "--hub-allow", "user/*", HF_ENDPOINT=hub.url)
        with chromium.visit(router.url) as visit:
            dialog = open_models(visit.page)
            answer = router.client.post("/models", json={"model": "user/tiny:Q8_0"})
            assert answer.status_code == 200, answer.text
            hub.wait_for("user/tiny/tiny-Q8_0.gguf", 4 * MIB)
            expect(dialog.get_by_text("Downloading")).to_be_visible()
            row(dialog, "user/tiny:Q8_0").get_by_role("button", name="Pause downloading").click()
            expect(dialog.get_by_role("button", name="Resume downloading")).to_be_attached()
            gate.set()
            row(dialog, "user/tiny:Q8_0").get_by_role("button", name="Resume downloading").click()
            until(lambda: "user/tiny:Q8_0" in router.listing() and router.status("user/tiny:Q8_0") == "unloaded")
            row(dialog, "user/tiny:Q8_0").get_by_role("button", name="Model actions").click()
            visit.page.get_by_role("menuitem", name="Delete from disk").click()
            visit.page.get_by_role("button", name="Delete", exact=True).click()
            until(lambda: "user/tiny:Q8_0" not in router.listing())
            expect(dialog.get_by_text("user/tiny")).to_have_count(0)


def test_a_key_is_asked_for(chromium: Chromium, routers: Starter, tiny_models: Path) -> None:  # noqa: F811
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-key", "the-secret-key")
    with chromium.visit(router.url) as visit:
        visit.expect("401", "Invalid API key")
        page = visit.page
        page.get_by_role("button", name="Enter API Key").click()
        field = page.get_by_placeholder("Enter your API key...")
        field.fill("the-secret-key")
        field.press("Enter")
        choose(page, "tiny-b")
        send(page, "question")
        expect(page.get_by_text("one two three")).to_be_visible()
        assert not [request.url for request in visit.sent if "secret" in request.url]
    assert "the-secret-key" not in router.log


@nginx.needed
def test_behind_nginx_under_a_prefix(
    chromium: Chromium,  # noqa: F811
    routers: Starter,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-prefix", "/llm")
    with (
        nginx.address_in_front_of(router, tmp_path_factory.mktemp("n")) as url,
        chromium.visit(url, "/llm") as visit,
    ):
        page = visit.page
        assert page.url.startswith(f"{url}/llm/")
        choose(page, "tiny-b")
        send(page, "question")
        expect(page.get_by_text("one two three")).to_be_visible()
        assert all("/llm" in request.url for request in visit.sent)
