from __future__ import annotations

from router.units import counted, duration, size


def test_size() -> None:
    assert (size(300 << 20), size(3 << 29)) == ("300 MiB", "1.5 GiB")


def test_duration() -> None:
    shown = {0.04: "0.0 s", 59.94: "59.9 s", 60: "1 min", 61.9: "1 min 1 s", 3600: "1 h", 7260: "2 h 1 min"}
    shown |= {86399: "23 h 59 min", 86400: "1 d", 90000: "1 d 1 h", 10**7: "115 d 17 h", 86460: "1 d"}
    assert {seconds: duration(seconds) for seconds in shown} == shown


def test_counted() -> None:
    assert [counted(n, "request") for n in (0, 1, 2)] == ["0 requests", "1 request", "2 requests"]
