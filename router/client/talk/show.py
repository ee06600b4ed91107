"""Answers on a terminal: the text as it comes, thoughts dimmed, and nothing that the terminal would obey."""

from __future__ import annotations

import sys

from router.client import screen
from router.client.talk.answer import Piece
from router.logs.letters import visible

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Writer:
    """Writes one answer to stdout. `end` must be called, however it ended."""

    def __init__(self, *, shows_thoughts: bool = True) -> None:
        self._is_terminal = screen.is_terminal(sys.stdout)
        self._has_colours = screen.has_colours(sys.stdout)
        self._shows_thoughts = shows_thoughts
        self._is_thinking = False
        self._ends_line = True
        self._has_begun = False

    def write(self, piece: Piece) -> None:
        if piece.is_thought and not self._shows_thoughts:
            return
        if piece.is_thought is not self._is_thinking:
            self._turn(piece.is_thought)
        text = piece.text
        if not self._has_begun:
            text = text.lstrip("\n")
            self._has_begun = bool(text)
        if self._is_terminal:
            text = screen.safe(text)
        self._put(text)

    def _turn(self, is_thinking: bool) -> None:
        if not is_thinking:
            self.line()
            self._put(PLAIN if self._has_colours else "(answers)\n")
            self._has_begun = False
        else:
            self._put(DIM if self._has_colours else "(thinks)\n")
        self._is_thinking = is_thinking

    def line(self) -> None:
        """Go to the beginning of a line."""
        if not self._ends_line:
            self._put("\n")

    def end(self) -> None:
        if self._is_thinking and self._has_colours:
            sys.stdout.write(PLAIN)
        self.line()

    def _put(self, text: str) -> None:
        if not text:
            return
        sys.stdout.write(text)
        sys.stdout.flush()
        if text not in (DIM, PLAIN):
            self._ends_line = text.endswith("\n")


def note(text: str) -> None:
    """A remark of the program itself, between the messages."""
    for line in text.splitlines() or [""]:
        print(screen.dim(visible(line), sys.stdout), flush=True)
