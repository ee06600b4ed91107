from __future__ import annotations

from router.units import size


def test_size() -> None:
    assert (size(300 << 20), size(3 << 29)) == ("300 MiB", "1.5 GiB")
