"""(m) What the dashboard's page costs a browser: 200 and 1,000 models in Chromium, while 50 things happen a second.

The share is what the main thread of the page was busy, by Chromium's own count.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from playwright.sync_api import sync_playwright

from tests.benchmarks.listings import write_preset
from tests.benchmarks.report import OURS, Row, Target
from tests.benchmarks.stage import Absent, Peer, Stage
from tests.browser import PROGRAM

COUNTS = (200, 1000)
EVENTS_A_SECOND = 50
LOADED = 10


def measure(stage: Stage, seconds: float, missing: list[str], counts: Sequence[int] = COUNTS) -> Iterator[Row]:
    if PROGRAM is None:
        missing.append("page: there is no Chromium: apt-get install chromium")
        return
    for count in counts:
        yield from _rows(stage, count, seconds)


def _rows(stage: Stage, count: int, seconds: float) -> Iterator[Row]:
    peer = stage.ours("--models-preset", str(write_preset(stage, count)), "--models-max", "0", cpu=None)
    names = _load(peer)
    case = f"{count} models, {EVENTS_A_SECOND} events/s"
    has_ended = threading.Event()
    events = threading.Thread(target=_let_things_happen, args=(peer, names, has_ended))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        sent: list[Any] = []
        page.on("requestfinished", lambda request: sent.append(request))
        began = time.perf_counter()
        page.goto(f"http://127.0.0.1:{peer.port}/router")
        page.get_by_role("button", name=names[0], exact=True).wait_for()
        shown = time.perf_counter() - began
        size = sum(request.sizes()["responseBodySize"] for request in sent)
        events.start()
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.wait_for_timeout(1000)
        before, since = _metrics(session), time.perf_counter()
        page.wait_for_timeout(seconds * 1000)
        after, took = _metrics(session), time.perf_counter() - since
        has_ended.set()
        events.join()
        session.send("HeapProfiler.collectGarbage")
        heap = _metrics(session)["JSHeapUsedSize"]
        browser.close()
    share = (after["TaskDuration"] - before["TaskDuration"]) / took
    yield Row("page", case, "until models are shown", "ms", {OURS: shown * 1000})
    yield Row("page", case, "files", "KB", {OURS: size / 1000}, (Target("at most 60 KB", size <= 60_000),))
    yield Row("page", case, "main thread", "%", {OURS: 100 * share}, (Target("at most 10 %", share <= 0.1),))
    yield Row("page", case, "heap", "MB", {OURS: heap / 1e6}, (Target("at most 30 MB", heap <= 30e6),))


def _metrics(session: Any) -> dict[str, float]:
    return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}


def _load(peer: Peer) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", peer.port)
    connection.request("GET", "/models")
    names = [model["id"] for model in json.loads(connection.getresponse().read())["data"]][:LOADED]
    for name in names:
        body = json.dumps({"model": name, "wait": True})
        connection.request("POST", "/models/load", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise Absent(f"{name} cannot be loaded: {answer.status}")
    connection.close()
    return names


def _let_things_happen(peer: Peer, names: Sequence[str], has_ended: threading.Event) -> None:
    """Pins and requests, in turn over the loaded models: each changes a row of the page."""
    connection = http.client.HTTPConnection("127.0.0.1", peer.port)
    began, count = time.perf_counter(), 0
    while not has_ended.is_set():
        name = names[count % len(names)]
        body = json.dumps({"pinned": count // len(names) % 2 == 0})
        connection.request("POST", f"/models/{name}/pin", body, {"content-type": "application/json"})
        connection.getresponse().read()
        count += 1
        has_ended.wait(max(0.0, began + count / EVENTS_A_SECOND - time.perf_counter()))
    connection.close()
