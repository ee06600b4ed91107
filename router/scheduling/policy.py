"""Where a model goes and who must go for it: pure functions over frozen snapshots.

No I/O, no clock, no logging. Everything is `int` bytes; times are only compared with each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from enum import Enum
from itertools import accumulate, pairwise
from math import inf
from operator import attrgetter

from router.units import size


@dataclass(frozen=True, slots=True)
class Device:
    """One pool of memory.

    `kind` is `"gpu"` or `"host"` (RAM, one a node). `name` is the engine's name (`CUDA0`, `RAM`), `index` the physical
    index that a visibility mask takes, `uuid` the vendor's identity. `total` is what may be used of it at all: a cgroup
    limit or an operator's cap is already applied.
    """

    node: str
    name: str
    kind: str
    total: int
    index: int = 0
    uuid: str = ""
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.node}/{self.name}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine said about one device; `free` is None when it could not be read."""

    device: Device
    free: int | None


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model needs.

    `split` divides over the GPUs it is placed on (weights, KV cache), `fixed` repeats on each of them (context, compute
    buffers), `host` is RAM whatever the GPUs. A machine without GPUs has it all in `host`. `names` restricts the GPUs
    (`--device`), empty means any.

    `layers` is `split` piece by piece, in the order in which the engine deals them out to several GPUs; empty where
    nobody knows, and the engine divides by itself. `given` is `split` as the user has divided it (`--tensor-split`):
    so much for each of the first GPUs, or of the first that `names` names; empty where that is left to us.
    """

    split: int = 0
    fixed: int = 0
    host: int = 0
    names: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    given: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return self.split + self.fixed + self.host

    def resized(self, split: int) -> Demand:
        """With another `split`, each part of it in its proportion."""
        return replace(self, split=split, layers=_scaled(self.layers, split), given=_scaled(self.given, split))


def _scaled(parts: Sequence[int], whole: int) -> tuple[int, ...]:
    """The parts, so that they are the whole together."""
    before = sum(parts)
    if not before:
        return ()
    return tuple(end - start for start, end in pairwise(whole * n // before for n in accumulate(parts, initial=0)))


class Phase(Enum):
    """What a process does about memory: take it, hold it (idle or busy), give it back. CLAIMED is no process yet but
    what one ahead in the queue was promised."""

    CLAIMED = "claimed"
    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"


SEEN = (Phase.IDLE, Phase.BUSY, Phase.STOPPING)
SERVING = (Phase.IDLE, Phase.BUSY)


@dataclass(frozen=True, slots=True)
class Resident:
    """One process, and the bytes booked for it by device key. `finished` is when its last use ended."""

    model: str
    held: Mapping[str, int]
    phase: Phase
    finished: float = 0.0
    pinned: bool = False
    draining: bool = False
    sleeping: bool = False
    half_loaded: bool = False

    @property
    def is_seen(self) -> bool:
        """The machine shows what it holds as taken: not while it loads, and not while it sleeps."""
        return not self.sleeping and self.phase in SEEN

    @property
    def can_go(self) -> bool:
        """It can be stopped for others: now, or once it is idle."""
        return not self.pinned and self.phase in SERVING


def _during(phase: Phase, residents: Iterable[Resident]) -> list[Resident]:
    return [resident for resident in residents if resident.phase is phase]


@dataclass(frozen=True, slots=True)
class World:
    """How many are there, and the bytes to be had per device key beside just these: by our own `books`, by what the
    machine shows (`shown`), and `rooms`, whichever is less. Infinite where nothing is checked."""

    count: int
    books: Mapping[str, float]
    shown: Mapping[str, float]
    rooms: Mapping[str, float]

    def after(self, *, come: Iterable[Resident] = (), gone: Iterable[Resident] = ()) -> World:
        """These have come, and those are gone."""
        count, books, shown, rooms = self.count, {**self.books}, {**self.shown}, {**self.rooms}
        for sign, residents in ((1, come), (-1, gone)):
            for resident in residents:
                count += sign
                # Of one that was stopped while it loaded nobody knows how much shows. It counts as if nothing did while
                # it is there, and as if all did when it is gone: its going makes twice the difference.
                times = sign * (2 if resident.half_loaded and resident.is_seen else 1)
                for key, held in resident.held.items():
                    if key in rooms:
                        books[key] -= sign * held
                        shown[key] -= times * held
                        rooms[key] = min(books[key], shown[key])
        return World(count, books, shown, rooms)


@dataclass(frozen=True, slots=True)
class Node:
    """The keys of a machine's RAM, and its GPUs by key."""

    hosts: tuple[str, ...]
    gpus: Mapping[str, Device]


@dataclass(frozen=True, slots=True)
class Sums:
    """What follows from a snapshot, and is asked for again and again.

    There are two worlds: who is there `now`, and who is `staying` once everything that was decided has come about.
    `going` tells where those stand among the residents who can be asked to go, by model, in the order in which they
    are: the idle before the busy, each who was not used for longest first. A model that drains already comes first of
    the busy, so that a drain once begun is the one that is finished. `empty` are the rooms of the empty machine.
    """

    nodes: tuple[Node, ...]
    empty: Mapping[str, float]
    now: World
    staying: World
    going: Mapping[str, int]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Sums:
        devices = [reading.device for reading in snapshot.readings]
        nodes = []
        for name in dict.fromkeys(device.node for device in devices):
            hosts = tuple(d.key for d in devices if d.node == name and d.kind == "host")
            nodes.append(Node(hosts, {d.key: d for d in devices if d.node == name and d.kind == "gpu"}))
        empty = {d.key: d.total - margin if (margin := snapshot.margins.get(d.key, 0)) else inf for d in devices}
        shown = {
            r.device.key: empty[r.device.key] - (0 if r.free is None else r.device.total - r.free)
            for r in snapshot.readings
        }
        # What a loading resident was promised, or a sleeping one will take back, counts as taken although the machine
        # does not show it; what a leaving one holds counts as free already for those who come after it.
        books, claims = {**empty}, _during(Phase.CLAIMED, snapshot.residents)
        for resident in snapshot.residents:
            is_hidden = resident.half_loaded or not resident.is_seen
            for key, held in resident.held.items():
                if key in books:
                    books[key] -= held
                    if is_hidden:
                        shown[key] -= held
        rooms = {key: min(books[key], shown[key]) for key in empty}
        whole = World(len(snapshot.residents), books, shown, rooms)
        now, staying = whole.after(gone=claims), whole.after(gone=_during(Phase.STOPPING, snapshot.residents))
        going = sorted(((r, at) for at, r in enumerate(snapshot.residents) if r.can_go), key=_turn)
        return cls(tuple(nodes), empty, now, staying, {resident.model: at for resident, at in going})


def _turn(standing: tuple[Resident, int]) -> tuple[bool, bool, float, str]:
    resident, _ = standing
    is_busy = resident.phase is Phase.BUSY
    return is_busy, is_busy and not resident.draining, resident.finished, resident.model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole machine at one moment.

    `limit` is the greatest number of processes, 0 for any. `margins` maps device keys to bytes that stay free; a device
    with margin 0, or none, is not checked. `sums` follow from all this, and are made anew for each snapshot; but
    `sparing` and `after`, which know what they change, hand on what is `known`.
    """

    readings: tuple[Reading, ...]
    residents: tuple[Resident, ...] = ()
    limit: int = 0
    margins: Mapping[str, int] = field(default_factory=dict)
    known: InitVar[Sums | None] = None
    sums: Sums = field(init=False, repr=False, compare=False)

    def __post_init__(self, known: Sums | None) -> None:
        object.__setattr__(self, "sums", known or Sums.of(self))

    def sparing(self, models: Collection[str]) -> Snapshot:
        """The same machine for one that none of these is to go for."""
        if not models:
            return self
        spared = tuple(replace(r, pinned=True) if r.model in models else r for r in self.residents)
        going = {model: at for model, at in self.sums.going.items() if model not in models}
        return replace(self, residents=spared, known=replace(self.sums, going=going))

    def after(self, plan: Plan, model: str) -> Snapshot:
        """What the next in the queue must reckon with: the victims going, and this claim before its own."""
        if isinstance(plan, Reject) or plan.claim is None:
            return self
        victims = plan.victims if isinstance(plan, Evict | Drain) else ()
        residents, going = [*self.residents], {**self.sums.going}
        places = [going.pop(victim) for victim in victims]
        gone = [residents[at] for at in places]
        for at in places:
            residents[at] = replace(residents[at], phase=Phase.STOPPING)
        new = Resident(model, plan.claim.held, Phase.LOADING if isinstance(plan, Place) else Phase.CLAIMED)
        now = self.sums.now.after(come=[new]) if new.phase is Phase.LOADING else self.sums.now
        staying = self.sums.staying.after(come=[new], gone=gone)
        sums = Sums(self.sums.nodes, self.sums.empty, now, staying, going)
        return Snapshot(self.readings, (*residents, new), self.limit, self.margins, sums)


@dataclass(frozen=True, slots=True)
class Allocation:
    """`devices` are the GPUs a child is pinned to, `held` the bytes booked on each device key. `counts` is how many
    layers go to each of the devices; empty where there is nothing to divide, or the engine or the user does it."""

    held: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Start it now, here."""

    claim: Allocation


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop these idle ones; then there is room for the claim."""

    victims: tuple[str, ...]
    claim: Allocation


@dataclass(frozen=True, slots=True)
class Drain:
    """There is room for the claim once these have gone, and some of them are busy."""

    victims: tuple[str, ...]
    claim: Allocation


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now. `stopping` tells that the room is already being made; without a claim nobody knows when it
    comes, because pinned models or other programs hold it."""

    reason: str
    claim: Allocation | None = None
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """It would not fit on the empty machine."""

    reason: str


Plan = Place | Evict | Drain | Wait | Reject


def plan(snapshot: Snapshot, demand: Demand) -> Plan:
    """Decide for the first in the queue; `Snapshot.after` gives the view of the second.

    To be placed means to fit beside those who are there now, and beside those who stay, so that nobody further back
    takes what one ahead was promised.
    """
    now, staying = snapshot.sums.now, snapshot.sums.staying
    if claim := _fit(snapshot, demand, staying):
        loading = _primaries(snapshot)
        apart = _fit(snapshot, demand, staying, shunned=loading) if loading else claim
        if apart is None:
            return Wait("another model is loading on the same device", claim)
        # Most that have to wait fail the first of these, and it costs less.
        at_once = _fit(snapshot, demand, now, shunned=loading) and _fit(snapshot, demand, now, staying, shunned=loading)
        if at_once:
            return Place(at_once)
        return Wait("models that are stopping still hold the room", apart, stopping=True)
    if chosen := _victims(snapshot, demand):
        victims, claim = chosen
        names = tuple(victim.model for victim in victims)
        are_idle = all(victim.phase is Phase.IDLE for victim in victims)
        return Evict(names, claim) if are_idle else Drain(names, claim)
    if _place(snapshot, demand, snapshot.sums.empty) is None:
        return Reject(_too_large(snapshot, demand))
    going = [snapshot.residents[at] for at in snapshot.sums.going.values()]
    loads = [r for r in _during(Phase.LOADING, snapshot.residents) if not r.pinned]
    if claim := _fit(snapshot, demand, staying.after(gone=[*going, *loads])):
        return Wait("another model is loading", claim)
    return Wait("pinned models, other programs or requests further ahead hold the memory or the slots")


def _victims(snapshot: Snapshot, demand: Demand) -> tuple[Sequence[Resident], Allocation] | None:
    """The whole set at once: take in order until it fits, then give back, last taken first, whoever was not needed."""
    world = snapshot.sums.staying
    taken: list[Resident] = []
    claim = None
    for at in snapshot.sums.going.values():
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


def _fit(
    snapshot: Snapshot, demand: Demand, *worlds: World, shunned: frozenset[str] = frozenset()
) -> Allocation | None:
    """An allocation that holds in every one of these worlds, on none of the shunned devices."""
    if snapshot.limit and any(world.count >= snapshot.limit for world in worlds):
        return None
    rooms = worlds[0].rooms
    if len(worlds) > 1:  # all have the same keys in the same order
        rooms = dict(zip(rooms, map(min, *(world.rooms.values() for world in worlds)), strict=True))
    return _place(snapshot, demand, rooms, shunned)


def _place(
    snapshot: Snapshot, demand: Demand, rooms: Mapping[str, float], shunned: frozenset[str] = frozenset()
) -> Allocation | None:
    """Fewest devices first; among equals the tightest fit, so that large gaps stay whole."""
    options = []
    for node in snapshot.sums.nodes:
        if any(rooms[key] < demand.host for key in node.hosts):
            continue
        held = dict.fromkeys(node.hosts, demand.host) if demand.host else {}
        if not demand.split and not demand.fixed:
            if shunned.isdisjoint(node.hosts):
                options.append((0, min((rooms[key] for key in node.hosts), default=inf), Allocation(held)))
            continue
        gpus = node.gpus
        if demand.names:
            gpus = {key: device for key, device in gpus.items() if device.name in demand.names}
        place = _as_given if demand.given else _spread
        if claim := place(gpus, demand, rooms, shunned):
            slack = sum(rooms[device.key] for device in claim.devices)
            options.append((len(claim.devices), slack, replace(claim, held={**held, **claim.held}) if held else claim))
    return min(options, key=lambda option: option[:2])[2] if options else None


_index = attrgetter("index")


def _as_given(
    gpus: Mapping[str, Device], demand: Demand, rooms: Mapping[str, float], shunned: frozenset[str]
) -> Allocation | None:
    """Where the user has divided it."""
    order = {name: position for position, name in enumerate(demand.names)}
    chosen = sorted(gpus.values(), key=lambda d: (order.get(d.name, 0), d.index))[: len(demand.given)]
    needs = [share + demand.fixed for share in demand.given]
    if len(chosen) < len(needs) or any(d.key in shunned for d in chosen):
        return None
    fits = all(rooms[device.key] >= need for device, need in zip(chosen, needs, strict=True))
    return _claim(chosen, needs, rooms) if fits else None


def _spread(
    gpus: Mapping[str, Device], demand: Demand, rooms: Mapping[str, float], shunned: frozenset[str]
) -> Allocation | None:
    """The fewest devices that can hold it; of those, the window of the sorted rooms that leaves least over, or any
    where layers of different sizes go into no window."""
    split, fixed = demand.split, demand.fixed
    usable = [key for key in gpus if rooms[key] >= fixed and key not in shunned]
    if not usable or sum(map(rooms.__getitem__, usable)) < split + fixed * len(usable):
        return None
    usable.sort(key=rooms.__getitem__)
    devices = [gpus[key] for key in usable]
    if rooms[usable[0]] == inf:
        # Unchecked: the engine chooses among all, as if alone.
        return Allocation({}, tuple(sorted(devices, key=_index)))
    spare = [rooms[key] - fixed for key in usable]
    if max(demand.layers, default=0) > spare[-1]:
        return None
    ends = [*accumulate(demand.layers, initial=0)]
    for count in range(1, len(usable) + 1):
        if sum(spare[-count:]) < split:
            continue
        some = _some(devices, count, demand, rooms, ends) if count > 1 and demand.layers else devices[-count:]
        if not some:
            continue
        starts = range(len(usable) - count + 1)
        first = next(start for start in starts if sum(spare[start : start + count]) >= split)
        for start in starts[first:]:
            if start == first or spare[start - 1] < spare[start + count - 1]:  # else it is like the one before
                window = sorted(devices[start : start + count], key=_index)
                if claim := _divide(window, demand, rooms, ends):
                    return claim
        return _divide(some, demand, rooms, ends)
    return None


def _some(
    usable: Sequence[Device], count: int, demand: Demand, rooms: Mapping[str, float], ends: Sequence[int]
) -> Sequence[Device]:
    """So many devices that hold all layers, in the order of the engine; empty if there are none."""
    # By the number of devices, of those seen so far: how many layers they hold at most, and which devices do.
    best: list[tuple[int, tuple[Device, ...]]] = [(0, ())]
    for device in sorted(usable, key=_index):
        room = rooms[device.key] - demand.fixed
        longer = [(bisect_right(ends, ends[held] + room) - 1, (*some, device)) for held, some in best[:count]]
        best.append((-1, ()))
        best = [best[0], *(max(*pair, key=lambda found: found[0]) for pair in zip(best[1:], longer, strict=False))]
    held, some = best[count]
    return some if held == len(ends) - 1 else ()


def _divide(
    chosen: Sequence[Device], demand: Demand, rooms: Mapping[str, float], ends: Sequence[int]
) -> Allocation | None:
    """In proportion to the room, by whole layers where these are known; `ends[n]` is what the first n take. None if
    they do not go in."""
    spare = [rooms[device.key] - demand.fixed for device in chosen]
    if len(chosen) == 1:
        return _claim(chosen, [demand.split + demand.fixed], rooms)
    if not demand.layers:
        return _claim(chosen, [share + demand.fixed for share in _in_proportion(demand.split, spare)], rooms)
    # What must lie before each border, so that the rest goes in behind it.
    least = [len(ends) - 1]
    for room in reversed(spare):
        least.append(bisect_left(ends, ends[least[-1]] - room))
    if least.pop():
        return None
    borders, filled, whole = [0], 0.0, sum(spare)
    for room, low in zip(spare, reversed(least), strict=True):
        filled += room
        even = bisect_right(ends, ends[-1] * filled / whole) - 1
        most = bisect_right(ends, ends[borders[-1]] + room) - 1
        borders.append(max(low, min(even, most)))
    needs = [ends[end] - ends[start] + demand.fixed for start, end in pairwise(borders)]
    return _claim(chosen, needs, rooms, tuple(end - start for start, end in pairwise(borders)))


def _in_proportion(split: int, spare: Sequence[float]) -> list[int]:
    """As the engine divides by free memory, when it is left to it; never above a room."""
    rooms = [int(room) for room in spare]
    whole = sum(rooms)
    shares = [split * room // whole if whole else 0 for room in rooms]
    left = split - sum(shares)
    for index, room in enumerate(rooms):
        more = min(left, room - shares[index])
        shares[index] += more
        left -= more
    return shares


def _claim(
    chosen: Sequence[Device], needs: Sequence[int], rooms: Mapping[str, float], counts: tuple[int, ...] = ()
) -> Allocation:
    """Nothing is booked where nothing is checked."""
    held = {d.key: need for d, need in zip(chosen, needs, strict=True) if rooms[d.key] != inf}
    return Allocation(held, tuple(chosen), counts)


def _primaries(snapshot: Snapshot) -> frozenset[str]:
    """Where a load under way shuts out a second one: its GPUs, or the RAM if it uses none. Unchecked devices do not."""
    residents = _during(Phase.LOADING, snapshot.residents)
    if not residents:
        return frozenset()
    gpus = {key for node in snapshot.sums.nodes for key in node.gpus}
    taken: set[str] = set()
    for resident in residents:
        taken |= gpus.intersection(resident.held) or set(resident.held)
    return frozenset(key for key in taken if snapshot.margins.get(key, 0))


def _too_large(snapshot: Snapshot, demand: Demand) -> str:
    rooms = snapshot.sums.empty
    have = ", ".join(
        f"{r.device.name} {size(r.device.total)} less a margin of {size(snapshot.margins[r.device.key])}"
        for r in snapshot.readings
        if rooms[r.device.key] != inf
    )
    parts = []
    if demand.split or demand.fixed:
        where = f" (restricted to {', '.join(demand.names)})" if demand.names else ""
        parts.append(f"{size(demand.split + demand.fixed)} of GPU memory{where}")
    if demand.host:
        parts.append(f"{size(demand.host)} of RAM")
    return f"it needs {' and '.join(parts)}; this machine has {have or 'no such device'}"
