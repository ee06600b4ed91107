"""Where a model goes and who must go for it: pure functions over frozen snapshots.

No I/O, no clock, no logging. Everything is `int` bytes; times are only compared with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
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
    """

    split: int = 0
    fixed: int = 0
    host: int = 0
    names: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return self.split + self.fixed + self.host


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
    """`devices` are the GPUs a child is pinned to, `held` the bytes booked on each device key."""

    held: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()


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
    rooms: dict[str, float] = {}
    for reading in snapshot.readings:
        key = reading.device.key
        margin = snapshot.margins.get(key, 0)
        if not margin:
            rooms[key] = inf
            continue
        books = reading.device.total - sum(r.held.get(key, 0) for r in residents)
        machine = reading.device.total if reading.free is None else reading.free
        machine += sum(resident.shift(key, there=resident.model in there) for resident in snapshot.residents)
        rooms[key] = min(books, machine) - margin
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
        gpus = [d for d in devices if d.kind == "gpu" and d.key not in shunned]
        if demand.names:
            gpus = [d for d in gpus if d.name in demand.names]
        if chosen := _spread(gpus, demand, rooms):
            slack = sum(rooms[device.key] for device in chosen)
            options.append((len(chosen), slack, Allocation({**held, **_shares(chosen, demand, rooms)}, chosen)))
    return min(options, key=lambda option: option[:2])[2] if options else None


def _spread(gpus: Sequence[Device], demand: Demand, rooms: Mapping[str, float]) -> tuple[Device, ...] | None:
    """The fewest devices that can hold it; of those, the window of the sorted rooms that leaves least over."""
    usable = sorted((d for d in gpus if rooms[d.key] >= demand.fixed), key=lambda d: rooms[d.key])
    if usable and all(rooms[device.key] == inf for device in usable):
        return tuple(sorted(usable, key=lambda d: d.index))  # unchecked: the engine chooses among all, as if alone
    for count in range(1, len(usable) + 1):
        for start in range(len(usable) - count + 1):
            window = usable[start : start + count]
            if sum(rooms[d.key] - demand.fixed for d in window) >= demand.split:
                return tuple(sorted(window, key=lambda d: d.index))
    return None


def _shares(chosen: Sequence[Device], demand: Demand, rooms: Mapping[str, float]) -> dict[str, int]:
    """Divide in proportion to the room, as the engine divides in proportion to free memory; never above a room."""
    if any(rooms[device.key] == inf for device in chosen):
        return {}
    spare = [int(rooms[device.key]) - demand.fixed for device in chosen]
    whole = sum(spare)
    shares = [demand.split * room // whole if whole else 0 for room in spare]
    left = demand.split - sum(shares)
    for index, room in enumerate(spare):
        more = min(left, room - shares[index])
        shares[index] += more
        left -= more
    return {device.key: share + demand.fixed for device, share in zip(chosen, shares, strict=True)}


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
