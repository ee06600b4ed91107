"""What is free: by the books and by the driver. The totals that are handed on from plan to plan."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from router.scheduling.policy import Evict, Place, Wait, after_plan, plan
from router.scheduling.resources import Allocation, Demand
from router.scheduling.snapshot import Phase, Totals
from tests.scheduling.machines import RAM, Case, cases, gpus, many, on, snapshot, where


def test_other_programs_count() -> None:
    crowded = snapshot([RAM], others={"RAM": 50})
    assert isinstance(plan(crowded, Demand(host=49)), Place)
    assert plan(crowded, Demand(host=50)) == Wait(
        "pinned models, other programs or requests further ahead hold the memory or the slots"
    )


def test_a_load_under_way_counts_although_the_machine_does_not_show_it() -> None:
    loading = on(Phase.LOADING, "a", RAM=60, GPU0=9)
    machine = snapshot([*gpus(10, 10), RAM], loading)
    assert machine.readings[-1].free == 100
    assert isinstance(plan(machine, Demand(split=1, host=39)), Place)
    assert isinstance(plan(machine, Demand(split=1, host=40)), Wait)


def test_a_load_under_way_counts_beside_other_programs() -> None:
    loading = on(Phase.LOADING, "a", RAM=30, GPU0=9)
    machine = snapshot([*gpus(10, 10), RAM], loading, others={"RAM": 50})
    assert isinstance(plan(machine, Demand(split=1, host=19)), Place)
    assert isinstance(plan(machine, Demand(split=1, host=20)), Wait)


def test_a_stopping_process_still_holds_its_memory() -> None:
    machine = snapshot([RAM], on(Phase.STOPPING, "a", RAM=60))
    assert isinstance(plan(machine, Demand(host=39)), Place)
    outcome = plan(machine, Demand(host=40))
    assert isinstance(outcome, Wait)
    assert outcome.stopping
    assert where(outcome) == {"RAM": 40}


def test_memory_of_a_sleeping_model_is_not_given_away() -> None:
    sleeper = replace(on(Phase.IDLE, "a", RAM=30), sleeping=True)
    machine = snapshot([RAM], sleeper, others={"RAM": 50})
    assert machine.readings[0].free == 50
    assert isinstance(plan(machine, Demand(host=19)), Place)
    assert plan(machine, Demand(host=20)) == Evict(("a",), Allocation({"here/RAM": 20}))
    assert isinstance(plan(machine, Demand(host=50)), Wait)  # its going brings nothing that is not free already


@many
@given(cases(), st.lists(st.integers(0, 30), max_size=4), st.sets(st.sampled_from("abcdef")))
def test_handed_on_totals_equal_computed_totals(case: Case, splits: list[int], spared: set[str]) -> None:
    machine = case.snapshot.sparing(spared)
    assert machine.totals == Totals.of(machine)
    for number, split in enumerate(splits):
        machine = after_plan(machine, plan(machine, case.demand.resized(split)), f"new {number}")
        assert machine.totals == Totals.of(machine)
        assert [*machine.totals.victim_order] == [*Totals.of(machine).victim_order]
    fewer = replace(machine, residents=machine.residents[1:])
    assert fewer.totals == Totals.of(fewer)
