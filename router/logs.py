"""What the router writes for people: its log, and its few words on stderr.

Nobody waits for whoever reads: lines go into a queue with a bound, and a thread of its own writes them. If nobody takes
them, or the disk is full, lines are lost, which is counted and told, and the router serves on. No text from outside
(names, paths, answers) can end a line, or colour, move or turn round what a terminal shows.
"""

from __future__ import annotations

import contextlib
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
MOST = 4 << 20  # bytes that wait for whoever reads them
LONGEST = 32 << 10  # characters of one message
PIECE = 64 << 10  # bytes that are written at once
# How long the end of the program waits for what has not been written: a pipe that nobody reads takes nothing.
LAST_WORDS = 1.0
AGAIN = 1.0  # seconds between two looks whether a pipe takes something again

# C0, DEL and C1; separators of lines and paragraphs; what turns the direction of text; halves of characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# What the interpreter itself says of a place in a program.
_PLACE = re.compile(r'[ |+-]*File "|[ |+-]*(?:Exception Group )?Traceback ')


def visible(text: str) -> str:
    """As one line that shows all that it holds."""
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    number = ord(character)
    return _SHORT.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


class Formatter(logging.Formatter):
    """Only a traceback has lines, and these are of the program; what an exception says is one of them."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]} ... ({len(text) - LONGEST} more characters)"
        return visible(without_credentials(text))

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        pieces = traceback.format_exception(ei[1])
        lines = (line for piece in pieces for line in (piece.splitlines() if _PLACE.match(piece) else [piece.strip()]))
        return "\n".join(visible(without_credentials(line[:LONGEST])) for line in lines)


class Lines:
    """Lines on their way to a descriptor, or to a file that can be opened anew. `put` never waits."""

    def __init__(self, open_: Callable[[], int], name: str) -> None:
        """`open_` gives a descriptor, and may raise OSError: the first time at once, later it costs a warning."""
        self._open = open_
        self._name = name
        self._descriptor = open_()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._why = ""
        self._is_busy = self._is_worn = False
        self._changed = threading.Condition()  # on an RLock: a garbage collector may log in the middle of `put`
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._size + len(data) > MOST:
                self._lose(1, "nobody read them in time")
                return
            self._waiting.append(data)
            self._size += len(data)
            if self._thread is None:
                self._begin()
            self._changed.notify_all()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name=f"log-{self._name}", daemon=True)
        with contextlib.suppress(RuntimeError):  # there are too many threads: the next line tries again
            thread.start()
            self._thread = thread

    def reopen(self) -> None:
        """Before the next line is written."""
        with self._changed:
            self._is_worn = True
            self._changed.notify_all()

    def flush(self, patience: float = LAST_WORDS) -> None:
        """Wait until all is written, but not for ever."""
        end = time.monotonic() + patience
        with self._changed:
            while (self._waiting or self._is_busy) and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _lose(self, count: int, why: str) -> None:
        self._lost += count
        self._why = why

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                while not (self._waiting or self._is_worn):
                    self._changed.wait()
                self._is_busy = True
                is_worn, self._is_worn = self._is_worn, False
                data, count = self._take()
            if is_worn:
                self._renew()
            try:
                _write_all(self._descriptor, data)
            except OSError as exc:
                with self._changed:
                    self._lose(count, exc.strerror or type(exc).__name__)

    def _take(self) -> tuple[bytes, int]:
        """Some lines, and how many: with what is to be said of those that were lost."""
        lines: list[bytes] = []
        room = PIECE
        while self._waiting and (not lines or len(self._waiting[0]) <= room):
            lines.append(self._waiting.popleft())
            room -= len(lines[-1])
            self._size -= len(lines[-1])
        count = len(lines)
        if self._lost and lines:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            lines.insert(0, f"{now},000 W router.logs: {self._lost} lines were lost: {visible(self._why)}\n".encode())
            count, self._lost = count + self._lost, 0  # told with the next ones, if these are lost too
        return b"".join(lines), count

    def _renew(self) -> None:
        try:
            descriptor = self._open()
        except OSError as exc:
            log.warning("%s cannot be opened anew (%s): what was open goes on", self._name, exc.strerror)
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
    """For a pipe that is full, and does not wait itself; not with `select`, which knows no large numbers."""
    if not hasattr(select, "poll"):
        time.sleep(AGAIN / 20)
        return
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    ready.poll(AGAIN * 1000)


class Handler(logging.Handler):
    """The log's."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self.lines = lines
        self.setFormatter(Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.put(self.format(record))
        except Exception:  # a log call whose arguments do not fit its text must not end what it tells of
            self.lines.put(visible(f"a line of the log cannot be told: {record.name} {record.msg!r}"))

    def flush(self) -> None:
        self.lines.flush()


_stderr: Lines | None = None


def stderr() -> Lines:
    """All that goes to stderr goes through these, so that it comes in its order."""
    global _stderr
    if _stderr is None:
        _stderr = Lines(lambda: 2, "stderr")
    return _stderr


def say(text: str) -> None:
    """A line on stderr for whoever has started the program."""
    line = visible(without_credentials(text))
    if _is_stderr_real():
        stderr().put(line)
    else:  # somebody in this process has taken its place
        print(line, file=sys.stderr, flush=True)


def _is_stderr_real() -> bool:
    try:
        return sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        return False


def to_file(path: Path) -> Handler:
    """Raises OSError for one that cannot be written."""

    def open_() -> int:
        # Without waiting for whoever reads a pipe.
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)

    return Handler(Lines(open_, str(path)))


def to_stderr() -> Handler:
    return Handler(stderr())


def reopen() -> None:
    """Open the log file anew: another program has renamed it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.lines.reopen()


def catch() -> None:
    """What the interpreter would write to stderr by itself, where it could wait for ever, goes to the log."""

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            _tell("in a thread", args.exc_value)

    def ignored(args: Any) -> None:
        _tell(f"ignored in {args.object!r}", args.exc_value)

    threading.excepthook = of_thread
    sys.unraisablehook = ignored
    logging.captureWarnings(True)


def _tell(where: str, exc: BaseException | None) -> None:
    log.critical("a defect in the router (%s)", where, exc_info=exc)


def fill_standard_streams() -> None:
    """Where one of them is closed the next file that is opened, a socket say, would take its place, and whatever writes
    to stderr would write there."""
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


def flush() -> None:
    """What has been said on stderr is written when this returns, if anybody takes it in time."""
    if _stderr is not None:
        _stderr.flush()
