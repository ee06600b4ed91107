"""Small whole numbers stand for bytes here; a margin of 1 is what turns the check of a device on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, combinations_with_replacement, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.memory.weights import spread
from router.scheduling.policy import Drain, Evict, Place, Plan, Reject, Wait, after_plan, plan
from router.scheduling.resources import Allocation, Demand, Device, Reading
from router.scheduling.snapshot import Phase, Resident, Snapshot, Totals
from router.units import size

RAM = Device("here", "RAM", "host", 100)


def gpus(*totals: int) -> tuple[Device, ...]:
    return tuple(Device("here", f"GPU{i}", "gpu", total, index=i) for i, total in enumerate(totals))


def snapshot(
    devices: Iterable[Device],
    *residents: Resident,
    limit: int = 0,
    margin: int = 1,
    others: Mapping[str, int] | None = None,
) -> Snapshot:
    """The machine shows what the residents hold that have taken it already, and what `others` hold by device name."""
    seen = [r for r in residents if r.phase in (Phase.IDLE, Phase.BUSY, Phase.STOPPING) and not r.sleeping]
    readings = tuple(
        Reading(d, d.total - sum(r.held.get(d.key, 0) for r in seen) - (others or {}).get(d.name, 0)) for d in devices
    )
    return Snapshot(readings, residents, limit, {d.key: margin for d in devices})


def on(phase: Phase, model: str, finished: float = 0.0, pinned: bool = False, **held: int) -> Resident:
    """`on(Phase.IDLE, "a", GPU0=3)`"""
    return Resident(model, {f"here/{name}": count for name, count in held.items()}, phase, finished, pinned)


def where(outcome: Plan) -> dict[str, int]:
    assert isinstance(outcome, Place | Evict | Drain | Wait)
    assert outcome.claim is not None
    return {key.partition("/")[2]: count for key, count in outcome.claim.held.items()}


# Placement


@pytest.mark.parametrize(
    ("totals", "demand", "expected"),
    [
        pytest.param((), Demand(host=99), {"RAM": 99}, id="no GPU: all in RAM"),
        pytest.param((10,), Demand(split=9, host=2), {"RAM": 2, "GPU0": 9}, id="RAM beside the GPU"),
        pytest.param((10,), Demand(split=5, fixed=4), {"GPU0": 9}, id="exactly full, less the margin"),
        pytest.param((10, 20), Demand(split=9), {"GPU0": 9}, id="tightest fit"),
        pytest.param((20, 10), Demand(split=9), {"GPU1": 9}, id="tightest fit, whatever the index"),
        pytest.param((10, 20), Demand(split=10), {"GPU1": 10}, id="the one that can"),
        pytest.param((30, 10, 20), Demand(split=10), {"GPU2": 10}, id="the tightest of those that can"),
        pytest.param((10, 10, 30), Demand(split=18), {"GPU2": 18}, id="fewest devices before tightest fit"),
        pytest.param((11, 11), Demand(split=12, fixed=2), {"GPU0": 8, "GPU1": 8}, id="fixed repeats on each"),
        pytest.param((11, 21), Demand(split=24), {"GPU0": 8, "GPU1": 16}, id="unequal GPUs share by their room"),
        pytest.param((5, 11, 21), Demand(split=24), {"GPU1": 8, "GPU2": 16}, id="the small one is left out"),
        pytest.param(
            (3, 21, 21), Demand(split=24, fixed=4), {"GPU1": 16, "GPU2": 16}, id="too small for the fixed part"
        ),
        pytest.param((3, 10, 10), Demand(split=19), {"GPU0": 2, "GPU1": 9, "GPU2": 8}, id="no share above its room"),
        pytest.param((10, 20), Demand(split=9, names=("GPU1",)), {"GPU1": 9}, id="restricted to a name"),
        pytest.param((10, 20, 10), Demand(split=16, names=("GPU0", "GPU2")), {"GPU0": 8, "GPU2": 8}, id="to two names"),
        pytest.param((9,), Demand(host=9), {"RAM": 9}, id="on the CPU although there is a GPU"),
    ],
)
def test_placement(totals: tuple[int, ...], demand: Demand, expected: dict[str, int]) -> None:
    outcome = plan(snapshot([*gpus(*totals), RAM]), demand)
    assert isinstance(outcome, Place)
    assert where(outcome) == expected
    assert [device.name for device in outcome.claim.devices] == sorted(name for name in expected if name != "RAM")


# Layers


def layered(*layers: int, fixed: int = 0) -> Demand:
    return Demand(sum(layers), fixed, layers=layers)


@pytest.mark.parametrize(
    ("totals", "demand", "expected", "counts"),
    [
        pytest.param((21,), layered(5, 5, 5), {"GPU0": 15}, (), id="one GPU: nothing to divide"),
        pytest.param((11, 11), layered(*[2] * 8), {"GPU0": 8, "GPU1": 8}, (4, 4), id="equal GPUs"),
        pytest.param((9, 25), layered(*[1] * 28), {"GPU0": 7, "GPU1": 21}, (7, 21), id="in proportion to the room"),
        pytest.param((9, 25), layered(*[4] * 7), {"GPU0": 4, "GPU1": 24}, (1, 6), id="by whole layers"),
        pytest.param((11, 11), layered(6, 6, 6), None, (), id="not by the half of a layer"),
        pytest.param(
            (9, 9, 9), layered(6, 6, 6), {"GPU0": 6, "GPU1": 6, "GPU2": 6}, (1, 1, 1), id="but by one more GPU"
        ),
        pytest.param(
            (6, 9, 99), layered(*[3] * 35), {"GPU0": 3, "GPU1": 6, "GPU2": 96}, (1, 2, 32), id="never above a room"
        ),
        pytest.param((12, 8), layered(1, 1, 1, 1, 1, 1, 12, fixed=0), None, (), id="too large a last one"),
        pytest.param((7, 13), layered(1, 1, 1, 1, 1, 1, 12), {"GPU0": 6, "GPU1": 12}, (6, 1), id="a large last one"),
        pytest.param((11, 11), layered(3, 3, 3, fixed=4), {"GPU0": 7, "GPU1": 10}, (1, 2), id="fixed repeats on each"),
        # The two largest have room enough, but not in this order.
        pytest.param((7, 11, 10), layered(6, 10), {"GPU0": 6, "GPU1": 10}, (1, 1), id="others than the largest two"),
        pytest.param((11, 11), layered(10, 0, 0, 1), {"GPU0": 10, "GPU1": 1}, (1, 3), id="layers that are not loaded"),
    ],
)
def test_layers(
    totals: tuple[int, ...], demand: Demand, expected: dict[str, int] | None, counts: tuple[int, ...]
) -> None:
    outcome = plan(snapshot(gpus(*totals)), demand)
    assert isinstance(outcome, Reject if expected is None else Place)
    if isinstance(outcome, Place):
        assert (where(outcome), outcome.claim.layer_counts) == (expected, counts)


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        ((5, 10), (), {"GPU0": 6, "GPU1": 11}),
        ((5,), (), {"GPU0": 6}),
        ((5, 10), ("GPU2", "GPU1"), {"GPU2": 6, "GPU1": 11}),
        ((0, 10), (), {"GPU0": 1, "GPU1": 11}),  # the engine opens all that it sees
        ((10, 5), (), None),
        ((1, 1, 1, 1), (), None),
    ],
)
def test_as_the_user_divides(given: tuple[int, ...], names: tuple[str, ...], expected: dict[str, int] | None) -> None:
    demand = Demand(sum(given), 1, names=names, layers=(1,) * sum(given), user_split=given)
    outcome = plan(snapshot(gpus(8, 16, 32)), demand)
    assert isinstance(outcome, Reject if expected is None else Place)
    if isinstance(outcome, Place):
        assert where(outcome) == expected
        assert [device.name for device in outcome.claim.devices] == [*(expected or ())]
        assert outcome.claim.layer_counts == ()


def test_as_the_user_divides_only_beside_loads() -> None:
    loading = on(Phase.LOADING, "a", GPU1=1)
    outcome = plan(snapshot(gpus(8, 16), loading), Demand(4, user_split=(2, 2)))
    assert isinstance(outcome, Wait)
    assert where(outcome) == {"GPU0": 2, "GPU1": 2}


def test_resized() -> None:
    whole = Demand(10, 3, layers=(2, 3, 5), user_split=(2, 8))
    assert whole.resized(10) == whole
    assert whole.resized(21) == Demand(21, 3, layers=(4, 6, 11), user_split=(4, 17))
    assert whole.resized(0).layers == (0, 0, 0)
    assert Demand(10).resized(5) == Demand(5)


def test_a_model_stays_on_one_node() -> None:
    there = [Device("there", "GPU0", "gpu", 20), Device("there", "RAM", "host", 10)]
    machine = snapshot([*gpus(10), RAM, *there])
    assert plan(machine, Demand(split=15, host=5)) == Place(
        Allocation({"there/RAM": 5, "there/GPU0": 15}, (there[0],)),
    )
    assert isinstance(plan(machine, Demand(split=15, host=50)), Reject)  # neither node has both


def test_among_nodes_too_the_fewest_devices_then_the_tightest_fit() -> None:
    def node(name: str, *totals: int) -> list[Device]:
        return [Device(name, f"GPU{i}", "gpu", total, index=i) for i, total in enumerate(totals)]

    machine = snapshot([*node("pair", 6, 6), *node("wide", 30), *node("tight", 20)])
    outcome = plan(machine, Demand(split=10))
    assert isinstance(outcome, Place)
    assert outcome.claim.held == {"tight/GPU0": 10}


@pytest.mark.parametrize(
    ("demand", "numbers"),
    [
        (Demand(split=10 << 30), "10.0 GiB of GPU memory; this machine has GPU0 10.0 GiB less a margin of 1.0 GiB"),
        (Demand(host=64 << 20), "64 MiB of RAM; this machine has GPU0"),
        (Demand(split=1, names=("GPU7",)), "(restricted to GPU7)"),
        (Demand(split=10 << 30, host=5 << 30), "10.0 GiB of GPU memory and 5.0 GiB of RAM"),
    ],
)
def test_what_can_never_fit_is_refused_with_the_numbers(demand: Demand, numbers: str) -> None:  # B-S12
    devices = [Device("here", "GPU0", "gpu", 10 << 30), Device("here", "RAM", "host", 64 << 20)]
    idle = on(Phase.IDLE, "a", GPU0=1 << 30)  # and no eviction is spent on it
    outcome = plan(snapshot(devices, idle, margin=1 << 30), demand)
    assert isinstance(outcome, Reject)
    assert numbers in outcome.reason


def test_what_no_unchecked_device_is_named_like_is_refused() -> None:
    outcome = plan(snapshot(gpus(10), margin=0), Demand(split=1, names=("GPU7",)))
    assert isinstance(outcome, Reject)
    assert outcome.reason.endswith("this machine has no such device")


def test_size() -> None:
    assert (size(300 << 20), size(3 << 29)) == ("300 MiB", "1.5 GiB")


# Devices that are not checked, or not readable


def test_an_unchecked_gpu_takes_anything() -> None:
    devices = [*gpus(10, 20), RAM]
    busy = on(Phase.LOADING, "a", RAM=1, GPU0=10, GPU1=20)
    outcome = plan(snapshot(devices, busy, margin=0), Demand(split=500, host=500))
    # All of them for the engine to choose from, and nothing to book there.
    assert outcome == Place(Allocation({"here/RAM": 500}, gpus(10, 20)))


def test_an_unchecked_gpu_is_the_last_choice_beside_a_checked_one() -> None:
    devices = [*gpus(10, 10), RAM]
    mixed = replace(snapshot(devices), margins={"here/GPU1": 1})
    assert where(plan(mixed, Demand(split=5))) == {"GPU1": 5}
    assert plan(mixed, Demand(split=50)) == Place(Allocation({}, (devices[0],)))


def test_a_checked_gpu_too_small_for_the_fixed_part_leaves_all_unchecked_ones() -> None:
    devices = gpus(3, 10, 10)
    mixed = replace(snapshot(devices), margins={"here/GPU0": 1})
    assert plan(mixed, Demand(split=1, fixed=5)) == Place(Allocation({}, devices[1:]))


def test_a_checked_gpu_beside_unchecked_ram() -> None:
    machine = replace(snapshot([*gpus(10), RAM]), margins={"here/GPU0": 1})
    assert isinstance(plan(machine, Demand(split=9, host=5000)), Place)
    assert isinstance(plan(machine, Demand(split=10)), Reject)


def test_the_books_stand_in_for_a_device_that_cannot_be_read() -> None:
    idle = on(Phase.IDLE, "a", RAM=60)
    blind = replace(snapshot([RAM], idle), readings=(Reading(RAM, None),))
    assert isinstance(plan(blind, Demand(host=39)), Place)
    assert plan(blind, Demand(host=40)) == Evict(("a",), Allocation({"here/RAM": 40}))


def test_the_margin_may_differ_per_device() -> None:
    machine = replace(snapshot([*gpus(10, 10), RAM]), margins={"here/GPU0": 5, "here/GPU1": 2, "here/RAM": 1})
    assert where(plan(machine, Demand(split=5))) == {"GPU0": 5}
    assert where(plan(machine, Demand(split=6))) == {"GPU1": 6}
    assert where(plan(machine, Demand(split=13))) == {"GPU0": 5, "GPU1": 8}
    assert isinstance(plan(machine, Demand(split=14)), Reject)


# Both views of the memory


def test_other_programs_count() -> None:
    crowded = snapshot([RAM], others={"RAM": 50})
    assert isinstance(plan(crowded, Demand(host=49)), Place)
    assert plan(crowded, Demand(host=50)) == Wait(
        "pinned models, other programs or requests further ahead hold the memory or the slots"
    )


def test_a_load_under_way_counts_although_the_machine_does_not_show_it() -> None:
    loading = on(Phase.LOADING, "a", RAM=60, GPU0=9)
    machine = snapshot([*gpus(10, 10), RAM], loading)
    assert machine.readings[-1].free == 100
    assert isinstance(plan(machine, Demand(split=1, host=39)), Place)
    assert isinstance(plan(machine, Demand(split=1, host=40)), Wait)


def test_a_load_under_way_counts_beside_other_programs() -> None:
    loading = on(Phase.LOADING, "a", RAM=30, GPU0=9)
    machine = snapshot([*gpus(10, 10), RAM], loading, others={"RAM": 50})
    assert isinstance(plan(machine, Demand(split=1, host=19)), Place)
    assert isinstance(plan(machine, Demand(split=1, host=20)), Wait)


def test_a_stopping_process_still_holds_its_memory() -> None:
    machine = snapshot([RAM], on(Phase.STOPPING, "a", RAM=60))
    assert isinstance(plan(machine, Demand(host=39)), Place)
    outcome = plan(machine, Demand(host=40))
    assert isinstance(outcome, Wait)
    assert outcome.stopping
    assert where(outcome) == {"RAM": 40}


def test_a_sleeper_takes_its_memory_back_so_it_is_never_given_away() -> None:
    sleeper = replace(on(Phase.IDLE, "a", RAM=30), sleeping=True)
    machine = snapshot([RAM], sleeper, others={"RAM": 50})
    assert machine.readings[0].free == 50
    assert isinstance(plan(machine, Demand(host=19)), Place)
    assert plan(machine, Demand(host=20)) == Evict(("a",), Allocation({"here/RAM": 20}))
    assert isinstance(plan(machine, Demand(host=50)), Wait)  # its going brings nothing that is not free already


# Count limit


def test_the_count_limit_and_the_memory_apply_together() -> None:  # B-S4
    a, b = on(Phase.IDLE, "a", finished=1, RAM=40), on(Phase.IDLE, "b", finished=2, RAM=40)
    assert isinstance(plan(snapshot([RAM], a, b, limit=3), Demand(host=19)), Place)
    assert plan(snapshot([RAM], a, b, limit=3), Demand(host=59)) == Evict(("a",), Allocation({"here/RAM": 59}))
    assert plan(snapshot([RAM], a, b, limit=2), Demand(host=19)) == Evict(("a",), Allocation({"here/RAM": 19}))
    assert plan(snapshot([RAM], a, b, limit=1), Demand(host=19)) == Evict(("a", "b"), Allocation({"here/RAM": 19}))


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.STOPPING, Phase.CLAIMED])
def test_whoever_cannot_be_evicted_still_takes_a_slot(phase: Phase) -> None:
    taken = on(phase, "a", RAM=1)
    assert isinstance(plan(snapshot([RAM], taken, limit=1, margin=0), Demand(host=1)), Wait)
    assert isinstance(plan(snapshot([RAM], taken, limit=2, margin=0), Demand(host=1)), Place)


# Loads side by side


def test_loads_are_serial_on_one_device_and_parallel_on_two() -> None:  # B-S15
    loading = on(Phase.LOADING, "a", RAM=1, GPU0=5)
    assert plan(snapshot([*gpus(20), RAM], loading), Demand(split=5, host=1)) == Wait(
        "another model is loading on the same device", Allocation({"here/GPU0": 5, "here/RAM": 1}, gpus(20))
    )
    assert where(plan(snapshot([*gpus(20, 30), RAM], loading), Demand(split=5, host=1))) == {"GPU1": 5, "RAM": 1}


def test_loads_into_ram_are_serial_and_beside_a_gpu_load_parallel() -> None:  # B-S15
    assert isinstance(plan(snapshot([RAM], on(Phase.LOADING, "a", RAM=5)), Demand(host=5)), Wait)
    machine = snapshot([*gpus(20), RAM], on(Phase.LOADING, "a", RAM=5, GPU0=5))
    assert isinstance(plan(machine, Demand(host=5)), Place)


def test_loads_are_parallel_where_nothing_is_checked() -> None:
    assert isinstance(plan(snapshot([RAM], on(Phase.LOADING, "a", RAM=5), margin=0), Demand(host=5)), Place)


# Victims


def test_the_least_recently_finished_goes() -> None:  # B-S10
    residents = [on(Phase.IDLE, name, finished, RAM=30) for name, finished in [("a", 3), ("b", 1), ("c", 2)]]
    assert plan(snapshot([RAM], *residents), Demand(host=30)) == Evict(("b",), Allocation({"here/RAM": 30}))


def test_several_go_at_once() -> None:  # B-S5
    residents = [on(Phase.IDLE, name, finished, RAM=30) for name, finished in [("a", 3), ("b", 1), ("c", 2)]]
    assert plan(snapshot([RAM], *residents), Demand(host=60)) == Evict(("b", "c"), Allocation({"here/RAM": 60}))
    everyone = plan(snapshot([RAM], *residents), Demand(host=99))
    assert everyone == Evict(("b", "c", "a"), Allocation({"here/RAM": 99}))


def test_who_was_not_needed_is_given_back() -> None:  # B-S5
    small, large = on(Phase.IDLE, "small", finished=1, RAM=10), on(Phase.IDLE, "large", finished=2, RAM=80)
    assert plan(snapshot([RAM], small, large), Demand(host=70)) == Evict(("large",), Allocation({"here/RAM": 70}))


def test_only_those_go_whose_going_helps() -> None:  # B-S5
    elsewhere = on(Phase.IDLE, "elsewhere", finished=1, GPU0=9)
    here = on(Phase.IDLE, "here", finished=2, GPU1=19)
    assert plan(snapshot([*gpus(10, 20), RAM], elsewhere, here), Demand(split=15)) == Evict(
        ("here",), Allocation({"here/GPU1": 15}, gpus(10, 20)[1:])
    )


def test_the_given_back_are_the_most_recent() -> None:
    residents = [on(Phase.IDLE, n, f, RAM=r) for n, f, r in [("a", 1, 30), ("b", 2, 30), ("c", 3, 39)]]
    # a and b are not enough, c is taken too; then a with c, or b with c would do: a is the older one.
    assert plan(snapshot([RAM], *residents), Demand(host=65)) == Evict(("a", "c"), Allocation({"here/RAM": 65}))


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.CLAIMED])
def test_a_loading_model_is_no_victim(phase: Phase) -> None:  # B-S3
    outcome = plan(snapshot([RAM], on(phase, "a", RAM=60)), Demand(host=60))
    assert isinstance(outcome, Wait)
    assert not outcome.stopping


def test_a_load_that_ends_can_make_way_and_that_is_waited_for() -> None:
    assert plan(snapshot([RAM], on(Phase.LOADING, "a", RAM=60)), Demand(host=60)) == Wait(
        "another model is loading", Allocation({"here/RAM": 60})
    )


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.BUSY, Phase.LOADING])
def test_a_pinned_model_stays(phase: Phase) -> None:  # B-S10
    pinned = on(phase, "pinned", pinned=True, RAM=60)
    assert plan(snapshot([RAM], pinned), Demand(host=60)) == Wait(
        "pinned models, other programs or requests further ahead hold the memory or the slots"
    )
    idle = on(Phase.IDLE, "idle", finished=9, RAM=30)
    assert plan(snapshot([RAM], pinned, idle), Demand(host=39)) in (
        Evict(("idle",), Allocation({"here/RAM": 39})),
        Wait("another model is loading", Allocation({"here/RAM": 39})),
    )


def test_room_that_is_being_made_costs_no_further_victim() -> None:
    machine = snapshot([RAM], on(Phase.STOPPING, "going", RAM=50), on(Phase.IDLE, "idle", RAM=49))
    outcome = plan(machine, Demand(host=50))
    assert isinstance(outcome, Wait)
    assert outcome.stopping


# Drains


def test_idle_ones_go_before_a_busy_one_is_drained() -> None:
    idle, busy = on(Phase.IDLE, "idle", finished=9, RAM=40), on(Phase.BUSY, "busy", finished=1, RAM=40)
    assert plan(snapshot([RAM], idle, busy), Demand(host=59)) == Evict(("idle",), Allocation({"here/RAM": 59}))
    assert plan(snapshot([RAM], idle, busy), Demand(host=60)) == Drain(("idle", "busy"), Allocation({"here/RAM": 60}))


def test_a_drain_spares_idle_ones_that_do_not_help() -> None:
    idle, busy = on(Phase.IDLE, "idle", finished=1, RAM=10), on(Phase.BUSY, "busy", finished=9, RAM=80)
    assert plan(snapshot([RAM], idle, busy), Demand(host=89)) == Drain(("busy",), Allocation({"here/RAM": 89}))


def test_the_drain_once_begun_is_the_one_to_finish() -> None:
    old, recent = on(Phase.BUSY, "old", finished=1, RAM=40), on(Phase.BUSY, "recent", finished=2, RAM=40)
    assert plan(snapshot([RAM], old, recent), Demand(host=40)) == Drain(("old",), Allocation({"here/RAM": 40}))
    begun = replace(recent, draining=True)
    assert plan(snapshot([RAM], old, begun), Demand(host=40)) == Drain(("recent",), Allocation({"here/RAM": 40}))


# The queue: what the next one sees


def test_room_promised_to_one_ahead_is_not_given_away() -> None:
    machine = snapshot([RAM], on(Phase.BUSY, "a", RAM=60))
    first = plan(machine, Demand(host=80))
    assert isinstance(first, Drain)
    behind = after_plan(machine, first, "b")
    # There are 39 free now, but once "b" has come there are 19.
    assert isinstance(plan(machine, Demand(host=39)), Place)
    assert isinstance(plan(behind, Demand(host=39)), Wait)
    assert isinstance(plan(behind, Demand(host=19)), Place)


def test_a_slot_promised_to_one_ahead_is_not_given_away() -> None:
    machine = snapshot([RAM], on(Phase.BUSY, "a", RAM=99), limit=2)
    behind = after_plan(machine, plan(machine, Demand(host=10)), "b")
    assert [(r.model, r.phase) for r in behind.residents] == [("a", Phase.STOPPING), ("b", Phase.CLAIMED)]
    behind = after_plan(behind, plan(behind, Demand(host=10)), "c")
    assert isinstance(plan(behind, Demand()), Wait)


def test_a_victim_is_counted_once() -> None:
    machine = snapshot([RAM], on(Phase.IDLE, "a", finished=1, RAM=50), on(Phase.IDLE, "b", finished=2, RAM=49))
    first = plan(machine, Demand(host=50))
    second = plan(after_plan(machine, first, "c"), Demand(host=49))
    assert isinstance(first, Evict)
    assert isinstance(second, Evict)
    assert (first.victims, second.victims) == (("a",), ("b",))


def test_after_a_placement_its_load_is_under_way() -> None:
    machine = snapshot([*gpus(20), RAM])
    outcome = plan(machine, Demand(split=5))
    assert after_plan(machine, outcome, "a").residents == (on(Phase.LOADING, "a", GPU0=5),)
    assert isinstance(plan(after_plan(machine, outcome, "a"), Demand(split=5)), Wait)


def test_what_gets_nowhere_promises_nothing() -> None:
    machine = snapshot([RAM], on(Phase.IDLE, "a", pinned=True, RAM=60))
    assert after_plan(machine, plan(machine, Demand(host=500)), "b") is machine
    assert after_plan(machine, plan(machine, Demand(host=60)), "b") is machine


# Properties


@dataclass(frozen=True)
class Case:
    """A machine with what other programs hold on it, told apart from what the residents hold."""

    snapshot: Snapshot
    demand: Demand
    others: Mapping[str, int]

    @property
    def devices(self) -> list[Device]:
        return [reading.device for reading in self.snapshot.readings]

    def staying(self) -> list[Resident]:
        return [r for r in self.snapshot.residents if r.phase is not Phase.STOPPING]

    def rooms(self, residents: Iterable[Resident]) -> dict[str, int]:
        """With just these there. Of a device that could not be read nobody knows what others hold."""
        held = [r.held for r in residents]
        return {
            d.key: 10**9
            if not (margin := self.snapshot.margins[d.key])
            else d.total - self.others[d.key] - sum(h.get(d.key, 0) for h in held) - margin
            for d in self.devices
        }

    def options(self, *worlds: Sequence[Resident], shunned: Iterable[str] = ()) -> list[tuple[str, ...]]:
        """By brute force: every set of device keys on which the demand fits in all of these worlds."""
        if self.snapshot.limit and any(len(world) >= self.snapshot.limit for world in worlds):
            return []
        rooms = [self.rooms(world) for world in worlds]
        room = {d.key: min(r[d.key] for r in rooms) for d in self.devices}
        found: list[tuple[str, ...]] = []
        for node in {d.node for d in self.devices}:
            host = f"{node}/RAM"
            if room[host] < self.demand.host:
                continue
            if not self.demand.split and not self.demand.fixed:
                found += [()] if host not in shunned else []
                continue
            allowed = [d for d in self.devices if d.node == node and d.kind == "gpu" and d.key not in shunned]
            allowed = [d for d in allowed if not self.demand.names or d.name in self.demand.names]
            for keys in nonempty_subsets([d.key for d in allowed]):
                spare = [room[key] - self.demand.fixed for key in keys]
                is_meant = not self.demand.user_split or keys == self.given(node)
                if is_meant and min(spare) >= 0 and self.holds(spare):
                    found.append(keys)
        return found

    def given(self, node: str) -> tuple[str, ...] | None:
        """The GPUs that the user's split is for."""
        present = [d.name for d in self.devices if d.node == node and d.kind == "gpu"]
        names = [name for name in self.demand.names or present if name in present][: len(self.demand.user_split)]
        return tuple(f"{node}/{name}" for name in names) if len(names) == len(self.demand.user_split) else None

    def holds(self, spare: Sequence[int]) -> bool:
        """By brute force: every way to cut the layers into as many pieces."""
        demand = self.demand
        if demand.user_split:
            return all(room >= need for room, need in zip(spare, demand.user_split, strict=True))
        if not demand.layers or len(spare) == 1:
            return sum(spare) >= demand.split
        count = len(demand.layers)
        return any(
            all(sum(demand.layers[start:end]) <= room for room, (start, end) in zip(spare, pairwise(cuts), strict=True))
            for inner in combinations_with_replacement(range(count + 1), len(spare) - 1)
            for cuts in [(0, *inner, count)]
        )

    def fits(self, *worlds: Sequence[Resident]) -> bool:
        return bool(self.options(*worlds))

    def without(self, models: Iterable[str]) -> list[Resident]:
        gone = set(models)
        return [r for r in self.staying() if r.model not in gone]


def nonempty_subsets(items: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return chain.from_iterable(combinations(items, count) for count in range(1, len(items) + 1))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    devices: list[Device] = []
    for node in ["here", "there"][: draw(st.sampled_from([1, 1, 1, 2]))]:
        for index in range(draw(st.integers(0, 3))):
            devices.append(Device(node, f"GPU{index}", "gpu", draw(st.integers(5, 25)), index=index))
        devices.append(Device(node, "RAM", "host", draw(st.integers(10, 40))))
    keys = [d.key for d in devices]
    residents = []
    for model in "abcdef"[: draw(st.integers(0, 6))]:
        phase = draw(st.sampled_from([Phase.IDLE, Phase.IDLE, Phase.BUSY, Phase.BUSY, *Phase]))
        held = {key: draw(st.integers(1, 10)) for key in keys if draw(st.booleans())}
        finished, pinned = draw(st.integers(0, 4)), draw(st.integers(0, 4)) == 0
        sleeping = phase in (Phase.IDLE, Phase.BUSY) and draw(st.integers(0, 3)) == 0
        residents.append(Resident(model, held, phase, finished, pinned, draw(st.booleans()), sleeping))
    margins = {key: draw(st.sampled_from([0, 1, 1, 2])) for key in keys}
    others = {key: draw(st.sampled_from([0, 0, 3])) for key in keys}
    readings = []
    for device in devices:
        unseen = (Phase.LOADING, Phase.CLAIMED)
        seen = sum(r.held.get(device.key, 0) for r in residents if r.phase not in unseen and not r.sleeping)
        free: int | None = device.total - others[device.key] - seen
        if draw(st.integers(0, 9)) == 0:
            free, others[device.key] = None, 0
        readings.append(Reading(device, free))
    names = draw(st.sampled_from([(), (), (), ("GPU0",), ("GPU1", "GPU2")]))
    demand = Demand(draw(st.integers(0, 30)), draw(st.integers(0, 5)), draw(st.integers(0, 15)), names)
    match draw(st.sampled_from(["as the engine likes", "by layers", "by layers", "as the user likes"])):
        case "by layers":
            layers = tuple(draw(st.lists(st.integers(0, 8), min_size=1, max_size=7)))
            demand = replace(demand, split=sum(layers), layers=layers)
        case "as the user likes":
            given = tuple(draw(st.lists(st.integers(0, 12), min_size=1, max_size=3)))
            demand = replace(demand, split=sum(given), user_split=given)
    limit = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 6]))
    return Case(Snapshot(tuple(readings), tuple(residents), limit, margins), demand, others)


def many(test: Callable[..., None]) -> Callable[..., None]:
    """On hundreds of machines."""
    tried: Callable[..., None] = pytest.mark.usefixtures("unmeasured")(settings(max_examples=300, deadline=None)(test))
    return tried


@many
@given(cases())
def test_never_overcommits(case: Case) -> None:
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Place | Evict | Drain):
        return
    victims = () if isinstance(outcome, Place) else outcome.victims
    worlds = [case.without(victims)]
    if isinstance(outcome, Place):
        worlds.append([r for r in case.snapshot.residents if r.phase is not Phase.CLAIMED])
    for world in worlds:
        assert not case.snapshot.limit or len(world) < case.snapshot.limit
        rooms = case.rooms(world)
        for key, count in outcome.claim.held.items():
            assert count <= rooms[key]


@many
@given(cases())
def test_a_claim_is_the_whole_demand_on_the_fewest_devices(case: Case) -> None:
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Place | Evict | Drain):
        return
    claim, demand = outcome.claim, case.demand
    nodes = {key.partition("/")[0] for key in claim.held} | {d.node for d in claim.devices}
    assert len(nodes) <= 1
    booked = {d.key: claim.held.get(d.key, 0) for d in claim.devices if case.snapshot.margins[d.key]}
    hosts = [count for key, count in claim.held.items() if key.endswith("/RAM")]
    assert sum(hosts) == demand.host
    assert bool(claim.devices) == bool(demand.split or demand.fixed)
    if len(booked) == len(claim.devices) > 0:
        shares = [count - demand.fixed for count in booked.values()]
        assert sum(shares) == demand.split
        if demand.user_split:
            assert shares == [*demand.user_split]
        elif demand.layers and len(shares) > 1:  # what the child's --tensor-split makes of it
            assert sum(claim.layer_counts) == len(demand.layers)
            assert shares == [*spread(demand.layers, claim.layer_counts)]
            assert min(claim.layer_counts) > 0
        else:
            assert claim.layer_counts == ()
        assert min(booked.values()) >= demand.fixed
        assert not demand.names or {d.name for d in claim.devices} <= set(demand.names)
        worlds = [case.staying(), [r for r in case.snapshot.residents if r.phase is not Phase.CLAIMED]]
        if isinstance(outcome, Evict | Drain):
            worlds = [case.without(outcome.victims)]
        loading = primaries(case) if isinstance(outcome, Place) else set()
        # A node that is not checked counts with all its GPUs.
        checked = [keys for keys in case.options(*worlds, shunned=loading) if all(map(case.snapshot.margins.get, keys))]
        assert len(booked) == min(len(keys) for keys in checked)


def primaries(case: Case) -> set[str]:
    """The checked devices where a load is under way."""
    taken: set[str] = set()
    for resident in case.snapshot.residents:
        if resident.phase is Phase.LOADING:
            on_gpus = {key for key in resident.held if "GPU" in key}
            taken |= on_gpus or set(resident.held)
    return {key for key in taken if case.snapshot.margins[key]}


@many
@given(cases())
def test_places_exactly_when_there_is_room_beside_the_loads(case: Case) -> None:  # B-S15
    now = [r for r in case.snapshot.residents if r.phase is not Phase.CLAIMED]
    possible = bool(case.options(now, case.staying(), shunned=primaries(case)))
    assert isinstance(plan(case.snapshot, case.demand), Place) == possible


@many
@given(cases())
def test_victims_are_minimal(case: Case) -> None:  # B-S5
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Evict | Drain):
        return
    assert len(set(outcome.victims)) == len(outcome.victims)
    assert case.fits(case.without(outcome.victims))
    for fewer in [(), *nonempty_subsets(outcome.victims)]:
        assert len(fewer) == len(outcome.victims) or not case.fits(case.without(fewer))


@many
@given(cases())
def test_victims_are_idle_or_drained_never_pinned_nor_loading(case: Case) -> None:  # B-S3 B-S10
    outcome = plan(case.snapshot, case.demand)
    phases = {Evict: {Phase.IDLE}, Drain: {Phase.IDLE, Phase.BUSY}}.get(type(outcome))
    if phases is None or not isinstance(outcome, Evict | Drain):
        return
    victims = [r for r in case.snapshot.residents if r.model in outcome.victims]
    assert {r.phase for r in victims} <= phases
    assert not any(r.pinned for r in victims)
    assert isinstance(outcome, Evict) or Phase.BUSY in {r.phase for r in victims}


@many
@given(cases())
def test_the_most_recent_victim_was_needed(case: Case) -> None:  # B-S10
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Evict):
        return
    idle = [r for r in case.staying() if r.phase is Phase.IDLE and not r.pinned]
    last = max((r.finished, r.model) for r in idle if r.model in outcome.victims)
    assert not case.fits(case.without(r.model for r in idle if (r.finished, r.model) < last))


@many
@given(cases())
def test_nobody_waits_for_what_idle_ones_could_give(case: Case) -> None:
    idle = [r.model for r in case.staying() if r.phase is Phase.IDLE and not r.pinned]
    outcome = plan(case.snapshot, case.demand)
    if any(case.fits(case.without(gone)) for gone in [(), *nonempty_subsets(idle)]):
        assert not isinstance(outcome, Drain | Reject)
        if isinstance(outcome, Wait):  # then nobody has to go at all: something is stopping, or loads there
            assert outcome.claim is not None
            assert case.fits(case.staying())
            loads = [r for r in case.snapshot.residents if r.phase is Phase.LOADING]
            assert loads or any(r.phase is Phase.STOPPING for r in case.snapshot.residents)


@many
@given(cases())
def test_rejects_exactly_what_an_empty_machine_cannot_hold(case: Case) -> None:  # B-S12
    empty = replace(case, others=dict.fromkeys(case.others, 0))
    assert isinstance(plan(case.snapshot, case.demand), Reject) == (not empty.fits([]))


@many
@given(cases(), st.lists(st.integers(0, 10), min_size=8, max_size=8))
def test_more_memory_leaves_a_placement_a_placement(case: Case, more: list[int]) -> None:
    if not isinstance(plan(case.snapshot, case.demand), Place):
        return
    readings = tuple(
        Reading(replace(r.device, total=r.device.total + n), None if r.free is None else r.free + n)
        for r, n in zip(case.snapshot.readings, more, strict=False)
    )
    assert isinstance(plan(replace(case.snapshot, readings=readings), case.demand), Place)


@many
@given(cases(), st.integers(0, 30), st.integers(0, 15))
def test_the_queue_together_never_overcommits(case: Case, split: int, host: int) -> None:
    """Two placed in one pass fit beside each other, and neither takes what the first was promised."""
    first = plan(case.snapshot, case.demand)
    second = replace(
        case, snapshot=after_plan(case.snapshot, first, "first"), demand=replace(case.demand.resized(split), host=host)
    )
    outcome = plan(second.snapshot, second.demand)
    if not isinstance(outcome, Place):
        return
    for world in (second.staying(), [r for r in second.snapshot.residents if r.phase is not Phase.CLAIMED]):
        rooms = second.rooms(world)
        assert all(count <= rooms[key] for key, count in outcome.claim.held.items())


@many
@given(cases(), st.lists(st.integers(0, 30), max_size=4), st.sets(st.sampled_from("abcdef")))
def test_sums_that_are_handed_on_are_those_of_the_machine(case: Case, splits: list[int], spared: set[str]) -> None:
    machine = case.snapshot.sparing(spared)
    assert machine.totals == Totals.of(machine)
    for number, split in enumerate(splits):
        machine = after_plan(machine, plan(machine, case.demand.resized(split)), f"new {number}")
        assert machine.totals == Totals.of(machine)
        assert [*machine.totals.victim_order] == [*Totals.of(machine).victim_order]
    fewer = replace(machine, residents=machine.residents[1:])
    assert fewer.totals == Totals.of(fewer)
