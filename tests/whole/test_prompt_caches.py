"""Prompt caches and memory that others take, with a whole router: what children are started with, and what is told."""

from __future__ import annotations

import pytest

from tests.routers import Router
from tests.waiting import until
from tests.whole.gpu_machine import Machine, Make, ask, pids

MIB = 1 << 20


def caches(router: Router) -> dict[str, int]:
    """MiB by model, from the command lines of the children."""
    lines = [child.cmdline() for child in router.children()]
    return {line[line.index("--alias") + 1]: int(line[line.index("--cache-ram") + 1]) for line in lines}


def on_ram(machine: Make, *models: str) -> Machine:
    here = machine()
    for name in models:
        here.model(name, 0.25)
    return here


# B-D9
def test_children_are_told_what_the_plan_gives_and_the_sum_fits(machine: Make) -> None:
    here = on_ram(machine, "a", "b", "c")
    router = here.start("--models-memory-limit", "4096", "--models-memory-margin", "512")
    ask(router, "a", "b", "c")
    found, listing = caches(router), router.listing()
    assert found.keys() == {"a", "b", "c"}
    assert 0 < found["c"] < found["b"] < found["a"] < 1024
    assert found == {name: listing[name]["status"]["prompt_cache"] // MIB for name in found}
    needs = sum(listing[name]["memory"]["host"] for name in found)
    assert needs + sum(found.values()) * MIB <= (4096 - 512) * MIB
    metrics = router.client.get("/metrics").text
    assert f'llama_router_model_prompt_cache_bytes{{model="a"}} {found["a"] * MIB}' in metrics


def test_what_the_operator_has_set_holds(machine: Make) -> None:
    here = machine()
    here.model("off", 0.25, cache_ram=0)
    here.model("own", 0.25, cache_ram=300)
    here.model("any", 0.25, cache_ram=-1)
    here.model("plan", 0.25)
    router = here.start("--models-memory-limit", "4096", "--models-cache-ram", "100")
    ask(router, "off", "own", "any", "plan")
    assert caches(router) == {"off": 0, "own": 300, "any": -1, "plan": 100}


def test_both_engines_take_what_the_plan_gives(engine: str, routers: object, tiny_models: object) -> None:
    from tests.conftest import Starter

    assert isinstance(routers, Starter)
    router = routers("--engine", engine, "--models-dir", str(tiny_models))
    name = next(iter(router.listing()))
    assert router.chat(name).status_code == 200
    assert caches(router)[name] > 0


# B-D9
@pytest.mark.parametrize("stops", [False, True])
def test_memory_that_a_game_takes_is_told_and_idle_models_go_on_wish(machine: Make, stops: bool) -> None:
    here = machine(12)
    here.model("old", 4)
    here.model("new", 4)
    router = here.start(*(("--models-pressure",) if stops else ()))
    ask(router, "old", "new")
    before = pids(router)
    assert len(before) == 2
    here.others(0, 2.5)  # half a GiB is free then, and one is to stay free
    until(lambda: "memory: local/CUDA0 has" in router.log)
    if stops:
        until(lambda: router.status("old") == "unloaded")
        until(lambda: "as much free again" in router.log)
        assert router.status("new") == "loaded"
        assert "memory pressure on local/CUDA0" in router.log
    else:
        assert 'llama_router_device_memory_short{device="local/CUDA0"} 1' in router.client.get("/metrics").text
        assert pids(router) == before
        here.others(0, 0)
        until(lambda: "as much free again" in router.log)
    assert router.log.count("memory: local/CUDA0 has") == (2 if "free again" in router.log else 1)
