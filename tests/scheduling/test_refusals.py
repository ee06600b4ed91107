"""Refusals give the numbers."""

from __future__ import annotations

import pytest

from router.scheduling.policy import Reject, plan
from router.scheduling.resources import Demand, Device
from router.scheduling.snapshot import Phase
from tests.scheduling.machines import gpus, on, snapshot


@pytest.mark.parametrize(
    ("demand", "numbers"),
    [
        (Demand(split=10 << 30), "10.0 GiB of GPU memory; this machine has GPU0 10.0 GiB less a margin of 1.0 GiB"),
        (Demand(host=64 << 20), "64 MiB of RAM; this machine has GPU0"),
        (Demand(split=1, names=("GPU7",)), "(restricted to GPU7)"),
        (Demand(split=10 << 30, host=5 << 30), "10.0 GiB of GPU memory and 5.0 GiB of RAM"),
    ],
)
def test_reject_gives_the_numbers(demand: Demand, numbers: str) -> None:  # B-S12
    devices = [Device("here", "GPU0", "gpu", 10 << 30), Device("here", "RAM", "host", 64 << 20)]
    idle = on(Phase.IDLE, "a", GPU0=1 << 30)  # and no eviction is spent on it
    outcome = plan(snapshot(devices, idle, margin=1 << 30), demand)
    assert isinstance(outcome, Reject)
    assert numbers in outcome.reason


def test_unknown_device_name_is_rejected_without_checks_too() -> None:
    outcome = plan(snapshot(gpus(10), margin=0), Demand(split=1, names=("GPU7",)))
    assert isinstance(outcome, Reject)
    assert outcome.reason.endswith("this machine has no such device")
