"""A router that has been through everything is scraped by a real Prometheus: its text, our board, our alerts."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.metrics.exposition import OPENMETRICS, TEXT, Format
from tests.conftest import Starter
from tests.metrics.prometheus import (
    ALERTS,
    BOARD,
    OF_SCRAPES,
    Prometheus,
    filled_in,
    names_in,
    needs_prometheus,
    panels,
    prometheus,
)
from tests.metrics.scrapes import ACCEPTS, Sample, check_with_promtool, find, needs_promtool, read
from tests.metrics.test_engines import GOOD, HOSTILE, ODD
from tests.nvml import Gpu
from tests.routers import Router, chat
from tests.waiting import until
from tests.whole.gpu_machine import GIB, Machine

P = "llama_router_"
DEVICE = "local/CUDA0"
ENGINE = GOOD + b"".join(
    b"# TYPE llamacpp:%b gauge\nllamacpp:%b 1\n" % (name, name)
    for name in (b"requests_processing", b"requests_deferred", b"n_busy_slots_per_decode")
)


def scrape(router: Router, form: Format) -> str:
    answer = router.client.get("/metrics", headers={"accept": ACCEPTS[form]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == form.value
    return answer.text


def samples_of(router: Router, form: Format = TEXT) -> list[Sample]:
    return read(scrape(router, form), form)


class Lived:
    """A router with two GPUs of 12 GiB, on which everything has happened that it counts. `texts` are its scrapes in
    the middle of that, by what was going on."""

    def __init__(self, folder: Path, starter: Starter) -> None:
        self.texts: dict[str, dict[Format, str]] = {}
        self.machine = machine = Machine(folder, starter, (Gpu(12 * GIB), Gpu(12 * GIB)))
        engine = folder / "engine.txt"
        engine.write_bytes(ENGINE)
        for name, gib in (("a", 8), ("b", 8), ("c", 8)):
            machine.model(name, gib, METRICS_FILE=engine, CHUNK_SECONDS=0.05)
        (folder / "hostile.txt").write_bytes(b"\n".join([*HOSTILE.values(), *ODD.values()]))
        machine.model("hostile", 1, METRICS_FILE=folder / "hostile.txt")
        machine.model("slow", 1, METRICS_FILE=engine, METRICS_SECONDS=20)
        machine.model("sleeper", 1, METRICS_FILE=engine, sleep_idle_seconds=1)
        machine.model("crasher", 1, CRASH_AFTER_REQUESTS=1)
        machine.model("sick", 1, FAIL="error: out of luck")
        machine.model("spare", 1)
        flags = ("--metrics", "--models-drain-grace", "0.2")
        self.router = router = machine.start(*flags)
        self.note("nothing yet")
        for name in ("a", "b"):
            assert router.chat(name).status_code == 200
        with router.stream("a", 400) as one, router.stream("b", 400) as other:
            next(one), next(other)
            waiting = threading.Thread(target=router.chat, args=("c",))
            waiting.start()
            until(lambda: router.figure("requests_waiting", "c") == 1)
            self.note("one waits, two run")
            until(lambda: find(samples_of(router), f"{P}drains_total"))
        waiting.join()
        for name, status in (("crasher", 200), ("crasher", 200), ("sick", 500), ("nothing", 404)):
            assert router.chat(name).status_code == status
        self.note("after failures")
        assert router.client.post("/models/reload").status_code == 200
        self.others = {"hostile", "slow"}

    def note(self, moment: str) -> None:
        self.texts[moment] = {form: scrape(self.router, form) for form in Format}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    folder = tmp_path_factory.mktemp("lived")
    starter = Starter(folder)
    try:
        yield Lived(folder, starter)
    finally:
        starter.close()


def test_what_is_counted(lived: Lived) -> None:  # B-O4
    samples = samples_of(lived.router)
    assert find(samples, f"{P}requests_total", model="a", code="200", dialect="openai", background="false") >= 1
    assert find(samples, f"{P}requests_total", model="", code="404") == 1
    assert find(samples, f"{P}errors_total", kind="unknown_model") == 1
    assert find(samples, f"{P}tokens_generated_total", model="a") >= 4
    assert find(samples, f"{P}time_to_first_token_seconds_count", model="a") >= 1
    assert find(samples, f"{P}queue_wait_seconds_sum", model="c", outcome="served") > 0.1
    assert find(samples, f"{P}loads_total", model="c", outcome="loaded") == 1
    assert find(samples, f"{P}load_duration_seconds_count", model="a") == 1
    assert find(samples, f"{P}loads_total", model="sick", outcome="failed") >= 1
    assert find(samples, f"{P}child_exits_total", model="crasher", cause="crash") >= 1
    assert find(samples, f"{P}child_exits_total", model="sick", cause="load_failed") >= 1
    assert find(samples, f"{P}stops_total", reason="memory") >= 1
    assert find(samples, f"{P}drains_total") >= 1
    assert find(samples, f"{P}drain_duration_seconds_count") >= 1
    assert find(samples, f"{P}settle_seconds_count") >= 1
    assert find(samples, f"{P}config_reloads_total") == 1
    assert find(samples, f"{P}memory_total_bytes", device=DEVICE, node="local") == 12 * GIB
    assert find(samples, f"{P}model_state", model="c", state="loaded") == 1
    assert "spare" not in {each.labels.get("model") for each in samples}


def test_what_was_so_while_one_waited(lived: Lived) -> None:
    samples = read(lived.texts["one waits, two run"][TEXT], TEXT)
    assert find(samples, f"{P}requests_active", model="a") == find(samples, f"{P}requests_active", model="b") == 1
    assert find(samples, f"{P}requests_waiting", model="c") == find(samples, f"{P}queue_entries") == 1
    booked = [each for each in samples if each.name == f"{P}memory_booked_bytes" and "CUDA" in each.labels["device"]]
    assert sorted(each.labels["model"] for each in booked) == ["a", "b"]
    assert all(each.value > 8 * GIB for each in booked)


def test_every_scrape_is_well_formed(lived: Lived) -> None:  # B-O4
    lived.note("now")
    for texts in lived.texts.values():
        for form, text in texts.items():
            read(text, form)


@needs_promtool
def test_promtool_has_nothing_against_any(lived: Lived) -> None:  # B-O4
    for texts in lived.texts.values():
        check_with_promtool(texts[TEXT])


def test_the_engines_metrics_follow_with_their_model(lived: Lived) -> None:  # B-O4
    """A child whose text is hostile costs only itself, and one that does not answer a second."""
    router = lived.router
    before = samples_of(router)
    for name in lived.others:
        assert router.chat(name).status_code == 200
    for form in Format:
        samples = samples_of(router, form)
        assert find(samples, "llamacpp:prompt_tokens_total", model="c") == 25
        assert not [each for each in samples if each.name.startswith("llamacpp:") and each.labels["model"] == "slow"]
    assert {each.name for each in samples if each.labels.get("model") == "c"} >= {
        each.name for each in before if each.labels.get("model") == "c" and "created" not in each.name
    }
    loaded = {name for name in router.listing() if router.status(name) == "loaded"}
    assert loaded >= lived.others
    for name in lived.others:
        router.client.post("/models/unload", json={"model": name})
        until(lambda: router.status(name) == "unloaded")  # noqa: B023
    samples_of(router)
    assert not {name for name in lived.others if router.status(name) != "unloaded"}, "a scrape loads nothing"


def test_a_scrape_wakes_no_model(lived: Lived) -> None:
    assert lived.router.chat("sleeper").status_code == 200
    until(lambda: lived.router.status("sleeper") == "sleeping")
    samples = samples_of(lived.router)
    assert find(samples, f"{P}model_state", model="sleeper", state="sleeping") == 1
    assert not [each for each in samples if each.name.startswith("llamacpp:") and each.labels["model"] == "sleeper"]
    assert lived.router.status("sleeper") == "sleeping"


def test_each_metric_of_the_board_exists(lived: Lived) -> None:
    board = json.loads(BOARD.read_text())
    known = labels_by_name(samples_of(lived.router))
    expressions = [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in panels(board)
        for target in panel["targets"]
    ]
    expressions += [("annotation", each["expr"], "") for each in board["annotations"]["list"]]
    for title, expression, legend in expressions:
        named = names_in(expression)
        assert named, title
        shown = set(re.findall(r"{{(\w+)}}", legend))
        for name, labels in named.items():
            if name not in UNCERTAIN:
                assert name in known, f"{title}: there is no {name}"
                assert labels | shown <= known[name] | OF_SCRAPES, title
    for variable in board["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((\w+)(?:{.*})?, (\w+)\)", variable["definition"])
        assert found
        metric, label = found.groups()
        assert label in known[metric] | OF_SCRAPES
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


UNCERTAIN = {f"{P}download_bytes_total"}  # nothing was downloaded


def labels_by_name(samples: list[Sample]) -> dict[str, set[str]]:
    known: dict[str, set[str]] = {}
    for sample in samples:
        known.setdefault(sample.name, set()).update(sample.labels)
    return known


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_each_metric_of_the_alerts_exists(lived: Lived) -> None:
    known = labels_by_name(samples_of(lived.router))
    for rule in alerts():
        found = names_in(rule["expr"])
        assert found or rule["alert"] == "LlamaRouterDown"
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        for name, labels in found.items():
            assert name in known, f"{rule['alert']}: there is no {name}"
            assert labels | shown <= known[name] | OF_SCRAPES, rule["alert"]


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    cases = Path(__file__).parents[1] / "metrics/alerts.yml"
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(cases)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    for rule in alerts():
        assert f'alertname="{rule["alert"]}"' in cases.read_text()


@pytest.fixture(scope="module")
def observed(lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus looks at the router, while models take turns on it."""
    ended = threading.Event()
    router = lived.router

    def work() -> None:
        for name in itertools.cycle(["a", "b", "c", "crasher", "sick"]):
            if ended.is_set():
                return
            router.chat(name)
            with router.stream("a", 20) as events:
                events.json()

    worker = threading.Thread(target=work)
    with prometheus(tmp_path_factory.mktemp("prometheus") / "data", router.url.removeprefix("http://")) as made:
        worker.start()
        try:
            until(lambda: made.query(f"{P}build_info"))
            yield made
        finally:
            ended.set()
            worker.join()


@needs_prometheus
def test_each_panel_of_the_board_shows_something(observed: Prometheus) -> None:  # B-O4
    board = json.loads(BOARD.read_text())
    for panel in panels(board):
        expressions = [filled_in(target["expr"], DEVICE) for target in panel["targets"]]
        until(lambda: any(map(observed.shows, expressions)))  # noqa: B023


@needs_prometheus
def test_prometheus_takes_all_of_it(observed: Prometheus) -> None:
    (target,) = observed.client.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    until(lambda: observed.query('scrape_samples_scraped{job="llama-router"}'))
    (scraped,) = observed.query('scrape_samples_scraped{job="llama-router"}')
    assert int(scraped["value"][1]) > 100
    groups = observed.client.get("/api/v1/rules").json()["data"]["groups"]
    until(lambda: all(rule["health"] != "unknown" for group in rules(observed) for rule in group["rules"]))
    assert {rule["health"] for group in rules(observed) for rule in group["rules"]} == {"ok"}
    assert [rule["name"] for rule in groups[0]["rules"]] == [rule["alert"] for rule in alerts()]


def rules(observed: Prometheus) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = observed.client.get("/api/v1/rules").json()["data"]["groups"]
    return found


def test_tokens_are_those_that_the_engine_counts(engine: str, routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", engine, "--models-dir", str(tiny_models), "--metrics")
    for name in ("tiny-a", "tiny-b", "tiny-a"):
        assert router.chat(name).status_code == 200
    with router.stream("tiny-a", 16) as events:
        events.json()
    samples = samples_of(router)
    for name, plus, minus in (
        ("llamacpp:tokens_predicted_total", "tokens_generated_total", None),
        ("llamacpp:prompt_tokens_cached_total", "tokens_prompt_cached_total", None),
        ("llamacpp:prompt_tokens_total", "tokens_prompt_total", "tokens_prompt_cached_total"),
    ):
        for model in ("tiny-a", "tiny-b"):
            ours = find(samples, P + plus, model=model) - (find(samples, P + minus, model=model) if minus else 0)
            assert find(samples, name, model=model) == ours
    assert find(samples, f"{P}generation_seconds_total", model="tiny-a") > 0


def test_a_key_is_needed_where_keys_are_set(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-T3
    flags = ("--engine", fake, "--models-dir", str(tiny_models), "--api-key", "first", "--admin-key", "second")
    router = routers(*flags)
    assert router.client.get("/metrics").status_code == 401
    for key in ("first", "second"):
        answer = router.client.get("/metrics", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200
    assert router.client.head("/metrics", headers={"authorization": "Bearer first"}).status_code == 200


def test_names_of_clients_are_no_series(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-O4
    router = routers("--engine", fake, "--models-dir", str(tiny_models))
    assert router.chat("tiny-a").status_code == 200
    before = {(each.name, *each.labels.items()) for each in samples_of(router)}
    for number in range(20):
        assert router.chat(f"nonsense-{number}").status_code == 404
        assert router.client.get(f"/metrics?model=nonsense-{number}").status_code == 404
        for path in (f"/nonsense-{number}", f"/v1/models/nonsense-{number}"):
            router.client.post(path, json=chat(f"nonsense-{number}"))
    after = {(each.name, *each.labels.items()) for each in samples_of(router)}
    assert not any("nonsense" in str(each) for each in after)
    assert len(after - before) < 5
    assert find(samples_of(router, OPENMETRICS), f"{P}requests_total", code="404") >= 20
