"""Keeps the scheduler's books from events alone, and compares them with the scheduler's own after each step."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

from router.events import kinds
from router.events.journal import Entry
from router.events.kinds import AnyEvent
from router.pool.pool import Pool

EVERY_KIND: tuple[type[AnyEvent], ...] = get_args(AnyEvent)


@dataclass(slots=True)
class Resident:
    state: str
    run: int
    held: dict[str, int]


@dataclass(slots=True)
class Waiting:
    """The tickets that wait for one model, each with whether it is a background request."""

    priority: int = 0
    tickets: dict[int, bool] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[bool, int, int]:
        foreground = [ticket for ticket, background in self.tickets.items() if not background]
        return not foreground, -self.priority, (foreground or [*self.tickets])[0]


class Replay:
    """`wrong` are the differences in words, `compared` counts how often there was none, `heard` the events by kind.

    The scheduler books all that follows from one thing in one step, and the effects are told one by one: so the two are
    compared when the step is over, before anything else happens.
    """

    def __init__(self, pool: Pool) -> None:
        self.wrong: list[str] = []
        self.compared = 0
        self.heard: Counter[str] = Counter()
        self.residents: dict[str, Resident] = {}
        self.leases: dict[int, str] = {}
        self.queue: dict[str, Waiting] = {}
        self.draining: set[str] = set()
        self._pool = pool
        self._last: list[str] = []
        self._is_due = False
        pool.journal.subscribe(self.note, *EVERY_KIND)

    def note(self, entry: Entry) -> None:
        event = entry.event
        self.heard[event.KIND] += 1
        self._last = [*self._last[-20:], f"{event}"]
        match event:
            case kinds.Start(model, run, need):
                assert model not in self.residents, event
                self.residents[model] = Resident("loading", run, dict(need))
            case kinds.Ready(model, run) | kinds.Woke(model, run):
                self._of(model, run).state = "loaded"
            case kinds.Slept(model, run):
                self._of(model, run).state = "sleeping"
            case kinds.Booked(model, run, need):
                self._of(model, run).held = dict(need)
            case kinds.Evict(model, run) | kinds.Stop(model, run) | kinds.Expire(model, run):
                assert self._of(model, run).held == event.freed, event
                self._of(model, run).state = "stopping"
                assert event.requests == self._count(model) if not isinstance(event, kinds.Expire) else True, event
            case kinds.Exited(model, run) | kinds.Crash(model, run) | kinds.LoadFailed(model, run):
                expected = {kinds.Exited: "stopping", kinds.LoadFailed: "loading"}.get(type(event))
                assert expected in (None, self._of(model, run).state), event
                assert self.residents.pop(model).held == event.freed, event
                self.leases = {ticket: name for ticket, name in self.leases.items() if name != model}
            case kinds.Drain(model):
                self.draining.add(model)
            case kinds.DrainEnded(model):
                self.draining.remove(model)
            case kinds.Joined(model, ticket, background, priority):
                waiting = self.queue.setdefault(model, Waiting())
                waiting.priority, waiting.tickets[ticket] = priority, background
            case kinds.Granted(model, ticket):
                assert self._of(model).state in ("loaded", "sleeping"), event
                self._leave(model, ticket)
                self.leases[ticket] = model
            case kinds.Refused(model, ticket) | kinds.Left(model, ticket):
                self._leave(model, ticket)
            case kinds.Released(model, ticket):
                self.leases.pop(ticket, None)
            case _:
                pass
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._compare)

    def _of(self, model: str, run: int | None = None) -> Resident:
        resident = self.residents[model]
        assert run in (None, resident.run)
        return resident

    def _count(self, model: str) -> int:
        return sum(name == model for name in self.leases.values())

    def _leave(self, model: str, ticket: int) -> None:
        if (waiting := self.queue.get(model)) and waiting.tickets.pop(ticket, None) is not None and not waiting.tickets:
            del self.queue[model]

    def _compare(self) -> None:
        self._is_due = False
        scheduler = self._pool.scheduler
        models = list(scheduler.models())
        turns = sorted(self.queue.items(), key=lambda item: item[1].rank)
        pairs = {
            "residents": (
                {name: (each.state, each.run, each.held) for name, each in self.residents.items()},
                {m.name: (m.state.value, m.run, dict(m.held)) for m in models if m.resident()},
            ),
            "leases": (self.leases, {ticket: model.name for model in models for ticket in model.leases}),
            "queue": (
                [(name, list(waiting.tickets)) for name, waiting in turns],
                [(entry.model.name, list(entry.tickets)) for entry in scheduler.line.by_turn],
            ),
            "draining": (self.draining, {model.name for model in models if model.draining}),
        }
        for what, (replayed, booked) in pairs.items():
            if replayed != booked:
                last = "\n".join(self._last)
                self.wrong.append(f"{what}: replayed {replayed}, booked {booked}, after {last}")
        self.compared += 1
