"""One child process: start it, read what it writes, know when it serves, stop it, say how it ended.

`LocalChild` ties the parts together: `pipe_reader` reads the output, `child_protocol` says what a state line means,
`child_log` keeps the other lines, `health_poll` helps with builds that report no states, `processes` waits for the end,
and `crash` explains it. `local` starts children; the pool calls them through `interface.Child`.

The process is started with `subprocess`, not by the event loop: `subprocess` uses vfork. uvloop uses fork, which stops
the loop for 30 ms if the router's heap has half a GB.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from router.errors import LoadFailed
from router.node.child_log import MAX_LINE_BYTES, ChildLog, shorten
from router.node.child_protocol import EXIT, STATE_PREFIX, OtherState, Ready, State, read_state
from router.node.crash import explain, is_without_gpu
from router.node.health_poll import poll_health
from router.node.interface import ChildEvent, Exit, Launch, LoadProgress, Slept, Woke
from router.node.pipe_reader import PipeReader
from router.node.processes import exit_code_of, start_time_of
from router.node.vitals import Vitals, cpu_times, has_computed
from router.node.watchdog import Watchdog
from router.redaction import bytes_redactor, without_credentials
from router.wire.address import Address

log = logging.getLogger("router.run")

# Of states that come at once, so many are reported one by one. Of more, only the last progress is.
MAX_EVENTS_AT_ONCE = 16
LOOKS_AT_LOAD = 4  # at the use of the processor, in one load timeout
LAST_OUTPUT_S = 0.2  # that the output of a process may still be on its way when the process is gone


class LocalChild:
    """A `Child` on this machine; `start` makes it.

        child = LocalChild.start(launch, command, env, address, key, watchdog)
        info = await child.ready()
        ...
        print((await child.stop()).sentence)

    Three futures are its life: `_served` has the model info once it serves, `_code` the exit code once the process is
    gone, and `_exit` how it ended, once all that belonged to it is gone too.
    """

    def __init__(
        self,
        launch: Launch,
        process: subprocess.Popen[bytes],
        address: Address,
        key: str,
        files: Sequence[Path],
        secrets: Sequence[str],
    ) -> None:
        self._launch = launch
        self._libraries = {device.name.rstrip("0123456789") for device in launch.devices}
        self._process = process
        self._started = start_time_of(process.pid)
        self._files = [*files, *([Path(address.path)] if address.path else [])]
        self.address = address
        self.key = key
        self._vitals = Vitals(process.pid, self.address, key)
        self._loop = asyncio.get_running_loop()
        self._log = ChildLog()
        self._hide = bytes_redactor((key, *secrets))
        self._state_pipe: PipeReader | None = None  # the one that has reported a state
        self._events_at_once = 0
        self._latest_progress: LoadProgress | None = None  # reported next, unless a later one replaces it before
        self._is_known_to_serve = False  # the caller of `ready` has been told
        self._early: deque[ChildEvent] = deque(maxlen=MAX_EVENTS_AT_ONCE)  # that came before its caller knows
        self._sign_of_life = self._loop.time()
        self._is_asleep = self._is_stopped = self._is_without_gpu = False
        self._served: asyncio.Future[Mapping[str, Any]] = self._loop.create_future()
        self._code = exit_code_of(process)
        self._pipes = [
            PipeReader(pipe, self._on_lines, self._hide) for pipe in (process.stdout, process.stderr) if pipe
        ]
        self._exit = asyncio.create_task(self._on_exit())
        self._stopping: asyncio.Task[Exit] | None = None

    def __repr__(self) -> str:
        if self._code.done():
            state = "ended"
        elif self._is_stopped:
            state = "stopping"
        elif not self._served.done():
            state = "loading"
        else:
            state = "asleep" if self._is_asleep else "serving"
        return f"<LocalChild {self._launch.model!r}, pid {self.pid}, {state}>"

    @classmethod
    def start(
        cls,
        launch: Launch,
        command: list[str],
        env: Mapping[str, str],
        address: Address,
        key: str,
        watchdog: Watchdog,
        files: Sequence[Path] = (),
        secrets: Sequence[str] = (),
    ) -> LocalChild:
        """Start a child. Raises LoadFailed if the process cannot be created.

        `command` and `env` are complete. `address` is where they let it listen.
        `files` are removed when the child has ended.
        `key` and `secrets` are hidden in the child's log.
        """
        try:
            process = _popen(launch.model, command, env)
        except LoadFailed:
            _remove(files)
            raise
        watchdog.watch(process.pid)
        child = cls(launch, process, address, key, files, secrets)
        child._exit.add_done_callback(lambda _: watchdog.forget(process.pid))
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def started(self) -> float:
        return self._started

    @property
    def log(self) -> tuple[str, ...]:
        return tuple(map(without_credentials, self._log))

    async def ready(self) -> Mapping[str, Any]:
        health = asyncio.create_task(self._poll_health())
        timeout = self._launch.load_timeout
        try:
            used = None if self._served.done() else await cpu_times(self.pid)
            ends: set[asyncio.Future[Any]] = {self._served, self._exit}
            while not (self._served.done() or self._exit.done()):
                left = self._sign_of_life + timeout - self._loop.time()
                if left <= 0:
                    await self.stop()
                    raise LoadFailed(
                        f"{self._launch.model} was silent for {timeout:g} s while it loaded and was stopped; if its "
                        "disk is that slow, raise --models-load-timeout"
                    )
                # A load may be silent and still compute, such as one that converts its weights.
                look, begun = min(left, timeout / LOOKS_AT_LOAD), self._loop.time()
                await asyncio.wait(ends, timeout=look, return_when=asyncio.FIRST_COMPLETED)
                if begun + look <= self._loop.time() < self._sign_of_life + timeout:
                    before, used = used, await cpu_times(self.pid)
                    if has_computed(before, used, self._loop.time() - begun):
                        self._sign_of_life = self._loop.time()
        finally:
            health.cancel()
        if not self._served.done():
            raise LoadFailed(self._exit.result().sentence)
        await asyncio.sleep(0)  # the listener gets what the child reported before
        self._loop.call_soon(self._report_early)
        return self._served.result()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def shows_life(self, within: float) -> bool:
        written = self._sign_of_life
        return await self._vitals.show_life(lambda: self._sign_of_life > written, within)

    async def kill(self) -> Exit:
        if not self._code.done():
            self._is_stopped = True
            self._signal_group(signal.SIGKILL)
        return await self.wait()

    async def stop(self) -> Exit:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop_in_steps())
        return await asyncio.shield(self._stopping)

    async def _stop_in_steps(self) -> Exit:
        if not self._code.done():
            self._is_stopped = True
            half = self._launch.stop_timeout / 2
            # A child that still loads does not read its stdin, may ignore a signal, and has nothing to finish: it is
            # killed at once.
            if self._served.done() and self._state_pipe:
                with contextlib.suppress(OSError):
                    self._stdin.write(EXIT)
                await asyncio.wait({self._code}, timeout=half)
            if self._served.done() and not self._code.done():
                self._signal_group(signal.SIGTERM)
                await asyncio.wait({self._code}, timeout=half)
            if not self._code.done():
                self._signal_group(signal.SIGKILL)
        return await self.wait()

    async def _on_exit(self) -> Exit:
        """Once the process is gone: end its descendants, read its last output, remove its socket and files."""
        code = await asyncio.shield(self._code)  # if the loop ends, this task is cancelled, and `_code` is still set
        self._signal_group(signal.SIGKILL)
        await asyncio.wait({pipe.closed for pipe in self._pipes}, timeout=LAST_OUTPUT_S)
        for pipe in self._pipes:
            pipe.close()
        self._stdin.close()
        _remove(self._files)
        return explain(
            self._launch.model,
            code,
            self.log,
            is_stopped=self._is_stopped,
            is_ready=self._served.done(),
            libraries=self._libraries,
        )

    def _signal_group(self, number: int) -> None:
        """The process group holds a wrapper script and what it runs, or what is left of them."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    # Output and states

    def _on_lines(self, pipe: PipeReader, lines: list[bytes]) -> None:
        self._sign_of_life = self._loop.time()
        self._events_at_once = 0
        logged: list[bytes] = []
        for line in lines:
            # Logs may repeat what clients send. So once one pipe has reported a state, states are read there only.
            may_be_state = line.startswith(STATE_PREFIX) and self._state_pipe in (None, pipe)
            state = read_state(line.removeprefix(STATE_PREFIX)) if may_be_state else None
            if state is not None:
                self._state_pipe = pipe
                self._take_state(state)
            else:
                logged.append(line)
                is_loading = self._libraries and not self._served.done()
                if is_loading and is_without_gpu(line.decode(errors="replace"), self._libraries):
                    # It would load into RAM, which is not booked for it, and be slow without a word.
                    self._is_without_gpu = True
                    self._signal_group(signal.SIGKILL)
        if logged:
            self._take_log(logged)

    def _take_log(self, lines: list[bytes]) -> None:
        # Hidden before a line is cut, and in all lines at once, which is cheaper. Most have nothing to hide.
        written = b"\n".join(lines)
        if (hidden := self._hide(written)) is not written:
            lines = hidden.split(b"\n")
        lines = [line if len(line) <= MAX_LINE_BYTES else shorten(line) for line in lines]
        for line in lines:
            self._log.add(line)
        try:
            self._launch.on_output(lines)
        except Exception as exc:  # it would end the reading of the pipe
            log.critical("a defect in the router", exc_info=exc)

    def _take_state(self, state: State) -> None:
        match state:
            case Ready(info):
                self._serve(info)
            case Slept():
                self._is_asleep = True
                self._report(state)
            case LoadProgress():
                self._report(state)
            case OtherState():
                pass

    def _serve(self, info: Mapping[str, Any]) -> None:
        if not self._served.done():
            for pipe in self._pipes:
                if pipe is not self._state_pipe:
                    pipe.read_all()  # what it wrote on the other pipe before this may say that it has no GPU
            # Else it is being killed, or its own message was among that: a health check may have been quicker.
            if not (self._is_without_gpu or self._served.done()):
                self._served.set_result(info)
        elif self._is_asleep:
            self._is_asleep = False
            self._report(Woke())

    def _report(self, event: ChildEvent) -> None:
        """Call the listener soon, not here: its error would end the reading of the pipe. Reports and the return of
        `ready` come in the order in which the child wrote."""
        if self._served.done() and not self._is_known_to_serve:
            self._early.append(event)
            return
        self._events_at_once += 1
        if self._events_at_once <= MAX_EVENTS_AT_ONCE or not isinstance(event, LoadProgress):
            self._loop.call_soon(self._launch.on_event, event)
            return
        if self._latest_progress is None:
            self._loop.call_soon(self._report_latest_progress)
        self._latest_progress = event

    def _report_latest_progress(self) -> None:
        event, self._latest_progress = self._latest_progress, None
        if event is not None:
            self._launch.on_event(event)

    def _report_early(self) -> None:
        self._is_known_to_serve = True
        while self._early:
            self._loop.call_soon(self._launch.on_event, self._early.popleft())

    async def _poll_health(self) -> None:
        info = await poll_health(self.address, self.key, lambda: self._state_pipe is not None)
        if info is not None:
            self._serve(info)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # its folder may be another one now, or a file
            file.unlink(missing_ok=True)


def _popen(model: str, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise LoadFailed(f"{model}: {command[0]} cannot be started ({error.strerror or error})") from error
