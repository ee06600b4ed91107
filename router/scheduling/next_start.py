"""PURE: how much memory must be free before the next model can start.

A reading that follows the end of a process is waited for (see `memory_levels`). The wait is for the sake of the first
model in the queue: when the memory that it needs is there, the rest may come later. So this finds by the books where
that model will go, before the reading is there. Called by `memory_levels` for each such reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from router.scheduling.books import ModelRecord
from router.scheduling.placement import find_place
from router.scheduling.resources import Demand
from router.scheduling.snapshot import Snapshot
from router.scheduling.states import State


def enough_for_start(
    last: Snapshot, alive: Collection[ModelRecord], expected: Mapping[str, int], demand: Demand
) -> Mapping[str, int] | None:
    """The bytes that must be free for this demand to start, by device key of the devices where it will go.

    `last` is the machine at the last reading; its devices, limit and margins still hold.
    `expected` are the bytes that should be free by now, less what processes will still take.

    Empty: it cannot start before a stop or a load has ended, or it starts whatever is free.
    None: some model has to go first, or nothing is known.
    """
    totals, margins = last.totals, last.margins
    free, hidden, held_by_stops = {**totals.empty}, Counter[str](), Counter[str]()
    for model in alive:
        for key, held in model.held.items():
            if key in free:
                free[key] -= held
        if model.state in (State.LOADING, State.SLEEPING):
            hidden.update(model.held)
        elif model.state is State.STOPPING:
            held_by_stops.update(model.held)
    for key in free:
        if key in expected:
            free[key] = min(free[key], expected[key] - margins.get(key, 0))
    avoided = last.devices_of_loads([model.held for model in alive if model.state is State.LOADING])
    running = sum(model.state is not State.STOPPING for model in alive)
    is_full = bool(last.limit) and running >= last.limit
    if not is_full and (claim := find_place(totals.nodes, demand, free, avoided)):
        return {key: held + margins[key] + hidden[key] for key, held in claim.held.items() if margins.get(key)}
    if held_by_stops or avoided:
        later = {key: amount + held_by_stops[key] for key, amount in free.items()}
        if find_place(totals.nodes, demand, later):
            return {}
    return None
