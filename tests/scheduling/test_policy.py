"""What is decided: place, evict, drain, wait or reject. Examples, then properties of random machines.

Small whole numbers stand for bytes; a margin of 1 is what turns the check of a device on.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.memory.weights import split_by_shares
from router.scheduling.policy import Drain, Evict, Place, Reject, Wait, after_plan, plan
from router.scheduling.resources import Allocation, Demand, Reading
from router.scheduling.snapshot import Phase
from tests.scheduling.machines import RAM, Case, cases, gpus, many, nonempty_subsets, on, snapshot, where

# Count limit


def test_the_count_limit_and_the_memory_apply_together() -> None:  # B-S4
    a, b = on(Phase.IDLE, "a", finished=1, RAM=40), on(Phase.IDLE, "b", finished=2, RAM=40)
    assert isinstance(plan(snapshot([RAM], a, b, limit=3), Demand(host=19)), Place)
    assert plan(snapshot([RAM], a, b, limit=3), Demand(host=59)) == Evict(("a",), Allocation({"here/RAM": 59}))
    assert plan(snapshot([RAM], a, b, limit=2), Demand(host=20)) == Evict(("a",), Allocation({"here/RAM": 20}))
    assert plan(snapshot([RAM], a, b, limit=1), Demand(host=20)) == Evict(("a", "b"), Allocation({"here/RAM": 20}))


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.STOPPING, Phase.CLAIMED])
def test_unevictable_process_takes_a_slot(phase: Phase) -> None:
    taken = on(phase, "a", RAM=1)
    assert isinstance(plan(snapshot([RAM], taken, limit=1, margin=0), Demand(host=1)), Wait)
    assert isinstance(plan(snapshot([RAM], taken, limit=2, margin=0), Demand(host=1)), Place)


def test_where_only_the_count_forces_an_eviction_the_load_begins_beside_it() -> None:  # B-S21
    a, b = on(Phase.IDLE, "a", finished=1, RAM=40), on(Phase.IDLE, "b", finished=2, RAM=40)
    small, large = Allocation({"here/RAM": 19}), Allocation({"here/RAM": 20})
    assert plan(snapshot([RAM], a, b, limit=2), Demand(host=19)) == Evict(("a",), small, beside=True)
    assert plan(snapshot([RAM], a, b, limit=2), Demand(host=20)) == Evict(("a",), large)
    # Other programs have taken what the books call free.
    assert plan(snapshot([RAM], a, b, limit=2, others={"RAM": 1}), Demand(host=19)) == Evict(("a",), small)
    # Where nothing is checked, nothing says that there is memory for both.
    assert plan(snapshot([RAM], a, b, limit=2, margin=0), Demand(host=19)) == Evict(("a",), small)
    # Another load is under way there.
    load = on(Phase.LOADING, "c", RAM=1)
    assert plan(snapshot([RAM], a, load, limit=2), Demand(host=19)) == Evict(("a",), small)
    # A busy one is waited for.
    busy = on(Phase.BUSY, "a", RAM=40)
    assert plan(snapshot([RAM], busy, limit=1), Demand(host=19)) == Drain(("a",), small)


def test_a_model_that_ends_takes_no_slot_unless_its_memory_is_not_checked() -> None:  # B-S21
    going = on(Phase.STOPPING, "a", RAM=80)
    assert plan(snapshot([RAM], going, limit=1), Demand(host=19)) == Place(Allocation({"here/RAM": 19}))
    assert isinstance(plan(snapshot([RAM], going, limit=1), Demand(host=20)), Wait)  # its memory is still taken
    # Ends that hang do not pile up: each slot has one at most.
    more = on(Phase.STOPPING, "b", RAM=1)
    assert isinstance(plan(snapshot([RAM], going, more, limit=1), Demand(host=1)), Wait)
    assert isinstance(plan(snapshot([RAM], going, more, limit=2), Demand(host=1)), Place)


def test_what_comes_behind_a_load_beside_its_victim_counts_all_three() -> None:  # B-S21
    machine = snapshot([RAM], on(Phase.IDLE, "a", RAM=40), limit=1)
    first = plan(machine, Demand(host=19))
    behind = after_plan(machine, first, "b")
    assert [(r.model, r.phase) for r in behind.residents] == [("a", Phase.STOPPING), ("b", Phase.LOADING)]
    assert isinstance(plan(behind, Demand(host=1)), Wait)


# Loads side by side


def test_loads_are_serial_on_one_device_and_parallel_on_two() -> None:  # B-S15
    loading = on(Phase.LOADING, "a", RAM=1, GPU0=5)
    assert plan(snapshot([*gpus(20), RAM], loading), Demand(split=5, host=1)) == Wait(
        "another model is loading on the same device", Allocation({"here/GPU0": 5, "here/RAM": 1}, gpus(20))
    )
    assert where(plan(snapshot([*gpus(20, 30), RAM], loading), Demand(split=5, host=1))) == {"GPU1": 5, "RAM": 1}


def test_loads_into_ram_are_serial_and_beside_a_gpu_load_parallel() -> None:  # B-S15
    assert isinstance(plan(snapshot([RAM], on(Phase.LOADING, "a", RAM=5)), Demand(host=5)), Wait)
    machine = snapshot([*gpus(20), RAM], on(Phase.LOADING, "a", RAM=5, GPU0=5))
    assert isinstance(plan(machine, Demand(host=5)), Place)


def test_loads_are_parallel_where_nothing_is_checked() -> None:
    assert isinstance(plan(snapshot([RAM], on(Phase.LOADING, "a", RAM=5), margin=0), Demand(host=5)), Place)


# Victims


def test_the_least_recently_finished_goes() -> None:  # B-S10
    residents = [on(Phase.IDLE, name, finished, RAM=30) for name, finished in [("a", 3), ("b", 1), ("c", 2)]]
    assert plan(snapshot([RAM], *residents), Demand(host=30)) == Evict(("b",), Allocation({"here/RAM": 30}))


def test_several_go_at_once() -> None:  # B-S5
    residents = [on(Phase.IDLE, name, finished, RAM=30) for name, finished in [("a", 3), ("b", 1), ("c", 2)]]
    assert plan(snapshot([RAM], *residents), Demand(host=60)) == Evict(("b", "c"), Allocation({"here/RAM": 60}))
    everyone = plan(snapshot([RAM], *residents), Demand(host=99))
    assert everyone == Evict(("b", "c", "a"), Allocation({"here/RAM": 99}))


def test_unneeded_victim_is_spared() -> None:  # B-S5
    small, large = on(Phase.IDLE, "small", finished=1, RAM=10), on(Phase.IDLE, "large", finished=2, RAM=80)
    assert plan(snapshot([RAM], small, large), Demand(host=70)) == Evict(("large",), Allocation({"here/RAM": 70}))


def test_only_victims_on_the_needed_device_are_taken() -> None:  # B-S5
    elsewhere = on(Phase.IDLE, "elsewhere", finished=1, GPU0=9)
    here = on(Phase.IDLE, "here", finished=2, GPU1=19)
    assert plan(snapshot([*gpus(10, 20), RAM], elsewhere, here), Demand(split=15)) == Evict(
        ("here",), Allocation({"here/GPU1": 15}, gpus(10, 20)[1:])
    )


def test_spared_victims_are_the_most_recent() -> None:
    residents = [on(Phase.IDLE, n, f, RAM=r) for n, f, r in [("a", 1, 30), ("b", 2, 30), ("c", 3, 39)]]
    # a and b are not enough, c is taken too; then a with c, or b with c would do: a is the older one.
    assert plan(snapshot([RAM], *residents), Demand(host=65)) == Evict(("a", "c"), Allocation({"here/RAM": 65}))


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.CLAIMED])
def test_a_loading_model_is_no_victim(phase: Phase) -> None:  # B-S3
    outcome = plan(snapshot([RAM], on(phase, "a", RAM=60)), Demand(host=60))
    assert isinstance(outcome, Wait)
    assert not outcome.stopping


def test_load_under_way_is_waited_for() -> None:
    assert plan(snapshot([RAM], on(Phase.LOADING, "a", RAM=60)), Demand(host=60)) == Wait(
        "another model is loading", Allocation({"here/RAM": 60})
    )


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.BUSY, Phase.LOADING])
def test_a_pinned_model_stays(phase: Phase) -> None:  # B-S10
    pinned = on(phase, "pinned", pinned=True, RAM=60)
    assert plan(snapshot([RAM], pinned), Demand(host=60)) == Wait(
        "pinned models, other programs or requests further ahead hold the memory or the slots"
    )
    idle = on(Phase.IDLE, "idle", finished=9, RAM=30)
    assert plan(snapshot([RAM], pinned, idle), Demand(host=39)) in (
        Evict(("idle",), Allocation({"here/RAM": 39})),
        Wait("another model is loading", Allocation({"here/RAM": 39})),
    )


def test_room_that_is_being_made_costs_no_further_victim() -> None:
    machine = snapshot([RAM], on(Phase.STOPPING, "going", RAM=50), on(Phase.IDLE, "idle", RAM=49))
    outcome = plan(machine, Demand(host=50))
    assert isinstance(outcome, Wait)
    assert outcome.stopping


# Drains


def test_idle_ones_go_before_a_busy_one_is_drained() -> None:
    idle, busy = on(Phase.IDLE, "idle", finished=9, RAM=40), on(Phase.BUSY, "busy", finished=1, RAM=40)
    assert plan(snapshot([RAM], idle, busy), Demand(host=59)) == Evict(("idle",), Allocation({"here/RAM": 59}))
    assert plan(snapshot([RAM], idle, busy), Demand(host=60)) == Drain(("idle", "busy"), Allocation({"here/RAM": 60}))


def test_a_drain_spares_idle_ones_that_do_not_help() -> None:
    idle, busy = on(Phase.IDLE, "idle", finished=1, RAM=10), on(Phase.BUSY, "busy", finished=9, RAM=80)
    assert plan(snapshot([RAM], idle, busy), Demand(host=89)) == Drain(("busy",), Allocation({"here/RAM": 89}))


def test_begun_drain_is_finished_first() -> None:
    old, recent = on(Phase.BUSY, "old", finished=1, RAM=40), on(Phase.BUSY, "recent", finished=2, RAM=40)
    assert plan(snapshot([RAM], old, recent), Demand(host=40)) == Drain(("old",), Allocation({"here/RAM": 40}))
    begun = replace(recent, draining=True)
    assert plan(snapshot([RAM], old, begun), Demand(host=40)) == Drain(("recent",), Allocation({"here/RAM": 40}))


# The queue: what the next one sees


def test_room_promised_to_one_ahead_is_not_given_away() -> None:
    machine = snapshot([RAM], on(Phase.BUSY, "a", RAM=60))
    first = plan(machine, Demand(host=80))
    assert isinstance(first, Drain)
    behind = after_plan(machine, first, "b")
    # There are 39 free now, but once "b" has come there are 19.
    assert isinstance(plan(machine, Demand(host=39)), Place)
    assert isinstance(plan(behind, Demand(host=39)), Wait)
    assert isinstance(plan(behind, Demand(host=19)), Place)


def test_a_slot_promised_to_one_ahead_is_not_given_away() -> None:
    machine = snapshot([RAM], on(Phase.BUSY, "a", RAM=99), limit=2)
    behind = after_plan(machine, plan(machine, Demand(host=10)), "b")
    assert [(r.model, r.phase) for r in behind.residents] == [("a", Phase.STOPPING), ("b", Phase.CLAIMED)]
    behind = after_plan(behind, plan(behind, Demand(host=10)), "c")
    assert isinstance(plan(behind, Demand()), Wait)


def test_a_victim_is_counted_once() -> None:
    machine = snapshot([RAM], on(Phase.IDLE, "a", finished=1, RAM=50), on(Phase.IDLE, "b", finished=2, RAM=49))
    first = plan(machine, Demand(host=50))
    second = plan(after_plan(machine, first, "c"), Demand(host=49))
    assert isinstance(first, Evict)
    assert isinstance(second, Evict)
    assert (first.victims, second.victims) == (("a",), ("b",))


def test_after_a_placement_its_load_is_under_way() -> None:
    machine = snapshot([*gpus(20), RAM])
    outcome = plan(machine, Demand(split=5))
    assert after_plan(machine, outcome, "a").residents == (on(Phase.LOADING, "a", GPU0=5),)
    assert isinstance(plan(after_plan(machine, outcome, "a"), Demand(split=5)), Wait)


def test_reject_and_open_ended_wait_promise_nothing() -> None:
    machine = snapshot([RAM], on(Phase.IDLE, "a", pinned=True, RAM=60))
    assert after_plan(machine, plan(machine, Demand(host=500)), "b") is machine
    assert after_plan(machine, plan(machine, Demand(host=60)), "b") is machine


# Properties


@many
@given(cases())
def test_never_overcommits(case: Case) -> None:
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Place | Evict | Drain):
        return
    victims = () if isinstance(outcome, Place) else outcome.victims
    worlds = [case.without(victims)]
    assert case.has_slot(worlds[0])
    if isinstance(outcome, Place) or (isinstance(outcome, Evict) and outcome.beside):
        worlds += [case.now(), case.staying()]
        assert case.has_slot(case.now()) or isinstance(outcome, Evict)
        assert not case.snapshot.limit or len(case.now()) < 2 * case.snapshot.limit
    for world in worlds:
        rooms = case.rooms(world)
        for key, count in outcome.claim.held.items():
            assert count <= rooms[key]


@many
@given(cases())
def test_a_claim_is_the_whole_demand_on_the_fewest_devices(case: Case) -> None:
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Place | Evict | Drain):
        return
    claim, demand = outcome.claim, case.demand
    nodes = {key.partition("/")[0] for key in claim.held} | {d.node for d in claim.devices}
    assert len(nodes) <= 1
    booked = {d.key: claim.held.get(d.key, 0) for d in claim.devices if case.snapshot.margins[d.key]}
    hosts = [claim.held.get(d.key, 0) for d in case.devices if d.kind == "host"]
    assert sum(hosts) == demand.host
    assert bool(claim.devices) == bool(demand.split or demand.fixed)
    if len(booked) == len(claim.devices) > 0:
        shares = [count - demand.fixed for count in booked.values()]
        assert sum(shares) == demand.split
        if demand.user_split:
            assert shares == [*demand.user_split]
        elif demand.layers and len(shares) > 1:  # what the child's --tensor-split makes of it
            assert sum(claim.layer_counts) == len(demand.layers)
            assert shares == [*split_by_shares(demand.layers, claim.layer_counts)]
            assert min(claim.layer_counts) > 0
        else:
            assert claim.layer_counts == ()
        assert min(booked.values()) >= demand.fixed
        assert not demand.names or {d.name for d in claim.devices} <= set(demand.names)
        worlds = [case.staying(), case.now()]
        starts = isinstance(outcome, Place) or (isinstance(outcome, Evict) and outcome.beside)
        if isinstance(outcome, Evict | Drain):
            if starts:
                case = replace(case, snapshot=replace(case.snapshot, limit=0))
            else:
                worlds = [case.without(outcome.victims)]
        loading = primaries(case) if starts else set()
        # A node that is not checked counts with all its GPUs.
        for truth, is_enough in ((case, len(booked).__ge__), (case.at_worst(), len(booked).__le__)):
            also = [case.by_books()] if starts else []
            options = truth.options(*worlds, shunned=loading, also=also)
            counts = [len(keys) for keys in options if all(map(case.snapshot.margins.get, keys))]
            assert not counts or is_enough(min(counts))


def primaries(case: Case) -> set[str]:
    """The checked devices where a load is under way."""
    taken: set[str] = set()
    for resident in case.snapshot.residents:
        if resident.phase is Phase.LOADING:
            on_gpus = {key for key in resident.held if "GPU" in key}
            taken |= on_gpus or set(resident.held)
    return {key for key in taken if case.snapshot.margins[key]}


@many
@given(cases())
def test_places_exactly_when_there_is_room_beside_the_loads(case: Case) -> None:  # B-S15 B-S17
    outcome, loading, also = plan(case.snapshot, case.demand), primaries(case), [case.by_books()]
    if isinstance(outcome, Place):
        assert case.options(case.now(), case.staying(), shunned=loading)
    else:
        assert not case.at_worst().options(case.now(), case.staying(), shunned=loading, also=also)


@many
@given(cases())
def test_nobody_goes_who_could_stay_if_the_loads_had_ended(case: Case) -> None:  # B-S17
    if case.at_best().fits(case.staying()):
        assert isinstance(plan(case.snapshot, case.demand), Place | Wait)


@many
@given(cases())
def test_starts_beside_its_victims_exactly_when_only_the_count_wants_them(case: Case) -> None:  # B-S21
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Evict):
        return
    limit, boundless = case.snapshot.limit, replace(case, snapshot=replace(case.snapshot, limit=0))
    worlds, loading = (case.now(), case.staying()), primaries(case)
    surely_fits = bool(boundless.at_worst().options(*worlds, shunned=loading, also=[boundless.by_books()]))
    is_checked = all(case.snapshot.margins[d.key] for d in case.devices)
    is_possible = is_checked and len(case.now()) < 2 * limit
    assert not outcome.beside or (is_possible and boundless.options(*worlds, shunned=loading))
    assert outcome.beside or not (is_possible and surely_fits)


@many
@given(cases())
def test_victims_are_minimal(case: Case) -> None:  # B-S5
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Evict | Drain):
        return
    assert len(set(outcome.victims)) == len(outcome.victims)
    assert case.fits(case.without(outcome.victims))
    for fewer in [(), *nonempty_subsets(outcome.victims)]:
        assert len(fewer) == len(outcome.victims) or not case.fits(case.without(fewer))


@many
@given(cases())
def test_victims_are_idle_or_drained_never_pinned_nor_loading(case: Case) -> None:  # B-S3 B-S10
    outcome = plan(case.snapshot, case.demand)
    phases = {Evict: {Phase.IDLE}, Drain: {Phase.IDLE, Phase.BUSY}}.get(type(outcome))
    if phases is None or not isinstance(outcome, Evict | Drain):
        return
    victims = [r for r in case.snapshot.residents if r.model in outcome.victims]
    assert {r.phase for r in victims} <= phases
    assert not any(r.pinned for r in victims)
    assert isinstance(outcome, Evict) or Phase.BUSY in {r.phase for r in victims}


@many
@given(cases())
def test_the_most_recent_victim_was_needed(case: Case) -> None:  # B-S10
    outcome = plan(case.snapshot, case.demand)
    if not isinstance(outcome, Evict):
        return
    idle = [r for r in case.staying() if r.phase is Phase.IDLE and not r.pinned]
    rank = {r.model: (r.goes_last, r.finished, r.model) for r in idle}
    last = max(rank[model] for model in outcome.victims)
    assert not case.fits(case.without(model for model in rank if rank[model] < last))


@many
@given(cases())
def test_no_wait_while_idle_models_could_make_room(case: Case) -> None:
    idle = [r.model for r in case.staying() if r.phase is Phase.IDLE and not r.pinned]
    outcome = plan(case.snapshot, case.demand)
    if any(case.fits(case.without(gone)) for gone in [(), *nonempty_subsets(idle)]):
        assert not isinstance(outcome, Drain | Reject)
        if isinstance(outcome, Wait):  # then no model has to go: something is stopping, or loads there
            assert outcome.claim is not None
            if outcome.undecided or not case.fits(case.staying()):  # or nobody can say which one has to go
                assert case.is_blurred
                assert case.at_best().fits(case.without(outcome.undecided))
                assert not case.at_worst().fits(case.without(outcome.undecided))
            residents = case.snapshot.residents
            loads = [r for r in residents if r.phase in (Phase.LOADING, Phase.STOPPING) or r.may_show_in_part]
            assert loads or case.snapshot.returning


@many
@given(cases())
def test_rejects_exactly_what_an_empty_machine_cannot_hold(case: Case) -> None:  # B-S12
    empty = replace(case, others=dict.fromkeys(case.others, 0))
    assert isinstance(plan(case.snapshot, case.demand), Reject) == (not empty.fits([]))


@many
@given(cases(), st.lists(st.integers(0, 10), min_size=8, max_size=8))
def test_more_memory_leaves_a_placement_a_placement(case: Case, more: list[int]) -> None:
    if not isinstance(plan(case.snapshot, case.demand), Place):
        return
    readings = tuple(
        Reading(replace(r.device, total=r.device.total + n), None if r.free is None else r.free + n)
        for r, n in zip(case.snapshot.readings, more, strict=False)
    )
    assert isinstance(plan(replace(case.snapshot, readings=readings), case.demand), Place)


@many
@given(cases(), st.integers(0, 30), st.integers(0, 15))
def test_the_queue_together_never_overcommits(case: Case, split: int, host: int) -> None:
    """Two placed in one pass fit beside each other, and neither takes what the first was promised."""
    first = plan(case.snapshot, case.demand)
    second = replace(
        case, snapshot=after_plan(case.snapshot, first, "first"), demand=replace(case.demand.resized(split), host=host)
    )
    outcome = plan(second.snapshot, second.demand)
    if not isinstance(outcome, Place):
        return
    for world in (second.staying(), [r for r in second.snapshot.residents if r.phase is not Phase.CLAIMED]):
        rooms = second.rooms(world)
        assert all(count <= rooms[key] for key, count in outcome.claim.held.items())
