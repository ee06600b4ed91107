"""PURE: why a request is refused: as the sentence that a client gets, and as an error.

The scheduler gives a `Refusal` and a short reason. Here both become a RouterError whose message says what to do next.
Called by `policy` and `pool`.
"""

from __future__ import annotations

from collections.abc import Mapping

from router import errors
from router.scheduling.effects import Refusal, Stop
from router.scheduling.resources import Demand, Device
from router.scheduling.snapshot import UNCHECKED, Snapshot
from router.units import size

_ERRORS: Mapping[Refusal, type[errors.RouterError]] = {
    Refusal.QUEUE_FULL: errors.QueueFull,
    Refusal.QUEUE_TIMEOUT: errors.QueueTimeout,
    Refusal.TOO_LARGE: errors.ModelTooLarge,
    Refusal.DEVICE_LOST: errors.DeviceLost,
    Refusal.FETCH_FAILED: errors.HubUnavailable,  # unless the caller knows a better class
    Refusal.LOAD_FAILED: errors.LoadFailed,
    Refusal.BACKING_OFF: errors.BackingOff,
    Refusal.CANCELLED: errors.Cancelled,
}
_SENTENCES: Mapping[Refusal, str] = {
    Refusal.QUEUE_FULL: "The server is busy, {model!r} cannot be loaded now: {reason}. Try again in a moment.",
    Refusal.QUEUE_TIMEOUT: "{model!r} could not be loaded in time: {reason}. Try again later.",
    Refusal.TOO_LARGE: "{model!r} does not fit on this machine: {reason}. Use a smaller context (-c), a smaller "
    "quantization or quantized KV cache (-ctk, -ctv), or lower --models-memory-margin.",
    Refusal.DEVICE_LOST: "{model!r} cannot be loaded now: {reason}; then the next request loads it.",
    Refusal.FETCH_FAILED: "{reason}",
    Refusal.LOAD_FAILED: "{model!r} could not be loaded: {reason}",
    Refusal.BACKING_OFF: "{model!r} is not started again yet: {reason}",
    Refusal.CANCELLED: "The request for {model!r} was cancelled: {reason}.",
}


def error_of(
    refusal: Refusal,
    model: str,
    reason: str,
    *,
    retry_after: float | None = None,
    kind: type[errors.RouterError] | None = None,
) -> errors.RouterError:
    """The error for a client. `retry_after` is in seconds. `kind` overrides the class that belongs to the refusal."""
    text = _SENTENCES[refusal].format(model=model, reason=reason)
    return (kind or _ERRORS[refusal])(text, retry_after=retry_after)


def error_of_cut(stop: Stop) -> errors.UpstreamFailed:
    """The error of the requests that run on a model when it is stopped."""
    kind = errors.ChildHung if stop.at_once else errors.CutOff
    text = f"{stop.model!r} was stopped while it served this request: {stop.why.text}. Send the request again."
    return kind(text, retry_after=1.0)


def why_too_large(snapshot: Snapshot, demand: Demand) -> str:
    """What the demand needs and what this machine has, in numbers."""
    empty = snapshot.totals.empty
    available = ", ".join(
        f"{r.device.name} {size(r.device.total)} less a margin of {size(snapshot.margins[r.device.key])}"
        for r in snapshot.readings
        if empty[r.device.key] != UNCHECKED and not r.lost
    )
    needed = []
    if demand.split or demand.fixed:
        where = f" (restricted to {', '.join(demand.names)})" if demand.names else ""
        needed.append(f"{size(demand.split + demand.fixed)} of GPU memory{where}")
    if demand.host:
        needed.append(f"{size(demand.host)} of RAM")
    return f"it needs {' and '.join(needed)}; this machine has {available or 'no such device'}"


def why_lost(snapshot: Snapshot, demand: Demand) -> str:
    """Which devices the demand would need, and why they cannot be read."""
    lost = [r for r in snapshot.readings if r.lost and (r.device.kind == "host" or r.device.name in demand.names)]
    lost = lost or [r for r in snapshot.readings if r.lost]
    devices = "; ".join(f"{_full_name(r.device)} cannot be read: {r.lost}" for r in lost)
    return f"it fits only with a device that is lost. {devices}. A reset or a restart of the machine may bring it back"


def _full_name(device: Device) -> str:
    return f"{device.name} ({device.uuid})" if device.uuid else device.name
