"""On which devices a demand goes, and how it is divided over them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.scheduling.policy import Evict, Place, Reject, Wait, plan
from router.scheduling.resources import Allocation, Demand, Device, Reading
from router.scheduling.snapshot import Phase
from tests.scheduling.machines import RAM, gpus, on, snapshot, where

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


def layered(*layers: int, fixed: int = 0) -> Demand:
    return Demand(sum(layers), fixed, layers=layers)


# Layers


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
