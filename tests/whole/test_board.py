"""The board of docker/grafana.json on a real Prometheus with the settings of docker/compose.yaml, which watches a real
router with keys, while everything happens on it that the board shows. B-I6

Grafana itself is not there: what it would ask is asked here, with its variables filled in as it does.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.hub_server import HubServer, Repo, RepoFile
from tests.metrics.prometheus import BOARD, WINDOW, Prometheus, configured, needs_prometheus, panels
from tests.routers import ENDLESS, ENDLESS_FLAGS, ENGINES, Router, alias, start
from tests.test_compose import read
from tests.waiting import until

pytestmark = [needs_prometheus, pytest.mark.timeout(300)]
KEYS = {"LLAMA_API_KEY": "for everyone", "LLAMA_ROUTER_ADMIN_KEY": "for admins"}
NAMES = ("tiny-a", "tiny-b", "tiny-c")
LARGE = 64 << 20
VARIABLE = re.compile(r"label_values\((.*), (\w+)\)")


def settings_for(router: Router, **environ: str) -> str:
    """Those that compose gives Prometheus, but it looks every half second. `router` is a name in compose's network."""
    text: str = read(**environ)["configs"]["prometheus"]["content"]
    quick = "scrape_interval: 500ms, evaluation_interval: 500ms"
    for before, after in (("scrape_interval: 15s", quick), ("router:8080", router.url.removeprefix("http://"))):
        assert text.count(before) == 1
        text = text.replace(before, after)
    return text


class Busy:
    """A router on which everything happens again and again, until the end of the block. One of the models is always
    there; the others have room for one at a time, and one request may wait for that."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(each,)) for each in (self._turns, self._harm)]

    def __enter__(self) -> Busy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(httpx.TransportError):  # an answer that was cut off
                work()

    def _turns(self) -> None:
        for name in NAMES:
            for _ in range(2):  # the second time, the prompt is known
                self.router.chat(name, 32)
        self.router.chat("broken")
        before = self.router.figure("drains_total", "tiny-a")
        with self.router.stream("tiny-a", ENDLESS) as events:
            next(iter(events), None)
            until(
                lambda: not self._is_used("tiny-a") or self.router.figure("drains_total", "tiny-a") > before, every=0.05
            )

    def _is_used(self, model: str) -> bool:
        return not self._ended.is_set() and self.router.figure("requests_active", model) > 0

    def _harm(self) -> None:
        """One client wants what does not run, and leaves; another one waits for its model; then a third one is killed.
        What was killed or did not start is left alone by the router for a while: so nothing else is killed."""
        key = f"Authorization: Bearer {KEYS['LLAMA_API_KEY']}\r\n"
        with self.router.leave("tiny-b", key) as client:
            until(lambda: self.router.figure("requests_waiting", "tiny-b") or select.select([client], [], [], 0)[0])
        self.router.chat("tiny-c")
        if self.router.chat("victim").status_code == 200:
            for child in self.router.sample():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if alias(child) == "victim":
                        child.kill()


@pytest.fixture(scope="module")
def router(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("board")
    (folder / "broken.gguf").write_bytes((tiny_models / "tiny-a.gguf").read_bytes()[:-100_000])
    places = {"broken": folder / "broken.gguf", "victim": tiny_models / "tiny-b.gguf"}
    sections = [f"[{name}]\nmodel = {path}\n" for name, path in places.items()]
    (folder / "models.ini").write_text(
        "".join([*sections, f"[always]\nmodel = {tiny_models / 'tiny-a.gguf'}\npin = true\n"])
    )
    file = RepoFile(bytes(LARGE), seconds_a_chunk=0.1)
    with HubServer({"user/m": Repo({"m-Q8_0.gguf": file})}) as hub:
        flags = ("--engine", ENGINES["llama-server"](), *ENDLESS_FLAGS, "--metrics", "--models-max", "2")
        models = ("--models-dir", str(tiny_models), "--models-preset", str(folder / "models.ini"))
        limits = ("--models-drain-grace", "0.2", "--models-queue-max", "1", "--hub-allow", "user/*")
        made = start(folder / "router", *flags, *models, *limits, HF_ENDPOINT=hub.url, **KEYS)
        made.client.headers["authorization"] = f"Bearer {KEYS['LLAMA_API_KEY']}"
        admin = {"authorization": f"Bearer {KEYS['LLAMA_ROUTER_ADMIN_KEY']}"}
        answer = made.client.post("/models", json={"model": "user/m:Q8_0"}, headers=admin)
        assert answer.status_code == 200, answer.text
        assert made.chat("always").status_code == 200
        yield made
        made.stop()


@pytest.fixture(scope="module")
def observed(router: Router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    config = settings_for(router, LLAMA_API_KEY=KEYS["LLAMA_API_KEY"])
    with configured(tmp_path_factory.mktemp("prometheus") / "data", config) as made, Busy(router):
        yield made


def filled_in(observed: Prometheus, board: dict[str, Any], expression: str) -> Iterator[str]:
    """With everything chosen; a panel that is there for each device asks once for each."""
    words = {"$__rate_interval": [WINDOW]}
    for variable in board["templating"]["list"][1:]:
        found = VARIABLE.fullmatch(variable["definition"])
        assert found
        series, label = found.groups()
        for name, values in words.items():
            series = series.replace(name, "|".join(values))
        asked = {"match[]": series}
        words[f"${variable['name']}"] = until(
            lambda: observed.client.get(f"/api/v1/label/{label}/values", params=asked).json()["data"]  # noqa: B023
        )
    repeats = words.pop("$device")
    for name, values in words.items():
        expression = expression.replace(name, "|".join(map(re.escape, values)).replace("\\", "\\\\"))
    for device in repeats if "$device" in expression else [""]:
        yield expression.replace("$device", device)


def test_every_query_of_the_board_finds_something(observed: Prometheus) -> None:  # B-I6
    board = json.loads(BOARD.read_text())
    queries = {(panel["title"], target["expr"]) for panel in panels(board) for target in panel["targets"]}
    left = {(title, expression) for title, expression in queries if "settle_seconds" not in expression}  # of GPUs alone
    assert len(left) == len(queries) - 1

    def all_shown() -> bool:
        for title, expression in sorted(left):
            if any(map(observed.shows, filled_in(observed, board, expression))):
                left.remove((title, expression))
        return not left

    try:
        until(all_shown, patience=90, every=0.5)
    except AssertionError as error:
        raise AssertionError(f"nothing to see of {left}") from error
    for note in board["annotations"]["list"]:
        for expression in filled_in(observed, board, note["expr"]):
            observed.query(expression)


def test_it_is_scraped_with_its_key(observed: Prometheus) -> None:  # B-I6
    until(lambda: observed.query('up{job="llama-router"} == 1'), every=0.2)


def test_without_its_key_an_alert_says_so(router: Router, tmp_path: Path) -> None:  # B-I6
    with configured(tmp_path / "prometheus", settings_for(router)) as made:
        (alert,) = until(lambda: made.query('ALERTS{alertname="LlamaRouterDown"}'), every=0.2)
        assert alert["metric"]["job"] == "llama-router"
        (target,) = made.client.get("/api/v1/targets").json()["data"]["activeTargets"]
        assert "401" in target["lastError"]
