"""The whole router on machines with GPUs that are simulated below pynvml: children of a fake engine, each of which
takes of them what its model would, while the driver and the process table are sampled.

A GPU's memory is in GiB here, a model's too: `gib` is what its tensors say, and its child takes 0.5 more on each GPU.
"""

from __future__ import annotations

import concurrent.futures
import json
import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.nvml import Gpu
from tests.waiting import until
from tests.whole.gpu_machine import GIB, Machine, Make, ask, ask_at_once, error, pids

IN_VAIN = "did not settle"  # memory was waited for until patience ended, by the router's own log

# Where models go


def test_one_gpu_as_tight_as_possible(machine: Make) -> None:  # B-P8
    here = machine(Gpu(24 * GIB, bus=9), Gpu(8 * GIB, bus=7), Gpu(16 * GIB, bus=3), Gpu(12 * GIB, bus=5))
    for name, gib in (("six", 6), ("ten", 10), ("twenty", 20), ("thirteen", 13)):
        here.model(name, gib)
    router = here.start()
    with here.watched(router):
        ask(router, "six", "ten", "twenty", "thirteen")
    # By PCI address the GPUs have 16, 12, 8 and 24 GiB.
    assert here.on(router) == {"six": [2], "ten": [1], "twenty": [3], "thirteen": [0]}


def test_a_large_one_over_the_fewest(machine: Make) -> None:
    here = machine(8, 24, 12, 4)
    here.model("thirty", 30)
    here.model("larger", 38)
    router = here.start()
    with here.watched(router):
        ask(router, "thirty")
        assert here.on(router) == {"thirty": [1, 2]}
        assert sum(here.used()) == pytest.approx(31 * GIB, rel=0.01)
        ask(router, "larger")  # the first must go: it needs all four
        assert here.on(router) == {"larger": [0, 1, 2, 3]}


def test_eight_models_on_eight_gpus(machine: Make) -> None:  # B-S15
    sizes = (6, 8, 10, 12, 16, 20, 24, 48)
    here = machine(*sizes)
    for size in sizes:
        here.model(f"m{size}", size - 2, LOAD_SECONDS=0.3)
    router = here.start()
    with here.watched(router):
        assert ask_at_once(router, *(f"m{size}" for size in sizes)) == [200] * 8
    # One that came before a smaller one may have taken the tightest of those that were left; none shares.
    assert sorted(gpus for gpus in here.on(router).values()) == [[n] for n in range(8)]
    assert len(here.events("start")) == 8


def test_margin_for_each_device(machine: Make) -> None:  # B-S4
    here = machine(12, 12)
    here.margins = [4 * GIB, 2 * GIB]
    here.model("eight", 8)
    here.model("seven", 7.25)
    here.model("wide", 15.5)
    router = here.start("--models-memory-margin", "4096,2048,0")
    with here.watched(router):
        ask(router, "eight")
        assert here.on(router) == {"eight": [1]}
        ask(router, "seven")
        assert here.on(router) == {"eight": [1], "seven": [0]}
        ask(router, "wide")
        assert here.on(router) == {"wide": [0, 1]}


def test_the_gpus_that_the_preset_names(machine: Make) -> None:
    here = machine(12, 12, 12)
    here.model("a", 8, device="CUDA1")
    here.model("b", 8, device="CUDA1")
    router = here.start()
    with here.watched(router):
        ask(router, "a", "b")
    assert here.on(router) == {"b": [1]}


def test_one_for_the_cpu_sees_no_gpu(machine: Make) -> None:  # B-P8
    here = machine(12)
    here.model("a", 2, device="none")
    router = here.start()
    ask(router, "a")
    assert router.children()[0].environ()["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "CUDA0" not in re.findall("a: starting, (.*)", router.log)[0]
    assert here.used() == [0]


@pytest.mark.parametrize("mask", ["2,0", "GPU-00000002,GPU-00000000"])
def test_the_routers_own_mask(machine: Make, mask: str) -> None:  # B-D5
    here = machine(8, 24, 12, 48)
    here.model("five", 5)
    here.model("nine", 9)
    here.model("twenty", 20)
    here.margins = [GIB, 0, 2 * GIB, 0]
    router = here.start("--models-memory-margin", "2048,1024,0", CUDA_VISIBLE_DEVICES=mask)
    with here.watched(router):
        ask(router, "five", "nine")
        assert here.on(router) == {"five": [0], "nine": [2]}
        answer = router.chat("twenty")
    assert answer.status_code == 507
    assert "CUDA0 12.0 GiB less a margin of 2.0 GiB, CUDA1 8.0 GiB less a margin of 1.0 GiB" in error(answer)


def test_an_engine_without_gpus_uses_ram(machine: Make, tiny_models: Path) -> None:
    pytest.importorskip("xllamacpp")
    here = machine(24)
    router = here.start("--models-dir", str(tiny_models), engine="embedded")
    ask(router, "tiny-a")
    assert "this engine sees no GPU" in router.log
    assert "booked" in router.log
    assert "CUDA" not in router.log
    here.model("large", 4000)
    answer = router.client.post("/models/reload")
    assert answer.json()["added"] == ["large"]
    assert router.chat("large").status_code == 507


# Who goes


def test_the_least_recently_used_where_it_helps(machine: Make) -> None:  # B-S5 B-S10
    here = machine(8, 24)
    for name, gib in (("old", 5), ("b", 8), ("c", 8), ("d", 12)):
        here.model(name, gib)
    router = here.start()
    with here.watched(router):
        ask(router, "old", "b", "c")
        assert here.on(router) == {"old": [0], "b": [1], "c": [1]}
        before = pids(router)
        ask(router, "d")
        assert here.on(router) == {"old": [0], "c": [1], "d": [1]}
        ask(router, "b")  # now c is older than d
        assert here.on(router) == {"old": [0], "d": [1], "b": [1]}
    assert pids(router)["old"] == before["old"]
    assert len(here.events("exit")) == 2


def test_nobody_who_need_not(machine: Make) -> None:  # B-S5
    here = machine(24)
    for name, gib in (("a", 3), ("b", 3), ("c", 12), ("d", 13)):
        here.model(name, gib)
    router = here.start()
    with here.watched(router):
        ask(router, "a", "b", "c")
        before = pids(router)
        ask(router, "d")
    after = pids(router)
    assert after.keys() == {"a", "b", "d"}
    assert {name: after[name] for name in "ab"} == {name: before[name] for name in "ab"}


def test_several_at_once(machine: Make) -> None:  # B-S5 B-D6
    here = machine(Gpu(24 * GIB, reclaim_ms=100), Gpu(16 * GIB, reclaim_ms=100))
    for name, gib in (("a", 10), ("b", 11), ("c", 14), ("wide", 30)):
        here.model(name, gib)
    router = here.start("--log-level", "debug")
    with here.watched(router):
        ask(router, *"cab", "wide")
    assert here.on(router) == {"wide": [0, 1]}
    assert IN_VAIN not in router.log  # though the memory of one is back before the end of another is told


def test_never_a_pinned_one(machine: Make) -> None:  # B-S10
    here = machine(24)
    here.model("pinned", 8, pin="on")
    here.model("a", 8)
    here.model("b", 12)
    here.model("c", 16)
    router = here.start("--models-queue-timeout", "2")
    with here.watched(router):
        ask(router, "pinned", "a", "b")
        before = pids(router)
        assert before.keys() == {"pinned", "b"}
        answer = router.chat("c")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert pids(router) == before


def test_one_that_can_never_fit(machine: Make) -> None:  # B-S12
    here = machine(8, 12)
    here.model("a", 5)
    here.model("b", 9)
    here.model("huge", 40)
    router = here.start()
    with here.watched(router):
        ask(router, "a", "b")
        before = pids(router)
        answer = router.chat("huge")  # it waits for nothing: the queue is more patient than this client
    assert answer.status_code == 507
    assert "it needs 40.5 GiB of GPU memory" in error(answer)
    assert "CUDA0 8.0 GiB less a margin of 1.0 GiB, CUDA1 12.0 GiB less a margin of 1.0 GiB" in error(answer)
    assert pids(router) == before


def test_time_to_live(machine: Make) -> None:  # B-S10
    here = machine(12)
    here.model("a", 8)
    router = here.start("--models-ttl", "0.2")
    ask(router, "a")
    until(lambda: not router.children() and here.used() == [0])
    assert router.status("a") == "unloaded"


# When


def loads(here: Machine) -> list[tuple[float, float]]:
    """From when to when each model loaded, in the order of their starts."""
    return [
        (start.at, next(ready.at for ready in here.events("ready") if ready.pid == start.pid))
        for start in here.events("start")
    ]


def test_loads_on_one_gpu_follow_each_other(machine: Make) -> None:  # B-S15
    here = machine(48)
    for name in "abc":
        here.model(name, 5, LOAD_SECONDS=0.2)
    router = here.start()
    with here.watched(router):
        assert ask_at_once(router, *"abc") == [200] * 3
    first, second, third = loads(here)
    assert first[1] <= second[0]
    assert second[1] <= third[0]


def test_loads_on_two_gpus_go_together(machine: Make) -> None:  # B-S15
    here = machine(24, 24)
    for name in "ab":
        here.model(name, 5, LOAD_SECONDS=0.4)
    router = here.start()
    with here.watched(router):
        assert ask_at_once(router, *"ab") == [200] * 2
    first, second = loads(here)
    assert second[0] < first[1]
    assert sorted(here.on(router).values()) == [[0], [1]]


def test_memory_that_comes_back_late(machine: Make) -> None:  # B-D6
    here = machine(Gpu(24 * GIB, reclaim_ms=800))
    for name, gib in (("a", 12), ("b", 9.5), ("small", 7)):
        here.model(name, gib)
    router = here.start("--log-level", "debug")
    with here.watched(router):
        ask(router, "a", "small", "b", "small", "a")
    # Nobody else had to go because it was not back yet.
    assert [event.model for event in here.events("exit")] == ["a", "b"]
    for gone, start in zip(here.events("exit"), here.events("start")[2:], strict=True):
        assert start.at - gone.at > 0.75
    assert IN_VAIN not in router.log


def test_memory_that_comes_back_very_late(machine: Make) -> None:  # B-D6
    here = machine(Gpu(12 * GIB, reclaim_ms=2600))  # later than settling waits
    for name in "ab":
        here.model(name, 8)
    router = here.start("--log-level", "debug")
    with here.watched(router):
        ask(router, *"ab")
    assert here.events("start", "b")[0].at - here.events("exit")[0].at > 2.55
    assert IN_VAIN in router.log


def test_another_program_takes_the_room_that_was_made(machine: Make) -> None:  # B-S11 B-P4
    here = machine(24)
    here.model("stubborn", 12, IGNORE_SIGTERM=1, IGNORE_EXIT=1, stop_timeout=0.8)
    here.model("next", 14)
    router = here.start()
    ask(router, "stubborn")
    child = router.children()[0]
    with here.watched(router), concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(router.chat, "next")
        until(lambda: "stubborn: stopping" in router.log)
        assert child.is_running()
        here.others(0, 10)
        until(lambda: not child.is_running())
        until(lambda: here.used() == [0])
        asked = router.figure("requests_waiting", "next")
        assert asked == 1
        assert not answer.done()
        time_of_room = time.monotonic()
        here.others(0, 0)
        assert answer.result().status_code == 200
    assert here.events("start", "next")[0].at > time_of_room


def test_another_program_takes_what_a_load_was_promised(machine: Make) -> None:  # B-S13
    here = machine(24)
    here.model("idle", 6)
    here.model("next", 10, LOAD_SECONDS=0.5)
    here.shortages = 1
    router = here.start()
    ask(router, "idle")
    with here.watched(router), concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(router.chat, "next")
        until(lambda: here.events("start", "next"))
        here.others(0, 10)
        assert answer.result().status_code == 200
    assert len(here.events("start", "next")) == 2
    assert pids(router).keys() == {"next"}


def test_waiting_for_another_programs_memory(machine: Make) -> None:  # B-S9
    here = machine(24)
    here.model("a", 12)
    here.others(0, 16)
    router = here.start("--models-queue-timeout", "3")
    with here.watched(router), concurrent.futures.ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        answer = router.chat("a")
        assert time.monotonic() - began >= 3
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert here.events("start") == []
        served = pool.submit(router.chat, "a")
        until(lambda: router.figure("requests_waiting", "a"))
        here.others(0, 8)
        assert served.result().status_code == 200


def test_progress(machine: Make) -> None:  # B-P7
    here = machine(12)
    here.model("a", 8, LOAD_SECONDS=0.6)
    router = here.start()
    polled, told = [], []
    with concurrent.futures.ThreadPoolExecutor(1) as pool, router.client.stream("GET", "/models/sse") as news:
        lines = news.iter_lines()
        assert "hello" in next(lines)
        answer = pool.submit(router.chat, "a")
        while not answer.done():
            status = router.listing()["a"]["status"]
            if status["value"] == "loading" and "progress" in status:
                polled.append(status["progress"]["total"])
        for line in lines:
            if line.startswith("data: "):
                told.append(json.loads(line[6:])["data"])
                if told[-1]["status"] == "loaded":
                    break
    values = [data["progress"]["value"] for data in told if "progress" in data]
    assert values == [step / 10 for step in range(11)]
    assert len(set(polled)) > 3
    assert polled == sorted(polled)
    assert 0 <= polled[0] < polled[-1] <= 1


# What goes wrong


def test_a_crash_while_loading(machine: Make) -> None:  # B-P3 B-D6
    here = machine(12)
    here.model("bad", 8, LOAD_SECONDS=0.1, FAIL="error: unknown model architecture: 'new'")
    here.model("good", 9)
    router = here.start("--log-level", "debug")
    with here.watched(router):
        answer = router.chat("bad")
        assert answer.status_code == 500
        assert "unknown model architecture" in error(answer)
        ask(router, "good")
    assert IN_VAIN not in router.log  # nor for what the load had not taken
    assert router.listing()["bad"]["status"]["failed"] is True


def test_a_crash_while_serving(machine: Make) -> None:  # B-S14 B-C4 B-D6
    here = machine(Gpu(12 * GIB, reclaim_ms=500))
    here.model("a", 8, CRASH_AFTER_CHUNKS=3)
    router = here.start("--log-level", "debug")
    with here.watched(router):
        ask(router, "a")
        with router.stream("a", 8) as events:
            assert "error" in events.json()[-1]
        ask(router, "a")
    crashed, again = here.events("exit")[0], here.events("start")[1]
    assert again.at - crashed.at > 0.45
    assert IN_VAIN not in router.log


def test_a_flood_of_output(machine: Make) -> None:  # B-P2
    here = machine(12)
    here.model("a", 8, STDOUT_FLOOD=20_000)
    router = here.start()
    with here.watched(router):
        ask(router, "a")
        assert router.chat("a", 200).json()["usage"]["completion_tokens"] == 200


def test_a_load_that_is_silent_for_too_long(machine: Make) -> None:  # B-P1
    here = machine(12)
    here.model("slow", 8, LOAD_SECONDS=60, SILENT=1)
    here.model("slow-but-telling", 8, LOAD_SECONDS=6)
    router = here.start("--models-load-timeout", "4")
    with here.watched(router):
        answer = router.chat("slow")
        assert answer.status_code == 500
        assert "--models-load-timeout" in error(answer)
        ask(router, "slow-but-telling")
    assert pids(router).keys() == {"slow-but-telling"}


def test_a_storm(machine: Make) -> None:  # B-S2 B-S6 B-L9
    here = machine(*(Gpu(gib * GIB, reclaim_ms=30) for gib in (24, 16, 12, 8)))
    for number, gib in enumerate((5, 6, 8, 9, 10, 13, 20, 30)):
        keys = {"CRASH_AFTER_REQUESTS": 9} if number in (1, 4) else {}
        here.model(f"m{number}", gib, CHUNK_SECONDS=0.002, **keys)
    router = here.start("--models-drain-grace", "0.3")
    dice = random.Random(1)
    names = [f"m{number}" for number in range(8)]
    asks = [(name, dice.random() < 0.2) for name in dice.choices(names, weights=[6] * 7 + [1], k=200)]

    def one(asked: tuple[str, bool]) -> int:
        model, leaves = asked
        if leaves:
            with router.leave(model):
                return 0
        return router.chat(model, 8).status_code

    with here.watched(router), concurrent.futures.ThreadPoolExecutor(24) as pool:
        codes = Counter(pool.map(one, asks))
    assert codes.keys() <= {0, 200, 502, 503}, codes  # 503 is the pause after repeated crashes
    assert codes[200] > 100
    for name in names:
        until(lambda: router.figure("requests_active", name) == router.figure("requests_waiting", name) == 0)  # noqa: B023
    assert "a defect" not in router.log
    assert "Traceback" not in router.log
