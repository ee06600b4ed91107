"""The keys of clients in a file: `--api-key-file` and `--admin-key-file`. Called by `settings`."""

from __future__ import annotations

from pathlib import Path

from router import files
from router.errors import FlagError

MAX_KEY_FILE_BYTES = 1 << 20


def read(path: Path, flag: str) -> tuple[str, ...]:
    """The keys, one a line. Raises FlagError."""
    try:
        lines = files.read_secret(path, MAX_KEY_FILE_BYTES).decode().splitlines()
    except OSError as error:
        raise FlagError(f"cannot read {flag} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FlagError(f"cannot read {flag} {path}: it is no text; write one key a line") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise FlagError(f"{flag} {path} holds no key: write one a line, or leave the flag out")
    return keys
