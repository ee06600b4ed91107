"""The line that somebody types: edited, with the lines of earlier times, and commands completed.

The door to `prompt_toolkit`: it knows wide letters, windows that change their size, and text that is pasted, which it
takes as one piece. The standard library's readline knows none of this, and is another library on each system.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from router import files
from router.client.talk import typed

MAX_HISTORY_BYTES = 1 << 20


class Editor:
    """`ask` returns what was typed, of several lines if it began with quotes. Raises EOFError for ctrl-D, and
    KeyboardInterrupt for ctrl-C."""

    def __init__(self, history: History, placeholder: str) -> None:
        self._placeholder = placeholder
        keys = KeyBindings()
        keys.add("escape", "enter")(_new_line)
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=WordCompleter(list(typed.COMMANDS), sentence=True),
            complete_while_typing=False,
            enable_open_in_editor=False,
            key_bindings=keys,
            color_depth=ColorDepth.MONOCHROME if os.environ.get("NO_COLOR") else None,
        )

    def ask(self) -> str:
        hint = ANSI(f"\x1b[2m{self._placeholder}\x1b[0m") if not os.environ.get("NO_COLOR") else self._placeholder
        text = self._session.prompt(">>> ", placeholder=hint)
        while typed.is_open(text):
            text += "\n" + self._session.prompt("... ")
        return text


def _new_line(event: KeyPressEvent) -> None:
    """alt-enter"""
    event.current_buffer.insert_text("\n")


def history(environ: Mapping[str, str], *, is_kept: bool) -> History:
    """The lines that were typed before, in a file that only this user can read; in memory if that cannot be."""
    if is_kept:
        with contextlib.suppress(OSError):
            return _Kept(str(_file(environ)))
    return InMemoryHistory()


class _Kept(FileHistory):
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):  # the disk is full: the line is known for as long as the program runs
            super().store_string(string)


def _file(environ: Mapping[str, str]) -> Path:
    """Raises OSError."""
    root = environ.get("XDG_STATE_HOME") or ""
    folder = (Path(root) if Path(root).is_absolute() else files.home() / ".local" / "state") / "llama-router"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "history"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o600))
    if path.stat().st_size > MAX_HISTORY_BYTES:  # the older half goes
        whole = path.read_bytes()
        path.write_bytes(whole[whole.find(b"\n\n", len(whole) // 2) + 1 :])
    return path
