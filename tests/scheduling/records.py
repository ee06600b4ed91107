"""What the rig for the scheduler keeps: requests, processes, and loads with settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.scheduling.effects import Grant, Refusal, Refuse, Spawn
from router.scheduling.resources import Demand
from router.scheduling.waiting_line import Ticket


@dataclass(eq=False)
class Request:
    """A client's request and its answer. `left`: the client went before there was an answer."""

    ticket: Ticket
    asked: float
    serve: float | None
    answer: Grant | Refuse | None = None
    answered: float = 0.0
    left: bool = False
    ended: bool = False

    @property
    def granted(self) -> bool:
        return isinstance(self.answer, Grant)

    @property
    def refused(self) -> Refusal | None:
        return self.answer.refusal if isinstance(self.answer, Refuse) else None

    @property
    def waits(self) -> bool:
        return self.answer is None and not self.left


@dataclass(eq=False)
class Process:
    spawn: Spawn
    held: Mapping[str, int]  # as the books should have it
    takes: Mapping[str, int]  # what it really holds once it serves
    ready: bool = False
    stopping: bool = False
    asleep: bool = False
    pending: PendingLoad | None = None
    ready_at: float = 0.0
    shown: float = 0.0  # the part of what it takes that the machine shows: a load takes it bit by bit

    def shows(self, key: str) -> int:
        return int(self.takes.get(key, 0) * self.shown)


@dataclass(eq=False)
class PendingLoad:
    """A load with settings that change what the model needs. `before` is what it needed; None if that is not known."""

    request: Request
    before: Demand | None
    process: Process | None  # the one that serves with the settings before
