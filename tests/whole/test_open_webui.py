"""Open WebUI as docker/compose.yaml wires it to a router with keys: a real one, without a container. B-I5"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests import open_webui
from tests.browser import Chromium, chromium  # noqa: F401 - a fixture
from tests.open_webui import OpenWebUI
from tests.routers import ENGINES, Router, start
from tests.test_compose import read
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not open_webui.PROGRAM.exists() and not os.environ.get("CI"), reason=open_webui.INSTALL),
]
KEYS = {"LLAMA_API_KEY": "for everyone", "LLAMA_ROUTER_ADMIN_KEY": "for admins"}
# Open WebUI's own questions are longer than what the tiny models were made for; and these never end by themselves.
SPACE = ("--override-kv", "llama.context_length=int:32768", "--ctx-size", "65536", "--n-predict", "32")
CONNECTIONS = ("tiny-a", "ollama.tiny-a")


@pytest.fixture(scope="module")
def router(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("wired")
    flags = ("--engine", ENGINES["llama-server"](), "--models-dir", str(tiny_models), "--offline")
    made = start(folder / "router", *flags, *SPACE, **KEYS)
    made.client.headers["authorization"] = f"Bearer {KEYS['LLAMA_API_KEY']}"
    yield made
    made.stop()


@pytest.fixture(scope="module")
def webui(router: Router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    """With both connections. `router` is the name in compose's network."""
    told = read(**KEYS, OPEN_WEBUI_OLLAMA="true")["services"]["open-webui"]["environment"]
    environment = {
        name: str(value).replace("http://router:8080", router.url) for name, value in told.items() if value is not None
    }
    folder = tmp_path_factory.mktemp("webui") / "data"
    with open_webui.open_webui(folder, environment) as made:
        made.sign_up()
        yield made


def test_its_version_is_the_one_of_the_image() -> None:  # B-I5
    image = read()["services"]["open-webui"]["image"]
    wanted = (open_webui.ROOT / "tests/clients/open-webui.txt").read_text()
    assert f"open-webui=={image.rpartition(':v')[2]}" in wanted


def test_it_knows_the_models_by_both_connections(webui: OpenWebUI, router: Router) -> None:  # B-I5
    assert router.client.get("/v1/models", headers={"authorization": ""}).status_code == 401
    models = webui.models()
    assert set(CONNECTIONS) <= set(models)
    assert models["tiny-a"]["provider"] == "llama.cpp"


def ask(webui: OpenWebUI, path: str, model: str, **more: Any) -> dict[str, Any]:
    return webui.ask("POST", path, model=model, messages=[{"role": "user", "content": "hi"}], **more)


@pytest.mark.parametrize("model", CONNECTIONS)
def test_it_chats_and_marks_what_is_no_chat(webui: OpenWebUI, router: Router, model: str) -> None:  # B-I5
    webui.models()

    def counted(background: str) -> int:
        return count(router, background)

    before = counted("false"), counted("true")
    answer = ask(webui, "/api/chat/completions", model, stream=False, max_tokens=4)
    assert answer["choices"][0]["message"]["content"]
    until(lambda: (counted("false"), counted("true")) == (before[0] + 1, before[1]))
    ask(webui, "/api/v1/tasks/title/completions", model)
    until(lambda: (counted("false"), counted("true")) == (before[0] + 1, before[1] + 1))


def count(router: Router, background: str) -> int:
    """How many requests for the model were answered, in the background or not, by whichever API."""
    samples = re.findall(r"^llama_router_requests_total\{(.*)\} (\d+)", router.client.get("/metrics").text, re.M)
    wanted = ('model="tiny-a"', f'background="{background}"', 'code="200"')
    return sum(int(value) for labels, value in samples if all(each in labels for each in wanted))


def test_its_administrator_loads_and_unloads(webui: OpenWebUI, router: Router) -> None:  # B-I5
    webui.ask("POST", "/openai/models/0/load", model="tiny-b")
    until(lambda: router.status("tiny-b") == "loaded")
    until(lambda: webui.models()["tiny-b"]["loaded"])
    webui.ask("POST", "/api/models/unload", model="tiny-b")
    until(lambda: router.status("tiny-b") == "unloaded")


def test_a_person_asks_and_is_answered(webui: OpenWebUI, router: Router, chromium: Chromium) -> None:  # noqa: F811  # B-I5
    webui.models()
    chats, background = count(router, "false"), count(router, "true")
    with chromium.visit(webui.url, "/auth") as visit:
        page = visit.page
        visit.expect("console:", "script:", "answer:")  # the page is not ours; what counts is what the person sees
        page.get_by_placeholder("Enter Your Email").fill("ada@example.org")
        page.get_by_placeholder("Enter Your Password").fill("not-a-secret")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Okay, Let's Go!").click()  # what is new in this version
        page.goto(f"{webui.url}/?models=tiny-a")
        expect(page.get_by_text("tiny-a").first).to_be_visible()
        page.locator("#chat-input").fill("hi")
        page.locator("#send-message-button").click()
        page.wait_for_url("**/c/*")
        # What a person sees is all of it: the answer is there, and what Open WebUI asked for itself has been marked.
        expect(page.locator(".chat-assistant").get_by_text(re.compile(r"\w"))).not_to_have_count(0)
        until(lambda: count(router, "false") == chats + 1)
        until(lambda: count(router, "true") > background)
