"""PURE: the memory devices as clients see them: what there is, what is free, and which are lost for what reason.

A GPU that cannot be read takes no model. A client that gets a 503 for it can see here whether it is back.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.scheduling.resources import UNKNOWN_BYTES, Reading


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """`id` is NODE/NAME, `kind` "gpu" or "host".
    `uuid` is the vendor's identity; None if there is none.
    `total` and `free` are bytes; None where they are not known.
    `reason` says why it is `lost`; None if it is not.
    """

    id: str
    kind: str
    uuid: str | None
    total: int | None
    free: int | None
    lost: bool
    reason: str | None

    @classmethod
    def of(cls, reading: Reading) -> DeviceStatus:
        device = reading.device
        return cls(
            id=device.key,
            kind=device.kind,
            uuid=device.uuid or None,
            total=None if device.total == UNKNOWN_BYTES else device.total,
            free=reading.free,
            lost=bool(reading.lost),
            reason=reading.lost or None,
        )
