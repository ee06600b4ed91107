"""What a router tells of itself under load, against what its children did: the events of `/router/events`, and the log,
on a machine with simulated GPUs."""

from __future__ import annotations

import concurrent.futures
from random import Random
from typing import Any

import pytest

from tests.routers import Router
from tests.whole.gpu_machine import GIB, Machine, Make, pids

SIZES = {"three": 3, "five": 5, "nine": 9, "ten": 10, "twelve": 12, "wide": 22}  # in GiB
TAKES = 0.5  # more, on each GPU
REQUESTS = 60


def storm(here: Machine, router: Router) -> list[dict[str, Any]]:
    """All events, after requests for all models at once."""
    wanted = [model for model in SIZES for _ in range(REQUESTS // len(SIZES))]
    Random(1).shuffle(wanted)
    with here.watched(router), concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert {answer.status_code for answer in pool.map(router.chat, wanted)} == {200}
    found: list[dict[str, Any]] = router.client.get("/router/events").json()["events"]
    return found


def test_events_tell_who_ran_and_why_each_model_went(machine: Make) -> None:  # B-O1
    here = machine(12, 16)
    for name, gib in SIZES.items():
        here.model(name, gib, LOAD_SECONDS=0.05)
    router = here.start()
    events = storm(here, router)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    running: dict[str, dict[str, int]] = {}
    plans: dict[str, list[dict[str, Any]]] = {}  # the victims of each plan
    evictions = 0
    for event in events:
        model, numbers = event["model"], event["numbers"]
        match event["kind"]:
            case "start":
                assert model not in running
                running[model] = numbers["need"]
                gpus = [key for key in numbers["need"] if "CUDA" in key]
                whole = (SIZES[model] + TAKES * len(gpus)) * GIB
                assert sum(numbers["need"][key] for key in gpus) == pytest.approx(whole, rel=0.1)
            case "evict":
                evictions += 1
                assert (event["reason"], event["for"] in SIZES) == ("memory", True)
                assert event["text"].startswith(f"stopping (room for {event['for']}), ")
                short = {
                    key: n - numbers["free"][key] for key, n in numbers["need"].items() if n > numbers["free"][key]
                }
                assert numbers["missing"] == short != {}
                assert short.keys() & numbers["freed"].keys()
                assert numbers["freed"].keys() == running.pop(model).keys()
                plans.setdefault(f"{event['for']} {numbers['need']} {numbers['free']}", []).append(numbers)
    for victims in plans.values():
        for key, missing in victims[0]["missing"].items():
            assert sum(each["freed"].get(key, 0) for each in victims) >= missing
    assert running.keys() == pids(router).keys()
    starts = [event["model"] for event in events if event["kind"] == "start"]
    assert sorted(starts) == sorted(event.model for event in here.events("start"))
    ready = {(event["model"], event["numbers"]["pid"]) for event in events if event["kind"] == "ready"}
    assert ready == {(event.model, event.pid) for event in here.events("start")}
    assert evictions == len(starts) - len(running) > 5
    assert router.log.count(": stopping (room for") == router.log.count(": stopped (room for") == evictions
    assert here.problems == []
