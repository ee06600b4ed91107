"""Text for terminals, and for everything else."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.client import screen
from router.client.screen import Column, Status, Table, cut, safe, width

TABLE = Table(
    (Column("NAME"), Column("N", 2, is_number=True), Column("MORE", 1)),
    [["日本", "7", "x"], ["plain", "1234", "a long text"]],
)


def test_a_table_is_aligned_by_what_letters_take() -> None:
    assert TABLE.lines() == ["NAME      N  MORE", "日本      7  x", "plain  1234  a long text"]


@pytest.mark.parametrize(
    ("room", "titles"),
    [(80, ["NAME", "N", "MORE"]), (24, ["NAME", "N", "MORE"]), (23, ["NAME", "MORE"]), (17, ["NAME"]), (1, ["NAME"])],
)
def test_columns_go_where_a_window_is_narrow(room: int, titles: list[str]) -> None:
    assert [column.title for column in TABLE.fitting(room).columns] == titles


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert safe("a\x1b[2J\x07\r\x9b\x7f\u202e\ud800b") == r"a\x1b[2J\x07\r\x9b\x7f\u202e\ud800b"
    kept = "lines\nand\ttabs, שלום\u200f, 日本, 👩\u200d🔬"
    assert safe(kept) == kept


@given(st.text())
def test_text_is_never_obeyed(text: str) -> None:
    assert not any((ord(letter) < 32 and letter not in "\n\t") or 0x7F <= ord(letter) < 0xA0 for letter in safe(text))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])), st.integers(0, 20))
def test_a_line_is_cut_to_its_room(text: str, room: int) -> None:
    assert width(cut(text, room)) <= max(room, 0)
    assert cut(text, 1000) == text or width(text) > 1000


def test_no_status_where_nobody_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    closed: list[bool] = []
    with Status(lambda: pytest.fail("nobody asks"), lambda: closed.append(True)) as status:
        status.clear()
    assert (capsys.readouterr(), closed) == (("", ""), [True])


def test_json_is_one_line_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_json({"a": ["\x1b", 1]})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"a": ["\x1b", 1]}
    assert "\x1b" not in out


def test_terminals_and_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert screen.has_colours(Tty())
    assert not screen.has_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert screen.is_terminal(Tty())
    assert screen.dim("x", Tty()) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert not screen.is_terminal(Tty())
    assert not screen.is_terminal(sys.stdin) or sys.stdin.isatty()
