"""PURE: where a model goes, and which models go for it.

One function decides, `plan`, for one demand on one snapshot of the machine: no I/O, no clock, no log. Bytes are `int`;
times are only compared with each other. The one idea: a demand is placed only where it fits both beside the processes
that are there now and beside those that remain after the pending stops. So no model further back in the queue takes
what a model ahead was promised.

What a reading means while a model loads, wakes up or stops is told in `snapshot`: it is blurred then, and only gives a
lower and an upper bound of the free memory. What follows from that here:

- `Place` must fit the lower bound. So no start goes over the margin, whatever the truth is.
- A model goes only if the upper bound says that it must: else it may turn out that there was room all along.
- The models that go are chosen upon the upper bound, and must be enough for the lower one. So for every truth between
  the bounds they are enough, and none of them is spared by the truth.
- If the bounds do not agree, the answer is `Wait`. This wait ends: a load is bounded by its timeout, a stop by the kill
  that follows it, the return of memory by `memory_levels.SETTLE_WINDOW_S`. Then there is another reading. And what
  starts meanwhile further back cannot prolong it: it must leave the claim of the one who waits alone, and a load that
  begins on a device cannot make its upper bound greater than it was before.
- A drain that has begun goes on while the bounds do not agree (`Wait.undecided`): a stream of small loads cannot lift
  it again and again.
- `Reject` looks at no reading at all.

Called by `scheduler` for each entry of the queue, and by `memory` to show what would happen on this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from router.scheduling.placement import find_place
from router.scheduling.refusals import why_lost, why_too_large
from router.scheduling.resources import Allocation, Demand
from router.scheduling.snapshot import UNCHECKED, Phase, Resident, Snapshot, Totals, World, in_phase


@dataclass(frozen=True, slots=True)
class Place:
    """Start the model now, here."""

    claim: Allocation


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop these idle models. Then there is room for the claim.

    `beside`: only the count limit wants them to go, and the memory covers all. Start the model now, beside those that
    end.
    """

    victims: tuple[str, ...]
    claim: Allocation
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """There is room for the claim once these models are gone. Some of them are busy."""

    victims: tuple[str, ...]
    claim: Allocation


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing now.

    `claim` is where the model will go. None if it is not known when there will be room, because pinned models or other
    programs hold it.
    `stopping`: the room is being made already.
    `undecided`: these models have to go, or others: the reading is too blurred to say. Those of them that drain already
    go on draining.
    """

    reason: str
    claim: Allocation | None = None
    stopping: bool = False
    undecided: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """The model would not fit on the empty machine."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The model would fit on the empty machine only with a device that is lost."""

    reason: str


Plan = Place | Evict | Drain | Wait | Reject | Lost


def plan(snapshot: Snapshot, demand: Demand) -> Plan:
    """Decide for the first model in the queue. `after_plan` gives the snapshot for the second one."""
    now, after_pending_stops = snapshot.totals.now, snapshot.totals.after_pending_stops
    if claim := _fit(snapshot, demand, after_pending_stops):
        loading = _loading_devices(snapshot)
        apart = _fit(snapshot, demand, after_pending_stops, avoided=loading) if loading else claim
        if apart is None:
            return Wait("another model is loading on the same device", claim)
        # Two calls: most demands that have to wait fail the first one already, and it costs less than the second.
        at_once = _fit(snapshot, demand, now, avoided=loading) and _fit(
            snapshot, demand, now, after_pending_stops, avoided=loading
        )
        if at_once:
            return Place(at_once)
        return Wait("models that are stopping still hold the room", apart, stopping=True)
    best = _at_best(snapshot)
    if best is not after_pending_stops and (claim := _fit(snapshot, demand, best)):
        return _wait_for_clear_reading(snapshot, claim)
    can_go = [snapshot.residents[at] for at in snapshot.totals.victim_order.values()]
    if chosen := _choose_victims(snapshot, demand, best, can_go):
        victims, claim = _choose_by_caches(snapshot, demand, best, chosen[0], can_go) or chosen
        names = tuple(victim.model for victim in victims)
        if snapshot.totals.counted_twice or snapshot.totals.counted_early:
            sure = after_pending_stops.after(gone=victims).with_more(snapshot.totals.counted_early, -1)
            if not (sure_claim := _fit(snapshot, demand, sure)):
                return _wait_for_clear_reading(snapshot, claim, names)
            claim = sure_claim
        if any(victim.phase is not Phase.IDLE for victim in victims):
            return Drain(names, claim)
        beside = _fit_beside_victims(snapshot, demand)
        return Evict(names, beside or claim, beside is not None)
    if find_place(snapshot.totals.nodes, demand, snapshot.totals.empty) is None:
        if find_place(snapshot.totals.nodes_with_lost, demand, snapshot.totals.empty):
            return Lost(why_lost(snapshot, demand))
        return Reject(why_too_large(snapshot, demand))
    loads = [r for r in in_phase(Phase.LOADING, snapshot.residents) if not r.pinned]
    if claim := _fit(snapshot, demand, best.after(gone=[*can_go, *loads])):
        return Wait("another model is loading", claim)
    return Wait("pinned models, other programs or requests further ahead hold the memory or the slots")


def _at_best(snapshot: Snapshot) -> World:
    """The world after the pending stops, with as much free memory as the reading allows."""
    totals = snapshot.totals
    if not totals.counted_twice:
        return totals.after_pending_stops
    return totals.after_pending_stops.with_more(totals.counted_twice)


def _wait_for_clear_reading(snapshot: Snapshot, claim: Allocation, undecided: tuple[str, ...] = ()) -> Wait:
    """Nothing is decided before the load, the stop or the return of memory has ended that blurs the reading."""
    if any(resident.may_show_in_part for resident in snapshot.residents):
        return Wait("another model is loading", claim, undecided=undecided)
    return Wait("memory of models that stop or have ended is not back yet", claim, stopping=True, undecided=undecided)


def after_plan(snapshot: Snapshot, plan: Plan, model: str) -> Snapshot:
    """The machine for the next model in the queue: the victims of this plan stop, and its claim comes first."""
    if isinstance(plan, Reject | Lost) or plan.claim is None:
        return snapshot
    victims = plan.victims if isinstance(plan, Evict | Drain) else ()
    before = snapshot.totals
    residents, victim_order, gone = [*snapshot.residents], before.victim_order, []
    if victims:
        victim_order = {**victim_order}
        draining = isinstance(plan, Drain)
        for at in [victim_order.pop(victim) for victim in victims]:
            was = residents[at]
            gone.append(was)
            residents[at] = was.as_victim(draining)
    starts = isinstance(plan, Place) or (isinstance(plan, Evict) and plan.beside)
    new = Resident(model, plan.claim.held, Phase.LOADING if starts else Phase.CLAIMED, at_reading=Phase.CLAIMED)
    now = before.now.after(come=[new]) if new.phase is Phase.LOADING else before.now
    now = replace(now, ending=now.ending + len(victims)) if isinstance(plan, Evict) else now
    after_pending_stops = before.after_pending_stops.after(come=[new], gone=gone)
    # Written out: this runs for each entry of the queue, and `replace` takes several times as long.
    totals = Totals(
        before.nodes,
        before.empty,
        now,
        after_pending_stops,
        victim_order,
        before.nodes_with_lost,
        before.counted_twice,
        before.counted_early,
    )
    limit, margins, returning = snapshot.limit, snapshot.margins, snapshot.returning
    residents.append(new)
    return Snapshot(snapshot.readings, tuple(residents), limit, margins, returning, totals)


def _choose_victims(
    snapshot: Snapshot, demand: Demand, world: World, can_go: Iterable[Resident]
) -> tuple[Sequence[Resident], Allocation] | None:
    """The whole set at once. Take victims in this order until the demand fits in this world; then spare each victim
    that turned out not to be needed, the last taken first."""
    taken: list[Resident] = []
    claim = None
    world = world.after()
    for candidate in can_go:
        taken.append(candidate)
        world = world.moved(candidate, -1)
        if claim := _fit(snapshot, demand, world):
            break
    if claim is None:
        return None
    for candidate in taken[-2::-1]:
        world = world.moved(candidate, 1)
        if better := _fit(snapshot, demand, world):
            claim = better
            taken.remove(candidate)
        else:
            world = world.moved(candidate, -1)
    return taken, claim


def _choose_by_caches(
    snapshot: Snapshot, demand: Demand, world: World, others: Sequence[Resident], can_go: Sequence[Resident]
) -> tuple[Sequence[Resident], Allocation] | None:
    """Who goes instead of the `others` if the demand would fit but for what was promised to prompt caches: idle models
    with such caches. They come back with smaller ones, since more models are known by then (`prompt_caches`).

    One whose cache alone is too large, the first in the order of victims; else those with the largest caches. A model
    that a client wants to stay does not go instead of one that may go."""
    may_go_last = any(other.goes_last for other in others)
    holders = [r for r in can_go if r.prompt_cache and r.phase is Phase.IDLE and r.goes_last <= may_go_last]
    if not holders or not _fit(snapshot, demand, _without_caches(snapshot, world, holders)):
        return None
    for holder in holders:
        if _fit(snapshot, demand, _without_caches(snapshot, world, [holder])):
            holders = [holder]
            break
    return _choose_victims(snapshot, demand, world, sorted(holders, key=lambda r: -r.prompt_cache))


def _without_caches(snapshot: Snapshot, world: World, holders: Sequence[Resident]) -> World:
    """The same processes, and nothing promised to the caches of these."""
    hosts = {key for node in snapshot.totals.nodes_with_lost for key in node.hosts}
    caches = [replace(r, held={key: r.prompt_cache for key in r.held if key in hosts}) for r in holders]
    return replace(world.after(gone=caches), count=world.count)


def _fit_beside_victims(snapshot: Snapshot, demand: Demand) -> Allocation | None:
    """An allocation beside all processes that are there, and beside all that stay if no more of them go. None if it is
    not the count limit alone that wants victims, or if a load may not begin now."""
    totals = snapshot.totals
    if not snapshot.limit or totals.now.count >= 2 * snapshot.limit or UNCHECKED in totals.now.free.values():
        return None
    return _find(snapshot, demand, totals.now, totals.after_pending_stops, avoided=_loading_devices(snapshot))


def _has_slot(snapshot: Snapshot, world: World) -> bool:
    """Whether one more process may be there.

    The limit is for the models that run. A process that ends takes a slot only while the memory is not checked, since
    then nothing says that it holds both. Each slot has one such process at most: ends that hang must not pile up.
    """
    limit = snapshot.limit
    if not limit or world.count < limit:
        return True
    is_checked = UNCHECKED not in world.free.values()
    return is_checked and world.count - min(world.ending, limit) < limit


def _fit(
    snapshot: Snapshot, demand: Demand, *worlds: World, avoided: frozenset[str] = frozenset()
) -> Allocation | None:
    """An allocation that fits in every one of these worlds, on none of the avoided device keys."""
    if not all(_has_slot(snapshot, world) for world in worlds):
        return None
    return _find(snapshot, demand, *worlds, avoided=avoided)


def _find(snapshot: Snapshot, demand: Demand, *worlds: World, avoided: frozenset[str]) -> Allocation | None:
    """As `_fit`, whatever the number of processes."""
    free = worlds[0].free
    if len(worlds) > 1:  # all have the same keys in the same order
        free = dict(zip(free, map(min, *(world.free.values() for world in worlds)), strict=True))
    return find_place(snapshot.totals.nodes, demand, free, avoided)


def _loading_devices(snapshot: Snapshot) -> frozenset[str]:
    """The devices on which no second load may begin now."""
    return snapshot.devices_of_loads([load.held for load in in_phase(Phase.LOADING, snapshot.residents)])
