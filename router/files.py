"""Files that others wrote: read only if they are regular, without waiting, and within bounds; put aside if spoilt.

Opening a FIFO waits for a writer, a device may never end, and a huge file fills the memory. So files of models,
presets, templates and keys are opened here. A disk may still hang: after the start, files are read in `threads`.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import stat
from pathlib import Path

# As far as the platform has them: do not wait for a FIFO's writer, take no terminal, give nothing to children.
_FLAGS = os.O_RDONLY
for _name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
    _FLAGS |= getattr(os, _name, 0)
# Descriptors that were open when this process started, as in `--api-key-file <(program)`.
_INHERITED = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


# What a disk or a network share says that has gone.
LOST = frozenset((errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENXIO, errno.ENODEV))


class NotAFile(OSError):
    """The path is not a regular file; `strerror` says what it is."""


class TooLarge(OSError):
    """The file is larger than the bound for its kind."""


class NotText(Exception):
    """The bytes of a file are no text. `line` counts from 1, 0 means the whole file; `message` says what to do."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a regular file for reading, without a buffer.

    Raises OSError, NotAFile among them, and ValueError for a path with a NUL in it.
    """
    _check(os.stat(path), path)  # so that a device is not even opened
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), path)
        return io.FileIO(descriptor, "r")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: str | os.PathLike[str], most: int) -> bytes:
    """The whole file. Raises what `open_regular` does, and TooLarge for more than `most` bytes."""
    with open_regular(path) as file:
        return _read_whole(file, most, path)


def read_start(path: str | os.PathLike[str], most: int) -> bytes:
    """The first `most` bytes of the file. Raises what `open_regular` does."""
    with open_regular(path) as file:
        return _read_most(file, most)


def text_of(content: bytes) -> str:
    """The text of a file that people write: UTF-8, or UTF-16 with its mark, as Windows has it. Raises NotText."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise NotText(0, "the file is not UTF-8 text, and no whole UTF-16; save it as UTF-8") from error
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise NotText(line, "the file is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise NotText(line, "the file is no text: there is a NUL in this line; save it as UTF-8")
    return text


def is_inherited(path: str | os.PathLike[str]) -> bool:
    """Whether the path is a descriptor that was open when this process started, as in `<(program)`: it can be read
    once."""
    return os.fspath(path).startswith(_INHERITED)


def read_secret(path: str | os.PathLike[str], most: int) -> bytes:
    """As `read`, but also from a descriptor that was open when this process started."""
    if not is_inherited(path):
        return read(path, most)
    with open(path, "rb", buffering=0) as file:
        return _read_whole(file, most, path)


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether the path exists and is not a regular file."""
    try:
        return not _is_harmless(os.stat(path))
    except (OSError, ValueError):
        return False


def problem_of(path: str | Path, error: OSError | ValueError) -> str:
    """Why a path cannot be read, with what to do, as a sentence."""
    code: int | None = getattr(error, "errno", None)
    if code == errno.ENOENT and os.path.islink(path):
        return f"{path} is a link to {_target(path)}, which is not there: put it there, or remove the link"
    if code == errno.ELOOP:
        return f"{path} is a link that leads back to itself: remove it"
    if code in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read by this user ({os.strerror(code)}): change its rights, or its owner"
    if code in LOST:
        return f"{path} cannot be read ({os.strerror(code)}): mount its disk or network share again"
    return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"


def hung(path: str | Path) -> str:
    """The same for a path that does not answer."""
    return f"{path} does not answer: its disk or network share hangs; mend that, then reload"


def _target(path: str | Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return "a place"


def put_aside(path: Path) -> str:
    """Rename a spoilt file, so that its content can be looked at. Returns where it is now, as words for the log."""
    aside = path.with_name(f"{path.name}.bad")
    try:
        path.replace(aside)
    except OSError as exc:
        return f"left there, as it cannot be renamed ({exc.strerror})"
    return f"now {aside}"


def home() -> Path:
    """The user's home folder. Without HOME and without an entry in the table of users it is `/`, as in a container that
    runs as an unknown user."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def expanded(path: str) -> Path:
    """The path, with `~` and `~user` replaced. A `~user` that is no user stays as it is, and is then not found."""
    if path == "~" or path.startswith("~/"):
        return home() / path[2:]
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _read_whole(file: io.FileIO, most: int, path: str | os.PathLike[str]) -> bytes:
    data = _read_most(file, most + 1)
    if len(data) > most:
        raise TooLarge(errno.EFBIG, f"it is larger than {_size(most)}", os.fspath(path))
    return data


def _read_most(file: io.FileIO, most: int) -> bytes:
    parts, left = [], most
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _is_harmless(status: os.stat_result) -> bool:
    """A regular file, or the null device, which people use as an empty file."""
    return stat.S_ISREG(status.st_mode) or (stat.S_ISCHR(status.st_mode) and status.st_rdev == _null())


def _null() -> int:
    return os.stat(os.devnull).st_rdev


def kind_of(status: os.stat_result) -> str | None:
    """What it is if it is neither a regular file nor a folder, such as "a named pipe"; else None."""
    if stat.S_ISDIR(status.st_mode) or _is_harmless(status):
        return None
    return next((kind for is_one, kind in _KINDS if is_one(status.st_mode)), "something else")


def _check(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if kind := kind_of(status):
        raise NotAFile(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
