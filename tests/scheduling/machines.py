"""Machines for the tests of `policy` and what it stands on, as examples and at random.

Small whole numbers stand for bytes; a margin of 1 is what turns the check of a device on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, combinations_with_replacement, pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from router.scheduling.policy import Drain, Evict, Place, Plan, Wait
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.snapshot import Phase, Resident, Snapshot

RAM = Device("here", "RAM", "host", 100)


def gpus(*totals: int) -> tuple[Device, ...]:
    return tuple(Device("here", f"GPU{i}", "gpu", total, index=i) for i, total in enumerate(totals))


def snapshot(
    devices: Iterable[Device],
    *residents: Resident,
    limit: int = 0,
    margin: int = 1,
    others: Mapping[str, int] | None = None,
    shown: Mapping[str, float] | None = None,
    returning: Mapping[str, int] | None = None,
) -> Snapshot:
    """The machine shows what the residents hold that have taken it already, and what `others` hold by device name.
    `shown` is the part of its memory that it shows of a model in the middle of something, from 0 to 1. `returning` is
    what ended processes have not given back yet, by device name."""
    parts = {r.model: float(r.is_visible_to_driver) for r in residents} | dict(shown or {})
    more = {d.key: (others or {}).get(d.name, 0) + (returning or {}).get(d.name, 0) for d in devices}
    readings = tuple(
        Reading(d, d.total - sum(int(r.held.get(d.key, 0) * parts[r.model]) for r in residents) - more[d.key])
        for d in devices
    )
    back = {d.key: amount for d in devices if (amount := (returning or {}).get(d.name, 0))}
    return Snapshot(readings, residents, limit, {d.key: margin for d in devices}, back)


def on(phase: Phase, model: str, finished: float = 0.0, pinned: bool = False, **held: int) -> Resident:
    """`on(Phase.IDLE, "a", GPU0=3)`"""
    return Resident(model, {f"here/{name}": count for name, count in held.items()}, phase, finished, pinned)


def where(outcome: Plan) -> dict[str, int]:
    assert isinstance(outcome, Place | Evict | Drain | Wait)
    assert outcome.claim is not None
    return {key.partition("/")[2]: count for key, count in outcome.claim.held.items()}


@dataclass(frozen=True)
class Case:
    """A machine and a demand. `others` is what other programs hold, by device key. `shown` is what the machine shows of
    the models that were loading, waking up or stopping when it was read, by model and device key."""

    snapshot: Snapshot
    demand: Demand
    others: Mapping[str, int]
    shown: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def devices(self) -> list[Device]:
        return [reading.device for reading in self.snapshot.readings]

    def staying(self) -> list[Resident]:
        return [r for r in self.snapshot.residents if r.phase is not Phase.STOPPING]

    @property
    def is_blurred(self) -> bool:
        """The reading fits more than one truth."""
        return self.at_best().others != self.at_worst().others

    def at_best(self) -> Case:
        """The same reading in that truth in which most of what it shows as used belongs to our own models."""
        return replace(self, others={d.key: max(0, self.unexplained(d) - self.blur(d)) for d in self.devices})

    def at_worst(self) -> Case:
        """The same reading in that truth in which other programs hold all that may be theirs."""
        others = {d.key: max(0, self.unexplained(d)) for d in self.devices}
        return replace(self, others=others, shown={model: {} for model in self.shown})

    def by_books(self) -> Case:
        """As if there were no other programs, and models that stop held all that is booked."""
        return replace(self, others=dict.fromkeys(self.others, 0), shown={})

    def unexplained(self, device: Device) -> int:
        """The used bytes that no model surely holds."""
        free = next(r.free for r in self.snapshot.readings if r.device == device)
        sure = sum(r.held.get(device.key, 0) for r in self.snapshot.residents if shows_all(r))
        return 0 if free is None else device.total - free - sure

    def blur(self, device: Device) -> int:
        """How many of them may belong to our own models."""
        unsure = sum(r.held.get(device.key, 0) for r in self.snapshot.residents if is_blurred(r))
        return unsure + self.snapshot.returning.get(device.key, 0)

    def rooms(self, residents: Iterable[Resident]) -> dict[str, int]:
        """Free bytes by device key if just these are there. Unreadable devices hold nothing of other programs. Models
        that stop hold what they show."""
        held = [self.shown.get(r.model, r.held) if r.phase is Phase.STOPPING else r.held for r in residents]
        return {
            d.key: 10**9
            if not (margin := self.snapshot.margins[d.key])
            else d.total - self.others[d.key] - sum(h.get(d.key, 0) for h in held) - margin
            for d in self.devices
        }

    def options(
        self, *worlds: Sequence[Resident], shunned: Iterable[str] = (), also: Iterable[Case] = ()
    ) -> list[tuple[str, ...]]:
        """By brute force: every set of device keys on which the demand fits in all of these worlds, and in those that
        `also` may be true."""
        if not all(map(self.has_slot, worlds)):
            return []
        rooms = [case.rooms(world) for case in (self, *also) for world in worlds]
        room = {d.key: min(r[d.key] for r in rooms) for d in self.devices}
        found: list[tuple[str, ...]] = []
        for node in {d.node for d in self.devices}:
            host = f"{node}/RAM"
            if room[host] < self.demand.host:
                continue
            if not self.demand.split and not self.demand.fixed:
                found += [()] if host not in shunned else []
                continue
            allowed = [d for d in self.devices if d.node == node and d.kind == "gpu" and d.key not in shunned]
            allowed = [d for d in allowed if not self.demand.names or d.name in self.demand.names]
            for keys in nonempty_subsets([d.key for d in allowed]):
                spare = [room[key] - self.demand.fixed for key in keys]
                is_meant = not self.demand.user_split or keys == self.given(node)
                if is_meant and min(spare) >= 0 and self.holds(spare):
                    found.append(keys)
        return found

    def has_slot(self, world: Sequence[Resident]) -> bool:
        """Those that end take none where all memory is checked, up to one for each slot."""
        limit = self.snapshot.limit
        ending = sum(r.phase is Phase.STOPPING and not r.draining for r in world)
        if not all(self.snapshot.margins[d.key] for d in self.devices):
            ending = 0
        return not limit or len(world) - min(ending, limit) < limit

    def now(self) -> list[Resident]:
        return [r for r in self.snapshot.residents if r.phase is not Phase.CLAIMED]

    def given(self, node: str) -> tuple[str, ...] | None:
        """The GPUs that the user's split is for."""
        present = [d.name for d in self.devices if d.node == node and d.kind == "gpu"]
        names = [name for name in self.demand.names or present if name in present][: len(self.demand.user_split)]
        return tuple(f"{node}/{name}" for name in names) if len(names) == len(self.demand.user_split) else None

    def holds(self, spare: Sequence[int]) -> bool:
        """By brute force: every way to cut the layers into as many pieces."""
        demand = self.demand
        if demand.user_split:
            return all(room >= need for room, need in zip(spare, demand.user_split, strict=True))
        if not demand.layers or len(spare) == 1:
            return sum(spare) >= demand.split
        count = len(demand.layers)
        return any(
            all(sum(demand.layers[start:end]) <= room for room, (start, end) in zip(spare, pairwise(cuts), strict=True))
            for inner in combinations_with_replacement(range(count + 1), len(spare) - 1)
            for cuts in [(0, *inner, count)]
        )

    def fits(self, *worlds: Sequence[Resident]) -> bool:
        return bool(self.options(*worlds))

    def without(self, models: Iterable[str]) -> list[Resident]:
        gone = set(models)
        return [r for r in self.staying() if r.model not in gone]


def is_blurred(resident: Resident) -> bool:
    """The driver shows some of its memory; how much is not known."""
    is_waking = resident.sleeping and resident.phase is Phase.BUSY
    return is_waking or resident.phase is Phase.LOADING or (resident.phase is Phase.STOPPING and not resident.sleeping)


def shows_all(resident: Resident) -> bool:
    return resident.phase in (Phase.IDLE, Phase.BUSY) and not resident.sleeping


def nonempty_subsets(items: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return chain.from_iterable(combinations(items, count) for count in range(1, len(items) + 1))


@st.composite
def cases(draw: st.DrawFn, in_the_middle: bool = True) -> Case:
    """With `in_the_middle` the machine is often read in the middle of loads, wake-ups, stops, and returns of memory."""
    devices: list[Device] = []
    for node in ["here", "there"][: draw(st.sampled_from([1, 1, 1, 2]))]:
        for index in range(draw(st.integers(0, 3))):
            devices.append(Device(node, f"GPU{index}", "gpu", draw(st.integers(5, 25)), index=index))
        devices.append(Device(node, "RAM", "host", draw(st.integers(10, 40))))
    keys = [d.key for d in devices]
    residents = []
    for model in "abcdef"[: draw(st.integers(0, 6))]:
        phase = draw(st.sampled_from([Phase.IDLE, Phase.IDLE, Phase.BUSY, Phase.BUSY, *Phase]))
        held = {key: draw(st.integers(1, 10)) for key in keys if draw(st.booleans())}
        finished, pinned = draw(st.integers(0, 4)), draw(st.integers(0, 4)) == 0
        sleeping = phase in (Phase.IDLE, Phase.BUSY) and draw(st.integers(0, 3)) == 0
        goes_last = draw(st.integers(0, 3)) == 0
        residents.append(
            Resident(model, held, phase, finished, pinned, draw(st.booleans()), sleeping, goes_last=goes_last)
        )
    margins = {key: draw(st.sampled_from([0, 1, 1, 2])) for key in keys}
    others = {key: draw(st.sampled_from([0, 0, 3])) for key in keys}
    in_the_middle = in_the_middle and draw(st.booleans())
    shown = {}
    for resident in residents:
        if is_blurred(resident):
            whole = resident.held if resident.phase is Phase.STOPPING else {}
            part = {key: draw(st.integers(0, held)) for key, held in resident.held.items()}
            shown[resident.model] = part if in_the_middle else whole
    returning = {key: draw(st.integers(1, 8)) for key in keys if in_the_middle and draw(st.integers(0, 5)) == 0}
    readings = []
    for device in devices:
        seen = sum(r.held.get(device.key, 0) for r in residents if shows_all(r))
        seen += sum(part.get(device.key, 0) for part in shown.values()) + draw(
            st.integers(0, returning.get(device.key, 0))
        )
        free: int | None = device.total - others[device.key] - seen
        if draw(st.integers(0, 9)) == 0:
            free, others[device.key] = None, 0
        readings.append(Reading(device, free))
    names = draw(st.sampled_from([(), (), (), ("GPU0",), ("GPU1", "GPU2")]))
    demand = Demand(draw(st.integers(0, 30)), draw(st.integers(0, 5)), draw(st.integers(0, 15)), names)
    match draw(st.sampled_from(["as the engine likes", "by layers", "by layers", "as the user likes"])):
        case "by layers":
            layers = tuple(draw(st.lists(st.integers(0, 8), min_size=1, max_size=7)))
            demand = replace(demand, split=sum(layers), layers=layers)
        case "as the user likes":
            given = tuple(draw(st.lists(st.integers(0, 12), min_size=1, max_size=3)))
            demand = replace(demand, split=sum(given), user_split=given)
    limit = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 6]))
    return Case(Snapshot(tuple(readings), tuple(residents), limit, margins, returning), demand, others, shown)


def many(test: Callable[..., None]) -> Callable[..., None]:
    """On hundreds of machines."""
    tried: Callable[..., None] = pytest.mark.usefixtures("unmeasured")(settings(max_examples=300, deadline=None)(test))
    return tried
