"""Pictures for a model: files that exist, are regular, not too large, and begin as pictures do."""

from __future__ import annotations

import base64
from pathlib import Path

from router import files
from router.errors import FlagError
from router.units import limit_size

MAX_BYTES = 24 << 20  # base64 makes a third more of it; a request may have 64 MiB by default
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}


def is_file(path: str) -> bool:
    try:
        return files.expanded(path).is_file()
    except (OSError, ValueError):
        return False


def read(path: str) -> tuple[Path, str]:
    """The picture as a data URL, and where it was. Raises FlagError."""
    found = files.expanded(path)
    try:
        data = files.read(found, MAX_BYTES)
    except files.TooLarge as exc:
        raise FlagError(f"{path} is larger than {limit_size(MAX_BYTES)}") from exc
    except (OSError, ValueError) as exc:
        raise FlagError(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    kind = next((kind for start, kind in _STARTS.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise FlagError(f"{path} is no picture that is known (PNG, JPEG, WebP, GIF, BMP)")
    return found, f"data:{kind};base64,{base64.b64encode(data).decode()}"
