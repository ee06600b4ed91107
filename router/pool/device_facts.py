"""PURE: what a device holds: which models, what they do, and what is left to other programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from router.scheduling.books import ModelRecord
from router.scheduling.resources import UNKNOWN_BYTES, Reading
from router.scheduling.states import State


class Held(NamedTuple):
    """`bytes` are those that are booked. `phase` says what the process does: one that is "loading" or "stopping" holds
    any part of them; "idle" and "busy" ones hold all but those that are `promised`, which they may take yet; to one
    that is "sleeping" all are promised."""

    model: str
    bytes: int
    phase: str
    promised: int


class DeviceFacts(NamedTuple):
    """One device. Bytes; None where they are not known.

    `label` is what people call it; empty if nobody says.
    `margin` is to stay free; 0: this device is not checked.
    `other` is what other programs hold.
    `short`: they hold of what is to stay free.
    `lost` says why it cannot be read, and takes no model; empty if it can.
    """

    key: str
    name: str
    label: str
    node: str
    kind: str
    total: int | None
    free: int | None
    margin: int
    other: int | None
    short: bool
    lost: str
    held: tuple[Held, ...]


def device_facts(
    readings: Iterable[Reading],
    models: Sequence[ModelRecord],
    margins: Mapping[str, int],
    short: Mapping[str, int],
    others: Mapping[str, int],
) -> list[DeviceFacts]:
    """`models` are those with a process; `margins`, `short` and `others` are bytes by device key, and `others` is what
    was found the last time.

    While a model takes or gives back its memory, a reading shows a part of that, and nobody knows how much. So what
    others hold is then taken to be what it was, as far as the reading allows.
    """
    found = []
    for reading in readings:
        device, key = reading.device, reading.device.key
        total = None if device.total == UNKNOWN_BYTES else device.total
        held = [(model, count) for model in models if (count := model.held.get(key, 0))]
        is_known = reading.free is not None and total is not None
        found.append(
            DeviceFacts(
                key,
                device.name,
                device.label,
                device.node,
                device.kind,
                total,
                reading.free,
                margins.get(key, 0),
                _others(device.total - (reading.free or 0), key, held, others.get(key)) if is_known else None,
                key in short,
                reading.lost,
                tuple(_held(model, key, count) for model, count in held),
            )
        )
    return found


def _others(used: int, key: str, held: Iterable[tuple[ModelRecord, int]], before: int | None) -> int:
    """`used` are all bytes that are not free. Memory that was promised and is not taken yet does not show."""
    shown = unclear = 0
    for model, count in held:
        if model.state in (State.LOADING, State.STOPPING):
            unclear += count
        else:
            shown += count - model.hidden_part(key)
    most = max(0, used - shown)
    return most if before is None else min(most, max(before, most - unclear))


def _held(model: ModelRecord, key: str, count: int) -> Held:
    if model.state is State.LOADED:
        return Held(model.name, count, "busy" if model.leases else "idle", model.hidden_part(key))
    return Held(model.name, count, model.state.value, count if model.state is State.SLEEPING else 0)
