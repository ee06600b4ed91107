"""Amounts in the form in which people read them, for log lines, errors and tables."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for a person: `1.5 GiB`, `300 MiB`."""
    mib = count / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def counted(count: int, what: str) -> str:
    """So many of these: `1 request`, `3 requests`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def limit_size(count: int) -> str:
    """Bytes of a limit, rounded down to whole units: `8 MiB`, `97 KiB`."""
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
