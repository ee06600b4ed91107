"""The whole router when GPUs are lost and come back, by a simulated driver; and with GPUs in MIG mode."""

from __future__ import annotations

from typing import Any

import pytest

from tests import nvml
from tests.nvml import Gpu, Mig, gpu_uuid, mig_uuid
from tests.routers import Router, alias
from tests.waiting import until
from tests.whole.gpu_machine import GIB, Machine, Make, ask, error, pids

MESSAGES = [{"role": "user", "content": "hello"}]
# A generating request of each API, by path.
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/completions": {"prompt": "hello", "max_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/responses": {"input": "hello", "max_output_tokens": 2},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "hello"},
}


def lose(here: Machine, *numbers: int, status: int = nvml.LOST) -> None:
    for number in numbers:
        here.nvml.change(number, status=status)


def find(here: Machine, *numbers: int) -> None:
    lose(here, *numbers, status=0)


def lose_at_load(here: Machine) -> None:
    """Lose the first GPU once a load has taken memory."""
    until(lambda: list((here.nvml.folder / "claims").iterdir()))
    lose(here, 0)


def masks(router: Router) -> dict[str, str]:
    """What each model's child may see."""
    return {alias(child): child.environ()["CUDA_VISIBLE_DEVICES"] for child in router.children()}


def refused(router: Router, model: str) -> str:
    """The message of the 503 that a request for this model gets."""
    answer = router.chat(model)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    return error(answer)


# B-S18
@pytest.mark.parametrize("path", REQUESTS)
def test_a_model_that_only_lost_gpus_could_hold_is_unavailable_in_each_dialect(machine: Make, path: str) -> None:
    here = machine(12, 12)
    here.model("idle", 8)
    here.model("wide", 18)
    router = here.start()
    ask(router, "idle")
    before = pids(router)
    lose(here, 0, 1)
    answer = router.client.post(path, json={"model": "wide", **REQUESTS[path]})
    assert answer.status_code == (529 if path == "/v1/messages" else 503), answer.text
    assert int(answer.headers["retry-after"]) == 10
    for number in range(2):
        assert f"CUDA{number} ({gpu_uuid(number)}) cannot be read: it has fallen off the bus" in answer.text
    ask(router, "idle")  # it runs on there, and nobody was evicted
    assert pids(router) == before
    assert [event.model for event in here.events("start")] == ["idle"]
    find(here, 0, 1)
    answer = router.client.post(path, json={"model": "wide", **REQUESTS[path]})
    assert answer.status_code == 200, answer.text
    assert pids(router).keys() == {"wide"}


def test_a_model_goes_where_a_gpu_can_be_read(machine: Make) -> None:  # B-S18
    here = machine(12, 24)
    here.model("a", 8)
    here.model("b", 8)
    here.model("large", 20)
    router = here.start()
    lose(here, 0)
    ask(router, "a")
    assert masks(router) == {"a": gpu_uuid(1)}  # with one GPU lost, nobody knows how CUDA counts the others
    find(here, 0)
    ask(router, "b")
    assert masks(router)["b"] in ("0", gpu_uuid(0))
    lose(here, 1)
    assert f"CUDA1 ({gpu_uuid(1)}) cannot be read" in refused(router, "large")
    find(here, 1)
    ask(router, "large")
    assert pids(router).keys() == {"b", "large"}


# B-S18
@pytest.mark.parametrize("status", [nvml.NOT_LOADED, nvml.MISMATCH, nvml.UNKNOWN, nvml.HANG])
def test_a_driver_that_goes_takes_no_model_and_one_that_is_back_does(machine: Make, status: int) -> None:
    here = machine(12)
    here.model("a", 8)
    here.model("b", 8)
    here.model("on-cpu", 2, device="none")
    router = here.start()
    ask(router, "a")
    here.nvml.driver(status)
    words = {nvml.NOT_LOADED: "not loaded", nvml.MISMATCH: "different versions", nvml.HANG: "does not answer"}
    message = refused(router, "b")
    assert words.get(status, "Unknown Error") in message
    ask(router, "on-cpu", "a")
    assert pids(router).keys() == {"a", "on-cpu"}
    here.nvml.driver(generation=1)  # it is opened anew, without a restart
    until(lambda: not router.client.get("/models").json().get("lost_devices"))
    ask(router, "b")
    assert pids(router).keys() == {"b", "on-cpu"}


def test_a_gpu_that_is_lost_is_shown_with_its_reason(machine: Make) -> None:  # B-S18
    here = machine(12, 12)
    here.model("a", 8)
    router = here.start()
    assert "lost_devices" not in router.client.get("/models").json()
    lose(here, 1)
    lost = until(lambda: router.client.get("/models").json().get("lost_devices"))
    assert [(device["id"], device["uuid"], device["free"]) for device in lost] == [("local/CUDA1", gpu_uuid(1), None)]
    assert "fallen off the bus" in lost[0]["reason"]
    devices = {device["id"]: device for device in router.client.get("/props").json()["devices"]}
    assert (devices["local/CUDA0"]["lost"], devices["local/CUDA1"]["lost"]) == (False, True)
    assert devices["local/CUDA0"]["total"] == 12 * GIB
    metrics = router.client.get("/metrics").text
    assert 'llama_router_device_lost{device="local/CUDA0",reason=""} 0' in metrics
    assert 'llama_router_device_lost{device="local/CUDA1",reason="it has fallen off the bus' in metrics
    assert f'llama_router_memory_total_bytes{{device="local/CUDA1",node="local"}} {12 * GIB}' in metrics
    assert 'llama_router_memory_free_bytes{device="local/CUDA1"' not in metrics
    find(here, 1)
    until(lambda: "lost_devices" not in router.client.get("/models").json())


def test_a_load_whose_gpu_is_lost_goes_elsewhere(machine: Make) -> None:  # B-S18
    here = machine(12, 24)
    here.model("a", 8, LOAD_SECONDS=2)
    router = here.start()
    with here.meanwhile(lambda: lose_at_load(here)):
        ask(router, "a")
    assert masks(router) == {"a": gpu_uuid(1)}
    assert len(here.events("start")) == 2


def test_a_load_whose_only_gpu_is_lost_is_unavailable(machine: Make) -> None:  # B-S18
    here = machine(12)
    here.model("a", 8, LOAD_SECONDS=2)
    router = here.start()
    with here.meanwhile(lambda: lose_at_load(here)):
        assert "CUDA0" in refused(router, "a")
    find(here, 0)
    ask(router, "a")


def test_a_stream_goes_on_while_its_gpu_cannot_be_read(machine: Make) -> None:  # B-S18
    here = machine(12, 12)
    here.model("a", 8, CHUNK_SECONDS=0.05)
    here.model("b", 8)
    here.model("c", 8)
    router = here.start()
    with router.stream("a", 20) as events:
        lose(here, 0)
        ask(router, "b")
        ask(router, "c")  # `b` makes room for it, not the one on the GPU that is lost
        assert len(events.json()) >= 20
    assert pids(router).keys() == {"a", "c"}


def test_a_model_that_stops_on_a_lost_gpu_holds_up_no_other(machine: Make) -> None:  # B-S18 B-D6
    here = machine(Gpu(12 * GIB, reclaim_ms=60_000), 12)
    here.model("a", 8)
    here.model("b", 8)
    here.model("c", 8)
    router = here.start()
    ask(router, "a", "b")
    lose(here, 0)
    router.client.post("/models/unload", json={"model": "a"})
    ask(router, "c")
    assert pids(router).keys() == {"c"}


def test_a_driver_that_is_loaded_after_the_router_has_started(machine: Make) -> None:  # B-S18
    here = machine(12, 24)
    here.model("a", 8)
    here.model("large", 20)
    here.nvml.driver(nvml.NOT_LOADED)
    router = here.start(CUDA_VISIBLE_DEVICES="0,1")
    assert "CUDA0 is lost, and takes no model until it can be read: the NVIDIA driver is not loaded" in router.log
    assert "the NVIDIA driver is not loaded" in refused(router, "a")
    assert here.events("start") == []  # not into RAM
    here.nvml.driver()
    ask(router, "a", "large")
    assert here.on(router) == {"a": [0], "large": [1]}


def test_an_engine_that_would_go_on_without_its_gpu_is_ended(machine: Make) -> None:  # B-S18
    here = machine(12)
    here.model("a", 8, SAY="ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected")
    router = here.start()
    answer = router.chat("a")
    assert answer.status_code == 500
    assert "the engine cannot see a GPU that it should use" in error(answer)
    assert len(here.events("start")) == 2  # once more after a new reading
    assert router.children() == []


# MIG


def test_each_child_gets_one_instance(machine: Make) -> None:  # B-D11
    here = machine(24, 12)
    here.nvml.divide(0, Mig(1, 0, 12 * GIB), Mig(2, 0, 6 * GIB))
    here.model("eight", 8)
    here.model("four", 4)
    here.model("wide", 14)
    router = here.start(CUDA_VISIBLE_DEVICES=f"{mig_uuid(0, 1)},{mig_uuid(0, 0)}")
    ask(router, "eight", "four")
    assert masks(router) == {"eight": mig_uuid(0, 0), "four": mig_uuid(0, 1)}
    answer = router.chat("wide")  # CUDA shows a process one instance at most
    assert answer.status_code == 507
    assert "CUDA0 6.0 GiB less a margin of 1.0 GiB, CUDA1 12.0 GiB" in error(answer)


def test_instances_beside_a_whole_gpu(machine: Make) -> None:  # B-D11
    here = machine(24, 24)
    here.nvml.divide(0, Mig(1, 0, 12 * GIB))
    here.model("eight", 8)
    here.model("twenty", 20)
    router = here.start()
    ask(router, "twenty", "eight")
    assert masks(router) == {"twenty": gpu_uuid(1), "eight": mig_uuid(0, 0)}


def test_an_instance_that_is_not_there_is_not_ram(machine: Make) -> None:  # B-D11
    here = machine(24)
    here.nvml.divide(0, Mig(1, 0, 12 * GIB))
    here.model("four", 4)
    router = here.start(CUDA_VISIBLE_DEVICES=mig_uuid(0, 3))
    assert f"CUDA0 ({mig_uuid(0, 3)}) cannot be read: it is not among the GPUs" in refused(router, "four")
    here.nvml.divide(0, *(Mig(n, 0, 6 * GIB) for n in range(4)))
    ask(router, "four")
    assert masks(router) == {"four": mig_uuid(0, 3)}


def test_limits_hold_for_gpus_that_come_late(machine: Make) -> None:  # B-D11 B-S18
    here = machine(24)
    here.nvml.divide(0, Mig(1, 0, 12 * GIB), Mig(2, 0, 12 * GIB))
    for name in "abc":
        here.model(name, 8)
    here.model("on-second", 8, device="CUDA1")
    here.nvml.driver(nvml.NOT_LOADED)
    router = here.start(CUDA_VISIBLE_DEVICES="0")  # it may be any number of instances
    assert "cannot be read" in refused(router, "a")
    here.nvml.driver()
    ask(router, "a", "b", "c")
    assert pids(router).keys() == {"b", "c"}
    ask(router, "on-second")
    assert masks(router)["on-second"] == mig_uuid(0, 1)
