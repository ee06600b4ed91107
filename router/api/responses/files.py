"""PURE: files in a request as text. A model reads text, so other files (PDF, Office) are refused."""

from __future__ import annotations

import binascii
from typing import Any
from urllib.parse import unquote_to_bytes

from router.api.responses.fields import Fields, invalid, path, text


def file_as_text(part: Fields, where: str) -> str:
    """The name and the text of an `input_file` part. Raises InvalidRequest."""
    for name in ("file_id", "file_url"):
        if text(part, name, where):
            raise invalid(
                f"{path(where, name)!r} is not supported: no files are kept or fetched here. Send their text.",
                path(where, name),
            )
    name, data = text(part, "filename", where) or "file", _decoded(text(part, "file_data", where), where)
    words = None if data.startswith(b"%PDF") or b"\0" in data else _utf8(data)
    if words is None:
        raise invalid(f"The file {name!r} is not text, and models read text alone. Send what it says as text.", where)
    return f"{name}:\n{words}"


def _decoded(data: str, where: str) -> bytes:
    head, comma, rest = data.partition(",")
    is_url = bool(comma) and head.startswith("data:")
    if is_url and not head.endswith(";base64"):
        return unquote_to_bytes(rest)
    try:
        return binascii.a2b_base64("".join((rest if is_url else data).split()), strict_mode=True)
    except ValueError as exc:
        raise invalid(f"'{where}.file_data' is not valid base64: {exc}.", path(where, "file_data")) from None


def _utf8(data: bytes) -> Any:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
