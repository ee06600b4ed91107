"""Amounts in the form in which people read them, for log lines, errors and tables."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for a person: `1.5 GiB`, `300 MiB`."""
    mib = count / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def duration(seconds: float) -> str:
    """A time for a person: `1.5 s`, `12 min 30 s`, `3 h 5 min`, `4 d`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    units, left, parts = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")), int(seconds), []
    largest = next(index for index, (length, _) in enumerate(units) if left >= length)
    for length, unit in units[largest : largest + 2]:
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts)


def counted(count: int, what: str) -> str:
    """So many of these: `1 request`, `3 requests`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def limit_size(count: int) -> str:
    """Bytes of a limit, rounded down to whole units: `8 MiB`, `97 KiB`."""
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
