from __future__ import annotations

from router.units import counted, size


def test_size() -> None:
    assert (size(300 << 20), size(3 << 29)) == ("300 MiB", "1.5 GiB")


def test_counted() -> None:
    assert [counted(n, "request") for n in (0, 1, 2)] == ["0 requests", "1 request", "2 requests"]
