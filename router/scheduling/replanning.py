"""PURE: the queue planned for again, as if some models had ended: so it is found whose end lets a waiting model start.

The one idea: nothing about obstacles is worked out beside `policy` and `timing`; they are asked. The machine at the
last reading, without these processes and without these entries of the queue, is planned for from the first entry on.
So what is found is right for any rule that they have.

What "exactly those whose end lets it start" means here
-------------------------------------------------------
A model *ends* when its process is gone and no request runs on it or waits for it any more, however that comes. An entry
*starts* when the next plan for it is `Place`, or an `Evict`: then nothing has to be waited for but what this plan
itself stops. The models that are found are enough: when all of them have ended, the entry starts. And none can be left
out: when any but not all of them have ended, and nothing else has changed, it does not start.

Often several sets are enough, such as either of two busy models. The one is taken that comes about by itself soonest:
processes before entries ahead in the queue, those before what stays (pinned models, and those that time protects). Of
the processes: the victims that the plan has chosen, then all others that stop, load or drain already.

A blurred reading (see `snapshot`) fits several truths. Then "enough" holds for the truth in which no other program has
what may belong to our models; and what shows of loads under way is taken to be that of those which go on. So models
that are found upon a blurred reading are enough at best, and what they leave open is told with the next reading.

If the end of all models together is not enough, other programs hold the memory, and no model is named. If it would
take too many plans to find them (`Exhausted`), the caller names those that the last plan named.

Called by `obstacles`, only when somebody asks.
"""

from __future__ import annotations

import itertools
import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from router.scheduling.books import Books
from router.scheduling.limits import Limits
from router.scheduling.placement import find_place
from router.scheduling.policy import Drain, Evict, Lost, Place, Plan, Reject, Wait
from router.scheduling.resources import Allocation, Reading
from router.scheduling.snapshot import Phase, Resident, Snapshot
from router.scheduling.timing import Decision, decisions
from router.scheduling.waiting_line import Entry

BUDGET = 120  # plans upon one reading; each takes some 60 us
TRIED_AGAIN = 5  # models: all that can be made of them are 30 more plans


class Machine:
    """The machine at the last reading, and what the reading says: bytes by device key.

    `others` is what other programs hold at best; `_loads` is what shows of processes that load or wake up, of what they
    have `_promised`; `_ended` is what shows of processes that have ended.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.others, self._loads, self._ended = Counter[str](), Counter[str](), Counter[str]()
        self._promised = Counter[str]()
        sure = Counter[str]()
        for resident in snapshot.residents:
            if resident.may_show_in_part:
                self._promised.update(resident.held)
            elif resident.is_visible_to_driver:  # of a process that stops, all still
                sure.update(resident.held)
        for reading in snapshot.readings:
            if reading.free is not None:
                key = reading.device.key
                left = max(0, reading.device.total - reading.free - sure[key])
                self._loads[key] = min(left, self._promised[key])
                self._ended[key] = min(left - self._loads[key], snapshot.returning.get(key, 0))
                self.others[key] = left - self._loads[key] - self._ended[key]

    def __repr__(self) -> str:
        return f"<Machine: {len(self.snapshot.residents)} processes, others hold {self.others}>"

    def without(self, gone: Collection[str], *, settled: bool = False) -> Snapshot:
        """Once these processes are gone. `settled`: the memory of processes that have ended is back, too."""
        before = self.snapshot
        if not gone and not settled:
            return before
        back, staying, still_promised = Counter[str](), [], Counter(self._promised)
        for resident in before.residents:
            if resident.model not in gone:
                staying.append(resident)
            elif resident.may_show_in_part:
                still_promised.subtract(resident.held)
            elif resident.is_visible_to_driver:
                back.update(resident.held)
        readings = []
        for reading in before.readings:
            key, free = reading.device.key, reading.free
            if free is not None:
                # What shows of loads is that of those which go on, as far as it can be theirs.
                more = back[key] + max(0, self._loads[key] - still_promised[key]) + self._ended[key] * settled
                reading = Reading(reading.device, min(reading.device.total, free + more), reading.lost)
            readings.append(reading)
        returning: Mapping[str, int] = {} if settled else before.returning
        return Snapshot(tuple(readings), tuple(staying), before.limit, before.margins, returning)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one entry waits for.

    `names` are the models whose end lets it start; empty if no end of a model does, or if none is needed.
    `plan` is the entry's plan as things are. None: it waits until all that stops has stopped.
    `start` is its plan once those models have ended; None if it does not start then.
    `settled`: the memory of processes that have ended has to be back, too.
    `is_count`: the memory would do; only the count of models keeps it from starting.
    """

    names: tuple[str, ...]
    plan: Plan | None
    start: Place | Evict | None
    settled: bool = False
    is_count: bool = False


class Exhausted(Exception):
    """To find it would take too many plans."""


class Replanning:
    """The queue upon one reading. `machine` has the processes as they are; `entries` are those that are planned for, in
    the order of their turns. Not many more plans than BUDGET are made: who asks must not hold up others. Example::

    Replanning(machine, entries, books, limits, now).finding(entries[1]).names  # ("coder",)
    """

    def __init__(self, machine: Snapshot, entries: Sequence[Entry], books: Books, limits: Limits, now: float) -> None:
        self.machine, self.entries = Machine(machine), entries
        self._books, self._limits, self._now = books, limits, now
        self._left = BUDGET
        # By what is supposed: what was decided so far, and what gives the next decision.
        self._runs: dict[Supposed, tuple[list[tuple[Entry, Decision]], Iterator[tuple[Entry, Decision]]]] = {}

    def __repr__(self) -> str:
        return f"<Replanning: {len(self.entries)} entries, {len(self._runs)} times, {self._left} plans left>"

    def is_of(self, residents: Sequence[Resident], entries: Sequence[Entry]) -> bool:
        """It is about these processes and these entries."""
        is_same_queue = len(entries) == len(self.entries) and all(map(operator.is_, entries, self.entries))
        return is_same_queue and residents == self.machine.snapshot.residents

    def finding(self, entry: Entry) -> Finding:
        """For one of the entries. Raises Exhausted."""
        plan = self._plan(entry, Supposed())
        if isinstance(plan, Place | Evict):
            return Finding((), plan, plan)
        boundless = self._plan(entry, Supposed(boundless=True)) if self.machine.snapshot.limit else None
        is_count = isinstance(boundless, Place)
        for settled in (False, True) if self.machine.snapshot.returning else (False,):

            def start(ended: Collection[str], settled: bool = settled) -> Place | Evict | None:
                found = self._plan(entry, Supposed(frozenset(ended), settled))
                return found if isinstance(found, Place | Evict) else None

            if settled and (found := start(())):
                return Finding((), plan, found, settled, is_count)
            for candidates in self._candidates(entry, plan):
                if start(candidates):
                    names = smallest(candidates, lambda some: start(some) is not None)
                    return Finding(names, plan, start(names), settled, is_count)
        return Finding((), plan, None, is_count=is_count)

    def missing(self, entry: Entry, finding: Finding) -> dict[str, int]:
        """The bytes that lack where the entry's model will go, by device key. If the end of all models is not enough,
        those that lack then, where the fewest do."""
        if finding.start is not None:
            free = {**self.machine.snapshot.totals.now.free}
            for decision in self._ahead(entry):
                claim = None if isinstance(decision.plan, Reject | Lost) else decision.plan.claim
                for key, held in claim.held.items() if claim else ():
                    free[key] -= held
            return _short(finding.start.claim, free)
        empty = self.machine.without([resident.model for resident in self.machine.snapshot.residents], settled=True)
        nodes, free = empty.totals.nodes, empty.totals.now.free
        enough = max((reading.device.total for reading in empty.readings), default=0)

        def place(more: int) -> Allocation | None:
            return find_place(nodes, entry.demand, {key: amount + more for key, amount in free.items()})

        more = bisect_left(range(enough), True, key=lambda more: place(more) is not None)
        return _short(claim, free) if (claim := place(more)) else {}

    def closers(self, model: str) -> tuple[str, ...]:
        """The entries without which this model, which drains, would take requests again. Raises Exhausted."""
        names = [entry.model.name for entry in self.entries]

        def is_open(ended: Collection[str]) -> bool:
            return not any(model in decision.closes for _, decision in self._decisions(Supposed(frozenset(ended))))

        return () if is_open(()) else smallest(names, is_open)

    def _plan(self, entry: Entry, supposed: Supposed) -> Plan | None:
        """Its plan; None if all that stops has to stop first."""
        return next((decision.plan for one, decision in self._decisions(supposed) if one is entry), None)

    def _ahead(self, entry: Entry) -> Iterator[Decision]:
        """What is decided for those ahead, as things are."""
        ahead = itertools.takewhile(lambda decided: decided[0] is not entry, self._decisions(Supposed()))
        return (decision for _, decision in ahead)

    def _decisions(self, supposed: Supposed) -> Iterator[tuple[Entry, Decision]]:
        """What would be decided for each entry, one after the other. What was decided once is known."""
        if supposed not in self._runs:
            self._left -= len(self.machine.snapshot.residents) // 8  # to make another machine takes time, too
            machine = self.machine.without(supposed.ended, settled=supposed.settled)
            machine = replace(machine, limit=0) if supposed.boundless else machine
            entries = [entry for entry in self.entries if entry.model.name not in supposed.ended]
            self._runs[supposed] = [], decisions(entries, machine, self._books, self._limits, self._now)
        known, more = self._runs[supposed]
        yield from known
        for decided in more:
            self._left -= 1
            if self._left < 0:
                raise Exhausted
            known.append(decided)
            yield decided

    def _candidates(self, entry: Entry, plan: Plan | None) -> list[list[str]]:
        """Larger and larger sets of models that may be in the way, the last one with all. In each, what is named more
        gladly comes first."""
        residents = self.machine.snapshot.residents
        busy = {resident.model for resident in residents if resident.phase is Phase.BUSY}
        moving = [r.model for r in residents if r.phase in (Phase.STOPPING, Phase.LOADING) or r.may_show_in_part]
        moving += [r.model for r in residents if r.draining]
        moving += [victim for decision in self._ahead(entry) for victim in _victims(decision.plan) if victim in busy]
        own = [victim for victim in _victims(plan) if victim in busy]
        queue = [other.model.name for other in itertools.takewhile(lambda other: other is not entry, self.entries)]
        rest = [r.model for r in residents if r.model in busy] + [r.model for r in residents]
        sets = [list(dict.fromkeys(some)) for some in (own, [*own, *moving, *queue], [*own, *moving, *queue, *rest])]
        return [some for some, before in zip(sets, [[], *sets], strict=False) if some != before]


@dataclass(frozen=True, slots=True)
class Supposed:
    """What is supposed: these models have `ended`; with `settled` the memory of processes that have ended is back, too;
    with `boundless` any number may run."""

    ended: frozenset[str] = frozenset()
    settled: bool = False
    boundless: bool = False


def _victims(plan: Plan | None) -> tuple[str, ...]:
    return plan.victims if isinstance(plan, Drain) else plan.undecided if isinstance(plan, Wait) else ()


def _short(claim: Allocation, free: Mapping[str, float]) -> dict[str, int]:
    return {key: int(held - free[key]) for key, held in claim.held.items() if held > free[key]}


def smallest(candidates: Sequence[str], is_enough: Callable[[Collection[str]], bool]) -> tuple[str, ...]:
    """As few of the candidates as are enough: of fewer among them none are. All together they are, and none is not.

    First all are left out that can be, the last ones first. But more ends are not always better: one more may let a
    model ahead begin to load, and on one device loads take turns. So what is left is tried once more, from the fewest.
    """
    kept = list(candidates)

    def leave_out(part: Sequence[str]) -> None:
        rest = [name for name in kept if name not in part]
        if rest and is_enough(rest):
            kept[:] = rest
        elif len(part) > 1:
            middle = len(part) // 2
            leave_out(part[middle:])
            leave_out(part[:middle])

    leave_out(candidates)
    if len(kept) <= TRIED_AGAIN:
        for count in range(1, len(kept)):
            for fewer in itertools.combinations(kept, count):
                if is_enough(fewer):
                    return fewer
    return tuple(kept)
