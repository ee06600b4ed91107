"""What a command shows: tables and states for a terminal, plain lines for everything else.

What routers and models say is text from outside. Here it becomes text that a terminal can only show: no escape
sequence, no title, no clipboard, no line that pretends to be another one.

`rich` draws on terminals and is imported for them alone. It leaves colours out by NO_COLOR and on dumb terminals.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from router.logs.letters import visible

if TYPE_CHECKING:
    from rich.console import Console

# As in `logs`, but lines, tabs, and the marks that people need to write from right to left stay.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
GAP = "  "
STATUS_EVERY_S = 0.25


def safe(text: str) -> str:
    """Text of several lines, with escapes for what a terminal would obey or hide."""
    return _UNSEEN.sub(lambda found: visible(found[0]), text)


@dataclass(frozen=True, slots=True)
class Column:
    """`rank` is how early it goes where the window is narrow; 0 never does. Numbers stand on the right."""

    title: str
    rank: int = 0
    is_number: bool = False
    style: Callable[[str], str] | str = ""


@dataclass(frozen=True, slots=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Plain text, aligned; nothing is left out."""
        rows = [[column.title for column in self.columns], *([visible(cell) for cell in row] for row in self.rows)]
        widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
        return [
            GAP.join(
                pad(cell, size, column.is_number) for cell, size, column in zip(row, widths, self.columns, strict=True)
            ).rstrip()
            for row in rows
        ]

    def fitting(self, room: int) -> Table:
        """Without the columns for which a window of this width has no room."""
        columns = list(range(len(self.columns)))

        def size() -> int:
            cells = ([self.columns[n].title, *(visible(row[n]) for row in self.rows)] for n in columns)
            return sum(max(map(width, column)) for column in cells) + len(GAP) * (len(columns) - 1)

        while size() > room:
            ranked = [n for n in columns if self.columns[n].rank]
            if not ranked:
                break
            columns.remove(max(ranked, key=lambda n: self.columns[n].rank))
        return Table([self.columns[n] for n in columns], [[row[n] for n in columns] for row in self.rows])


def width(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, room: int) -> str:
    """As much of a line as has room."""
    if width(text) <= room:
        return text
    if room < 1:
        return ""
    from rich.cells import set_cell_size

    return set_cell_size(text, room - 1).rstrip() + "…"


def pad(text: str, room: int, is_number: bool) -> str:
    gap = " " * (room - width(text))
    return gap + text if is_number else text + gap


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """Indented for a person, one line for a program."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None), flush=True)


def styled(table: Table, room: int) -> Any:
    """A table for a window of this width, as rich draws it."""
    from rich.table import Table as Drawn
    from rich.text import Text

    table = table.fitting(room)
    drawn = Drawn(box=None, padding=(0, len(GAP), 0, 0), header_style="dim", pad_edge=False)
    for column in table.columns:
        side: Literal["right", "left"] = "right" if column.is_number else "left"
        drawn.add_column(column.title, justify=side, no_wrap=True, overflow="ellipsis")
    for row in table.rows:
        cells = [
            Text(visible(cell), column.style(cell) if callable(column.style) else column.style)
            for cell, column in zip(row, table.columns, strict=True)
        ]
        drawn.add_row(*cells)
    return drawn


class Status:
    """One line at the bottom of a terminal that says what is waited for, for as long as the block runs.

    `text` is asked for it by a thread, since the block is busy with the answer itself. `clear` ends it early: it must
    be called before anything else is written. Where stderr is no terminal, nothing is shown."""

    def __init__(self, text: Callable[[], str], close: Callable[[], None]) -> None:
        """`close` is called when `text` will be asked no more."""
        self._text, self._close = text, close
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._is_shown = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Status:
        if is_terminal(sys.stderr):
            self._thread.start()
        else:
            self._close()
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()

    def clear(self) -> None:
        """May be called several times."""
        if self._over.is_set():
            return
        with self._lock:
            self._over.set()
            if self._is_shown:
                _write(sys.stderr, "\r\x1b[K")

    def _run(self) -> None:
        while not self._over.wait(STATUS_EVERY_S):
            text = self._text()
            with self._lock:
                if text and not self._over.is_set():
                    room = shutil.get_terminal_size().columns - 1
                    _write(sys.stderr, f"\r\x1b[K{dim(cut(visible(text), room), sys.stderr)}")
                    self._is_shown = True
        self._close()


def dim(text: str, stream: TextIO) -> str:
    return f"\x1b[2m{text}\x1b[0m" if has_colours(stream) else text


def has_colours(stream: TextIO) -> bool:
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def _write(stream: TextIO, text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the terminal has gone
        stream.write(text)
        stream.flush()


@contextlib.contextmanager
def live(stream: TextIO) -> Iterator[Callable[[Any], None]]:
    """The whole window, drawn anew by what the block is given; the window as it was comes back at the end."""
    from rich.live import Live

    with Live(console=console(stream), screen=True, auto_refresh=False) as drawing:
        yield lambda drawn: drawing.update(drawn, refresh=True)
