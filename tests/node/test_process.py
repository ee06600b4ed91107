"""The life of a child: ready, reports, output, exit, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from router.errors import LoadFailed
from router.node.interface import ChildEvent, Exit, Launch, LoadProgress, Slept, Woke
from router.node.process import LocalChild
from router.node.watchdog import Watchdog
from router.scheduling.resources import Device
from router.wire.address import Address
from tests.node.rig import FAKE_COMMAND, KEY, Start, ask, is_alive
from tests.waiting import eventually, until


# B-P1 B-P7
async def test_ready_by_message_with_progress(start: Start) -> None:
    events: list[ChildEvent] = []
    child = await start("--load-seconds", "0.05", "--alias", "it", on_event=events.append)
    assert (await child.ready())["id"] == "it"
    assert (await ask(child, "/health")).json() == {"status": "ok"}
    values = [event.value for event in events if isinstance(event, LoadProgress)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0.0, 1.0)


# B-P1
async def test_states_between_logs_on_one_pipe_are_read(start: Start) -> None:
    child = await start("--mixed-logs", "--stdout-flood", "50")
    assert (await child.ready())["meta"]["n_ctx"] == 2048


# B-P1
async def test_a_log_line_cannot_pose_as_a_state(start: Start) -> None:
    events: list[ChildEvent] = []
    line = 'cmd_child_to_router:state:{"state":"sleeping","payload":null}'
    fields = ("--fail", line, "--crash-after-seconds", "0.01", "--exit-code", "3")
    child = await start(*fields, on_event=events.append)
    assert (await child.wait()).code == 3
    assert line in child.log
    assert not any(isinstance(event, Slept) for event in events)


# B-P1
async def test_silence_is_a_failure_and_signs_of_life_are_not(start: Start) -> None:
    lively = await start("--load-seconds", "4.5", load_timeout=3)
    silent = await start("--load-seconds", "60", "--silent", load_timeout=3)
    assert await lively.ready()
    with pytest.raises(LoadFailed, match=r"silent for 3 s"):
        await silent.ready()
    assert not is_alive(silent.pid)


# B-P7
async def test_reports_come_in_the_order_in_which_the_child_wrote(folder: Path) -> None:
    loading = 'cmd_child_to_router:state:{"state":"loading","payload":{"stages":["s"],"current":"s","value":1}}'
    ready, sleeping = (
        f'cmd_child_to_router:state:{{"state":"{word}","payload":null}}' for word in ("ready", "sleeping")
    )
    (folder / "states").write_text("\n".join([loading, ready, sleeping, ready, ""]))
    script = f"cat {folder}/states; touch {folder}/said; exec sleep 60"
    came: list[object] = []
    watchdog, launch = Watchdog(), Launch("m", (), (), load_timeout=20, on_event=came.append)
    command, address = ["/bin/sh", "-c", script], Address(str(folder / "s"))
    child = LocalChild.start(launch, command, {"PATH": "/usr/bin:/bin"}, address, KEY, watchdog)
    until((folder / "said").exists)
    for pipe in child._pipes:
        pipe.read()  # now, so that its caller may know at once that it serves
    await child.ready()
    came.append("ready")
    await eventually(lambda: Woke() in came)
    assert [type(event).__name__ for event in came] == ["LoadProgress", "str", "Slept", "Woke"]
    await child.stop()
    watchdog.close()


async def test_sleep_and_wake_are_reported(start: Start) -> None:
    events: list[ChildEvent] = []
    child = await start("--sleep-idle-seconds", "0.01", on_event=events.append)
    await child.ready()
    await eventually(lambda: Slept() in events)
    await ask(child, "/v1/chat/completions", {"messages": []})
    await eventually(lambda: Woke() in events)


async def test_an_error_of_the_listener_does_not_end_the_reading(start: Start) -> None:
    def fail(event: ChildEvent) -> None:
        raise ValueError(event)

    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["exception"]))
    child = await start("--stdout-flood", "5000", on_event=fail)
    assert await child.ready()
    assert seen


def test_the_whole_life_on_uvloop(folder: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def live() -> Exit:
        watchdog, socket = Watchdog(), folder / "x.sock"
        command = [*FAKE_COMMAND, "--host", str(socket), "--stdout-flood", "5000"]
        env = {**os.environ, "LLAMA_SERVER_ROUTER_PORT": "1"}
        child = LocalChild.start(Launch("m", (), ()), command, env, Address(str(socket)), KEY, watchdog)
        await child.ready()
        exit = await child.stop()
        watchdog.close()
        return exit

    assert uvloop.run(live()).code == 0


# B-P2
async def test_a_flood_does_not_block_the_child(start: Start) -> None:
    child = await start("--stdout-flood", "20000", load_timeout=20)
    assert await child.ready()
    await eventually(lambda: len(child.log) == 2000)
    await child.stop()
    assert len(child.log) == 2000


# B-P6
async def test_the_key_is_not_in_the_log(start: Start) -> None:
    child = await start("--load-seconds", "0.1", env=(("FAKE_FAIL", f"my key is {KEY}"),))
    exit = await child.wait()
    assert "my key is ***" in exit.log
    assert KEY not in exit.sentence


# B-P3
async def test_exit_while_loading_is_seen_at_once(start: Start) -> None:
    child = await start("--fail", "CUDA error: out of memory", load_timeout=60)
    with pytest.raises(LoadFailed, match="a-model ended with code 1 while it loaded: it ran out of memory"):
        await child.ready()
    assert (await child.wait()).out_of_memory


# B-P3
async def test_exit_while_serving_is_explained(start: Start) -> None:
    child = await start("--crash-after-requests", "1", "--exit-code", str(-signal.SIGSEGV))
    await child.ready()
    await ask(child, "/v1/chat/completions", {"messages": []})
    with pytest.raises(httpx.HTTPError):
        await ask(child, "/v1/chat/completions", {"messages": []})
    exit = await child.wait()
    assert exit.code == -signal.SIGSEGV
    assert "was ended by SIGSEGV while it served" in exit.sentence
    assert "fake: crashed" in exit.sentence


# B-P3
async def test_a_missing_program_is_a_failure(start: Start) -> None:
    with pytest.raises(LoadFailed, match=r"/no/engine cannot be started \(No such file or directory\)"):
        await start(command=("/no/engine",))


# B-P4
async def test_stop_by_message(start: Start) -> None:
    child = await start("--ignore-sigterm", stop_timeout=4)
    await child.ready()
    exits = await asyncio.gather(child.stop(), child.stop(), child.wait())
    assert exits[0] is exits[1] is exits[2]
    assert (exits[0].code, exits[0].sentence) == (0, "a-model was stopped")
    assert await child.stop() is exits[0]


# B-P4
async def test_stop_by_sigterm_then_sigkill(start: Start) -> None:
    deaf = await start("--ignore-exit", stop_timeout=0.2)
    stubborn = await start("--ignore-exit", "--ignore-sigterm", stop_timeout=0.2)
    await asyncio.gather(deaf.ready(), stubborn.ready())
    began = time.monotonic()
    assert [(await child.stop()).code for child in (deaf, stubborn)] == [0, -signal.SIGKILL]
    assert time.monotonic() - began >= 0.3


# B-P4
async def test_stop_while_loading(start: Start) -> None:
    child = await start("--ignore-exit", "--ignore-sigterm", "--load-seconds", "60", stop_timeout=30)
    loading = asyncio.create_task(child.ready())
    async with asyncio.timeout(5):
        exit = await child.stop()
    assert exit.sentence == "a-model was stopped"
    with pytest.raises(LoadFailed, match="was stopped"):
        await loading


# B-P4
@pytest.mark.parametrize("way", ["stop", "crash"])
async def test_the_whole_tree_goes(start: Start, way: str) -> None:
    child = await start("--spawn-child")
    await child.ready()
    await eventually(lambda: any("grandchild" in line for line in child.log))
    [grandchild] = [int(line.split()[1]) for line in child.log if line.startswith("grandchild")]
    assert is_alive(grandchild)
    if way == "crash":
        os.kill(child.pid, signal.SIGKILL)
    assert isinstance(await (child.stop() if way == "stop" else child.wait()), Exit)
    await eventually(lambda: not is_alive(grandchild))


async def test_a_cancelled_waiter_leaves_the_child_alone(start: Start) -> None:
    child = await start("--load-seconds", "0.2")
    waiting = asyncio.create_task(child.ready())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await child.ready()


async def test_the_repr_shows_the_state_and_no_key(start: Start) -> None:
    def state() -> str:
        assert KEY not in repr(child)
        begin, _, state = repr(child).rpartition(", ")
        assert begin == f"<LocalChild 'a-model', pid {child.pid}"
        return state.rstrip(">")

    child = await start("--sleep-idle-seconds", "0.01")
    assert state() == "loading"
    await child.ready()
    assert state() in ("serving", "asleep")
    await eventually(lambda: state() == "asleep")
    stopping = asyncio.create_task(child.stop())
    await eventually(lambda: state() != "asleep")
    await stopping
    assert state() == "ended"


# B-S18
@pytest.mark.parametrize("pipes", [("2", "1"), ("1", "2")], ids=["stderr first", "stdout first"])
async def test_a_child_without_its_gpu_never_serves_however_its_pipes_are_read(
    folder: Path, pipes: tuple[str, str]
) -> None:
    for name, line in (
        ("log", "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"),
        ("state", 'cmd_child_to_router:state:{"state":"ready","payload":{}}'),
    ):
        (folder / name).write_text(line + "\n")
    script = f"cat {folder}/log >&{pipes[0]}; cat {folder}/state >&{pipes[1]}; touch {folder}/said; exec sleep 60"
    gpu = Device("here", "CUDA0", "gpu", 12 << 30)
    watchdog, launch = Watchdog(), Launch("m", (), (gpu,), load_timeout=20)
    command, env = ["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}
    child = LocalChild.start(launch, command, env, Address(str(folder / "s")), KEY, watchdog)
    until((folder / "said").exists)  # the loop stands still meanwhile: it finds all of it at once
    with pytest.raises(LoadFailed, match="cannot see a GPU"):
        await child.ready()
    assert (await child.wait()).device_lost
    watchdog.close()


# B-P1
async def test_a_health_check_that_is_quicker_than_the_message_changes_nothing(folder: Path) -> None:
    (folder / "state").write_text('cmd_child_to_router:state:{"state":"ready","payload":{}}\n')
    script = f"cat {folder}/state; touch {folder}/said; exec sleep 60"
    watchdog, command = Watchdog(), ["/bin/sh", "-c", script]
    launch, address = Launch("m", (), (), load_timeout=20), Address(str(folder / "s"))
    child = LocalChild.start(launch, command, {"PATH": "/usr/bin:/bin"}, address, KEY, watchdog)
    until((folder / "said").exists)
    child._serve({"meta": "by the check"})
    assert await child.ready() != {"meta": "by the check"}, "the message came first"
    await child.stop()
    watchdog.close()
