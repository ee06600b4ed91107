"""The memory devices, as JSON and as metrics: what there is, what is free, and which GPU is lost for what reason.

A GPU that cannot be read takes no model. So a client that gets a 503 for it can see here whether it is back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.scheduling.resources import UNKNOWN_BYTES, Device, Reading


def as_json(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """One object a device, in the order in which the engine counts them. Sizes are bytes; null where they are not
    known."""
    return [
        {
            "id": reading.device.key,
            "kind": reading.device.kind,
            "uuid": reading.device.uuid or None,
            "total": size_of(reading.device),
            "free": reading.free,
            "lost": bool(reading.lost),
            "reason": reading.lost or None,
        }
        for reading in readings
    ]


def lost(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    return as_json([reading for reading in readings if reading.lost])


def size_of(device: Device) -> int | None:
    return None if device.total == UNKNOWN_BYTES else device.total
