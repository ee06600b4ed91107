"""What a load would meet: the settings that would hold, the process that it would replace, and the machine without it.

`GET /models/estimate` shows what comes of it. Nothing is changed here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from router.models.spec import ModelSpec
from router.pool.core import Core
from router.pool.processes import Processes
from router.pool.settings_store import differences
from router.scheduling.snapshot import Phase, Snapshot
from router.scheduling.states import State

# What a client is told of a process that has the settings already.
RUNNING = {
    State.LOADED: "It runs with these settings now.",
    State.SLEEPING: "It runs with these settings now, and is asleep.",
    State.LOADING: "It is loading with these settings now.",
}


@dataclass(frozen=True, slots=True)
class Outlook:
    """`spec` is the model with the settings that would hold.
    `machine` is the machine as the load would find it: a process of the model has gone.
    `running` is a sentence if a process has these settings already; else empty.
    `ending` is a sentence about the process that the load would end; empty if there is none.
    """

    spec: ModelSpec
    machine: Snapshot
    running: str = ""
    ending: str = ""


async def outlook(core: Core, processes: Processes, spec: ModelSpec) -> Outlook:
    name = spec.name
    machine = await _machine_without(core, processes, name)
    model, lasting = core.scheduler.model(name), processes.lasting_spec(name)
    if lasting and not differences(lasting, spec):
        return Outlook(spec, machine, running=RUNNING.get(model.state, ""))
    if name not in processes.runs:
        return Outlook(spec, machine)
    ending = "Its process ends once its requests have ended." if model.leases else "Its process ends first."
    return Outlook(spec, machine, ending=ending)


async def _machine_without(core: Core, processes: Processes, name: str) -> Snapshot:
    """All devices and processes but the model's own, and what that holds is free."""
    run = processes.runs.get(name)
    taken = await run.measure() if run and run.child and core.scheduler.model(name).state is State.LOADING else {}
    machine = await core.nodes.snapshot()
    own = next((resident for resident in machine.residents if resident.model == name), None)
    if own is None:
        return machine
    shown = own.held if own.is_visible_to_driver else {}
    if own.phase is Phase.LOADING:  # a part of what was promised to it
        shown = {key: min(held, taken.get(key, 0)) for key, held in own.held.items()}
    readings = tuple(
        reading
        if reading.free is None
        else replace(reading, free=min(reading.device.total, reading.free + shown.get(reading.device.key, 0)))
        for reading in machine.readings
    )
    return replace(machine, readings=readings, residents=tuple(r for r in machine.residents if r is not own))
