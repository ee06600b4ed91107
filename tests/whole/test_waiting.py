"""What operators and clients are told of requests that wait: the queue of whole routers on simulated GPUs.

A GPU's memory is in GiB here, a model's too: `gib` is what its tensors say, and its child takes 0.5 more on each GPU.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.routers import FAKE, Router
from tests.waiting import until
from tests.whole.gpu_machine import GIB, Make, ask, error

SLOW = {"CHUNK_SECONDS": 0.1}
TASK = "X-Task: 1\r\n"


def entry(router: Router, model: str) -> dict[str, Any]:
    """The model's place in the queue, once it has one."""

    def find() -> dict[str, Any] | None:
        state = router.client.get("/router/state").json()
        return next((entry for entry in state["queue"] if entry["model"] == model), None)

    return until(find)


def why(router: Router, model: str, kind: str) -> dict[str, Any]:
    """What the model waits for, once it waits for something of this kind."""

    def find() -> dict[str, Any] | None:
        reason: dict[str, Any] = entry(router, model)["why"]
        return reason if reason["kind"] == kind else None

    return until(find)


@contextlib.contextmanager
def busy(router: Router, model: str, count: int = 1) -> Iterator[None]:
    """So many streams run on it until the end of the block."""
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(router.stream(model, 100_000)) for _ in range(count)]
        for stream in streams:
            next(stream)
        yield


def blockers(reason: dict[str, Any]) -> dict[str, int]:
    return {blocker["model"]: blocker["requests"] for blocker in reason["blockers"]}


def test_requests_that_run(machine: Make) -> None:  # B-O2
    here = machine(24)
    here.model("coder", 12, **SLOW)
    here.model("big", 14)
    here.model("small", 12)
    router = here.start("--models-drain-grace", "0")
    with busy(router, "coder", 3), router.leave("big"), router.leave("big"):
        until(lambda: entry(router, "big")["requests"] == 2)
        reason = why(router, "big", "draining")
        assert reason["text"] == "waits for coder to finish 3 requests"
        assert blockers(reason) == {"coder": 3}
        assert reason["missing"]["local/CUDA0"] == pytest.approx(4 * GIB, rel=0.01)
        assert reason["drain_in"] is None
        with router.leave("small"):
            behind = why(router, "small", "behind")
            assert behind["text"] == "is behind big in the queue, and waits for coder to finish 3 requests"
            assert blockers(behind) == {"big": 2, "coder": 3}
            assert (entry(router, "big")["position"], entry(router, "small")["position"]) == (1, 2)
            until(lambda: entry(router, "big")["waited"] > 0)
            with router.leave("coder"):  # it would have to go for each of them
                assert why(router, "coder", "behind")["text"] == "is behind big and small in the queue"
    until(lambda: not router.client.get("/router/state").json()["queue"])


def test_grace_runs_down(machine: Make) -> None:  # B-O2
    here = machine(24)
    here.model("coder", 12, **SLOW)
    here.model("big", 14)
    router = here.start("--models-drain-grace", "600")
    with busy(router, "coder"), router.leave("big"):
        reason = why(router, "big", "drain_grace")
        assert reason["text"] == (
            "waits for coder to finish 1 request; new ones are still let in (--models-drain-grace)"
        )
        assert 590 < reason["drain_in"] <= 600
        until(lambda: why(router, "big", "drain_grace")["drain_in"] < reason["drain_in"])


def test_loads_and_stops(machine: Make) -> None:  # B-O2
    here = machine(24)
    here.model("slow", 5, LOAD_SECONDS=600)
    here.model("stubborn", 12, IGNORE_SIGTERM=1, IGNORE_EXIT=1, stop_timeout=600)
    here.model("b", 4)
    here.model("big", 14)
    router = here.start()
    ask(router, "stubborn")
    with router.leave("big"):
        reason = why(router, "big", "stopping")
        assert (reason["text"], blockers(reason)) == ("waits for stubborn to stop", {"stubborn": 0})
    with router.leave("slow"):
        until(lambda: why(router, "slow", "own_load")["text"] == "waits for its own load")  # it was about to start
        with router.leave("b"):
            reason = why(router, "b", "another_load")
            assert (reason["text"], blockers(reason)) == ("waits for slow to load", {"slow": 0})


def test_what_stays(machine: Make) -> None:  # B-O2
    here = machine(24, 12)
    here.model("boss", 12, pin="on", device="CUDA0")
    here.model("b", 14, device="CUDA0")
    here.model("c", 9, device="CUDA1")
    router = here.start("--models-queue-timeout", "600")
    ask(router, "boss")
    here.others(1, 8)
    with router.leave("b"), router.leave("c"):
        pinned = why(router, "b", "pinned_or_foreign")
        assert pinned["text"] == "waits for boss to stop, which is pinned; it needs 4.0 GiB on CUDA0 more"
        assert blockers(pinned) == {"boss": 0}
        foreign = why(router, "c", "pinned_or_foreign")
        assert foreign["text"] == (
            "needs 6.5 GiB on CUDA1 more than all models together could give; other programs hold 8.0 GiB on CUDA1"
        )
        assert blockers(foreign) == {}
        assert foreign["missing"]["local/CUDA1"] == pytest.approx(6.5 * GIB, rel=0.01)
        here.others(1, 0)
        until(lambda: router.status("c") == "loaded")


def test_what_time_protects(machine: Make) -> None:  # B-O2
    here = machine(24)
    here.model("a", 12, min_loaded=500, **SLOW)
    here.model("b", 14)
    router = here.start("--models-queue-timeout", "1000", "--task-grace", "800")
    ask(router, "a")
    with router.leave("b"):
        young = why(router, "b", "drain_grace")
        assert young["text"] == "waits for a to have been loaded for a while (--models-min-loaded)"
        assert 400 < young["drain_in"] <= 500
        assert blockers(young) == {"a": 0}


def test_a_background_request(machine: Make) -> None:  # B-O2
    here = machine(24)
    here.model("a", 12, **SLOW)
    here.model("b", 14)
    router = here.start("--task-grace", "800", "--models-drain-grace", "0")
    with busy(router, "a", 2), router.leave("b", TASK):
        used = why(router, "b", "drain_grace")
        assert used["text"] == "waits for a to finish 2 requests and to be unused for a while (--task-grace)"
        assert used["drain_in"] is None
        assert entry(router, "b")["background"]
    until(lambda: router.figure("requests_active", "a") == 0)
    with router.leave("b", TASK):
        used = why(router, "b", "drain_grace")
        assert used["text"] == "waits for a to be unused for a while (--task-grace)"
        assert 700 < used["drain_in"] <= 800


def test_slots(machine: Make) -> None:  # B-O2
    here = machine(24, 24)
    here.model("a", 5, **SLOW)
    here.model("b", 5)
    router = here.start("--models-max", "1", "--models-drain-grace", "0")
    with busy(router, "a"), router.leave("b"):
        reason = why(router, "b", "slots")
        assert reason["text"] == "waits for a to finish 1 request; as many models run as may (--models-max 1)"
        assert blockers(reason) == {"a": 1}


def test_downloads(routers: Starter, tiny_models: Path) -> None:  # B-O2
    data = (tiny_models / "tiny-a.gguf").read_bytes()
    gate = threading.Event()
    names = [f"user/tiny{number}" for number in range(3)]
    repos = {name: Repo({"tiny-Q8_0.gguf": RepoFile(data, cut_at=1000, gate=gate)}) for name in names}
    with HubServer(repos) as hub, contextlib.ExitStack() as stack:
        stack.callback(gate.set)
        router = routers("--engine", FAKE, "--hub-allow", "user/*", HF_ENDPOINT=hub.url)
        for name in names:
            stack.enter_context(router.leave(name))
            until(lambda: any(id.startswith(name) for id in router.listing()))  # noqa: B023
        ids = sorted(router.listing())
        first = why(router, ids[0], "download")
        assert (first["text"], blockers(first)) == ("waits for its files, which are downloaded", {ids[0]: 0})
        third = why(router, ids[2], "download")
        assert third["text"] == f"waits for its files, which are downloaded after those of {ids[0]} and {ids[1]}"
        assert blockers(third) == {ids[0]: 0}


def test_a_stream_that_waits_is_told_for_what(machine: Make) -> None:  # B-O2 B-C5
    here = machine(24)
    here.model("coder", 12, **SLOW)
    here.model("big", 14)
    router = here.start("--models-drain-grace", "0", "--stream-keepalive", "0.05")
    with busy(router, "coder"), router.leave("big", stream=True) as connection:
        received = b""
        while b": waits for coder to finish 1 request\n\n" not in received:
            data = connection.recv(4096)
            assert data, received
            received += data
    assert b"data:" not in received


def test_a_refusal_says_for_what_it_waited(machine: Make) -> None:  # B-O2 B-S19
    here = machine(24)
    here.model("boss", 12, pin="on")
    here.model("b", 14)
    router = here.start("--models-queue-timeout", "0.5")
    ask(router, "boss")
    answer = router.chat("b")
    assert answer.status_code == 503
    assert "it waits for boss to stop, which is pinned; it needs 4.0 GiB on CUDA0 more" in error(answer)
