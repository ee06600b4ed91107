"""Judges each eviction and each drain of a rig afterwards, by the true memory of its machine.

The scheduler sees one number for each device. The rig knows more: what other programs really hold, and what is only on
its way back. A model that goes although all would have fitted in the end without that, goes without need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from router.scheduling.effects import Effect, Refuse, Spawn, Stop
from router.scheduling.resources import Device, Reading
from router.scheduling.snapshot import Phase, Resident, Snapshot
from router.scheduling.waiting_line import Entry
from tests.scheduling.bench import Bench
from tests.scheduling.machines import Case, nonempty_subsets


class Judge:
    """`judged` counts what was judged by kind; `wrong` has the wrong decisions in words.

    Only decisions for the first entry in the queue are judged: others depend on what those ahead were promised.
    """

    # Nobody can tell memory that comes back from memory that another program gave back in the same moment.
    EXCUSED_S = 30.0

    def __init__(self, bench: Bench) -> None:
        self.judged: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._going: set[str] = set()  # the models that stop with this decision, or with one after it
        self._come: set[str] = set()  # the models that are started after this decision
        self._bench = bench
        bench.on_probed = self.judge

    def judge(self, effects: Sequence[Effect]) -> None:
        scheduler = self._bench.scheduler
        head = next(filter(scheduler.downloads.is_startable, scheduler._line.by_turn), None)
        if head is None or head.model.retrying or not scheduler.limits.margins:
            return
        if any(isinstance(effect, Refuse) for effect in effects):
            return  # maybe it was not the first when this was decided
        name = head.model.name
        stops = [effect.model for effect in effects if isinstance(effect, Stop) and effect.why.model == name]
        if stops:
            first = next(
                at for at, effect in enumerate(effects) if isinstance(effect, Stop) and effect.why.model == name
            )
            self._going = {effect.model for effect in effects[first:] if isinstance(effect, Stop)}
            self._come = {effect.model for effect in effects[first:] if isinstance(effect, Spawn)}
            self._judge("evictions", head, stops)
        elif head.victims and not any(isinstance(effect, Stop | Spawn) for effect in effects):
            self._going = self._come = set()
            self._judge("drains", head, head.victims)

    def _judge(self, kind: str, head: Entry, victims: Sequence[str]) -> None:
        self.judged[kind] += 1
        case = self._case(head, lingers=False)
        if self._is_measured() and not case.fits(case.without(victims)):
            self.wrong.append(f"{kind} of {victims} for {head.model.name} do not make room")
        for fewer in [(), *nonempty_subsets(victims)]:
            if len(fewer) < len(victims) and case.fits(case.without(fewer)):
                if self._is_excused() and not self._case(head, lingers=True).fits(case.without(fewer)):
                    self.judged["excused"] += 1
                else:
                    self.wrong.append(f"{kind} of {victims} for {head.model.name}: {fewer} would have been enough")

    def _is_measured(self) -> bool:
        """All hold what is booked. An estimate that is too high promises more than the end of the model brings."""
        return all(process.held == process.takes for process in self._bench.processes.values())

    def _is_excused(self) -> bool:
        bench = self._bench
        return any(bench.now - bench.shrunk_at.get(d.key, 0) < self.EXCUSED_S for d in bench.devices)

    def _case(self, head: Entry, *, lingers: bool) -> Case:
        """The machine as it will be when all loads and stops have ended that began before this decision."""
        scheduler = self._bench.scheduler
        residents = []
        for resident in scheduler.snapshot(()).residents:
            if resident.model in self._come:
                continue
            phase = Phase.IDLE if resident.model in self._going else resident.phase
            residents.append(Resident(resident.model, resident.held, phase, draining=resident.draining))
        readings = tuple(Reading(device, device.total) for device in self._bench.devices)
        limits = scheduler.limits
        truth = Snapshot(readings, tuple(residents), limits.models_max, limits.margins)
        return Case(truth, head.demand, {d.key: self._others(d, lingers) for d in self._bench.devices})

    def _others(self, device: Device, lingers: bool) -> int:
        """What no model of ours holds, nor will give back. RAM is back with the end of a process, or it never is."""
        bench = self._bench
        if device.key in bench.lost:
            return device.total
        late = bench.lingering_when_read[device.key] if lingers or device.kind == "host" else 0
        return bench.others[device.key] + late
