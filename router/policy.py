"""Where a model goes and who must go for it: pure functions over frozen snapshots.

No I/O, no clock, no logging. Everything is `int` bytes; times are only compared with each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import accumulate, pairwise
from math import inf


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

    @property
    def key(self) -> str:
        return f"{self.node}/{self.name}"


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

    def shift(self, key: str, *, there: bool) -> int:
        """Bytes by which the machine's free memory differs from what is to be had if this one is there, or is gone.

        What a loading or sleeping one holds the machine does not show. Of one that was stopped while it loaded nobody
        knows how much shows: it counts in full while it is there, and in full when it is gone.
        """
        held = self.held.get(key, 0)
        is_seen = self.phase in (Phase.IDLE, Phase.BUSY, Phase.STOPPING) and not self.sleeping
        if there:
            return -held if not is_seen or self.half_loaded else 0
        return held if is_seen else 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole machine at one moment.

    `limit` is the greatest number of processes, 0 for any. `margins` maps device keys to bytes that stay free; a device
    with margin 0, or none, is not checked.
    """

    readings: tuple[Reading, ...]
    residents: tuple[Resident, ...] = ()
    limit: int = 0
    margins: Mapping[str, int] = field(default_factory=dict)

    def sparing(self, models: Collection[str]) -> Snapshot:
        """The same machine for one that none of these is to go for."""
        if not models:
            return self
        spared = tuple(replace(r, pinned=True) if r.model in models else r for r in self.residents)
        return replace(self, residents=spared)

    def after(self, plan: Plan, model: str) -> Snapshot:
        """What the next in the queue must reckon with: the victims going, and this claim before its own."""
        if isinstance(plan, Reject) or plan.claim is None:
            return self
        victims = plan.victims if isinstance(plan, Evict | Drain) else ()
        rest = tuple(replace(r, phase=Phase.STOPPING) if r.model in victims else r for r in self.residents)
        phase = Phase.LOADING if isinstance(plan, Place) else Phase.CLAIMED
        return replace(self, residents=(*rest, Resident(model, plan.claim.held, phase)))


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

    There are two worlds: who is there now, and who stays once everything that was decided has come about. To be placed
    means to fit in both, so that nobody further back takes what one ahead was promised.
    """
    now = [r for r in snapshot.residents if r.phase is not Phase.CLAIMED]
    staying = [r for r in snapshot.residents if r.phase is not Phase.STOPPING]
    loading = _primaries(snapshot, [r for r in now if r.phase is Phase.LOADING])
    if claim := _fit(snapshot, demand, now, staying, shunned=loading):
        return Place(claim)
    if _place(snapshot, demand, _empty_rooms(snapshot)) is None:
        return Reject(_too_large(snapshot, demand))
    if claim := _fit(snapshot, demand, staying, shunned=loading):
        return Wait("models that are stopping still hold the room", claim, stopping=True)
    if claim := _fit(snapshot, demand, staying):
        return Wait("another model is loading on the same device", claim)
    idle = sorted((r for r in staying if r.phase is Phase.IDLE and not r.pinned), key=_recency)
    if chosen := _victims(snapshot, demand, staying, idle):
        return Evict(*chosen)
    # A model that drains already comes first, so that a drain once begun is the one that is finished.
    busy = [r for r in staying if r.phase is Phase.BUSY and not r.pinned]
    busy.sort(key=lambda r: (not r.draining, *_recency(r)))
    if chosen := _victims(snapshot, demand, staying, idle + busy):
        return Drain(*chosen)
    settled = [r for r in staying if r.pinned or r.phase is Phase.CLAIMED]
    if claim := _fit(snapshot, demand, settled):
        return Wait("another model is loading", claim)
    return Wait("pinned models, other programs or requests further ahead hold the memory or the slots")


def _recency(resident: Resident) -> tuple[float, str]:
    return resident.finished, resident.model


def _victims(
    snapshot: Snapshot, demand: Demand, staying: Sequence[Resident], order: Sequence[Resident]
) -> tuple[tuple[str, ...], Allocation] | None:
    """The whole set at once: take in order until it fits, then give back, last taken first, whoever was not needed."""

    def without(gone: Sequence[Resident]) -> Allocation | None:
        return _fit(snapshot, demand, [r for r in staying if r not in gone])

    taken: list[Resident] = []
    claim = None
    for candidate in order:
        taken.append(candidate)
        if claim := without(taken):
            break
    if claim is None:
        return None
    for candidate in reversed(taken[:-1]):
        fewer = [r for r in taken if r is not candidate]
        if better := without(fewer):
            taken, claim = fewer, better
    return tuple(r.model for r in taken), claim


def _fit(
    snapshot: Snapshot, demand: Demand, *worlds: Sequence[Resident], shunned: frozenset[str] = frozenset()
) -> Allocation | None:
    """An allocation that holds in every one of these worlds, on none of the shunned devices."""
    if snapshot.limit and any(len(residents) >= snapshot.limit for residents in worlds):
        return None
    rooms = [_rooms(snapshot, residents) for residents in worlds]
    return _place(snapshot, demand, {key: min(room[key] for room in rooms) for key in rooms[0]}, shunned)


def _rooms(snapshot: Snapshot, residents: Sequence[Resident]) -> dict[str, float]:
    """Bytes to be had per device key if just these were there: by the machine and by our own books, whichever is less.

    What a leaving resident holds counts as free already; what a loading one was promised, or a sleeping one will take
    back, counts as taken although the machine does not show it.
    """
    there = {resident.model for resident in residents}
    booked, shifts = dict[str, int](), dict[str, int]()
    for resident in residents:
        for key, count in resident.held.items():
            booked[key] = booked.get(key, 0) + count
    for resident in snapshot.residents:
        for key in resident.held:
            shifts[key] = shifts.get(key, 0) + resident.shift(key, there=resident.model in there)
    rooms: dict[str, float] = {}
    for reading in snapshot.readings:
        key = reading.device.key
        margin = snapshot.margins.get(key, 0)
        if not margin:
            rooms[key] = inf
            continue
        machine = reading.device.total if reading.free is None else reading.free
        rooms[key] = min(reading.device.total - booked.get(key, 0), machine + shifts.get(key, 0)) - margin
    return rooms


def _empty_rooms(snapshot: Snapshot) -> dict[str, float]:
    return {
        r.device.key: r.device.total - margin if (margin := snapshot.margins.get(r.device.key, 0)) else inf
        for r in snapshot.readings
    }


def _place(
    snapshot: Snapshot, demand: Demand, rooms: Mapping[str, float], shunned: frozenset[str] = frozenset()
) -> Allocation | None:
    """Fewest devices first; among equals the tightest fit, so that large gaps stay whole."""
    options = []
    for node in dict.fromkeys(reading.device.node for reading in snapshot.readings):
        devices = [reading.device for reading in snapshot.readings if reading.device.node == node]
        hosts = [device.key for device in devices if device.kind == "host"]
        if any(rooms[key] < demand.host for key in hosts):
            continue
        held = dict.fromkeys(hosts, demand.host) if demand.host else {}
        if not demand.split and not demand.fixed:
            if shunned.isdisjoint(hosts):
                options.append((0, min((rooms[key] for key in hosts), default=inf), Allocation(held)))
            continue
        gpus = [d for d in devices if d.kind == "gpu" and (not demand.names or d.name in demand.names)]
        place = _as_given if demand.given else _spread
        if claim := place(gpus, demand, rooms, shunned):
            slack = sum(rooms[device.key] for device in claim.devices)
            options.append((len(claim.devices), slack, replace(claim, held={**held, **claim.held})))
    return min(options, key=lambda option: option[:2])[2] if options else None


def _as_given(
    gpus: Sequence[Device], demand: Demand, rooms: Mapping[str, float], shunned: frozenset[str]
) -> Allocation | None:
    """Where the user has divided it."""
    order = {name: position for position, name in enumerate(demand.names)}
    chosen = sorted(gpus, key=lambda d: (order.get(d.name, 0), d.index))[: len(demand.given)]
    needs = [share + demand.fixed for share in demand.given]
    if len(chosen) < len(needs) or any(d.key in shunned for d in chosen):
        return None
    fits = all(rooms[device.key] >= need for device, need in zip(chosen, needs, strict=True))
    return _claim(chosen, needs, rooms) if fits else None


def _spread(
    gpus: Sequence[Device], demand: Demand, rooms: Mapping[str, float], shunned: frozenset[str]
) -> Allocation | None:
    """The fewest devices that can hold it; of those, the window of the sorted rooms that leaves least over, or any
    where layers of different sizes go into no window."""
    usable = [d for d in gpus if d.key not in shunned and rooms[d.key] >= demand.fixed]
    if usable and all(rooms[device.key] == inf for device in usable):
        # Unchecked: the engine chooses among all, as if alone.
        return Allocation({}, tuple(sorted(usable, key=lambda d: d.index)))
    usable.sort(key=lambda d: rooms[d.key])
    spare = [rooms[device.key] - demand.fixed for device in usable]
    if not spare or max(demand.layers, default=0) > spare[-1]:
        return None
    ends = [*accumulate(demand.layers, initial=0)]
    for count in range(1, len(usable) + 1):
        if sum(spare[-count:]) < demand.split:
            continue
        some = _some(usable, count, demand, rooms, ends) if count > 1 and demand.layers else usable[-count:]
        if not some:
            continue
        for start in range(len(usable) - count + 1):
            is_another = not start or spare[start - 1] < spare[start + count - 1]
            if is_another and sum(spare[start : start + count]) >= demand.split:
                window = sorted(usable[start : start + count], key=lambda d: d.index)
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
    for device in sorted(usable, key=lambda d: d.index):
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


def _primaries(snapshot: Snapshot, residents: Iterable[Resident]) -> frozenset[str]:
    """Where a load under way shuts out a second one: its GPUs, or the RAM if it uses none. Unchecked devices do not."""
    gpus = {reading.device.key for reading in snapshot.readings if reading.device.kind == "gpu"}
    taken: set[str] = set()
    for resident in residents:
        taken |= gpus.intersection(resident.held) or set(resident.held)
    return frozenset(key for key in taken if snapshot.margins.get(key, 0))


def _too_large(snapshot: Snapshot, demand: Demand) -> str:
    rooms = _empty_rooms(snapshot)
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


def size(count: float) -> str:
    """Bytes for a person: `1.5 GiB`, `300 MiB`."""
    mib = count / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
