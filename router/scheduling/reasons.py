"""PURE: what a request waits for, as words for people.

The scheduler knows the facts; the sentences stand here, for errors and for whoever shows what goes on. `refusals` puts
them into whole errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from router.units import counted, size


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


class End(Enum):
    """What has to end before an entry can start.

    REQUESTS: those that run on a model. LOAD, STOP: its load, its stop. TURN: its own wait, ahead in the queue.
    PIN: nothing, it is pinned; only an operator ends it. YOUNG, USED: the time for which it is kept after its load, or
    after its last use (from background requests).
    """

    REQUESTS = "requests"
    LOAD = "load"
    STOP = "stop"
    TURN = "turn"
    PIN = "pin"
    YOUNG = "young"
    USED = "used"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A model that is in the way, and what has to end of it. `requests` of them run (or wait, with TURN), and it has
    been busy for so many seconds."""

    model: str
    requests: int = 0
    busy_for: float = 0.0
    end: End = End.REQUESTS

    @property
    def blocker(self) -> Blocker:
        return Blocker(self.model, self.requests)

    @property
    def words(self) -> str:
        """What it has to do: `coder to finish 3 requests`."""
        finish = f"to finish {counted(self.requests, 'request')}"
        match self.end:
            case End.REQUESTS:
                return f"{self.model} {finish}"
            case End.LOAD:
                return f"{self.model} to load"
            case End.STOP:
                return f"{self.model} to stop"
            case End.TURN:
                return f"{self.model} to start first"
            case End.PIN:
                return f"{self.model} to stop, which is pinned"
            case End.YOUNG | End.USED:
                until = (
                    "to have been loaded for a while (--models-min-loaded)"
                    if self.end is End.YOUNG
                    else "to be unused for a while (--task-grace)"
                )
                return f"{self.model} {f'{finish} and ' if self.requests else ''}{until}"


# What an entry waits for first, if it waits for several things.
_KINDS: Mapping[End, Kind] = {
    End.TURN: Kind.BEHIND,
    End.PIN: Kind.PINNED_OR_FOREIGN,
    End.YOUNG: Kind.DRAIN_GRACE,
    End.USED: Kind.DRAIN_GRACE,
    End.REQUESTS: Kind.DRAINING,
    End.LOAD: Kind.ANOTHER_LOAD,
    End.STOP: Kind.STOPPING,
}
MOST_NAMES = 3  # in a sentence


def reason(
    obstacles: Sequence[Obstacle],
    *,
    missing: Mapping[str, int] | None = None,
    drain_in: float | None = None,
    models_max: int = 0,
) -> Reason:
    """Why an entry waits that these obstacles keep from its start. `models_max` is the bound on models that run, if
    that alone is in the way."""
    kind = next(kind for end, kind in _KINDS.items() if any(each.end is end for each in obstacles))
    if kind is Kind.DRAINING and drain_in is not None:
        kind = Kind.DRAIN_GRACE
    if models_max and kind in (Kind.PINNED_OR_FOREIGN, Kind.DRAIN_GRACE, Kind.DRAINING):
        kind = Kind.SLOTS
    text = _waits(obstacles)
    if kind is Kind.SLOTS:
        text += f"; as many models run as may (--models-max {models_max})"
    elif kind is Kind.PINNED_OR_FOREIGN and missing:
        text += f"; it needs {amounts(missing)} more"
    if drain_in is not None and any(each.end is End.REQUESTS for each in obstacles):
        text += "; new ones are still let in (--models-drain-grace)"
    return Reason(kind, text, tuple(each.blocker for each in obstacles), missing or {}, drain_in)


def _waits(obstacles: Sequence[Obstacle]) -> str:
    ahead = [each.model for each in obstacles if each.end is End.TURN]
    others = [each.words for each in obstacles if each.end is not End.TURN]
    parts = [f"is behind {listed(ahead)} in the queue"] if ahead else []
    parts += [f"waits for {listed(others)}"] if others else []
    return ", and ".join(parts)


def behind(blockers: Sequence[Blocker], more: int) -> Reason:
    """These stand ahead in the queue, and so many more; it is not planned for before they leave."""
    text = f"is behind {listed([each.model for each in blockers], more)} in the queue"
    return Reason(Kind.BEHIND, text, tuple(blockers))


def foreign(missing: Mapping[str, int], others: Mapping[str, int], models_max: int = 0) -> Reason:
    """The end of no model would be enough. `others` is what other programs hold, by device key."""
    if not missing:
        return Reason(Kind.PINNED_OR_FOREIGN, "waits for memory that other programs hold")
    text = f"needs {amounts(missing)} more than all models together could give"
    theirs = {key: held for key in missing if (held := others.get(key, 0))}
    if theirs:
        text += f"; other programs hold {amounts(theirs)}"
    return Reason(Kind.PINNED_OR_FOREIGN, text, missing=missing)


def amounts(held: Mapping[str, int]) -> str:
    """`3.2 GiB on CUDA0`. The node of a device is named if there are several."""
    nodes = {key.rpartition("/")[0] for key in held}
    names = {key: key if len(nodes) > 1 else key.rpartition("/")[2] for key in held}
    return listed([f"{size(count)} on {names[key]}" for key, count in held.items()])


def listed(words: Sequence[str], more: int = 0) -> str:
    """`a, b and c`; of many only the first. There are `more` of them than these."""
    if len(words) + more > MOST_NAMES:
        words = [*words[: MOST_NAMES - 1], f"{len(words) + more - MOST_NAMES + 1} others"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def waits_for(obstacles: Sequence[Obstacle]) -> str:
    """`coder to finish 3 requests`. Empty without obstacles."""
    return " and ".join(each.words for each in obstacles)


def why_timed_out(timeout: float, obstacles: Sequence[Obstacle], reason: str) -> str:
    """`timeout` is in seconds. `reason` says what else is in the way, if no requests are."""
    why = f"it waited {timeout:g} s for memory or a free slot"
    if obstacles:
        since = " and ".join(f"{each.model} has been busy for {each.busy_for:.0f} s" for each in obstacles)
        return f"{why}, and still waits for {waits_for(obstacles)}; {since}"
    return f"{why}: {reason}" if reason else why
