"""The log that is kept of a child has bounds."""

from __future__ import annotations

from router.node.child_log import MAX_LINE_BYTES, MAX_LINES, MAX_LOG_BYTES, ChildLog, shorten


def test_the_kept_log_has_bounds() -> None:  # B-T5
    log = ChildLog()
    for number in range(5000):
        log.add(b"%d" % number)
    assert list(log) == [str(number) for number in range(5000 - MAX_LINES, 5000)]
    for _ in range(2000):
        log.add(b"x" * 1000)
    assert sum(map(len, log)) <= MAX_LOG_BYTES
    log.add(b"w" * 1_000_000)
    last = list(log)[-1]
    assert len(last) <= MAX_LINE_BYTES
    assert last.endswith(f" ... ({1_000_000 - last.count('w')} more bytes)")


def test_a_short_line_is_kept_as_it_is() -> None:
    assert shorten(b"short") == b"short"


def test_the_repr_shows_how_much_is_kept() -> None:
    log = ChildLog()
    log.add(b"secret")
    assert repr(log) == "<ChildLog 1 lines, 6 bytes>"
