"""PURE: what the scheduler wants done. `pool` performs each effect and reports back what happened.

An effect is a decision that was booked already. The scheduler returns effects in the order in which they are to be
performed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from router.scheduling.causes import Why
from router.scheduling.resources import Allocation


class Refusal(Enum):
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    TOO_LARGE = "too_large"
    DEVICE_LOST = "device_lost"
    FETCH_FAILED = "fetch_failed"
    LOAD_FAILED = "load_failed"
    BACKING_OFF = "backing_off"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Probe:
    """Read the free memory, and report it with `Scheduler.probed`.

    `expected` are the bytes, by device key, that will be free once the processes that ended have given theirs back.
    `enough` are the free bytes, by device key, that the next start needs. Where they are there, the rest of what is
    expected need not be waited for. Empty if that is not known.
    """

    expected: Mapping[str, int]
    enough: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a child. `run` numbers the processes of one model, so that late news of an old process is not taken for
    news of the new one."""

    model: str
    run: int
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Stop:
    """End the model's child. Requests that still run on it fail, and are told why.

    `at_once`: it does not answer, so it gets no time for its end.
    """

    model: str
    why: Why
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """Download the model's files."""

    model: str


@dataclass(frozen=True, slots=True)
class Abort:
    """End the model's download. Its end need not be reported."""

    model: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The request with this ticket may use the model's process."""

    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request with this ticket fails. `retry_after` is in seconds; None if trying again later changes nothing."""

    ticket: int
    model: str
    refusal: Refusal
    reason: str
    retry_after: float | None = None


Effect = Probe | Spawn | Stop | Fetch | Abort | Grant | Refuse
