"""SANS-I/O: what each entry of the queue waits for, and whose end lets it start.

Some entries are not planned for yet. Their model's own process, download or load has to end first; or other downloads
do; or more entries ahead have to leave than the pass over the queue looks at; or their model is closed, and opens again
when those entries leave for which it was closed. All that is looked up here. For the others `replanning` finds it: its
docstring says what exactly the blockers are.

An answer holds until a pass over the queue finds another machine, or decides otherwise. While a reading is under way,
the models that have ended since are taken out of it.

Owned by `scheduler`. All is worked out when somebody asks: an operator, a stream that waits, a request whose time is
up, and the log when an entry begins to wait for room.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from router.scheduling import reasons
from router.scheduling.books import Books
from router.scheduling.limits import Limits
from router.scheduling.planning import Planning
from router.scheduling.policy import Drain, Plan, Wait
from router.scheduling.reasons import MOST_NAMES, Blocker, End, Kind, Obstacle, Reason, Waiting
from router.scheduling.replanning import Exhausted, Finding, Replanning
from router.scheduling.resources import Reading
from router.scheduling.snapshot import Resident, Snapshot
from router.scheduling.states import SERVING, State
from router.scheduling.timing import last_call
from router.scheduling.waiting_line import Entry, WaitingLine

STILL = 512  # a change by less than this part of a device's memory is no change


@dataclass(frozen=True, slots=True)
class Known:
    """What was found for one entry, upon the reading of one pass. Bytes by device key."""

    finding: Finding
    missing: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Basis:
    """What findings rest upon. `head` are the entries that are planned for: the name, whether only background requests
    wait, and the plan. Identical residents are the same objects, so that comparing two of these costs little."""

    limits: Limits
    residents: tuple[Resident, ...]
    returning: Mapping[str, int]
    head: tuple[tuple[str, bool, Plan | None], ...]
    readings: tuple[Reading, ...] = field(compare=False)

    def is_like(self, other: Basis | None) -> bool:
        """The same but for a small part of the free memory: that of a running machine is never still."""
        if other is None or self != other or len(self.readings) != len(other.readings):
            return False
        return all(_is_like(*pair) for pair in zip(self.readings, other.readings, strict=True))


def _is_like(one: Reading, other: Reading) -> bool:
    if one.device != other.device or one.free is None or other.free is None:
        return one == other
    return abs(one.free - other.free) <= one.device.total // STILL


class Obstacles:
    """Example::

    obstacles.waiting(limits, now)[0].why.text  # "waits for coder to finish 3 requests"
    """

    def __init__(self, books: Books, line: WaitingLine, planning: Planning) -> None:
        self._books, self._line, self._planning = books, line, planning
        self._known: dict[str, Known] = {}
        self._closers: dict[str, tuple[str, ...]] = {}
        self._replanning: Replanning | None = None
        self._first: tuple[Blocker, ...] = ()  # the first in the queue
        self._far_back: dict[int, Reason] = {}  # with these, by how many must leave
        self._basis: Basis | None = None  # of all these
        self._pass = 0  # for which they hold

    def __repr__(self) -> str:
        return f"<Obstacles: known of {len(self._known)} entries in pass {self._pass}>"

    def waiting(self, limits: Limits, now: float) -> tuple[Waiting, ...]:
        """The queue, in the order of turns."""
        startable, found, place = self._startable(limits), [], 0
        for position, entry in enumerate(self._line.by_turn, 1):
            is_startable = place < len(startable) and startable[place] is entry
            why = self._why(entry, startable, place, limits, now)
            waited = max(0.0, now - entry.since)
            found.append(Waiting(position, entry.model.name, len(entry.tickets), waited, not entry.foreground, why))
            place += is_startable
        return tuple(found)

    def why(self, entry: Entry, limits: Limits, now: float) -> Reason:
        """Why this entry waits."""
        startable = self._startable(limits)
        place = next((place for place, other in enumerate(startable) if other is entry), 0)
        return self._why(entry, startable, place, limits, now)

    def why_overdue(self, entry: Entry, limits: Limits, now: float) -> str:
        """Why its requests are refused after the queue timeout: who is in the way, and since when."""
        busy, reason = self._busy(entry, now), ""
        if not busy:
            text = f"it {self.why(entry, limits, now).text}"
            reason = f"{entry.plan.reason}; {text}" if isinstance(entry.plan, Wait) else text
        return reasons.why_timed_out(limits.queue_timeout, busy, reason)

    def _busy(self, entry: Entry, now: float) -> list[Obstacle]:
        """The models whose requests must end before the entry's model can be started."""
        models = [self._books.find(name) for name in (entry.model.name, *entry.victims)]
        return [Obstacle(m.name, len(m.leases), now - m.busy_since) for m in models if m.leases]

    def _startable(self, limits: Limits) -> list[Entry]:
        """The entries that wait for their start, in the order of turns. What was found holds while a reading is under
        way, and then if the next pass has found the same machine and decided the same."""
        startable = [*filter(self._planning.downloads.is_startable, self._line.by_turn)]
        if self._pass != self._planning.passes and not self._planning.levels.is_probing:
            self._pass = self._planning.passes
            basis = self._look(startable[: self._planning.LOOKAHEAD], limits)
            if basis is None or not basis.is_like(self._basis):
                self._known, self._closers, self._replanning, self._basis = {}, {}, None, basis
        first = tuple(Blocker(entry.model.name, len(entry.tickets)) for entry in startable[:MOST_NAMES])
        if first != self._first:
            self._first, self._far_back = first, {}
        return startable

    def _look(self, head: Sequence[Entry], limits: Limits) -> Basis | None:
        """None before the first reading."""
        levels = self._planning.levels
        if levels.last_snapshot is None:
            return None
        plans = tuple((entry.model.name, not entry.foreground, entry.plan) for entry in head)
        return Basis(limits, self._books.residents(), levels.returning, plans, levels.last_snapshot.readings)

    def _why(self, entry: Entry, startable: Sequence[Entry], place: int, limits: Limits, now: float) -> Reason:
        """`place` is the entry's among those that wait for their start, if it does."""
        model, name, downloads = entry.model, entry.model.name, self._planning.downloads
        if downloads.is_wanted(name):
            return self._why_downloading(name, limits)
        if model.state is State.LOADING:
            return Reason(Kind.OWN_LOAD, "waits for its own load", (Blocker(name),))
        if model.state is State.STOPPING:
            return reasons.reason([Obstacle(name, end=End.STOP)])
        if model.state in SERVING and model.closing:
            return reasons.reason([Obstacle(name, len(model.leases), now - model.busy_since)])
        head = startable[: self._planning.LOOKAHEAD]
        if model.state in SERVING:
            return self._why_closed(name, head, limits, now)
        if self._planning.levels.is_blind:
            return Reason(Kind.PINNED_OR_FOREIGN, "waits until the memory can be read")
        if place >= self._planning.LOOKAHEAD:
            return self._why_far_back(place)
        return self._why_no_start(entry, head, limits, now)

    def _why_downloading(self, name: str, limits: Limits) -> Reason:
        """As many downloads run as may, in the order in which they were wanted."""
        downloads = self._planning.downloads
        if name not in downloads.not_begun():
            return Reason(Kind.DOWNLOAD, "waits for its files, which are downloaded", (Blocker(name),))
        ahead = [*itertools.takewhile(lambda other: other != name, downloads.names())]
        first = ahead[: len(ahead) - (limits.downloads_max or 1) + 1]
        text = f"waits for its files, which are downloaded after those of {reasons.listed(ahead)}"
        return Reason(Kind.DOWNLOAD, text, tuple(map(Blocker, first)))

    def _why_closed(self, name: str, head: Sequence[Entry], limits: Limits, now: float) -> Reason:
        """The model serves, and takes no new requests since others ahead need its room."""
        if name not in self._closers:
            replanning = self._replan(head, limits, now)
            try:
                self._closers[name] = replanning.closers(name) if replanning else ()
            except Exhausted:
                self._closers[name] = tuple(entry.model.name for entry in head if name in entry.victims)
        ahead = self._obstacles(self._closers[name], None, limits, now)
        return reasons.reason(ahead) if ahead else _ABOUT_TO_START

    def _why_far_back(self, place: int) -> Reason:
        """So many must leave that it stands among those that are planned for."""
        count = place - self._planning.LOOKAHEAD + 1
        if count not in self._far_back:
            self._far_back[count] = reasons.behind(self._first[:count], max(0, count - MOST_NAMES))
        return self._far_back[count]

    def _why_no_start(self, entry: Entry, head: Sequence[Entry], limits: Limits, now: float) -> Reason:
        name = entry.model.name
        if name not in self._known:
            replanning = self._replan(head, limits, now)
            if replanning is None or self._planning.levels.reading_outdated:
                return _ABOUT_TO_START
            try:
                finding = replanning.finding(entry)
                self._known[name] = Known(finding, replanning.missing(entry, finding), replanning.machine.others)
            except Exhausted:
                ahead = tuple(other.model.name for other in itertools.takewhile(lambda other: other is not entry, head))
                self._known[name] = Known(Finding(entry.victims or ahead, entry.plan, None))
        known = self._known[name]
        finding, missing = known.finding, known.missing
        count = limits.models_max if finding.is_count else 0
        obstacles = self._obstacles(finding.names, entry, limits, now)
        if obstacles:
            drain_in = self._drain_in(entry, obstacles, finding, limits, now)
            return reasons.reason(obstacles, missing=missing, drain_in=drain_in, models_max=count)
        if finding.settled or finding.names:
            return Reason(Kind.STOPPING, "waits until the memory of models that have ended is free again")
        return _ABOUT_TO_START if finding.start else reasons.foreign(missing, known.others)

    def _replan(self, head: Sequence[Entry], limits: Limits, now: float) -> Replanning | None:
        """Of the processes and the queue as they are: it looks into the books, too. None before the first reading."""
        if basis := self._look(head, limits):
            if self._replanning is None or not self._replanning.is_of(basis.residents, head):
                machine = Snapshot(basis.readings, basis.residents, limits.models_max, limits.margins, basis.returning)
                self._replanning = Replanning(machine, head, self._books, limits, now)
            return self._replanning
        return None

    def _obstacles(self, names: Iterable[str], entry: Entry | None, limits: Limits, now: float) -> list[Obstacle]:
        """What has to end of these models, if anything has to yet."""
        spared = self._books.spared(entry.foreground, now, limits.task_grace) if entry else frozenset[str]()
        found = []
        for name in names:
            model, waiting = self._books.find(name), self._line.by_arrival.get(name)
            requests, busy_for = len(model.leases), now - model.busy_since
            if waiting and self._planning.downloads.is_startable(waiting):
                found.append(Obstacle(name, len(waiting.tickets), end=End.TURN))
            elif model.state is State.LOADING:
                found.append(Obstacle(name, end=End.LOAD))
            elif model.state is State.STOPPING:
                found.append(Obstacle(name, end=End.STOP))
            elif model.state in SERVING and model.pinned:
                found.append(Obstacle(name, requests, busy_for, End.PIN))
            elif model.stays_until > now:
                found.append(Obstacle(name, requests, busy_for, End.YOUNG))
            elif name in spared:
                found.append(Obstacle(name, requests, busy_for, End.USED))
            elif requests:
                found.append(Obstacle(name, requests, busy_for))
        return found

    def _drain_in(
        self, entry: Entry, obstacles: Iterable[Obstacle], finding: Finding, limits: Limits, now: float
    ) -> float | None:
        """In how many seconds the last of them may go, or is closed to new requests; None if time does nothing."""
        times: list[float | None] = []
        for obstacle in obstacles:
            model = self._books.find(obstacle.model)
            if obstacle.end is End.YOUNG:
                times.append(min(model.stays_until, last_call(entry, limits)))
            elif obstacle.end is End.USED:
                times.append(None if obstacle.requests else model.foreground_finished + limits.task_grace)
            elif obstacle.end is End.REQUESTS and model.is_open and isinstance(finding.plan, Drain):
                times.append(entry.since + limits.drain_grace)
        known = [at - now for at in times if at is not None and at > now]
        return max(known) if known and None not in times else None


_ABOUT_TO_START = Reason(Kind.OWN_LOAD, "is about to start")
