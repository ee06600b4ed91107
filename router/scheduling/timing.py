"""PURE: what time adds to a plan: who is spared for a while, who is closed, whose requests are cut, when to look again.

`policy` decides by memory and slots alone. Here its plan is asked for, without the models that time protects, and held
back until its time has come. Called by `scheduler` for the head of the queue.

The rules, each with its setting:

- `task_grace`: a background request evicts no model that foreground requests use, or used a while ago.
- `min_loaded`: a model stays for so long after its load. If nothing else makes room, it goes when the wait of the
  oldest request is nearly over: then one eviction too many is better than a request that fails.
- `drain_grace`: a busy model is closed to new work for an entry that has waited for so long.
- `drain_timeout`: when it has been closed for so long, for an entry that waits for nothing else, its requests are cut.
  A background request never cuts a foreground request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from router.scheduling.books import Books, ModelRecord
from router.scheduling.causes import Cause, Shortage, Why
from router.scheduling.limits import Limits
from router.scheduling.policy import Drain, Evict, Lost, Place, Plan, Reject, Wait, after_plan, plan
from router.scheduling.resources import Allocation
from router.scheduling.snapshot import UNCHECKED, Phase, Snapshot
from router.scheduling.waiting_line import Entry

# How long before its timeout a request may evict a model before its time. A short timeout is halved instead.
LAST_CALL_S = 10.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done for an entry now.

    `plan` is what memory and time allow.
    `stops` are models that are stopped, and why. Requests may run on them: these are cut.
    `starts` is where the model is started; None if it is not started yet.
    `closes` are the models that are closed to new work for it.
    `rejected` says why it never fits, and `lost` why it does not while a GPU cannot be read; empty if it does.
    `needs_room`: no room is on its way to it.
    `look_again_at` is when time alone makes another decision of it; infinity for never.
    """

    plan: Plan
    stops: tuple[tuple[str, Why], ...] = ()
    starts: Allocation | None = None
    closes: frozenset[str] = frozenset()
    rejected: str = ""
    lost: str = ""
    needs_room: bool = False
    look_again_at: float = math.inf


def decisions(
    entries: Iterable[Entry], snapshot: Snapshot, books: Books, limits: Limits, now: float
) -> Iterator[tuple[Entry, Decision]]:
    """For each of these entries, in their order. The caller books each before it takes the next."""
    # Room that only a drain will make is not on its way yet.
    is_behind_drain = any(r.phase is Phase.STOPPING and r.draining for r in snapshot.residents)
    young = {model.name: until for model in books.alive.values() if (until := model.stays_until) > now}
    for entry in entries:
        if not entry.tickets:
            continue  # it has left: who asks what others wait for goes by the entries of the last pass
        if entry.model.retrying and any(resident.phase is Phase.STOPPING for resident in snapshot.residents):
            continue  # its estimate was too low: all that is being freed is for this model
        found, look_again_at = _plan_in_time(snapshot, entry, young, books, limits, now)
        before, snapshot = snapshot, after_plan(snapshot, found, entry.model.name)
        match found:
            case Place(claim):
                yield entry, Decision(found, starts=claim)
            case Evict(victims, claim, beside):
                shortage = _shortage(before, claim)
                stops = tuple(
                    (victim, _why_evicted(entry, books.records[victim], shortage, limits)) for victim in victims
                )
                yield entry, Decision(found, stops, claim if beside else None, look_again_at=look_again_at)
            case Drain():
                closes = _closed_for(entry, found, books, limits, now)
                again = min(look_again_at, _drain_step_at(entry, found, books, limits, now))
                is_behind_drain = True
                yield entry, Decision(found, closes=closes, needs_room=True, look_again_at=again)
            case Wait(_, _, stopping, undecided):
                needs_room = is_behind_drain or not stopping
                closes = frozenset(name for name in undecided if books.records[name].draining)
                yield entry, Decision(found, closes=closes, needs_room=needs_room, look_again_at=look_again_at)
            case Reject(reason):
                yield entry, Decision(found, rejected=reason)
            case Lost(reason):
                yield entry, Decision(found, lost=reason)


def room_for_retry(entry: Entry, snapshot: Snapshot, books: Books, limits: Limits, now: float) -> list[ModelRecord]:
    """The idle models that go before a load which ran out of memory is tried once more. How much it needs is not known.

    Of a load on GPUs it is not known either whether a GPU or the RAM had too little: those go that hold memory on a GPU
    which it can use, or none but RAM. What lies on other GPUs would not help."""
    spared = books.spared(entry.foreground, now, limits.task_grace)
    idle_ones = [idle for idle in books.evictable() if idle.stays_until <= now and idle.name not in spared]
    demand = entry.demand
    if not demand.split and not demand.fixed:
        return idle_ones
    gpus = {key: gpu for node in snapshot.totals.nodes_with_lost for key, gpu in node.gpus.items()}
    others = {key for key, gpu in gpus.items() if demand.names and gpu.name not in demand.names}
    return [idle for idle in idle_ones if others.isdisjoint(idle.held) or idle.held.keys() & (gpus.keys() - others)]


def why_retried(name: str, held: Mapping[str, int]) -> Why:
    """Why they go. The model held this much, and it was not enough."""
    return Why(Cause.RETRY, name, shortage=Shortage(held))


def own_cut_at(entry: Entry, limits: Limits) -> float:
    """When the requests on the entry's own model are cut: it is to end, for new settings or by hand, and the entry
    waits for its next process. Infinity for never."""
    model = entry.model
    return _cut_at(entry, [model], 0.0, limits, math.inf) if model.closing and model.leases else math.inf


def own_cuts(entries: Iterable[Entry], limits: Limits, now: float) -> Iterator[tuple[ModelRecord, Why]]:
    """The models whose requests are cut now for their own next process, and why."""
    for entry in entries if limits.drain_timeout else ():
        why = entry.model.closing
        if why and own_cut_at(entry, limits) <= now:
            yield entry.model, Why(why.cause, requests=len(entry.model.leases), seconds=limits.drain_timeout)


def last_call(entry: Entry, limits: Limits) -> float:
    """From when on even a model that has not been loaded for long enough goes for it; infinity for never."""
    timeout = limits.queue_timeout
    return entry.waiting_since + timeout - min(LAST_CALL_S, timeout / 2) if timeout else math.inf


def _plan_in_time(
    snapshot: Snapshot, entry: Entry, young: Mapping[str, float], books: Books, limits: Limits, now: float
) -> tuple[Plan, float]:
    """What memory and time allow, and when to look again because a model has been loaded for long enough by then. An
    Evict may name busy models. `young` are the models that are not loaded for long enough, and until when."""
    snapshot = snapshot.sparing(books.spared(entry.foreground, now, limits.task_grace))
    found, look_again_at = plan(snapshot.sparing(young.keys()), entry.demand), math.inf
    if young and isinstance(found, Drain | Wait):
        if now >= (latest := last_call(entry, limits)):
            found = plan(snapshot, entry.demand)
        else:
            look_again_at = min(latest, *young.values())
    if isinstance(found, Drain) and now >= _drain_step_at(entry, found, books, limits, now):
        found = Evict(found.victims, found.claim)
    if isinstance(found, Evict) and found.beside and entry.model.retrying:
        found = Evict(found.victims, found.claim)  # its estimate was too low: it waits for the room
    return found, look_again_at


def _closed_for(entry: Entry, drain: Drain, books: Books, limits: Limits, now: float) -> frozenset[str]:
    if now < entry.since + limits.drain_grace:
        return frozenset()
    return frozenset(name for name in drain.victims if (model := books.records[name]).leases or model.draining)


def _drain_step_at(entry: Entry, drain: Drain, books: Books, limits: Limits, now: float) -> float:
    """When the victims are closed, or when the requests on them are cut if they may be closed already."""
    close_at = entry.since + limits.drain_grace
    busy = [model for victim in drain.victims if (model := books.records[victim]).leases]
    return close_at if now < close_at else _cut_at(entry, busy, limits.drain_grace, limits, now)


def _cut_at(entry: Entry, busy: Sequence[ModelRecord], grace: float, limits: Limits, now: float) -> float:
    """When the requests on these models are cut for the entry. A model that is not closed yet is closed `now`, and none
    is before the entry has waited for its grace. Only the wait of foreground requests counts against such requests."""
    tickets = entry.foreground if any(model.is_in_foreground_use for model in busy) else entry.tickets
    if not limits.drain_timeout or not tickets:
        return math.inf
    closed = [now if model.is_open else model.closed_at for model in busy]
    return max([next(iter(tickets.values())) + grace, *closed]) + limits.drain_timeout


def _shortage(snapshot: Snapshot, claim: Allocation) -> Shortage:
    """What the claim needs, and what there would be for it if none of its victims went. Without RAM no model starts,
    even one that needs none: RAM that is overdrawn is a shortage, too."""
    free = snapshot.totals.after_pending_stops.free
    overdrawn = {key: 0 for node in snapshot.totals.nodes for key in node.hosts if free[key] < 0}
    need = {**{key: 0 for key in overdrawn if key.rpartition("/")[0] == claim.node}, **claim.held}
    return Shortage(need, {key: int(free[key]) for key in need if free[key] != UNCHECKED})


def _why_evicted(entry: Entry, victim: ModelRecord, shortage: Shortage, limits: Limits) -> Why:
    """Where the memory would have been enough, only the number of models wanted it to go."""
    cause = Cause.MEMORY if shortage.missing else Cause.COUNT
    requests = len(victim.leases)
    return Why(cause, entry.model.name, requests, limits.drain_timeout if requests else 0.0, shortage)
