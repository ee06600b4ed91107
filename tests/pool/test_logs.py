"""What processes wrote is kept within bounds, past their ends, and readers cost nothing. B-P11"""

from __future__ import annotations

import asyncio

import pytest

from router.pool.logs import (
    MAX_BYTES,
    MAX_BYTES_IN_ALL,
    MAX_LINES,
    MAX_READ_BYTES,
    OURS,
    EngineLogs,
    LogReader,
    ModelLog,
)

ALL = MAX_LINES


def everything(log: ModelLog) -> list[str]:
    return LogReader(log, ALL).read_all().decode().splitlines()


def test_the_last_lines_are_kept() -> None:
    logs = EngineLogs()
    for number in range(MAX_LINES + 500):
        logs.add("a", [b"%d" % number])
    assert everything(logs.of("a")) == [str(number) for number in range(500, MAX_LINES + 500)]
    assert LogReader(logs.of("a"), 2).read() == f"{MAX_LINES + 498}\n{MAX_LINES + 499}\n".encode()
    assert LogReader(logs.of("a"), 0).read() == b""
    logs.add("a", [b"x" * 1000] * 300)
    assert len(LogReader(logs.of("a"), ALL).read_all()) <= MAX_BYTES
    assert everything(logs.of("b")) == []


def test_all_logs_together_have_a_bound() -> None:  # B-T5
    logs = EngineLogs()
    for number in range(5_000):
        logs.add(f"m{number}", [b"y" * 1000] * 20)
        assert logs.size <= MAX_BYTES_IN_ALL
    logs.add("m0", [b"late"])
    assert everything(logs.of("m0")) == ["late"]  # what it wrote long ago made room for others
    assert len(everything(logs.of("m4999"))) == 20
    kept = [name for name in logs.names() if everything(logs.of(name))]
    assert len(kept) > 1000
    assert logs.size == sum(logs.of(name).size for name in logs.names())
    for name in logs.names():
        logs.forget(name)
    assert (logs.size, logs.names()) == (0, set())


def test_lines_of_several_processes_follow_each_other() -> None:
    logs = EngineLogs()
    logs.note("a", "a process starts")
    logs.add("a", [b"one", b"two"])
    logs.note("a", "the process has ended with code 1")
    logs.note("a", "a process starts")
    first, one, two, end, again = everything(logs.of("a"))
    assert (one, two) == ("one", "two")
    for line, words in ((first, "a process starts"), (end, "has ended with code 1"), (again, "a process starts")):
        assert line.startswith(OURS)
        assert words in line


def test_a_reader_gets_a_bounded_piece_at_once() -> None:
    log = ModelLog()
    log.add([f"{number} " + "z" * 996 for number in range(200)])
    reader, pieces = LogReader(log, ALL), []
    while piece := reader.read():
        pieces.append(piece)
    assert len(pieces) > 2
    assert max(map(len, pieces)) <= MAX_READ_BYTES
    assert [int(line.split()[0]) for line in b"".join(pieces).splitlines()] == list(range(200))


def test_a_slow_reader_is_told_what_it_missed() -> None:
    log = ModelLog()
    log.add(["first"])
    slow, quick = LogReader(log, ALL), LogReader(log, ALL)
    assert quick.read() == slow.read() == b"first\n"
    log.add([str(number) for number in range(MAX_LINES)])
    assert quick.read().startswith(b"0\n")
    log.add(["more"] * 700)
    lost, *others = slow.read_all().decode().splitlines()
    assert lost == f"{OURS}700 lines were not read in time and are lost"
    assert others == [*map(str, range(700, MAX_LINES)), *["more"] * 700]
    log.clear()
    assert b"lines were not read" not in slow.read()  # it had read them


async def test_a_reader_waits_for_more_and_for_the_end() -> None:
    logs = EngineLogs()
    reader = LogReader(logs.of("a"), ALL)
    waiting = asyncio.ensure_future(reader.has_more())
    await asyncio.sleep(0)
    logs.add("b", [b"of another model"])
    await asyncio.sleep(0)
    assert not waiting.done()
    logs.add("a", [b"one"])
    assert await waiting
    assert reader.read() == b"one\n"
    waiting = asyncio.ensure_future(reader.has_more())
    await asyncio.sleep(0)
    logs.end()
    assert not await waiting
    await logs.until_end()
    assert not await LogReader(logs.of("new"), ALL).has_more()
    logs.add("a", [b"the last words"])  # are kept all the same
    assert everything(logs.of("a")) == ["one", "the last words"]


async def test_a_reader_of_a_model_that_goes_ends() -> None:
    logs = EngineLogs()
    logs.add("a", [b"one"])
    reader = LogReader(logs.of("a"), ALL)
    waiting = [asyncio.ensure_future(LogReader(logs.of("a"), 0).has_more()) for _ in range(3)]
    await asyncio.sleep(0)
    logs.forget("a")
    assert await asyncio.gather(*waiting) == [False] * 3
    assert reader.read() == b"one\n"
    assert logs.size == 0
    assert logs.of("a") is not reader._log


async def test_a_reader_that_leaves_is_forgotten() -> None:
    log = ModelLog()
    waiting = asyncio.ensure_future(LogReader(log, 0).has_more())
    await asyncio.sleep(0)
    assert "1 readers wait" in repr(log)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert "0 readers wait" in repr(log)


def test_the_reprs_show_what_is_kept() -> None:
    logs = EngineLogs()
    logs.add("a", [b"secret"])
    reader = LogReader(logs.of("a"), 5)
    assert "1 models" in repr(logs)
    assert "lines 0 to 1" in repr(reader)
    assert "secret" not in repr(reader) + repr(logs)
