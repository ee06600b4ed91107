"""Devices that cannot be read: they take no model, and nobody goes for them there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.scheduling.books import ModelRecord
from router.scheduling.effects import Grant, Probe, Refusal, Refuse, Spawn
from router.scheduling.limits import Limits
from router.scheduling.next_start import enough_for_start
from router.scheduling.policy import Evict, Lost, Place, Reject, Wait, plan
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.scheduler import Scheduler
from router.scheduling.snapshot import Phase, Snapshot
from router.scheduling.states import State
from router.scheduling.waiting_line import Ticket
from tests.scheduling.machines import RAM, Case, cases, gpus, many, on, snapshot, where

WHY = "it has fallen off the bus"


def losing(machine: Snapshot, *names: str) -> Snapshot:
    """The same machine, of which these devices are lost."""
    readings = tuple(
        Reading(r.device, None, WHY) if r.device.name in names or r.device.key in names else r for r in machine.readings
    )
    return replace(machine, readings=readings)


def test_a_model_goes_to_the_gpu_that_can_be_read() -> None:  # B-S18
    machine = snapshot([*gpus(10, 20), RAM])
    assert where(plan(machine, Demand(split=8))) == {"GPU0": 8}
    assert where(plan(losing(machine, "GPU0"), Demand(split=8))) == {"GPU1": 8}


def test_nobody_is_evicted_where_a_gpu_is_lost() -> None:  # B-S18
    idle = on(Phase.IDLE, "idle", GPU0=9)
    machine = snapshot([*gpus(10, 20), RAM], idle)
    assert isinstance(plan(machine, Demand(split=28)), Evict)
    outcome = plan(losing(machine, "GPU0"), Demand(split=28))
    assert isinstance(outcome, Lost)
    assert "GPU0" in outcome.reason
    assert WHY in outcome.reason
    assert "GPU1" not in outcome.reason


def test_where_nothing_is_checked_a_lost_gpu_is_not_shown_to_a_child() -> None:  # B-S18
    outcome = plan(losing(snapshot([*gpus(10, 20), RAM], margin=0), "GPU0"), Demand(split=8))
    assert isinstance(outcome, Place)
    assert [device.name for device in outcome.claim.devices] == ["GPU1"]
    assert isinstance(plan(losing(snapshot([*gpus(10), RAM], margin=0), "GPU0"), Demand(split=8)), Lost)


def test_a_model_for_a_named_gpu_is_told_of_that_one() -> None:  # B-S18
    outcome = plan(losing(snapshot([*gpus(10, 20, 20), RAM]), "GPU0", "GPU1"), Demand(split=8, names=("GPU1",)))
    assert isinstance(outcome, Lost)
    assert "GPU1 cannot be read" in outcome.reason
    assert "GPU0" not in outcome.reason


def test_what_no_machine_could_hold_is_too_large_as_ever() -> None:  # B-S12
    assert isinstance(plan(losing(snapshot([*gpus(10), RAM]), "GPU0"), Demand(split=50)), Reject)


def test_a_model_for_ram_does_not_need_the_gpu() -> None:  # B-S18
    assert isinstance(plan(losing(snapshot([*gpus(10), RAM]), "GPU0"), Demand(host=5)), Place)


def test_a_load_that_hangs_on_a_lost_gpu_holds_up_no_load_into_ram() -> None:  # B-S18
    machine = losing(snapshot([*gpus(10), RAM], on(Phase.LOADING, "a", GPU0=5, RAM=1)), "GPU0")
    assert isinstance(plan(machine, Demand(host=5)), Place)


def test_nor_is_that_load_waited_for_when_its_memory_is_awaited() -> None:  # B-S18
    load = ModelRecord("a", State.LOADING, held={"here/GPU0": 5, RAM.key: 1})
    machine = losing(snapshot([*gpus(10), RAM], on(Phase.LOADING, "a", GPU0=5, RAM=1)), "GPU0")
    enough = enough_for_start(machine, [load], {RAM.key: 50}, Demand(host=5))
    assert enough == {RAM.key: 5 + 1 + machine.margins[RAM.key]}


def test_a_node_that_cannot_be_read_takes_no_model() -> None:  # B-S18
    there = Device("there", "RAM", "host", 50)
    machine = losing(snapshot([RAM, there]), RAM.key)
    outcome = plan(machine, Demand(host=20))
    assert isinstance(outcome, Place)
    assert outcome.claim.held == {there.key: 20}
    assert isinstance(plan(machine, Demand(host=80)), Lost)


def test_devices_that_stand_alone_are_never_divided_over() -> None:  # B-D11
    parts = tuple(replace(device, is_alone=True) for device in gpus(10, 10, 24))
    machine = snapshot([*parts[:2], RAM])
    assert where(plan(machine, Demand(split=8))) == {"GPU0": 8}
    assert isinstance(plan(machine, Demand(split=16)), Reject)
    assert isinstance(plan(machine, Demand(split=16, user_split=(8, 8))), Reject)
    mixed = snapshot([*parts[:2], *gpus(0, 0, 10, 10)[2:], RAM])
    assert where(plan(mixed, Demand(split=16))) == {"GPU2": 8, "GPU3": 8}
    free = plan(snapshot([*parts[:2], RAM], margin=0), Demand(split=16))
    assert isinstance(free, Place)
    assert len(free.claim.devices) == 1


def test_a_lost_device_that_is_not_checked_leaves_the_others_checked() -> None:  # B-S18
    """A start beside the one that ends needs memory that is checked."""
    margins = {"here/GPU0": 0, "here/GPU1": 1, RAM.key: 1}
    machine = replace(snapshot([*gpus(3, 3), RAM], on(Phase.IDLE, "a"), limit=1), margins=margins)
    without = replace(machine, readings=machine.readings[1:])
    outcome = plan(losing(machine, "GPU0"), Demand(split=1))
    assert outcome == plan(without, Demand(split=1))
    assert isinstance(outcome, Evict)
    assert outcome.beside


@many
@given(cases(), st.sets(st.sampled_from(["here/GPU0", "here/GPU1", "here/GPU2", "there/GPU0"]), min_size=1))
def test_a_lost_device_is_as_one_that_is_not_there(case: Case, lost: Collection[str]) -> None:  # B-S18
    loads = [r for r in case.snapshot.residents if r.phase is Phase.LOADING]
    assume(not any(key in r.held for key in lost for r in loads))
    without = replace(case.snapshot, readings=tuple(r for r in case.snapshot.readings if r.device.key not in lost))
    outcome, expected = plan(losing(case.snapshot, *lost), case.demand), plan(without, case.demand)
    if not isinstance(expected, Reject):
        assert outcome == expected
    else:
        would_fit = not isinstance(plan(case.snapshot, case.demand), Reject)
        assert isinstance(outcome, Lost if would_fit else Reject)


# The scheduler

DEVICES = (*gpus(10), RAM)
FREE = tuple(Reading(device, device.total) for device in DEVICES)
LOST = (Reading(DEVICES[0], None, WHY), FREE[1])


def scheduler() -> Scheduler:
    return Scheduler(Limits(margins={device.key: 1 for device in DEVICES}))


def test_a_request_for_a_lost_gpu_is_refused_at_once_and_the_next_one_loads() -> None:  # B-S18
    s = scheduler()
    s.acquire(Ticket(1, "a", Demand(split=5)), 0.0)
    (refuse,) = s.probed(LOST, 0.0)
    assert isinstance(refuse, Refuse)
    assert (refuse.refusal, refuse.retry_after) == (Refusal.DEVICE_LOST, 10.0)
    assert s.acquire(Ticket(2, "a", Demand(split=5)), 0.1) == [Probe({})]
    (spawn,) = s.probed(FREE, 0.1)
    assert isinstance(spawn, Spawn)
    assert s.ready("a", 1, 0.2) == [Grant(2, "a")]


def test_a_load_that_loses_its_gpu_is_planned_anew() -> None:  # B-S18
    s = scheduler()
    s.acquire(Ticket(1, "idle", Demand(host=5)), 0.0)
    s.probed(FREE, 0.0)
    s.ready("idle", 1, 0.0)
    s.release(1, 0.0)
    s.acquire(Ticket(2, "a", Demand(split=5)), 1.0)
    s.probed(FREE, 1.0)
    (probe,) = s.exited("a", 1, "its GPU is lost", 2.0, device_lost=True)  # nobody goes for it, nothing is refused
    assert isinstance(probe, Probe)
    (refuse,) = s.probed(LOST, 2.0)
    assert isinstance(refuse, Refuse)
    assert refuse.refusal is Refusal.DEVICE_LOST
    assert s.acquire(Ticket(3, "a", Demand(split=5)), 3.0) == [Probe({})]


def test_a_load_that_cannot_be_tried_again_has_failed_for_its_reason() -> None:  # B-S18
    s = scheduler()
    s.acquire(Ticket(1, "a", Demand(split=5)), 0.0)
    s.probed(FREE, 0.0)
    s.exited("a", 1, "its GPU is lost", 1.0, device_lost=True)
    assert s.model("a").failure == "its GPU is lost"
    s.probed(LOST, 2.0)
    assert (s.model("a").state, s.model("a").failure) == (State.FAILED, "its GPU is lost")


def test_a_load_that_loses_a_gpu_that_can_be_read_fails_the_second_time() -> None:
    s = scheduler()
    s.acquire(Ticket(1, "a", Demand(split=5)), 0.0)
    s.probed(FREE, 0.0)
    s.exited("a", 1, "its GPU is lost", 1.0, device_lost=True)
    s.probed(FREE, 1.0)
    (refuse,) = s.exited("a", 2, "its GPU is lost", 2.0, device_lost=True)
    assert refuse == Refuse(1, "a", Refusal.LOAD_FAILED, "its GPU is lost")


def test_a_probe_that_fails_is_repeated_and_in_the_end_told() -> None:
    s = scheduler()
    s.acquire(Ticket(1, "a", Demand(host=5)), 0.0)
    now = 0.0
    for _ in range(2):
        assert s.probed((), now, failure="no answer") == []
        wakeup = s.wakeup()
        assert wakeup is not None
        now = wakeup
        assert s.tick(now) == [Probe({})]
    assert s.probed((), now, failure="no answer") == [Refuse(1, "a", Refusal.DEVICE_LOST, "no answer", 10.0)]
    assert s.acquire(Ticket(2, "a", Demand(host=5)), now) == [Probe({})]
    assert [type(effect) for effect in s.probed(FREE, now)] == [Spawn]


def test_one_probe_that_fails_changes_nothing_for_those_who_wait() -> None:
    s = scheduler()
    s.acquire(Ticket(1, "a", Demand(host=5)), 0.0)
    s.probed((), 0.0, failure="no answer")
    s.tick(0.5)
    assert [type(effect) for effect in s.probed(FREE, 0.5)] == [Spawn]


@pytest.mark.parametrize("kind", [Wait, Lost])
def test_a_wait_ends_when_the_gpu_is_lost(kind: type) -> None:  # B-S18
    busy = on(Phase.BUSY, "busy", GPU0=8, pinned=True)
    machine = snapshot([*gpus(10), RAM], busy)
    outcome = plan(machine if kind is Wait else losing(machine, "GPU0"), Demand(split=5))
    assert isinstance(outcome, kind)
