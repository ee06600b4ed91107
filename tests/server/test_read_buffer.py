"""Bytes go out of a buffer as they came in, however they are taken and put back; all clients' bytes are counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.server.admission import Admission
from router.server.read_buffer import ReadBuffer

PIECES = st.lists(st.binary(min_size=1, max_size=20), max_size=20)


@given(PIECES, st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=30))
def test_order_and_count_hold(pieces: list[bytes], steps: list[tuple[int, int]]) -> None:
    admission = Admission()
    buffer = ReadBuffer(admission)
    for piece in pieces:
        buffer.append(piece)
    left = b"".join(pieces)
    for size, used in steps:
        taken = buffer.take(size)
        assert left.startswith(taken)
        assert len(taken) >= min(size, len(left))
        left = left[len(taken) :]
        if rest := taken[used:]:
            buffer.put_back(rest, len(rest) + 1)
            left = rest + left
        assert buffer.size == len(left) == admission.buffered_bytes
    assert buffer.take() == left


def test_a_cleared_buffer_counts_nothing() -> None:
    admission = Admission()
    one, other = ReadBuffer(admission), ReadBuffer(admission)
    one.append(b"abc")
    other.append(b"de")
    one.clear()
    assert (one.size, admission.buffered_bytes) == (0, 2)
    assert one.take() == b""


def test_a_head_is_found_across_pieces() -> None:
    buffer = ReadBuffer(Admission())
    buffer.append(b"GET / HTTP/1.1\r\n\r")
    assert not buffer.starts_with_head()
    buffer.append(b"\n")
    assert buffer.starts_with_head()
    assert repr(buffer) == "<ReadBuffer 18 bytes, 0 wanted>"
