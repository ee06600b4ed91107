"""Memory of ended processes is waited for, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import pytest

from router.node.devices import Devices
from tests import nvml
from tests.clock import Clock
from tests.node.machine import GIB, MIB, ON_LINUX, Host, free_by_name
from tests.nvml import FakeNvml

pytestmark = ON_LINUX
Later = tuple[float, Callable[[], object]]


def settle(
    devices: Devices, expected: Mapping[str, int], *later: Later, enough: Mapping[str, int] | None = None
) -> tuple[dict[str, int | None], float]:
    """What is free in the end, and after how many seconds. `later` are events and the seconds until they happen."""

    async def run() -> tuple[dict[str, int | None], float]:
        loop = asyncio.get_running_loop()
        for seconds, event in later:
            loop.call_later(seconds, event)
        return free_by_name(await devices.settle(expected, enough)), loop.time()

    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(run())


def test_memory_that_is_back_is_read_twice(host: Host, gpus: FakeNvml) -> None:  # B-D6
    after, seconds = settle(host.devices(), {"local/CUDA1": 16 * GIB})
    assert after["CUDA1"] == 16 * GIB
    assert seconds == pytest.approx(0.05)


@pytest.mark.parametrize(("back", "least", "most"), [(0.42, 0.49, 0.51), (1.72, 1.79, 1.81), (60, 1.89, 2)])
def test_memory_that_comes_back_late_is_waited_for(
    host: Host, gpus: FakeNvml, back: float, least: float, most: float
) -> None:
    gpus.change(1, others=6 * GIB)  # B-D6
    after, seconds = settle(host.devices(), {"local/CUDA1": 16 * GIB}, (back, lambda: gpus.change(1, others=0)))
    assert after["CUDA1"] == (16 * GIB if back < 2 else 10 * GIB)
    assert least <= seconds <= most


def test_memory_that_still_moves_is_waited_for(host: Host, gpus: FakeNvml) -> None:
    """Another program takes memory of the other GPU, 600 MiB at a time, several times between two readings."""
    steps = range(1, 26)  # B-D6
    moves = [(step / 100, partial(gpus.change, 1, others=step * 600 * MIB)) for step in steps]
    after, seconds = settle(host.devices(), {"local/CUDA0": 23 * GIB}, *moves)
    assert after["CUDA1"] == 16 * GIB - 25 * 600 * MIB
    assert 0.25 < seconds < 0.36


def test_a_little_less_than_expected_is_enough(host: Host, gpus: FakeNvml) -> None:
    _, seconds = settle(host.devices(), {"local/CUDA0": int(23.2 * GIB)})
    assert seconds == pytest.approx(0.05)


@pytest.mark.parametrize("expected", [{}, {"local/RAM": 56 * GIB}])
def test_ram_alone_is_not_waited_for(host: Host, gpus: FakeNvml, expected: dict[str, int]) -> None:
    _, seconds = settle(host.devices(), expected)  # B-D6
    assert seconds == 0


def test_without_gpus_nothing_is_waited_for(host: Host) -> None:
    assert settle(host.devices(), {"local/RAM": 56 * GIB}) == ({"RAM": 48 * GIB}, 0)  # B-D6


def test_a_lost_gpu_ends_the_wait_for_its_memory(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-D6
    gpus.change(1, status=nvml.LOST)
    after, seconds = settle(devices, {"local/CUDA1": 24 * GIB})
    assert after["CUDA1"] is None
    assert seconds == 0


def test_a_hung_probe_cannot_stretch_the_wait(host: Host, gpus: FakeNvml) -> None:
    def hang() -> None:
        gpus.change(0, status=nvml.HANG)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clock)
        loop.hung = True

    after, seconds = settle(host.devices(), {"local/CUDA0": 31 * GIB}, (1.52, hang))  # B-D6
    assert after["CUDA0"] is None
    assert 1.9 < seconds < 2.01


async def test_the_loop_runs_on_while_memory_settles(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-D6: status and unload are not held up, a cancel is seen
    task = asyncio.create_task(devices.settle({"local/CUDA0": 31 * GIB}))
    assert free_by_name(await devices.settle({}))["CUDA0"] == 23 * GIB
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_what_is_enough_for_the_next_start_is_not_waited_on(host: Host, gpus: FakeNvml) -> None:
    """Much more is expected, and never comes; another program goes on taking memory elsewhere."""
    expected = {"local/CUDA0": 31 * GIB, "local/CUDA1": 40 * GIB}
    moves = [(step / 100, partial(gpus.change, 1, others=step * 300 * MIB)) for step in range(1, 26)]
    after, seconds = settle(host.devices(), expected, *moves, enough={"local/CUDA0": 23 * GIB})
    assert (after["CUDA0"], seconds) == (23 * GIB, 0)


def test_what_is_not_enough_is_waited_for(host: Host, gpus: FakeNvml) -> None:
    gpus.change(1, others=6 * GIB)
    back = 0.42, lambda: gpus.change(1, others=2 * GIB)
    after, seconds = settle(host.devices(), {"local/CUDA1": 16 * GIB}, back, enough={"local/CUDA1": 14 * GIB})
    assert after["CUDA1"] == 14 * GIB
    assert 0.41 < seconds < 0.51


def test_a_start_on_the_cpu_waits_for_no_gpu(host: Host, gpus: FakeNvml) -> None:
    _, seconds = settle(host.devices(), {"local/CUDA0": 31 * GIB}, enough={"local/RAM": 500 * GIB})
    assert seconds == 0


def test_a_lost_gpu_is_never_enough(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()
    gpus.change(1, status=nvml.LOST)
    _, seconds = settle(devices, {"local/CUDA0": 31 * GIB}, enough={"local/CUDA1": 0})
    assert seconds > 1.5
