from __future__ import annotations

import gzip

import pytest

from router.page import files
from router.page.files import BadFile, PageFile, pack


def test_a_file_is_packed_once_and_unpacked_in_pieces() -> None:
    content = b"abc" * 100_000
    file = PageFile.make("a.js", pack(content), {"cross-origin-opener-policy": "same-origin", "set-cookie": "x=1"})
    assert b"".join(file.unpacked()) == content
    assert max(map(len, file.unpacked())) <= files.PIECE_BYTES
    assert file.headers == {"cross-origin-opener-policy": "same-origin"}
    assert file.type.startswith("text/javascript")


def test_a_header_is_one_word() -> None:
    wrong = {"cross-origin-opener-policy": "same-origin\r\nset-cookie: x"}
    assert PageFile.make("a.js", pack(b""), wrong).headers == {}


def test_what_is_no_file_of_a_page() -> None:
    for name, packed in (
        ("../a.js", pack(b"")),
        ("a.exe", pack(b"")),
        ("a.js", b"no gzip"),
        ("a.js", pack(b"x" * 1000)[:-9]),
        ("a.js", gzip.compress(bytes(files.MAX_UNPACKED_BYTES + 1), 1)),
        ("a.js", bytes(files.MAX_PACKED_BYTES + 1)),
    ):
        with pytest.raises(BadFile):
            PageFile.make(name, packed, {})
