"""The fields of a multipart form. Audio comes in such forms, and files are passed over.

`routing` calls this for requests with that content type. The parser is from python-multipart, which Starlette uses too.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from router.errors import InvalidRequest

MAX_FIELD_BYTES = 64 * 1024  # of a field; the rest of it is dropped
# OpenAI's forms have about ten fields, each with a line or two of headers.
MAX_PARTS = 1000
MAX_PART_HEAD_BYTES = 16 * 1024
CHUNK_BYTES = 256 * 1024  # for the parser at a time: it reports the part of a head at the end of each


def form_fields(body: bytes, content_type: str) -> dict[str, str] | None:
    """The fields of a multipart form by name. None if the content type is another one. Raises InvalidRequest."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    form = _Fields()
    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": form.on_part_begin,
                "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_part_data": form.on_part_data,
            },
        )
        for start in range(0, len(body), CHUNK_BYTES):
            parser.write(body[start : start + CHUNK_BYTES])
    except FormParserError as exc:
        raise InvalidRequest(f"The multipart form cannot be read: {exc}.") from exc
    return {name.decode(errors="replace"): bytes(value).decode(errors="replace") for name, value in form.fields.items()}


class _Fields:
    """Collects the fields of a form. A part with a file name is a file, and is passed over."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytearray] = {}
        self._current: bytearray | None = None  # the field that is being read
        # The header that is being read
        self._header_name = b""
        self._header_value = b""
        self._part_count = 0
        self._head_bytes = 0  # bytes of the head of this part

    def on_part_begin(self) -> None:
        self._current = None
        self._part_count += 1
        self._head_bytes = 0
        if self._part_count > MAX_PARTS:
            raise InvalidRequest(f"The multipart form has too many parts; send at most {MAX_PARTS}.")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._header_value += data[start:end]

    def _count_head(self, size: int) -> None:
        self._head_bytes += size + 4  # and the signs between name, value and line
        if self._head_bytes > MAX_PART_HEAD_BYTES:
            raise InvalidRequest(
                f"A part of the multipart form has a head of more than {MAX_PART_HEAD_BYTES >> 10} KiB."
            )

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            if b"name" in options and b"filename" not in options:
                self._current = self.fields[options[b"name"]] = bytearray()
        self._header_name = self._header_value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current is not None:
            self._current += data[start : min(end, start + MAX_FIELD_BYTES - len(self._current))]
