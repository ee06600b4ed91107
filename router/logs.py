"""The log, and the lines on stderr for the person who started the router.

The one idea: the router never waits for a reader. Lines go into a bounded queue, and a thread writes them. If the
reader is too slow or the disk is full, lines are lost; they are counted, the log says how many, and the router goes on.
Text from outside (names, paths, answers) cannot end a line, and cannot colour, move or reverse what a terminal shows.
`commands` sets the log up; all other modules use `logging`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from router.redaction import without_credentials

log = logging.getLogger("router.logs")

FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
MAX_QUEUED_BYTES = 4 << 20
MAX_MESSAGE_CHARACTERS = 32 << 10
MAX_WRITE_BYTES = 64 << 10  # that are written at once
# How long the end of the program waits for lines that are not written yet: a pipe without a reader takes nothing.
FLUSH_TIMEOUT_S = 1.0
RETRY_S = 1.0  # between two looks whether a full pipe takes bytes again

# C0, DEL and C1; separators of lines and paragraphs; marks that change the direction of text; surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Lines of a traceback that the interpreter itself writes.
_PLACE = re.compile(r'[ |+-]*File "|[ |+-]*(?:Exception Group )?Traceback ')


def visible(text: str) -> str:
    """The text as one line, with escapes for all characters that a terminal would not show."""
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    number = ord(character)
    return _SHORT.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


class Formatter(logging.Formatter):
    """A record is one line. Only a traceback has more; the message of an exception is one line of it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        if len(text) > MAX_MESSAGE_CHARACTERS:
            text = f"{text[:MAX_MESSAGE_CHARACTERS]} ... ({len(text) - MAX_MESSAGE_CHARACTERS} more characters)"
        return visible(without_credentials(text))

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        pieces = traceback.format_exception(ei[1])
        lines = (line for piece in pieces for line in (piece.splitlines() if _PLACE.match(piece) else [piece.strip()]))
        return "\n".join(visible(without_credentials(line[:MAX_MESSAGE_CHARACTERS])) for line in lines)


class Lines:
    """Lines on their way to a descriptor, or to a file that can be reopened. `put` never waits."""

    def __init__(self, open_: Callable[[], int], name: str) -> None:
        """`open_` returns a descriptor. If it raises OSError, so does this; later, in `reopen`, that is a warning."""
        self._open = open_
        self._name = name
        self._descriptor = open_()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._loss_reason = ""
        self._is_writing = self._must_reopen = False
        self._changed = threading.Condition()  # on an RLock: the garbage collector may log in the middle of `put`
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Lines to {self._name}: {len(self._waiting)} waiting, {self._lost} lost>"

    def put(self, line: str) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._size + len(data) > MAX_QUEUED_BYTES:
                self._lose(1, "they were not read in time")
                return
            self._waiting.append(data)
            self._size += len(data)
            if self._thread is None:
                self._start_thread()
            self._changed.notify_all()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"log-{self._name}", daemon=True)
        with contextlib.suppress(RuntimeError):  # there are too many threads: the next line tries again
            thread.start()
            self._thread = thread

    def reopen(self) -> None:
        """Open the file again before the next line is written."""
        with self._changed:
            self._must_reopen = True
            self._changed.notify_all()

    def flush(self, timeout: float = FLUSH_TIMEOUT_S) -> None:
        """Wait until all lines are written, at most `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._changed:
            while (self._waiting or self._is_writing) and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _lose(self, count: int, why: str) -> None:
        self._lost += count
        self._loss_reason = why

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not (self._waiting or self._must_reopen):
                    self._changed.wait()
                self._is_writing = True
                must_reopen, self._must_reopen = self._must_reopen, False
                data, count = self._take()
            if must_reopen:
                self._reopen()
            try:
                _write_all(self._descriptor, data)
            except OSError as exc:
                with self._changed:
                    self._lose(count, exc.strerror or type(exc).__name__)

    def _take(self) -> tuple[bytes, int]:
        """The next lines, and their number. If lines were lost, the first line says so, and they are counted again."""
        lines: list[bytes] = []
        room = MAX_WRITE_BYTES
        while self._waiting and (not lines or len(self._waiting[0]) <= room):
            lines.append(self._waiting.popleft())
            room -= len(lines[-1])
            self._size -= len(lines[-1])
        count = len(lines)
        if self._lost and lines:
            now, reason = time.strftime("%Y-%m-%d %H:%M:%S"), visible(self._loss_reason)
            lines.insert(0, f"{now},000 W router.logs: {self._lost} lines were lost: {reason}\n".encode())
            count += self._lost  # if these lines are lost too, all are reported with the next ones
            self._lost = 0
        return b"".join(lines), count

    def _reopen(self) -> None:
        try:
            descriptor = self._open()
        except OSError as exc:
            log.warning("%s cannot be reopened (%s): lines still go to the file that is open", self._name, exc.strerror)
        else:
            if descriptor != self._descriptor:
                before, self._descriptor = self._descriptor, descriptor
                with contextlib.suppress(OSError):
                    os.close(before)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            _wait(descriptor)


def _wait(descriptor: int) -> None:
    """Wait until a full pipe takes bytes. Not with `select`, which does not take large descriptors."""
    if not hasattr(select, "poll"):
        time.sleep(RETRY_S / 20)
        return
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    ready.poll(RETRY_S * 1000)


class Handler(logging.Handler):
    """Hands records of the log to Lines."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self.lines = lines
        self.setFormatter(Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.put(self.format(record))
        except Exception:  # a log call whose arguments do not fit its text must not stop its caller
            self.lines.put(visible(f"a line of the log cannot be formatted: {record.name} {record.msg!r}"))

    def flush(self) -> None:
        self.lines.flush()


_stderr: Lines | None = None


def stderr() -> Lines:
    """The lines of stderr: everything written there passes through them, so that it stays in order."""
    global _stderr
    if _stderr is None:
        _stderr = Lines(lambda: 2, "stderr")
    return _stderr


def say(text: str) -> None:
    """Write a line to stderr, for the person who started the program."""
    line = visible(without_credentials(text))
    if _is_stderr_real():
        stderr().put(line)
    else:  # sys.stderr is something else in this process, as in tests
        print(line, file=sys.stderr, flush=True)


def _is_stderr_real() -> bool:
    try:
        return sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        return False


def to_file(path: Path) -> Handler:
    """A handler that appends to a file. Raises OSError if the file cannot be opened."""

    def open_() -> int:
        # Without waiting for the reader of a pipe.
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)

    return Handler(Lines(open_, str(path)))


def to_stderr() -> Handler:
    """A handler that writes to stderr."""
    return Handler(stderr())


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
