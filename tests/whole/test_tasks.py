"""Background tasks: they come after all others, and send nobody's model away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scheduling.effects import Refusal, Stop
from router.scheduling.policy import Drain, Evict, plan
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.snapshot import Phase, Resident, Snapshot
from router.scheduling.waiting_line import Ticket
from tests.conftest import Starter
from tests.routers import Router, chat
from tests.scheduling.bench import Bench
from tests.scheduling.records import Request
from tests.waiting import until


def task(bench: Bench, model: str, need: int = 5, serve: float | None = None) -> Request:
    ticket = Ticket(next(bench._ids), model, Demand(host=need), background=True)
    return bench._ask(Request(ticket, bench.now, serve))


def test_a_task_alone_is_served() -> None:
    bench = Bench(room=9)
    request = task(bench, "a", serve=1)
    bench.run(2)
    assert request.ended
    other = task(bench, "b", serve=1)
    bench.run(5)
    assert other.ended
    assert bench.stops == ["a"], "what only tasks used goes at once"


def test_a_task_waits_until_nobody_has_used_the_model_for_a_while() -> None:
    bench = Bench(room=9, task_grace=30)
    bench.ask("a", serve=1)
    bench.run(2)
    request = task(bench, "b", serve=1)
    bench.run(20)
    bench.ask("a", serve=1)
    bench.run(29)
    assert (request.waits, bench.stops) == (True, [])
    bench.run(5)
    assert request.ended
    assert bench.stops == ["a"]


def test_tasks_on_the_model_keep_it_no_longer() -> None:
    bench = Bench(room=9, task_grace=30)
    bench.ask("a", serve=1)
    bench.run(2)
    request = task(bench, "b", serve=1)
    for _ in range(3):
        bench.run(9)
        task(bench, "a", serve=0.1)
    bench.run(10)
    assert request.ended


def test_no_drain_for_a_task() -> None:
    bench = Bench(room=9, task_grace=30, drain_grace=1)
    running = bench.ask("a")
    bench.run(2)
    request = task(bench, "b", serve=1)
    bench.run(100)
    assert request.waits
    assert bench.ask("a", serve=1).granted, "it is open to new work"
    bench.end(running)
    bench.run(40)
    assert request.ended


def test_a_task_may_drain_tasks() -> None:
    bench = Bench(room=9, drain_grace=1)
    running = task(bench, "a")
    bench.run(2)
    request = task(bench, "b", serve=1)
    bench.run(2)
    assert not task(bench, "a", serve=1).granted, "it is closed to new work"
    bench.end(running)
    bench.run(10)
    assert request.ended


def test_tasks_come_after_the_lowest_priority() -> None:
    bench = Bench(room=9, task_grace=0)
    bench.ask("a", serve=1)
    bench.run(0.5)
    task(bench, "task", serve=1)
    bench.ask("low", serve=1, priority=-9)
    bench.ask("one", serve=1)
    bench.run(60)
    assert bench.spawns == ["a", "one", "low", "task"]


def test_a_request_lifts_the_tasks_for_its_model_only_while_it_waits() -> None:
    bench = Bench(room=9, task_grace=0)
    bench.ask("a", serve=5)
    bench.run(1.5)
    early = task(bench, "both", serve=1)
    bench.ask("one", serve=1)
    late = bench.ask("both", serve=1)
    bench.leave(late)
    bench.run(60)
    assert early.ended
    assert bench.spawns == ["a", "one", "both"]

    bench.ask("a", serve=5)
    bench.run(1.5)
    early = task(bench, "both", serve=1)
    bench.ask("both", serve=1)
    bench.ask("one", serve=1)
    bench.run(60)
    assert bench.spawns[3:] == ["a", "both", "one"]
    assert early.ended


def test_a_full_queue_refuses_tasks_first() -> None:  # B-S9
    bench = Bench(room=9, queue_max=2)
    bench.ask("a")
    bench.run(2)
    first, second = task(bench, "b"), task(bench, "c")
    bench.run(1)
    asked = bench.ask("b")
    bench.run(1)
    assert second.refused is Refusal.QUEUE_FULL
    assert first.waits
    assert asked.waits


def test_a_retry_for_a_task_spares_what_others_use() -> None:  # B-S13
    bench = Bench(room=20, task_grace=30)
    bench.ask("a", serve=1)
    bench.run(2)
    task(bench, "b", serve=1)
    bench.run(3)
    bench.starved["c"] = 1
    request = task(bench, "c", serve=1)
    bench.run(10)
    assert bench.stops == ["b"]
    assert request.ended


STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(3, 8), st.floats(0.1, 3), st.floats(0, 4)),
    min_size=1,
    max_size=20,
)


@given(steps=STEPS, grace=st.floats(0.5, 5), drain=st.floats(0, 3))
def test_whatever_comes(
    steps: list[tuple[str, bool, int, float, float]], grace: float, drain: float
) -> None:  # B-S2 B-S3
    """All are served; nothing fresh is stopped while nobody but tasks waits for another."""
    needs = {model: need for model, _, need, _, _ in reversed(steps)}
    bench = Bench(room=9, task_grace=grace, drain_grace=drain)
    requests = []
    last: defaultdict[str, float] = defaultdict(float)

    for model, background, _, serve, pause in steps:
        need = needs[model]
        requests.append(task(bench, model, need, serve) if background else bench.ask(model, need, serve=serve))
        end = bench.now + pause
        while True:
            before = len(bench.effects)
            waits = any(r.waits and not r.ticket.background for r in requests)
            if not bench.step(end):
                break
            for r in requests:
                if r.granted and not r.ticket.background:
                    last[r.ticket.model] = max(last[r.ticket.model], min(bench.now, r.answered + (r.serve or 0)))
            for effect in bench.effects[before:]:
                assert waits or not isinstance(effect, Stop) or bench.now >= last[effect.model] + grace
        bench.now = end
    bench.run(600)
    assert all(request.ended for request in requests)


ROOM = Device("here", "RAM", "host", 101)


@given(
    held=st.lists(st.integers(1, 40), max_size=5),
    phases=st.lists(st.sampled_from([Phase.IDLE, Phase.BUSY]), min_size=5, max_size=5),
    spared=st.sets(st.integers(0, 4)),
    need=st.integers(1, 100),
)
def test_who_is_spared_is_no_victim(held: list[int], phases: list[Phase], spared: set[int], need: int) -> None:
    residents = tuple(
        Resident(str(n), {ROOM.key: count}, phase)
        for n, (count, phase) in enumerate(zip(held, phases, strict=False))
        if sum(held[: n + 1]) <= 100
    )
    free = ROOM.total - sum(r.held[ROOM.key] for r in residents)
    machine = Snapshot((Reading(ROOM, free),), residents, margins={ROOM.key: 1})
    names = frozenset(map(str, spared))
    found = plan(machine.sparing(names), Demand(host=need))
    if isinstance(found, Evict | Drain):
        assert names.isdisjoint(found.victims)
    if not names.intersection(r.model for r in residents):
        assert found == plan(machine, Demand(host=need))


def test_who_only_watches_keeps_nothing_from_a_task() -> None:
    bench = Bench(room=9)
    task(bench, "a", serve=0.1)
    bench.run(2)
    watching = bench.ask("a")
    bench.leases["a"].discard(watching.ticket.id)
    bench._perform(bench.scheduler.release(watching.ticket.id, bench.now, used=False))
    request = task(bench, "b", serve=1)
    bench.run(5)
    assert request.ended


# Over HTTP


@pytest.fixture
def launch(routers: Starter, tiny_models: Path, engine: str) -> Callable[..., Router]:
    flags = ("--engine", engine, "--models-dir", str(tiny_models), "--models-max", "1")
    return lambda *more: routers(*flags, *more)


def ask(router: Router, model: str, **headers: str) -> httpx.Response:
    return router.client.post("/v1/chat/completions", json=chat(model), headers={"x-task": "", **headers})


def test_a_header_makes_a_task(launch: Callable[..., Router]) -> None:
    """It waits in vain for a model in use; a request that is none does not."""
    router = launch("--models-queue-timeout", "2")
    assert ask(router, "tiny-a", **{"x-task": "title_generation"}).status_code == 200
    assert ask(router, "tiny-b", **{"x-task": "title_generation"}).status_code == 200
    assert ask(router, "tiny-b").status_code == 200
    assert ask(router, "tiny-a", **{"x-task": "title_generation"}).status_code == 503
    assert ask(router, "tiny-b", **{"x-task": "title_generation"}).status_code == 200
    assert router.loads() == 2
    assert ask(router, "tiny-a").status_code == 200


@pytest.mark.parametrize("flags", [("--task-header", ""), ("--task-grace", "0"), ("--task-header", "X-Other")])
def test_it_may_be_turned_off(launch: Callable[..., Router], flags: tuple[str, str]) -> None:
    router = launch(*flags)
    for model in ("tiny-a", "tiny-b"):
        assert ask(router, model).status_code == 200
        assert ask(router, "tiny-c", **{"x-task": "tags"}).status_code == 200
    until(lambda: router.loads() == 4)
