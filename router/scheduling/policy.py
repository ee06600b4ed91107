"""PURE: where a model goes, and which models go for it.

One function decides, `plan`, for one demand on one snapshot of the machine: no I/O, no clock, no log. Bytes are `int`;
times are only compared with each other. The one idea: a demand is placed only where it fits both beside the processes
that are there now and beside those that remain after the pending stops. So no model further back in the queue takes
what a model ahead was promised.

Called by `scheduler` for each entry of the queue, and by `memory` to show what would happen on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.scheduling.placement import find_place
from router.scheduling.refusals import why_lost, why_too_large
from router.scheduling.resources import Allocation, Demand
from router.scheduling.snapshot import UNCHECKED, Phase, Resident, Snapshot, World, in_phase


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
    """

    reason: str
    claim: Allocation | None = None
    stopping: bool = False


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
    if chosen := _choose_victims(snapshot, demand):
        victims, claim = chosen
        names = tuple(victim.model for victim in victims)
        if any(victim.phase is not Phase.IDLE for victim in victims):
            return Drain(names, claim)
        beside = _fit_beside_victims(snapshot, demand)
        return Evict(names, beside or claim, beside is not None)
    if find_place(snapshot.totals.nodes, demand, snapshot.totals.empty) is None:
        if find_place(snapshot.totals.nodes_with_lost, demand, snapshot.totals.empty):
            return Lost(why_lost(snapshot, demand))
        return Reject(why_too_large(snapshot, demand))
    can_go = [snapshot.residents[at] for at in snapshot.totals.victim_order.values()]
    loads = [r for r in in_phase(Phase.LOADING, snapshot.residents) if not r.pinned]
    if claim := _fit(snapshot, demand, after_pending_stops.after(gone=[*can_go, *loads])):
        return Wait("another model is loading", claim)
    return Wait("pinned models, other programs or requests further ahead hold the memory or the slots")


def after_plan(snapshot: Snapshot, plan: Plan, model: str) -> Snapshot:
    """The machine for the next model in the queue: the victims of this plan stop, and its claim comes first."""
    if isinstance(plan, Reject | Lost) or plan.claim is None:
        return snapshot
    victims = plan.victims if isinstance(plan, Evict | Drain) else ()
    before = snapshot.totals
    residents, victim_order = [*snapshot.residents], {**before.victim_order}
    places = [victim_order.pop(victim) for victim in victims]
    gone = [residents[at] for at in places]
    for at in places:
        residents[at] = replace(residents[at], phase=Phase.STOPPING, draining=isinstance(plan, Drain))
    starts = isinstance(plan, Place) or (isinstance(plan, Evict) and plan.beside)
    new = Resident(model, plan.claim.held, Phase.LOADING if starts else Phase.CLAIMED)
    now = before.now.after(come=[new]) if new.phase is Phase.LOADING else before.now
    now = replace(now, ending=now.ending + len(victims)) if isinstance(plan, Evict) else now
    after_pending_stops = before.after_pending_stops.after(come=[new], gone=gone)
    totals = replace(before, now=now, after_pending_stops=after_pending_stops, victim_order=victim_order)
    return Snapshot(snapshot.readings, (*residents, new), snapshot.limit, snapshot.margins, totals)


def _choose_victims(snapshot: Snapshot, demand: Demand) -> tuple[Sequence[Resident], Allocation] | None:
    """The whole set at once. Take victims in their order until the demand fits; then spare each victim that turned out
    not to be needed, the last taken first."""
    world = snapshot.totals.after_pending_stops
    taken: list[Resident] = []
    claim = None
    for at in snapshot.totals.victim_order.values():
        candidate = snapshot.residents[at]
        taken.append(candidate)
        world = world.after(gone=[candidate])
        if claim := _fit(snapshot, demand, world):
            break
    if claim is None:
        return None
    for candidate in taken[-2::-1]:
        fuller = world.after(come=[candidate])
        if better := _fit(snapshot, demand, fuller):
            world, claim = fuller, better
            taken.remove(candidate)
    return taken, claim


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
    limit, is_checked = snapshot.limit, UNCHECKED not in world.free.values()
    return not limit or world.count - (min(world.ending, limit) if is_checked else 0) < limit


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
    """The devices on which no second load may begin now: the GPUs of each load under way, or the RAM if it uses no GPU.
    Devices that are not checked take any number of loads."""
    residents = in_phase(Phase.LOADING, snapshot.residents)
    if not residents:
        return frozenset()
    gpus = {key for node in snapshot.totals.nodes_with_lost for key in node.gpus}
    taken: set[str] = set()
    for resident in residents:
        taken |= gpus.intersection(resident.held) or set(resident.held)
    return frozenset(key for key in taken if snapshot.margins.get(key, 0))
