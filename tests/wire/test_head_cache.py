"""Heads with equal keys are heads that a parser reads alike."""

from __future__ import annotations

from collections.abc import Iterable

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.wire.head_cache import HeadCache, split_message


@pytest.mark.parametrize("name", ["Content-Length", "content-length"])
def test_a_message_is_split_at_its_head(name: str) -> None:
    for after in ("", "X: 1\r\n"):
        head = f"POST /x HTTP/1.1\r\nHost: h\r\n{name}: 12\r\n{after}\r\n".encode()
        key = (b"POST /x HTTP/1.1\r\nHost: h", after[:-2].encode())
        for body in (b"", b"Content-Length: 3\r\n\r\n"):
            assert split_message(head + body) == (key, 12, body)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1",
        "POST / HTTP/1.1\r\nHost: h\r\n\r\n\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\n\r\n\r\ncontent-length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1 \r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\n\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1,2\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1234567890123456\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length:1\r\n\r\n",
        "POST / HTTP/1.1\r\nCONTENT-LENGTH: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nX-Content-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\n Content-Length: 1\r\n\r\n",
    ],
)
def test_a_head_without_a_plain_length_has_no_key(head: str) -> None:
    assert split_message(head.encode()) is None


NAMES = st.sampled_from(
    [
        b"Content-Length: ",
        b"content-length: ",
        b"X-Content-Length: ",
        b"X: Content-Length: ",
        b" Content-Length: ",
        b"X: ",
        b"",
        b"Content-",
        b"Transfer-Encoding: chunked",
    ]
)
NUMBERS = st.sampled_from([b"1", b"23", b"456", b""])
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""])
LINES = st.lists(st.tuples(NAMES, NUMBERS, NUMBERS, ENDS), max_size=4)


def head_of(lines: Iterable[tuple[bytes, bytes, bytes]]) -> bytes:
    return b"POST / HTTP/1.1\r\n" + b"".join(name + number + end for name, number, end in lines) + b"\r\n\r\n"


def without_body(head: bytes) -> bytes:
    """The head alone."""
    return head[: head.index(b"\r\n\r\n") + 4]


def length_position(head: bytes) -> int:
    """Where the digits of its length begin."""
    for name in (b"Content-Length: ", b"content-length: "):
        at = 0
        for line in head.split(b"\r\n"):
            if at and line.startswith(name):
                return at + len(name)
            at += len(line) + 2
    raise AssertionError(head)


@settings(max_examples=1000)
@given(LINES)
@example([(b"Content-Length: ", b"1", b"456", b"\r\n"), (b"X: ", b"1", b"1", b"")])
def test_equal_heads_differ_in_the_length_alone(lines: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
    """A parser reads the same in both, so the second need not be parsed."""
    one = without_body(head_of((name, number, end) for name, number, _, end in lines))
    other = without_body(head_of((name, number, end) for name, _, number, end in lines))
    first, second = split_message(one), split_message(other)
    if first and second and first[0] == second[0]:
        lengths = [b"%d" % found[1] for found in (first, second)]
        at = length_position(one)
        assert one == one[:at] + lengths[0] + one[at + len(lengths[0]) :]
        assert other == one[:at] + lengths[1] + one[at + len(lengths[0]) :]
        if headers := parsed_headers(one):
            ours = (b"content-length", lengths[0])
            assert ours in headers
            assert parsed_headers(other) == [(ours[0], lengths[1]) if header == ours else header for header in headers]


def parsed_headers(head: bytes) -> list[tuple[bytes, bytes]] | None:
    headers: list[tuple[bytes, bytes]] = []

    class Reader:
        def on_header(self, name: bytes, value: bytes) -> None:
            headers.append((name.lower(), value))

    try:
        httptools.HttpRequestParser(Reader()).feed_data(head)
    except httptools.HttpParserError:
        return None
    return headers


def test_a_full_cache_is_emptied_and_long_heads_are_not_kept() -> None:
    cache: HeadCache[int] = HeadCache()
    for number in range(3 * HeadCache.MAX_HEADS):
        key = (b"%d" % number, b"")
        cache.remember(key, number)
        assert cache[key] == number
        assert len(cache) <= HeadCache.MAX_HEADS
    long = (b"a", b"b" * HeadCache.MAX_KEY_BYTES)
    cache.remember(long, 1)
    assert long not in cache
