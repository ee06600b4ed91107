"""Lines of engines in the router's log: which, and no more than a disk can take. B-O5 B-P11"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from router.pool.engine_lines import BURST_BYTES, BYTES_PER_SECOND, LEVELS, EngineLines
from router.pool.logs import EngineLogs


class Clock:
    """Stands still unless a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG, "router.engine")
    return lambda: [(record.levelname[0], record.getMessage()) for record in caplog.records]


LINES = [b"0.00.1 E bad", b"0.00.2 W odd", b"0.00.3 I fine", b"0.00.4 D deep", b"CUDA error: lost", b"plain"]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("warn", ["E a: 0.00.1 E bad", "W a: 0.00.2 W odd", "E a: CUDA error: lost"]),
        (
            "all",
            [
                *("E a: 0.00.1 E bad", "W a: 0.00.2 W odd", "I a: 0.00.3 I fine", "D a: 0.00.4 D deep"),
                *("E a: CUDA error: lost", "I a: plain"),
            ],
        ),
    ],
)
def test_lines_have_their_level_and_their_model(
    which: str, expected: list[str], said: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logs = EngineLogs(EngineLines(LEVELS[which]))
    logs.add("a", LINES)
    logs.note("a", "what the router says of a process is in its log anyway")
    assert [f"{level} {text}" for level, text in said()] == expected
    assert {(record.name, record.__dict__["model"]) for record in caplog.records} == {("router.engine", "a")}


def test_the_level_of_the_log_holds(said: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "router.engine")
    EngineLogs(EngineLines(LEVELS["all"])).add("a", LINES)
    assert [level for level, _ in said()] == ["E", "W", "E"]


def test_a_flood_is_cut_off_and_counted(said: Any) -> None:  # B-T5
    clock = Clock()
    lines = EngineLines(LEVELS["all"], clock)
    flood = ["x" * 100] * 1_000
    for _ in range(100):  # ten million bytes in ten seconds
        lines("a", flood)
        clock.now += 0.1
    written = sum(len(text) for _, text in said())
    assert written < BURST_BYTES + 11 * BYTES_PER_SECOND
    assert len(said()) < 1_000
    lines("b", ["another model writes"])
    assert said()[-1] == ("I", "b: another model writes")
    clock.now += 100
    lines("a", ["at last"])
    level, text = said()[-2]
    assert level == "W"
    assert said()[-1] == ("I", "a: at last")
    kinds = [text for _, text in said() if "x" * 100 not in text and text.startswith("a: ")]
    assert kinds[0].startswith("a: its process writes more than 8 KiB a second: lines are left out here")
    left_out = sum(int(text.split()[1]) for text in kinds if "were left out" in text)
    assert left_out + sum("x" * 100 in text for _, text in said()) == 100_000
    assert text == kinds[-2]


def test_a_flood_of_harmless_lines_costs_the_warnings_nothing(said: Any) -> None:
    lines = EngineLines(LEVELS["warn"], Clock())
    lines("a", ["0.00.1 I fine " + "x" * 100] * 10_000)
    lines("a", ["0.00.2 E bad"])
    assert said() == [("E", "a: 0.00.2 E bad")]


def test_empty_lines_count_too(said: Any) -> None:
    EngineLines(LEVELS["all"], Clock())("a", [""] * 100_000)
    assert len(said()) < 1_000


def test_a_model_that_has_left_is_forgotten() -> None:
    lines = EngineLines(LEVELS["all"])
    logs = EngineLogs(lines)
    logs.add("a", [b"x"])
    assert "1 models" in repr(lines)
    logs.forget("a")
    assert repr(lines) == "<EngineLines from DEBUG, 0 models>"
