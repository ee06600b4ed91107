"""The main job on the real engines: models switched by the `model` field, memory kept within bounds, nobody cut off."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import Starter
from tests.processes import Sampler
from tests.routers import ENDLESS, ENDLESS_FLAGS, Router
from tests.waiting import PATIENCE_S, until

# A context of 65,536 cells makes the tiny models hold 16 to 32 MiB of KV cache each.
CONTEXT = ("--ctx-size", "65536", "--parallel", "4")


class Most:
    """How many engines ran at once, at most, from samples until the block ends; `most_serving` leaves out those that
    were about to end: the router starts a model beside them, where only the number of models is limited."""

    def __init__(self, router: Router) -> None:
        self.most = self.most_serving = 0
        self._router = router
        self._sampler = Sampler(self._look, every=0.01)

    def _look(self) -> None:
        self.most = max(self.most, len(self._router.sample()))
        models = httpx.get(f"{self._router.url}/router/state").json()["models"]
        states = [model["state"] for model in models if not model.get("stopping")]
        self.most_serving = max(self.most_serving, sum(state in ("loading", "loaded") for state in states))

    def __enter__(self) -> Most:
        self._sampler.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._sampler.__exit__(*exc)


def ask_at_once(router: Router, models: list[str]) -> list[int]:
    """The statuses of one request each, all sent together."""
    with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
        return [answer.status_code for answer in pool.map(lambda model: router.chat(model, 16), models)]


def needs(router: Router, *models: str) -> dict[str, int]:
    """Bytes booked for each model, as the log tells them at the start."""
    booked = {}
    for model in models:
        assert router.chat(model).status_code == 200
        text = router.client.get("/metrics").text
        line = next(line for line in text.splitlines() if "booked" in line and f'model="{model}"' in line)
        booked[model] = int(line.split()[-1])
    return booked


def test_two_models_that_do_not_fit_together(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-S6
    flags = ("--engine", engine, "--models-dir", str(tiny_models), *CONTEXT)
    roomy = routers(*flags, "--cache-ram", "0")  # with so much room they would have large prompt caches
    need = needs(roomy, "tiny-a", "tiny-b")
    roomy.stop()
    # Room for the larger of the two, not for both; the margin counts.
    room = max(need.values()) * 5 // 4 // 2**20 + 100
    assert room < sum(need.values()) // 2**20 + 100
    router = routers(*flags, "--models-memory-limit", str(room), "--models-memory-margin", "100", "--models-max", "0")
    with Most(router) as engines:
        codes = ask_at_once(router, ["tiny-a", "tiny-b"] * 3)
    assert codes == [200] * 6
    assert engines.most == 1
    assert router.loads() <= 3


def test_three_models_with_room_for_two(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-S6
    router = routers("--engine", engine, "--models-dir", str(tiny_models), "--models-max", "2")
    with Most(router) as engines:
        codes = ask_at_once(router, ["tiny-a", "tiny-b", "tiny-c"] * 2)
    assert codes == [200] * 6
    assert engines.most_serving == 2
    assert engines.most <= 2 + 2  # each place has one engine that ends, at most
    assert router.loads() <= 5


def test_alternating(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-S6
    router = routers("--engine", engine, "--models-dir", str(tiny_models), "--models-max", "1")
    for model in ["tiny-a", "tiny-b"] * 3:
        answer = router.chat(model).json()
        assert answer["model"] == model
        assert router.status(model) == "loaded"
    assert router.loads() == 6
    assert len(router.children()) == 1


def test_six_concurrent_requests_are_one_load(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-S6
    router = routers("--engine", engine, "--models-dir", str(tiny_models))
    assert ask_at_once(router, ["tiny-a"] * 6) == [200] * 6
    assert router.loads() == 1


def test_a_stream_is_not_cut_by_another_models_request(
    engine: str, routers: Starter, tiny_models: Path
) -> None:  # B-S3
    flags = ("--models-dir", str(tiny_models), "--models-max", "1", "--models-drain-grace", "0")
    router = routers("--engine", engine, *flags)
    with router.stream("tiny-a", 400) as events, concurrent.futures.ThreadPoolExecutor(1) as pool:
        next(events)
        (child,) = router.children()
        child.suspend()  # it would be done before the other request has come
        other = pool.submit(router.chat, "tiny-b")
        until(lambda: router.figure("requests_waiting", "tiny-b") == 1)
        child.resume()
        told = events.json()
        assert told[-1]["choices"][0]["finish_reason"] == "length"
        assert sum(bool(event["choices"][0]["delta"].get("content")) for event in told) >= 300
        assert other.result().status_code == 200
    assert [router.loads("tiny-a"), router.loads("tiny-b")] == [1, 1]


def test_a_queued_client_that_leaves_costs_nothing(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-S8
    flags = ("--models-dir", str(tiny_models), "--models-max", "1", "--models-drain-grace", "0", *ENDLESS_FLAGS)
    router = routers("--engine", engine, *flags)
    with router.stream("tiny-a", ENDLESS) as events:
        next(events)
        with router.leave("tiny-b"):
            until(lambda: router.figure("requests_waiting", "tiny-b") == 1)
        until(lambda: router.figure("requests_waiting", "tiny-b") == 0)
        assert "content" in next(events)
    assert router.chat("tiny-a").status_code == 200
    assert router.loads() == 1


def test_a_child_killed_in_the_middle_of_a_stream(
    engine: str, routers: Starter, tiny_models: Path
) -> None:  # B-C4 B-S14
    router = routers("--engine", engine, "--models-dir", str(tiny_models), *ENDLESS_FLAGS)
    with router.stream("tiny-a", ENDLESS) as events:
        next(events)
        router.children()[0].kill()
        told = events.json()  # every event is whole JSON
    assert "error" in told[-1]
    assert told[-1]["error"]["message"]
    assert router.chat("tiny-a").status_code == 200
    assert router.loads() == 2


def test_a_killed_router_leaves_no_child(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-P5
    router = routers("--engine", engine, "--models-dir", str(tiny_models))
    bystander = routers("--engine", engine, "--models-dir", str(tiny_models))
    for each in (router, bystander):
        assert each.chat("tiny-a").status_code == 200
    assert router.chat("tiny-b").status_code == 200
    children, foreign = router.children(), bystander.children()
    assert len(children) == 2
    router.kill()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert not alive
    assert len(gone) == 2
    assert foreign[0].is_running()
    assert bystander.chat("tiny-a").status_code == 200


def test_a_stream_equals_the_engines_own(engine: str, routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", engine, "--models-dir", str(tiny_models))
    whole = router.chat("tiny-a", 32).json()["choices"][0]["message"]["content"]
    with router.stream("tiny-a", 32) as events:
        pieces = [event["choices"][0]["delta"].get("content") or "" for event in events.json()]
    assert "".join(pieces) == whole
    assert len(pieces) > 8


def test_a_client_that_leaves_stops_the_engine(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-S2
    router = routers("--engine", engine, "--models-dir", str(tiny_models), "--slots", *ENDLESS_FLAGS)
    with router.stream("tiny-a", ENDLESS) as events:
        next(events)
    until(lambda: router.figure("requests_active", "tiny-a") == 0)
    slots = router.client.get("/slots", params={"model": "tiny-a"}).json()
    until(
        lambda: not any(s["is_processing"] for s in router.client.get("/slots", params={"model": "tiny-a"}).json()),
        PATIENCE_S,
    )
    assert slots


def test_the_head_of_the_news_is_not_waited_for(engine: str, routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", engine, "--models-dir", str(tiny_models))
    answer = router.client.head("/models/sse")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_the_router_ends_its_children(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-P4
    router = routers("--engine", engine, "--models-dir", str(tiny_models))
    assert router.chat("tiny-a").status_code == 200
    children = router.children()
    assert router.stop() == 0
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]
    assert "Traceback" not in router.log
