"""All that a child writes is read, within bounds, and each pipe is closed once."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from router.node.child_log import MAX_LINE_BYTES, MAX_LOG_BYTES
from router.node.interface import Launch
from router.node.pipe_reader import PIPE_BYTES, SMALL_BYTES, PipeReader
from router.node.process import LocalChild
from router.node.watchdog import Watchdog
from router.wire.address import Address
from tests.node.rig import KEY, RunLoop, ScriptedChild


async def test_lines_of_any_kind_are_kept_within_bounds(tmp_path: Path) -> None:  # B-T5
    child = ScriptedChild(tmp_path)
    await child.info(b"a\0b", b"x" * (3 << 20), b"end", *[b"z" * (1 << 20)] * 8, b"last")
    kept = child.child.log
    assert kept[0] == "a\0b"
    assert kept[1].startswith("xxxx")
    assert f"({(3 << 20) - kept[1].count('x')} more bytes)" in kept[1]
    assert (kept[2], kept[-1]) == ("end", "last")
    assert sum(map(len, kept)) < MAX_LOG_BYTES


async def test_a_line_without_end_is_kept_within_bounds(tmp_path: Path) -> None:  # B-T5
    child = ScriptedChild(tmp_path)
    (tmp_path / "said").write_bytes(b"")
    long = tmp_path / "long"
    long.write_bytes(b"w" * (4 << 20))
    await child.info(b"first\n" + b"w" * (4 << 20))
    assert [len(line) <= MAX_LINE_BYTES for line in child.child.log] == [True, True]


async def test_a_flood_of_short_lines_leaves_turns_for_others() -> None:  # B-T5
    came: list[int] = []
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    reader = PipeReader(Pipe(source), lambda _, lines: came.append(len(lines)))
    for _ in range(2):  # after the first time it knows what comes
        came.clear()
        os.write(sink, b"\n" * PIPE_BYTES)
        while sum(came) < PIPE_BYTES:
            await asyncio.sleep(0)
    assert max(came) <= SMALL_BYTES
    os.write(sink, b"\n" * PIPE_BYTES)
    reader.read_all()
    assert came[-1] == PIPE_BYTES
    long = PIPE_BYTES // 512
    for _ in range(2):  # after others the whole pipe is read again
        os.write(sink, (b"x" * 511 + b"\n") * long)
        total = sum(came)
        while sum(came) < total + long:
            await asyncio.sleep(0)
    assert came[-1] == long
    os.close(sink)
    await reader.closed


class Pipe(io.FileIO):
    """Records at its end whether other code has closed its descriptor."""

    was_closed_elsewhere = False

    def close(self) -> None:
        if not self.closed:
            try:
                os.fstat(self.fileno())
            except OSError:
                self.was_closed_elsewhere = True
        super().close()


RUNAWAY = """
import os, subprocess, sys
subprocess.Popen(["cat"], stdin=open(sys.argv[1]), start_new_session=True)
os.write(1, b"1\\n")
os.write(2, b"2")
"""


def test_each_pipe_is_closed_once(folder: Path, run: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a pipe that is held open, here by a process that has left the group."""
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
            start = [
                LocalChild.start(Launch("m", (), ()), c, os.environ, Address(str(socket)), KEY, watchdog)
                for c in commands
            ]
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
    assert not any(pipe.was_closed_elsewhere for pipe in pipes)


async def test_the_repr_shows_whether_the_pipe_is_open(tmp_path: Path) -> None:
    child = ScriptedChild(tmp_path)
    await child.info(b"x")
    assert [repr(pipe) for pipe in child.child._pipes] == ["<PipeReader closed>"] * 2
