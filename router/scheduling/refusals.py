"""PURE: why the scheduler refuses, as the error and the sentence that a client gets."""

from __future__ import annotations

from collections.abc import Mapping

from router import errors
from router.scheduling.scheduler import Refusal

_ERRORS: Mapping[Refusal, type[errors.RouterError]] = {
    Refusal.QUEUE_FULL: errors.QueueFull,
    Refusal.QUEUE_TIMEOUT: errors.QueueTimeout,
    Refusal.TOO_LARGE: errors.ModelTooLarge,
    Refusal.FETCH_FAILED: errors.HubUnavailable,  # if nobody knows better
    Refusal.LOAD_FAILED: errors.LoadFailed,
    Refusal.BACKING_OFF: errors.BackingOff,
    Refusal.CANCELLED: errors.Cancelled,
}
_SENTENCES: Mapping[Refusal, str] = {
    Refusal.QUEUE_FULL: "The server is busy, {model!r} cannot be loaded now: {reason}. Try again in a moment.",
    Refusal.QUEUE_TIMEOUT: "{model!r} could not be loaded in time: {reason}. Try again later.",
    Refusal.TOO_LARGE: "{model!r} does not fit on this machine: {reason}. Use a smaller context (-c), a smaller "
    "quantization or quantized KV cache (-ctk, -ctv), or lower --models-memory-margin.",
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
    """`retry_after` is in seconds; `kind` is for who knows better than the refusal says."""
    text = _SENTENCES[refusal].format(model=model, reason=reason)
    return (kind or _ERRORS[refusal])(text, retry_after=retry_after)
