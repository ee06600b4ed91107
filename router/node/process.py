"""One child: start it, drain what it writes, know when it serves, end it, tell how it ended.

The protocol is llama-server's own between a router and its children (tools/server/server-models.cpp): lines of JSON on
stdout, `exit` on stdin. Children of older builds, which do not speak it, are asked at `/health`.

Started with `subprocess`, not with the event loop: it uses vfork, uvloop a fork, which stops the loop for 30 ms when
the router's heap has half a GB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from router.errors import LoadFailed, UpstreamFailed
from router.node.border import ChildEvent, Exit, Launch, Progress, Slept, Woke
from router.node.crash import explain
from router.node.orphans import Watchdog, birth_of
from router.redaction import hider
from router.wire.address import Address
from router.wire.child_json import object_or_empty, parse_json, printable
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream

STATE = b"cmd_child_to_router:state:"
EXIT = b"cmd_router_to_child:exit\n"
# Of what a child writes so much is kept: lines, bytes, bytes of one line.
KEPT_LINES, KEPT_BYTES, KEPT_OF_LINE = 2000, 256 << 10, 4096
LONGEST_LINE = 1 << 16  # bytes; a state is told in a few thousand
PIPE_SIZE = 1 << 16  # what Linux lets wait in a pipe
LONGEST_PROGRESS = 1 << 13  # bytes
STATES = 16  # that are told one by one, of those that come at once; of more only the last progress
MODEL_INFO = 1 << 18  # bytes of what a child says of its model
HEALTH_INTERVAL, HEALTH_TIMEOUT = 0.05, 5.0
# How long the output of a process that is gone may still be on its way.
LAST_WORDS = 0.2


class Drain:
    """Cuts one stream into lines; whatever comes counts as a sign of life, with or without a line's end.

    It reads the pipe itself because a descriptor is to be closed once: uvloop's transport (0.23) closes it and then the
    file, which closes the same number again, by then perhaps that of a file of another thread.
    """

    def __init__(self, pipe: IO[bytes], on_lines: Callable[[Drain, list[bytes]], None]) -> None:
        self._pipe = pipe
        self._on_lines = on_lines
        self._rest = b""
        self._cut_off = 0  # bytes of the line that is to be ended, which are not kept
        self._loop = asyncio.get_running_loop()
        self.closed = self._loop.create_future()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe, self._read)

    def close(self) -> None:
        if not self.closed.done():
            self._loop.remove_reader(self._pipe)
            self._pipe.close()
            self.closed.set_result(None)
            self._on_lines(self, [self._line()] if self._rest else [])

    def _read(self) -> None:
        data = self._pipe.read(PIPE_SIZE)
        if data:
            self._cut(data)
        elif data is not None:  # None is a false alarm
            self.close()

    def _cut(self, data: bytes) -> None:
        first, *others = data.split(b"\n")
        self._add(first)
        lines: list[bytes] = []
        if others:
            lines = [self._line(), *others[:-1]]
            self._add(others[-1])
        self._on_lines(self, lines)

    def _add(self, part: bytes) -> None:
        room = LONGEST_LINE - len(self._rest)
        self._rest += part[:room]
        self._cut_off += max(0, len(part) - room)

    def _line(self) -> bytes:
        line = shortened(self._rest, self._cut_off) if self._cut_off else self._rest
        self._rest, self._cut_off = b"", 0
        return line


class Log:
    """The last lines, within bounds."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._size = 0

    def add(self, line: bytes) -> None:
        if len(line) > KEPT_OF_LINE:
            line = shortened(line)
        self._lines.append(line)
        self._size += len(line)
        while self._size > KEPT_BYTES or len(self._lines) > KEPT_LINES:
            self._size -= len(self._lines.popleft())

    def __iter__(self) -> Iterator[str]:
        return (line.decode(errors="replace") for line in self._lines)


def shortened(line: bytes, more: int = 0) -> bytes:
    """The beginning of a line, of which `more` bytes are gone already, and a mark."""
    kept = line[: KEPT_OF_LINE - 64]
    return kept + b" ... (%d more bytes)" % (len(line) - len(kept) + more) if more or len(kept) < len(line) else line


class LocalChild:
    """A `Child` on this machine; `start` makes it. `_served` has the model info once it serves."""

    def __init__(
        self,
        launch: Launch,
        process: subprocess.Popen[bytes],
        socket: Path,
        key: str,
        files: Sequence[Path],
        secrets: Sequence[str],
    ) -> None:
        self._launch = launch
        self._process = process
        self._started = birth_of(process.pid)
        self._socket = socket
        self._files = files
        self.address = Address(path=str(socket))
        self.key = key
        self._loop = asyncio.get_running_loop()
        self._log = Log()
        self._hide = hider((key, *secrets))
        self._voice: Drain | None = None
        self._heard = 0  # states, in what came last
        self._progress: Progress | None = None  # one that is to be told, unless another one comes before
        self._sign_of_life = self._loop.time()
        self._is_asleep = self._is_stopped = False
        self._served: asyncio.Future[Mapping[str, Any]] = self._loop.create_future()
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._drains = [Drain(pipe, self._read) for pipe in (process.stdout, process.stderr) if pipe]
        self._end = asyncio.create_task(self._bury())
        self._stop: asyncio.Task[Exit] | None = None

    @classmethod
    def start(
        cls,
        launch: Launch,
        command: list[str],
        env: Mapping[str, str],
        socket: Path,
        key: str,
        watchdog: Watchdog,
        files: Sequence[Path] = (),
        secrets: Sequence[str] = (),
    ) -> LocalChild:
        """`command` and `env` are complete; `files` go when the child has gone. `key` and `secrets` are hidden in what
        it writes. Raises LoadFailed when the process cannot be created."""
        try:
            process = _popen(launch.model, command, env)
        except LoadFailed:
            _remove(files)
            raise
        watchdog.watch(process.pid)
        child = cls(launch, process, socket, key, files, secrets)
        child._end.add_done_callback(lambda _: watchdog.forget(process.pid))
        child._await_end()
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def started(self) -> float:
        return self._started

    @property
    def log(self) -> tuple[str, ...]:
        return tuple(map(self._hide, self._log))

    async def ready(self) -> Mapping[str, Any]:
        poll = asyncio.create_task(self._poll())
        try:
            ends: set[asyncio.Future[Any]] = {self._served, self._end}
            while not (self._served.done() or self._end.done()):
                left = self._sign_of_life + self._launch.load_timeout - self._loop.time()
                if left <= 0:
                    await self.stop()
                    raise LoadFailed(
                        f"{self._launch.model} was silent for {self._launch.load_timeout:g} s while it loaded and was "
                        "stopped; if its disk is that slow, raise --models-load-timeout"
                    )
                await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            poll.cancel()
        if not self._served.done():
            raise LoadFailed(self._end.result().sentence)
        return self._served.result()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    async def stop(self) -> Exit:
        if self._stop is None:
            self._stop = asyncio.create_task(self._finish())
        return await asyncio.shield(self._stop)

    async def _finish(self) -> Exit:
        if not self._code.done():
            self._is_stopped = True
            half = self._launch.stop_timeout / 2
            # A child that still loads reads no stdin, may not heed a signal, and has nothing to finish.
            if self._served.done() and self._voice:
                with contextlib.suppress(OSError):
                    self._stdin.write(EXIT)
                await asyncio.wait({self._code}, timeout=half)
            if self._served.done() and not self._code.done():
                self._signal(signal.SIGTERM)
                await asyncio.wait({self._code}, timeout=half)
            if not self._code.done():
                self._signal(signal.SIGKILL)
        return await self.wait()

    async def _bury(self) -> Exit:
        """After its end: also what it started, its last words, its socket."""
        code = await asyncio.shield(self._code)  # a loop that ends cancels this, not what a thread will set
        self._signal(signal.SIGKILL)
        await asyncio.wait({drain.closed for drain in self._drains}, timeout=LAST_WORDS)
        for drain in self._drains:
            drain.close()
        self._stdin.close()
        _remove((self._socket, *self._files))
        return explain(self._launch.model, code, self.log, is_stopped=self._is_stopped, is_ready=self._served.done())

    def _await_end(self) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, an old one, or forbidden
            threading.Thread(target=self._reap, name=f"reap-{self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(descriptor, self._ended, descriptor)

    def _ended(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        self._code.set_result(self._process.wait())

    def _reap(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is gone: so is everybody who might ask
            self._loop.call_soon_threadsafe(self._code.set_result, code)

    def _signal(self, number: int) -> None:
        """To its process group: a wrapper script and what it runs, or what is left of them."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _read(self, drain: Drain, lines: list[bytes]) -> None:
        self._sign_of_life = self._loop.time()
        self._heard = 0
        for line in lines:
            # Logs can repeat what clients send. Once one stream has told a state, the other is not believed.
            if line.startswith(STATE) and self._voice in (None, drain) and self._hear(line.removeprefix(STATE)):
                self._voice = drain
            else:
                self._log.add(line)

    def _hear(self, text: bytes) -> bool:
        try:
            message = parse_json(text)
        except ValueError:
            return False
        match message:
            case {"state": "loading" | "downloading"} if len(text) > LONGEST_PROGRESS:
                return False  # all who listen to the news would get it, again and again
            case {
                "state": "loading",
                "payload": {"stages": [*stages], "current": stage, "value": float() | int() as value},
            }:
                done = stages.index(stage) if stage in stages else 0
                part = min(1.0, max(0.0, value))
                self._tell(Progress(printable(stage, 80), (done + part) / max(1, len(stages)), message["payload"]))
            case {"state": "downloading", "payload": {"downloaded": int(done), "total": int(total)}}:
                part = min(max(0, done), total) / total if total > 0 else 0.0
                self._tell(Progress("download", part, message["payload"]))
            case {"state": "sleeping"}:
                self._is_asleep = True
                self._tell(Slept())
            case {"state": "ready", "payload": info}:
                self._serve(model_info(info))
            case {"state": str()}:
                pass
            case _:
                return False
        return True

    def _serve(self, info: Mapping[str, Any]) -> None:
        if not self._served.done():
            self._served.set_result(info)
        elif self._is_asleep:
            self._is_asleep = False
            self._tell(Woke())

    def _tell(self, event: ChildEvent) -> None:
        # Not called here: an error of the listener would end the draining.
        self._heard += 1
        if self._heard <= STATES or not isinstance(event, Progress):
            self._loop.call_soon(self._launch.on_event, event)
            return
        if self._progress is None:
            self._loop.call_soon(self._tell_progress)
        self._progress = event

    def _tell_progress(self) -> None:
        event, self._progress = self._progress, None
        if event is not None:
            self._launch.on_event(event)

    async def _poll(self) -> None:
        """For a build that tells no states."""
        with contextlib.closing(Upstream(read_timeout=HEALTH_TIMEOUT)) as upstream:
            await asyncio.sleep(HEALTH_INTERVAL)
            while not self._voice:
                with contextlib.suppress(UpstreamFailed, ValueError):
                    await self._get(upstream, b"/health")
                    match parse_json(await self._get(upstream, b"/v1/models")):
                        case {"data": [info, *_]}:
                            self._serve(model_info(info))
                            return
                await asyncio.sleep(HEALTH_INTERVAL)

    async def _get(self, upstream: Upstream, path: bytes) -> bytes:
        """The body of the answer. Raises UpstreamFailed, also for a refusal."""
        answer = await upstream.open(self.address, self.key, RequestHead("GET", path, []))
        body = await answer.read_all(MODEL_INFO)
        if answer.status != 200:
            raise UpstreamFailed(f"The model's server refused {path.decode()} with {answer.status}.")
        return body

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin


def model_info(told: Any) -> Mapping[str, Any]:
    """What a child says of its model, as far as it makes sense; others rely on its shape."""
    info = dict(object_or_empty(told))
    meta = dict(object_or_empty(info.pop("meta", None)))
    context = meta.get("n_ctx")
    if "n_ctx" in meta and not (type(context) is int and 0 < context < 1 << 40):
        del meta["n_ctx"]
    return {**info, "meta": meta} if meta else info


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # its folder is another one now, or a file
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
