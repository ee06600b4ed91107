"""Where the log goes: to stderr, or to a file, which can be opened again; and lines for whoever started the program.

`commands` sets the log up here. If the log goes to stderr, what else goes there is in its format.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from router.logs.formats import FORMATS, Format
from router.logs.lines import Lines

log = logging.getLogger("router.logs")


class Handler(logging.Handler):
    """Hands records of the log to Lines, each as a line of its own."""

    def __init__(self, lines: Lines, lines_as: Format) -> None:
        super().__init__()
        self.lines, self._format = lines, lines_as
        lines.note = lines_as.note

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._format.format(record)
        except Exception:  # a log call whose arguments do not fit its text must not stop its caller
            line = self._format.note(f"a line of the log cannot be formatted: {record.name} {record.msg!r}")
        self.lines.put(line)

    def flush(self) -> None:
        self.lines.flush()


_stderr: Lines | None = None
_said_as: Format = FORMATS["text"]


def stderr() -> Lines:
    """The lines of stderr: everything written there passes through them, so that it stays in order."""
    global _stderr
    if _stderr is None:
        _stderr = Lines(lambda: 2, "stderr")
    return _stderr


def say(text: str) -> None:
    """Write a line to stderr, for the person who started the program."""
    line = _said_as.say(text)
    if _is_stderr_real():
        stderr().put(line)
    else:  # sys.stderr is something else in this process, as in tests
        print(line, file=sys.stderr, flush=True)


def _is_stderr_real() -> bool:
    try:
        return sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        return False


def start(level: str, file: Path | None, lines_as: str) -> None:
    """Log to a file, or to stderr. The router logs at this level; libraries log warnings and errors only.

    `lines_as` is one of FORMATS. Raises OSError if the file cannot be opened."""
    global _said_as
    if file is None:
        _said_as = FORMATS[lines_as]
        handler = Handler(stderr(), _said_as)
    else:
        handler = to_file(file, FORMATS[lines_as])
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log_uncaught()
    logging.getLogger("router").setLevel(level.upper())


def to_file(path: Path, lines_as: Format) -> Handler:
    """A handler that appends to a file. Raises OSError if the file cannot be opened."""

    def open_() -> int:
        # Without waiting for the reader of a pipe.
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)

    return Handler(Lines(open_, str(path)), lines_as)


def reopen() -> None:
    """Open the log file again, since another program may have renamed it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.lines.reopen()


def log_uncaught() -> None:
    """Log what the interpreter would write to stderr by itself: that write could wait for ever."""

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            _log_defect("in a thread", args.exc_value)

    def ignored(args: Any) -> None:
        _log_defect(f"ignored in {args.object!r}", args.exc_value)

    threading.excepthook = of_thread
    sys.unraisablehook = ignored
    logging.captureWarnings(True)


def _log_defect(where: str, exc: BaseException | None) -> None:
    log.critical("a defect in the router (%s)", where, exc_info=exc)


def fill_standard_streams() -> None:
    """Open those of stdin, stdout and stderr that are closed.

    Otherwise the next file that is opened, such as a socket, would get that number, and text for stderr would go there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", errors="replace", closefd=False)
            setattr(sys, name, stream)
    for terminal in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 lacks some letters of names: they are shown as escapes.
        if isinstance(terminal, io.TextIOWrapper) and terminal.errors in ("strict", "surrogateescape"):
            terminal.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Wait until the lines of stderr are written, if they are read in time."""
    if _stderr is not None:
        _stderr.flush()
