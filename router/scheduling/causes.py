"""PURE: why a process is stopped: a cause that programs read, with its facts, and the one sentence that people read.

Nothing is steered by the sentence. Every `Stop` carries a `Why`; so does a model that ends with its last lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from router.units import counted


class Cause(Enum):
    """MEMORY, COUNT: another model needs its memory, or only its slot (`models_max`).
    RETRY: a load that ran out of memory is tried once more, with all the room that idle models can give.
    PRESSURE: other programs have taken memory that is to stay free.
    TTL: it was idle for its time to live.
    UNLOAD: it was unloaded, by a client or by a request's own `keep_alive`.
    SETTINGS: its next process has other settings, or other files.
    REMOVED: it left the catalog.
    SHUTDOWN: the router ends.
    CANCELLED: no request waits for this load any more.
    HUNG: requests run on it, and it shows no life.
    UNREACHABLE: it lives, but its socket is gone.
    """

    MEMORY = "memory"
    COUNT = "count"
    RETRY = "retry"
    PRESSURE = "pressure"
    TTL = "ttl"
    UNLOAD = "unload"
    SETTINGS = "settings"
    REMOVED = "removed"
    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    HUNG = "hung"
    UNREACHABLE = "unreachable"

    __hash__ = object.__hash__  # each member exists once

    @property
    def is_eviction(self) -> bool:
        """It goes for another model's load."""
        return self in (Cause.MEMORY, Cause.COUNT, Cause.RETRY)


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a model needs where it is to go, and what there was of it. Bytes by device key.

    `free` is what could still be given away: without the margin, and without what was promised to others. It may be
    negative.
    """

    need: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> dict[str, int]:
        """By how much it is short, on each device where it is."""
        return {key: need - self.free[key] for key, need in self.need.items() if need > self.free.get(key, need)}


@dataclass(frozen=True, slots=True)
class Why:
    """`model` is the one that it goes for; empty if it goes for none.
    `requests` ran on it, and are cut, after they were waited for or it showed no life for `seconds`.
    `shortage` is that of the model that it goes for; with PRESSURE it tells what others have taken.
    """

    cause: Cause
    model: str = ""
    requests: int = 0
    seconds: float = 0.0
    shortage: Shortage = Shortage()

    @property
    def text(self) -> str:
        match self.cause:
            case Cause.MEMORY | Cause.COUNT | Cause.RETRY if self.requests:
                waited = f"waited {self.seconds:g} s for {counted(self.requests, 'request')} to end"
                return f"room for {self.model}, which {waited}"
            case Cause.MEMORY | Cause.COUNT | Cause.RETRY:
                return f"room for {self.model}"
            case Cause.SETTINGS | Cause.UNLOAD | Cause.UNREACHABLE | Cause.REMOVED if self.requests:
                return f"its next process waited {self.seconds:g} s for {counted(self.requests, 'request')} to end"
            case Cause.PRESSURE:
                devices = ", ".join(self.shortage.need)
                return f"memory pressure on {devices}: other programs have taken the margin"
            case Cause.HUNG:
                return f"its process showed no sign of life for {self.seconds:g} s"
            case _:
                return _TEXTS[self.cause]


_TEXTS: Mapping[Cause, str] = {
    Cause.TTL: "idle for its time to live",
    Cause.UNLOAD: "unloaded",
    Cause.SETTINGS: "new settings",
    Cause.REMOVED: "it left the catalog",
    Cause.SHUTDOWN: "the router is shutting down",
    Cause.CANCELLED: "no request waits for it any more",
    Cause.UNREACHABLE: "its socket is gone",
}
