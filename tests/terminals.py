"""A real terminal: tmux, whose window is read as text. Each test has a server of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[1]


class Terminal:
    """One window. `text` is what it shows, `history` also what has scrolled out of it."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], width: int, height: int) -> None:
        self._name = f"test-{secrets.token_hex(4)}"
        # Not the size of the terminal of pytest either, which pytest-xdist hands down: programs believe it.
        others = ("LLAMA_", "HF_", "TMUX", "COLUMNS", "LINES")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        self._environ = {**keep, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **environ}
        # With the trap, ctrl-C ends the program and not the shell around it.
        command = f"trap : INT; {shlex.join(words)}; printf 'ended with %d' $?; exec cat"
        size = ("-x", str(width), "-y", str(height))
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "sh", "-c", command)
        # What programs ask of the terminal's clipboard would be done, if this program did not see to it.
        self._tmux("set", "-g", "set-clipboard", "on")

    @property
    def text(self) -> str:
        return self._tmux("capture-pane", "-p").rstrip()

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.text.splitlines()]

    @property
    def history(self) -> str:
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip()

    @property
    def styled(self) -> str:
        """With escape sequences for colours."""
        return self._tmux("capture-pane", "-p", "-e").rstrip()

    @property
    def title(self) -> str:
        return self._tmux("display-message", "-p", "#{pane_title}").strip()

    @property
    def clipboard(self) -> str:
        done = subprocess.run(["tmux", "-L", self._name, "show-buffer"], capture_output=True, text=True, check=False)
        return done.stdout

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def enter(self, text: str) -> None:
        self.type(text)
        self.press("Enter")

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def shows(self, *texts: str, patience: float = PATIENCE_S) -> str:
        """Wait until the window shows all of these; returns what it shows then."""
        try:
            return until(lambda: found if all(text in (found := self.text) for text in texts) else None, patience)
        except AssertionError:
            raise AssertionError(f"the window does not show {texts}:\n{self.history}") from None

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._name, "kill-server"], capture_output=True, check=False)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, *words],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout


@contextlib.contextmanager
def terminal(
    *words: str, width: int = 80, height: int = 24, environ: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """`llama-router` with these words, in a window of its own."""
    window = Terminal([sys.executable, "-m", "router", *words], environ or {}, width, height)
    try:
        yield window
    finally:
        window.close()
