"""Amounts as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for a person: `1.5 GiB`, `300 MiB`."""
    mib = count / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
