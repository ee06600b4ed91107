"""PURE: what a request waits for, as words for people.

The scheduler knows the facts; the sentences stand here, for errors and for whoever shows what goes on. `refusals` puts
them into whole errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from router.units import counted


class Kind(Enum):
    """What an entry of the queue waits for.

    OWN_LOAD: its own model loads, or is about to.
    DOWNLOAD: its files are downloaded, or will be after others.
    DRAINING: requests have to end on models that take no new ones.
    DRAIN_GRACE: time protects models that could make room, for a while: busy ones that take new requests yet
    (`drain_grace`), ones that have just been loaded (`min_loaded`) or used (`task_grace`).
    STOPPING: processes that end, or have ended, give their memory back.
    ANOTHER_LOAD: other models load.
    PINNED_OR_FOREIGN: pinned models or other programs hold the memory, or it cannot be read.
    BEHIND: models ahead in the queue take what there is first.
    SLOTS: the memory would do, but as many models run as may (`models_max`).
    """

    OWN_LOAD = "own_load"
    DOWNLOAD = "download"
    DRAINING = "draining"
    DRAIN_GRACE = "drain_grace"
    STOPPING = "stopping"
    ANOTHER_LOAD = "another_load"
    PINNED_OR_FOREIGN = "pinned_or_foreign"
    BEHIND = "behind"
    SLOTS = "slots"


@dataclass(frozen=True, slots=True)
class Blocker:
    """A model that has to end something first. `requests` are those that run on it; of a model that waits itself, ahead
    in the queue, those that wait for it."""

    model: str
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an entry of the queue waits.

    `text` is a sentence without its subject: `waits for coder to finish 3 requests`. It does not change by time alone.
    `missing` are the bytes that lack where the model is to go, by device key.
    `drain_in` are the seconds until what time protects may go, or is closed to new requests; None if time alone changes
    nothing.
    """

    kind: Kind
    text: str
    blockers: tuple[Blocker, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)
    drain_in: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry of the queue: a model for which requests wait.

    `position` counts from 1, in the order of turns.
    `waited` is how many seconds the oldest of its requests has waited.
    `background`: no foreground request waits for it.
    """

    position: int
    model: str
    requests: int
    waited: float
    background: bool
    why: Reason


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A model whose requests must end first. `requests` of them run, and it has been busy for so many seconds."""

    model: str
    requests: int
    busy_for: float


def waits_for(obstacles: Sequence[Obstacle]) -> str:
    """`coder to finish 3 requests`. Empty without obstacles."""
    return " and ".join(f"{each.model} to finish {counted(each.requests, 'request')}" for each in obstacles)


def why_timed_out(timeout: float, obstacles: Sequence[Obstacle], reason: str) -> str:
    """`timeout` is in seconds. `reason` is the plan's, if no model is in the way."""
    why = f"it waited {timeout:g} s for memory or a free slot"
    if obstacles:
        since = " and ".join(f"{each.model} has been busy for {each.busy_for:.0f} s" for each in obstacles)
        return f"{why}, and still waits for {waits_for(obstacles)}; {since}"
    return f"{why}: {reason}" if reason else why
