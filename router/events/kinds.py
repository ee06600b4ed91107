"""PURE: what can happen, one frozen class for each kind of event.

An event is made where its effect is performed, in `pool`, and handed to the `journal`. The fields have the same names
in all kinds: what `NUMBERS` lists goes to clients as `numbers`. Bytes are by device key, times are seconds.

- `model`: whose event it is; "*" if it is no single model's.
- `run`: which of the model's processes. Together with the model it is one process.
- `wanted_by`: the model for which it happens; empty if it is none. Clients know it as `for`.
- `need`: what a model takes where it goes; `margin`: what stays free there.
- `free`: what could still be given away there, without the margin and what was promised already; `missing`: by how much
  that was too little.
- `freed`: what comes free.
- `idle`: since its last use.

`IS_SHOWN` says whether operators see the kind. The others are for those who keep books: they are many, and nobody but a
subscriber gets them. Events of single requests (`PER_REQUEST`) are not even made unless somebody subscribed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from router.scheduling.causes import Cause

EVERYTHING = "*"  # the model of an event that is no single model's
NUMBERS = (
    "need",
    "free",
    "margin",
    "missing",
    "freed",
    "seconds",
    "idle",
    "requests",
    "retry_after",
    "pid",
    "exit_code",
    "added",
    "changed",
    "removed",
)

MAX_WHY = 2_000

Bytes = Mapping[str, int]


def shortened(why: str) -> str:
    """A reason as it is kept. What a child or a hub has said may be long, and many events are kept."""
    return why if len(why) <= MAX_WHY else f"{why[:MAX_WHY]}..."


# Processes


@dataclass(frozen=True, slots=True)
class Start:
    """A process is started. It holds `need` from now on."""

    KIND: ClassVar[str] = "start"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    run: int
    need: Bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """It serves, `seconds` after its start."""

    KIND: ClassVar[str] = "ready"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    run: int
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Booked:
    """It holds something else than was booked until now."""

    KIND: ClassVar[str] = "booked"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    run: int
    need: Bytes


@dataclass(frozen=True, slots=True)
class Slept:
    """It has freed its memory, and takes it back with the next request."""

    KIND: ClassVar[str] = "sleep"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    run: int


@dataclass(frozen=True, slots=True)
class Woke:
    KIND: ClassVar[str] = "wake"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    run: int


@dataclass(frozen=True, slots=True)
class Evict:
    """It is stopped for another model's load. `requests` ran on it, and are cut."""

    KIND: ClassVar[str] = "evict"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    run: int
    cause: Cause
    why: str
    wanted_by: str
    need: Bytes
    free: Bytes
    margin: Bytes
    missing: Bytes
    freed: Bytes
    idle: float | None
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """It is stopped, and not for another model's load."""

    KIND: ClassVar[str] = "stop"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    run: int
    cause: Cause
    why: str
    freed: Bytes
    idle: float | None
    requests: int = 0
    missing: Bytes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expire:
    """It is stopped, because it was idle for its time to live."""

    KIND: ClassVar[str] = "ttl"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    run: int
    cause: Cause
    why: str
    freed: Bytes
    idle: float | None


@dataclass(frozen=True, slots=True)
class Exited:
    """A process that was stopped is gone, `seconds` after it was stopped."""

    KIND: ClassVar[str] = "exit"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    run: int
    cause: Cause
    why: str
    freed: Bytes
    seconds: float
    exit_code: int


@dataclass(frozen=True, slots=True)
class Crash:
    """A process that served is gone, and nobody stopped it. `requests` ran on it."""

    KIND: ClassVar[str] = "crash"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    run: int
    why: str
    freed: Bytes
    exit_code: int
    requests: int = 0
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A process is gone that had not served yet, and nobody stopped it. `will_retry`: it is tried once more."""

    KIND: ClassVar[str] = "load_failed"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    run: int
    why: str
    freed: Bytes
    exit_code: int
    seconds: float
    will_retry: bool = False
    retry_after: float | None = None


# The queue


@dataclass(frozen=True, slots=True)
class Wait:
    """Requests for a model begin to wait for room. `why` says for what, and `waits_for` is the code of that."""

    KIND: ClassVar[str] = "wait"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    why: str
    requests: int
    waits_for: str = ""
    missing: Bytes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drain:
    """A model takes no new work, so that one ahead in the queue gets its room. `requests` still run on it."""

    KIND: ClassVar[str] = "drain"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    wanted_by: str
    requests: int
    freed: Bytes


@dataclass(frozen=True, slots=True)
class DrainEnded:
    """It drains no more: it takes new work again, or is stopped in the same step."""

    KIND: ClassVar[str] = "drain_end"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A request is refused. `refusal` is the code of the reason. `request` is its id, empty if it has none."""

    KIND: ClassVar[str] = "refused"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    ticket: int
    refusal: str
    why: str
    retry_after: float | None = None
    request: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """A request waits for a lease. One that needs not wait is `Granted` at once, without this."""

    KIND: ClassVar[str] = "joined"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    ticket: int
    background: bool
    priority: int


@dataclass(frozen=True, slots=True)
class Left:
    """A request has left the queue without an answer."""

    KIND: ClassVar[str] = "left"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    ticket: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A request may use the model's process, after `seconds` in the queue; exactly 0 if it did not wait."""

    KIND: ClassVar[str] = "granted"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    ticket: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Released:
    """Its use has ended. If its process is gone, the end of that has ended the lease already."""

    KIND: ClassVar[str] = "released"
    IS_SHOWN: ClassVar[bool] = False
    model: str
    ticket: int


# Downloads, settings, devices


@dataclass(frozen=True, slots=True)
class Download:
    """`step` is `started`, `finished`, `failed` or `cancelled`; `why` says why it failed. `seconds` since its start."""

    KIND: ClassVar[str] = "download"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    step: str
    why: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """There is another catalog: so many models came, changed, or left, and `summary` names some. `why` says why there
    is none, if it failed."""

    KIND: ClassVar[str] = "reload"
    IS_SHOWN: ClassVar[bool] = True
    summary: str = ""
    added: int = 0
    changed: int = 0
    removed: int = 0
    why: str = ""
    model: str = EVERYTHING


@dataclass(frozen=True, slots=True)
class Pin:
    """A model is protected from eviction from now on, or is no more."""

    KIND: ClassVar[str] = "pin"
    IS_SHOWN: ClassVar[bool] = True
    model: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """A device cannot be read, and takes no model."""

    KIND: ClassVar[str] = "device_lost"
    IS_SHOWN: ClassVar[bool] = True
    device: str
    why: str
    model: str = EVERYTHING


@dataclass(frozen=True, slots=True)
class DeviceFound:
    """It can be read again."""

    KIND: ClassVar[str] = "device_found"
    IS_SHOWN: ClassVar[bool] = True
    device: str
    model: str = EVERYTHING


@dataclass(frozen=True, slots=True)
class Settled:
    """The memory of ended processes is back on a GPU, or is not waited for any longer, after `seconds`."""

    KIND: ClassVar[str] = "settled"
    IS_SHOWN: ClassVar[bool] = False
    device: str
    seconds: float
    model: str = EVERYTHING


@dataclass(frozen=True, slots=True)
class Pressure:
    """Other programs have taken memory that is to stay free. `stops_for_it`: idle models are stopped for that."""

    KIND: ClassVar[str] = "pressure"
    IS_SHOWN: ClassVar[bool] = True
    device: str
    free: Bytes
    margin: Bytes
    stops_for_it: bool
    model: str = EVERYTHING


@dataclass(frozen=True, slots=True)
class PressureEnded:
    """The margin is free again."""

    KIND: ClassVar[str] = "pressure_end"
    IS_SHOWN: ClassVar[bool] = True
    device: str
    model: str = EVERYTHING


AnyEvent = (
    Start
    | Ready
    | Booked
    | Slept
    | Woke
    | Evict
    | Stop
    | Expire
    | Exited
    | Crash
    | LoadFailed
    | Wait
    | Drain
    | DrainEnded
    | Refused
    | Joined
    | Left
    | Granted
    | Released
    | Download
    | Reload
    | Pin
    | DeviceLost
    | DeviceFound
    | Settled
    | Pressure
    | PressureEnded
)
STOPS = (Evict, Stop, Expire)
ENDS = (Exited, Crash, LoadFailed)
PER_REQUEST = (Joined, Left, Granted, Released)
