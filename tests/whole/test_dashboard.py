"""The dashboard in a real browser: on a real router, with children of the fake engine on simulated GPUs."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import BOX, Chromium, Visit
from tests.browser import chromium as chromium
from tests.programs import ROOT
from tests.waiting import until
from tests.whole.gpu_machine import Machine, Make

DASHBOARD = "/router"
AXE = ROOT / "tests/clients/node_modules/axe-core/axe.min.js"
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def clients() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """For requests that go on while a test looks at the page."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def row(page: Page, model: str) -> Locator:
    """A model's row of the table."""
    button = page.get_by_role("button", name=model, exact=True)
    return page.locator(".models tbody tr").filter(has=button)


def section(page: Page, heading: str) -> Locator:
    return page.get_by_role("region", name=re.compile(f"^{heading}"))


def two_that_do_not_fit(machine: Make) -> Machine:
    """A GPU of 12 GiB, and models of 8 and 7 GiB."""
    here = machine(12)
    here.model("coder", 8, TOKENS=2000, CHUNK_SECONDS=0.02)
    here.model("writer", 7, TOKENS=4)
    here.model("small", 1)
    return here


# B-W2
def test_a_load_is_seen_from_its_button_to_its_end(chromium: Chromium, machine: Make) -> None:
    here = machine(12)
    here.model("coder", 8, LOAD_SECONDS=1.5)
    router = here.start()
    with chromium.visit(router.url, DASHBOARD) as visit:
        page = visit.page
        expect(row(page, "coder")).to_contain_text("not loaded")
        row(page, "coder").get_by_role("button", name="Load coder").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("8.")  # what it would take
        dialog.get_by_role("button", name="Load").click()
        expect(row(page, "coder")).to_contain_text("loading")
        expect(row(page, "coder").get_by_role("progressbar")).to_be_visible()
        expect(row(page, "coder")).to_contain_text("idle")
        expect(page.get_by_role("img", name=re.compile("CUDA0: coder 8"))).to_be_visible()
        expect(section(page, "What happened")).to_contain_text("coder ready")
        row(page, "coder").get_by_role("button", name="Unload coder").click()
        expect(row(page, "coder")).to_contain_text("not loaded")
        assert len(visit.requests(DASHBOARD)) == 1, "it was loaded once"


# B-W2 B-O2
def test_who_waits_is_told_why_and_then_what_went_for_it(
    chromium: Chromium, machine: Make, clients: concurrent.futures.ThreadPoolExecutor
) -> None:
    here = two_that_do_not_fit(machine)
    router = here.start("--models-drain-grace", "0")
    with chromium.visit(router.url, DASHBOARD) as visit, router.stream("coder", tokens=2000) as events:
        next(iter(events))
        waits = clients.submit(router.chat, "writer")
        waiting = section(visit.page, "Waiting")
        expect(waiting).to_contain_text("writer")
        expect(waiting).to_contain_text("waits for coder to finish")
        expect(row(visit.page, "coder")).to_contain_text("finishing 1 request")
        events.response.close()
        assert waits.result().status_code == 200
        happened = section(visit.page, "What happened")
        expect(happened).to_contain_text(re.compile(r"coder.*writer"))
        expect(happened).to_contain_text("GiB")
        expect(waiting).to_contain_text("nobody")
        expect(row(visit.page, "writer")).to_contain_text("idle")


# B-W2
def test_the_load_dialog_names_exactly_who_would_go(chromium: Chromium, machine: Make) -> None:
    here = two_that_do_not_fit(machine)
    router = here.start()
    for model in ("small", "coder"):
        assert router.chat(model, tokens=1).status_code == 200
    with chromium.visit(router.url, DASHBOARD) as visit:
        page = visit.page
        row(page, "writer").get_by_role("button", name="Load writer").click()
        dialog = page.get_by_role("dialog")
        stopped = dialog.get_by_text("It would stop:")
        expect(stopped).to_contain_text("coder")
        named = stopped.inner_text()
        dialog.get_by_label("Context, in tokens").fill("131072")
        expect(dialog.get_by_text("Context 131,072 tokens")).to_be_visible()
        dialog.get_by_label("Context, in tokens").fill("256")
        expect(dialog.get_by_text("Context 256 tokens")).to_be_visible()
        dialog.get_by_role("button", name="Load").click()
        expect(row(page, "writer")).to_contain_text("idle")
        gone = {name for name in ("small", "coder") if router.status(name) == "unloaded"}
        assert gone == set(re.findall(r"\b(small|coder)\b", named))


# B-W2
def test_wrong_settings_are_told_in_the_dialog_and_nothing_is_loaded(chromium: Chromium, machine: Make) -> None:
    here = two_that_do_not_fit(machine)
    router = here.start()
    with chromium.visit(router.url, DASHBOARD) as visit:
        visit.expect("400")
        page = visit.page
        row(page, "small").get_by_role("button", name="Load small").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Further arguments").fill("--no-such-flag")
        expect(dialog).to_contain_text("--no-such-flag")
        dialog.get_by_role("button", name="Load").click()
        expect(page.get_by_role("log").last).to_contain_text("--no-such-flag")
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Cancel").click()
        expect(dialog).to_have_count(0)
    assert router.status("small") == "unloaded"


# B-W2
def test_a_crash_is_told_with_its_reason_and_the_next_try(chromium: Chromium, machine: Make) -> None:
    here = machine(12)
    here.model("sick", 2, FAIL="error: out of luck")
    router = here.start()
    with chromium.visit(router.url, DASHBOARD) as visit:
        for _ in range(3):
            assert router.chat("sick").status_code >= 500
        expect(row(visit.page, "sick")).to_contain_text("failed")
        error = visit.page.locator(".models tr.error")
        expect(error).to_contain_text("out of luck")
        expect(error).to_contain_text(re.compile(r"next try is in [\d.]+ s"))
        expect(section(visit.page, "What happened")).to_contain_text("out of luck")
        expect(section(visit.page, "Requests")).to_contain_text("500")


# B-W2 B-O3
def test_stop_ends_a_stream(chromium: Chromium, machine: Make, clients: concurrent.futures.ThreadPoolExecutor) -> None:
    here = two_that_do_not_fit(machine)
    router = here.start()
    with chromium.visit(router.url, DASHBOARD) as visit, router.stream("coder", tokens=2000) as events:
        next(iter(events))
        rest = clients.submit(list, events)
        requests = section(visit.page, "Requests")
        expect(requests).to_contain_text("answering")
        requests.get_by_role("button", name="Stop request").click()
        assert "stopped" in rest.result(20)[-1] or "cancel" in rest.result(20)[-1].lower()
        expect(requests.get_by_text("answering")).to_have_count(0)


# B-W2 B-T3 B-T7
def test_the_key_is_asked_for_once_and_stands_nowhere(chromium: Chromium, machine: Make) -> None:
    here = two_that_do_not_fit(machine)
    router = here.start("--api-key", "the-secret-key")
    with chromium.visit(router.url, DASHBOARD) as visit:
        visit.expect("401")
        dialog = visit.page.get_by_role("dialog")
        dialog.get_by_label("Key").fill("a wrong one")
        dialog.get_by_role("button", name="Use it").click()
        expect(dialog.get_by_label("Key")).to_have_value("")
        dialog.get_by_label("Key").fill("the-secret-key")
        dialog.get_by_role("button", name="Use it").click()
        expect(row(visit.page, "coder")).to_contain_text("not loaded")
        visit.page.reload()
        expect(row(visit.page, "coder")).to_contain_text("not loaded")
        expect(dialog).to_have_count(0)
        assert not [request.url for request in visit.sent if "secret" in request.url]
        assert visit.page.evaluate("localStorage.length") == 0
        assert "secret" not in visit.page.content()
    assert "the-secret-key" not in router.log


# B-W2 B-T1
def test_what_comes_from_models_files_and_clients_is_text(chromium: Chromium, machine: Make) -> None:
    here = machine(12)
    here.model("odd", 2, SAY=f"\x1b[31mred {MARKUP}", alias=MARKUP.replace(",", ""))
    here.model("sick", 2, FAIL=f"error: {MARKUP}")
    router = here.start()
    with chromium.visit(router.url, DASHBOARD) as visit:
        visit.page.on("dialog", lambda dialog: visit.problems.append(f"script: {dialog.message}"))
        assert router.client.post(
            "/v1/chat/completions",
            json={"model": "odd", "messages": [], "max_tokens": 1},
            headers={"user-agent": MARKUP, "x-request-id": "1<b>2"},
        ).is_success
        assert router.chat("sick").status_code == 500
        assert router.chat(MARKUP + "x").status_code == 404
        expect(row(visit.page, "odd")).to_contain_text(MARKUP)
        expect(visit.page.locator(".models tr.error")).to_contain_text(MARKUP)
        visit.page.get_by_role("button", name="odd", exact=True).click()
        expect(visit.page.locator("pre")).to_contain_text(f"red {MARKUP}")
        expect(section(visit.page, "Requests")).to_contain_text(MARKUP)
        assert visit.page.locator("main img").count() == 0
        assert "\x1b" not in visit.page.locator("pre").inner_text()


# B-W2 B-T1
def test_all_of_it_works_over_http_from_another_machine(chromium: Chromium, machine: Make) -> None:
    """There browsers do not say with a GET from which page it comes, unless the page lets them."""
    here = machine(12)
    here.model("coder", 8, SAY="hello from the engine")
    router = here.start("--allowed-hosts", BOX)
    assert router.chat("coder").status_code == 200
    with chromium.visit(f"http://{BOX}:{router.client.base_url.port}", DASHBOARD) as visit:
        visit.expect("Cross-Origin-Opener-Policy header has been ignored")
        visit.page.get_by_role("button", name="coder", exact=True).click()
        expect(visit.page.locator("pre")).to_contain_text("hello from the engine")
        row(visit.page, "coder").get_by_role("button", name="Unload coder").click()
        expect(row(visit.page, "coder")).to_contain_text("not loaded")


# B-W2
def test_it_connects_again_after_a_restart(chromium: Chromium, machine: Make) -> None:
    here = two_that_do_not_fit(machine)
    router = here.start()
    port = str(router.client.base_url.port)
    with chromium.visit(router.url, DASHBOARD) as visit:
        visit.expect("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY")
        mark = visit.page.get_by_role("status")
        expect(mark).to_have_text("live")
        router.stop()
        expect(mark).to_have_text("connecting")
        again = here.start("--port", port)
        expect(mark).to_have_text("live", timeout=10_000)
        assert again.chat("small").status_code == 200
        expect(row(visit.page, "small")).to_contain_text("idle")


# B-W2
def test_a_conversation_beside_the_figures(chromium: Chromium, machine: Make) -> None:
    here = machine(12)
    here.model("coder", 2, TOKENS=5)
    router = here.start()
    with chromium.visit(router.url, DASHBOARD) as visit:
        page = visit.page
        page.get_by_role("button", name="coder", exact=True).click()
        page.get_by_label("message to coder").fill("Hello")
        page.keyboard.press("Enter")
        expect(page.get_by_label("conversation with coder")).to_contain_text("one two three four five")
        expect(section(page, "Requests")).to_contain_text("200")
        page.get_by_role("button", name="Pin").click()
        expect(row(page, "coder")).to_contain_text("pinned")
        page.keyboard.press("Escape")
        expect(page.locator(".details")).to_have_count(0)


# B-W2
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_for_people_with_a_screen_reader(chromium: Chromium, machine: Make, scheme: Any) -> None:
    here = two_that_do_not_fit(machine)
    here.model("sick", 2, FAIL="error: out of luck")
    router = here.start()
    assert router.chat("small").status_code == 200
    assert router.chat("sick").status_code == 500
    with chromium.visit(router.url, DASHBOARD, color_scheme=scheme, bypass_csp=True) as visit:
        page = visit.page
        page.get_by_role("button", name="small", exact=True).click()
        expect(page.locator(".details dl")).to_contain_text("pid")
        page.add_script_tag(path=AXE)
        assert _serious(page) == []
        row(page, "coder").get_by_role("button", name="Load coder").click()
        expect(page.get_by_role("dialog")).to_contain_text("GiB")
        assert _serious(page) == []


def _serious(page: Page) -> list[str]:
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:120] for node in each['nodes']][:3]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


# B-W2
def test_a_phone_shows_all_of_it(chromium: Chromium, machine: Make) -> None:
    here = two_that_do_not_fit(machine)
    here.model("a-model-with-quite-a-long-name-GGUF:Q4_K_M", 2)
    router = here.start()
    assert router.chat("small").status_code == 200
    with chromium.visit(router.url, DASHBOARD, viewport={"width": 390, "height": 800}, has_touch=True) as visit:
        expect(row(visit.page, "small")).to_contain_text("idle")
        visit.page.get_by_role("button", name="small", exact=True).click()
        expect(visit.page.locator(".details dl")).to_contain_text("pid")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        button = row(visit.page, "coder").get_by_role("button", name="Load coder")
        assert (button.bounding_box() or {"x": 0, "width": 999})["x"] < 390


# B-W2
def test_the_page_is_small_and_asks_for_little(chromium: Chromium, machine: Make) -> None:
    router = two_that_do_not_fit(machine).start()
    with chromium.visit(router.url, DASHBOARD) as visit:
        expect(row(visit.page, "coder")).to_contain_text("not loaded")
        assert len(visit.sent) <= 6
        files = [request for request in visit.sent if not request.url.endswith("since=0")]
        sizes = [request.sizes()["responseBodySize"] for request in files]
        assert sum(sizes) < 60_000
        visit.page.reload()
        expect(row(visit.page, "coder")).to_contain_text("not loaded")


# B-W2
def test_events_are_saved(chromium: Chromium, machine: Make, tmp_path: Path) -> None:
    router = two_that_do_not_fit(machine).start("--api-key", "secret")
    router.client.headers["authorization"] = "Bearer secret"
    assert router.chat("small").status_code == 200
    with chromium.visit(router.url, DASHBOARD) as visit:
        visit.expect("401")
        visit.page.get_by_role("dialog").get_by_label("Key").fill("secret")
        visit.page.keyboard.press("Enter")
        expect(section(visit.page, "What happened")).to_contain_text("small")
        with visit.page.expect_download() as download:
            visit.page.get_by_role("button", name="Save").click()
        download.value.save_as(tmp_path / "events.jsonl")
    assert '"kind":"ready"' in (tmp_path / "events.jsonl").read_text().replace('": "', '":"')


def all_of(visit: Visit) -> str:
    return visit.page.locator("body").inner_text()


# B-W2
def test_behind_a_prefix(chromium: Chromium, machine: Make) -> None:
    router = two_that_do_not_fit(machine).start("--api-prefix", "/llm")
    with chromium.visit(router.url, "/router/") as visit:
        expect(row(visit.page, "coder")).to_contain_text("not loaded")
        row(visit.page, "small").get_by_role("button", name="Load small").click()
        visit.page.get_by_role("dialog").get_by_role("button", name="Load").click()
        expect(row(visit.page, "small")).to_contain_text("idle")
        until(lambda: "small" in all_of(visit))
