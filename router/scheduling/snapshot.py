"""PURE: the machine at one moment, as `policy` sees it: devices, processes, and the free memory that follows.

The idea is the `World`: an assumption about which processes are there, and the free memory on every device under that
assumption. `policy` asks the same question of several worlds: does this demand fit beside the processes that are there
now, beside those that remain after the pending stops, on the empty machine?

Theory: what a reading means
----------------------------
A driver reports one number for each device: the bytes that are used. It does not say by whom. What other programs hold
is what is left of that number when our own processes are taken off. How much the driver shows of each:

- A model that serves, and is awake: all that is booked.
- A sleeping model without requests: nothing. It may take its memory back at any time, so it counts as taken all the
  same.
- A claim, and a load that this very pass has begun: nothing.
- A model that loads, and one that wakes up (it sleeps, and has requests): anything from nothing to all. How much,
  nobody knows.
- A model that stops: anything from all to nothing. It gives memory back step by step before its exit is reported.
- A process that has ended: up to all. Some drivers give memory back seconds after the exit (`Snapshot.returning`).

So in the last three cases one reading fits several truths: the bytes belong to our process, or other programs hold
them and our process will need as many again. `by_driver` has one assumption for each case:

- Loads and wake-ups: nothing shows yet. Then what already shows counts twice, as used and as promised. This never takes
  the free memory for larger than it is: a model may be started upon it. But it may take it for smaller:
  `Totals.counted_twice` says by how much at most. What has ended and may still show is part of that.
- Stops: everything shows still, and comes back. This may take the free memory after the stops for larger than it is:
  `Totals.counted_early` says by how much at most. No model is started upon it: a start must fit beside the processes
  that stop, too.

Between these bounds lies the truth. They shrink to nothing when the load, the stop or the return of memory ends. The
books bound it too: if no other program holds memory, the books alone are the truth. `policy` starts a model upon the
lower bound; it lets a model go only if both bounds agree that this one must go; else it waits until they meet.

Made by `scheduler` for each pass over the queue, and handed on from one entry of the queue to the next by
`policy.after_plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from enum import Enum
from math import inf

from router.scheduling.resources import Device, Reading

# The free memory of a device that is not checked (its margin is 0): more than any demand.
UNCHECKED = inf


class Phase(Enum):
    """What a process does about memory.

    CLAIMED: there is no process yet; the memory is promised to a model further ahead in the queue.
    LOADING: it takes its memory.
    IDLE, BUSY: it holds its memory.
    STOPPING: it gives its memory back.
    """

    CLAIMED = "claimed"
    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"


VISIBLE_TO_DRIVER = (Phase.IDLE, Phase.BUSY, Phase.STOPPING)
SERVING = (Phase.IDLE, Phase.BUSY)


@dataclass(frozen=True, slots=True)
class Resident:
    """One process.

    `held` are the bytes booked for it, by device key.
    `finished` is when its last use ended, in seconds.
    `draining`: it takes no new work. With STOPPING: it does not stop yet, but will when its requests have ended.
    `sleeping`: it has freed its memory, and may take it back at any time.
    `stopped_while_loading`: how much of `held` it had taken is not known.
    `goes_last`: a client wants it to stay. It goes after all others in the same phase.
    `prompt_cache` are the bytes of RAM in `held` that were promised to its prompt cache.
    `at_reading`: its phase when the memory was read, if that was another one. Only `policy.after_plan` sets it.
    """

    model: str
    held: Mapping[str, int]
    phase: Phase
    finished: float = 0.0
    pinned: bool = False
    draining: bool = False
    sleeping: bool = False
    stopped_while_loading: bool = False
    goes_last: bool = False
    prompt_cache: int = 0
    at_reading: Phase | None = field(default=None, compare=False)

    @property
    def is_visible_to_driver(self) -> bool:
        """The driver reports what it holds as taken: not while it loads, and not while it sleeps."""
        return not self.sleeping and self.phase in VISIBLE_TO_DRIVER

    @property
    def may_show_in_part(self) -> bool:
        """It loaded or woke up when the memory was read: the driver showed anything from nothing to all that it
        holds."""
        phase = self.at_reading or self.phase
        return phase is Phase.LOADING or (self.sleeping and phase is Phase.BUSY)

    def as_victim(self, draining: bool) -> Resident:
        """The same process, which stops, or will when its requests have ended."""
        # Written out: this runs for each entry of the queue, and `replace` takes several times as long.
        return Resident(
            self.model,
            self.held,
            Phase.STOPPING,
            self.finished,
            self.pinned,
            draining,
            self.sleeping,
            self.stopped_while_loading,
            self.goes_last,
            self.prompt_cache,
            self.phase,
        )

    @property
    def can_go(self) -> bool:
        """It can be stopped for another model: now if it is idle, later if it is busy."""
        return not self.pinned and self.phase in SERVING


def in_phase(phase: Phase, residents: Iterable[Resident]) -> list[Resident]:
    return [resident for resident in residents if resident.phase is phase]


@dataclass(frozen=True, slots=True)
class World:
    """The free memory under the assumption that just these processes are there.

    `count` is their number, and `ending` how many of them stop already. The other three are bytes by device key,
    UNCHECKED where nothing is checked:
    `by_books`: free by our own books (total less the margin, less what is booked);
    `by_driver`: free by the driver's reading, less what the driver may not show yet;
    `free`: the smaller of the two, of the devices that are not lost.
    """

    count: int
    by_books: dict[str, float]
    by_driver: dict[str, float]
    free: dict[str, float]
    ending: int = 0

    def after(self, *, come: Iterable[Resident] = (), gone: Iterable[Resident] = ()) -> World:
        """The world in which the processes `come` are there too, and the processes `gone` are not."""
        world = World(self.count, {**self.by_books}, {**self.by_driver}, {**self.free}, self.ending)
        for resident in come:
            world = world.moved(resident, 1)
        for resident in gone:
            world = world.moved(resident, -1)
        return world

    def moved(self, resident: Resident, sign: int) -> World:
        """The world after this process has come (1) or gone (-1). It takes the amounts of this world over and changes
        them: do not use this world any more."""
        by_books, by_driver, free = self.by_books, self.by_driver, self.free
        # How much the driver shows of a process that was stopped while it loaded is not known. While it is there, it
        # counts as if nothing were shown yet. Once it is gone, it counts as if all had been shown. So its end makes
        # twice the difference.
        times = sign * (2 if resident.stopped_while_loading and resident.is_visible_to_driver else 1)
        for key, held in resident.held.items():
            if key in free:
                by_books[key] -= sign * held
                by_driver[key] -= times * held
                free[key] = min(by_books[key], by_driver[key])
        return World(self.count + sign, by_books, by_driver, free, self.ending)

    def with_more(self, more: Mapping[str, float], sign: int = 1) -> World:
        """The same processes, and the driver is assumed to have `more` bytes free; fewer with a `sign` of -1."""
        by_driver, free = {**self.by_driver}, {**self.free}
        for key, amount in more.items():
            if key in free:
                by_driver[key] += sign * amount
                free[key] = min(self.by_books[key], by_driver[key])
        return World(self.count, self.by_books, by_driver, free, self.ending)


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """The devices of one node: the keys of its RAM, and its GPUs by key. `has_alone`: one of them `is_alone`."""

    hosts: tuple[str, ...]
    gpus: Mapping[str, Device]
    has_alone: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """What follows from a snapshot, and is needed again and again.

    `nodes` are the devices that take models, node by node: those that are not lost.
    `nodes_with_lost` are all devices, as if none were lost.
    `empty` is the free memory of the empty machine, by device key.
    `now` is the world of the processes that are there.
    `after_pending_stops` is the world once everything that was decided has happened: the stopping processes are gone,
    and the claims of models further ahead have come true.
    `victim_order` are the models that may have to go, in the order in which they go, with their positions among the
    residents. Idle models come before busy ones, and the least recently finished come first. Those that a client wants
    to stay come last among the idle ones, and last among the busy ones. A busy model that drains already comes before
    the other busy ones, so that a drain that has begun is the one that is finished.
    `counted_twice` and `counted_early` are bytes by device key: by how much `by_driver` may be too small, and by how
    much it may be too great once the pending stops have ended. Empty if the reading is clear.
    """

    nodes: tuple[NodeDevices, ...]
    empty: Mapping[str, float]
    now: World
    after_pending_stops: World
    victim_order: Mapping[str, int]
    nodes_with_lost: tuple[NodeDevices, ...] = ()
    counted_twice: Mapping[str, float] = field(default_factory=dict)
    counted_early: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Totals:
        devices = [reading.device for reading in snapshot.readings]
        with_lost = _by_node(devices)
        lost = {reading.device.key for reading in snapshot.readings if reading.lost}
        nodes = with_lost
        if lost:  # without its RAM a node starts nothing
            usable = _by_node([device for device in devices if device.key not in lost])
            nodes = tuple(node for node in usable if node.hosts)
        margins = snapshot.margins
        empty = {d.key: d.total - margin if (margin := margins.get(d.key, 0)) else UNCHECKED for d in devices}
        by_driver = {
            r.device.key: empty[r.device.key] - (0 if r.free is None else r.device.total - r.free)
            for r in snapshot.readings
        }
        # What a loading process was promised, and what a sleeping one will take back, counts as taken although the
        # driver does not show it. What a stopping process holds counts as free already for everything behind it.
        by_books, claims = {**empty}, in_phase(Phase.CLAIMED, snapshot.residents)
        twice: dict[str, float] = {**snapshot.returning}
        for resident in snapshot.residents:
            for key, held in resident.held.items():
                if key in by_books:
                    by_books[key] -= held
            if resident.stopped_while_loading or not resident.is_visible_to_driver:
                for key, held in resident.held.items():
                    if key in by_books:
                        by_driver[key] -= held
            if (resident.phase is Phase.LOADING or resident.sleeping) and resident.may_show_in_part:
                for key, held in resident.held.items():
                    twice[key] = twice.get(key, 0) + held
        free = {key: min(by_books[key], by_driver[key]) for key in empty if key not in lost}
        everything = World(len(snapshot.residents), by_books, by_driver, free)
        stopping = in_phase(Phase.STOPPING, snapshot.residents)
        now = replace(everything.after(gone=claims), ending=sum(not resident.draining for resident in stopping))
        after_pending_stops = everything.after(gone=stopping)
        early: dict[str, float] = {}
        for resident in stopping:
            if resident.at_reading is None and not resident.sleeping:
                for key, held in resident.held.items():
                    early[key] = early.get(key, 0) + held
        victims = sorted(((r, at) for at, r in enumerate(snapshot.residents) if r.can_go), key=_victim_rank)
        victim_order = {resident.model: at for resident, at in victims}
        return cls(nodes, empty, now, after_pending_stops, victim_order, with_lost, twice, early)


def _by_node(devices: Sequence[Device]) -> tuple[NodeDevices, ...]:
    nodes = []
    for name in dict.fromkeys(device.node for device in devices):
        hosts = tuple(d.key for d in devices if d.node == name and d.kind == "host")
        gpus = {d.key: d for d in devices if d.node == name and d.kind == "gpu"}
        nodes.append(NodeDevices(hosts, gpus, any(gpu.is_alone for gpu in gpus.values())))
    return tuple(nodes)


def _victim_rank(candidate: tuple[Resident, int]) -> tuple[bool, bool, bool, float, str]:
    resident, _ = candidate
    is_busy = resident.phase is Phase.BUSY
    return is_busy, is_busy and not resident.draining, resident.goes_last, resident.finished, resident.model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole machine at one moment.

    `limit` is the greatest number of processes, 0 for any number.
    `margins` are bytes that stay free, by device key. A device with a margin of 0, or with none, is not checked.
    `returning` are bytes that processes which have ended may not have given back yet, by device key.
    `totals` follow from all this, and are computed for each new snapshot. `sparing` and `policy.after_plan` know what
    they change: they hand the changed totals on as `known_totals`.
    """

    readings: tuple[Reading, ...]
    residents: tuple[Resident, ...] = ()
    limit: int = 0
    margins: Mapping[str, int] = field(default_factory=dict)
    returning: Mapping[str, int] = field(default_factory=dict)
    known_totals: InitVar[Totals | None] = None
    totals: Totals = field(init=False, repr=False, compare=False)

    def __post_init__(self, known_totals: Totals | None) -> None:
        object.__setattr__(self, "totals", known_totals or Totals.of(self))

    def devices_of_loads(self, loads: Collection[Mapping[str, int]]) -> frozenset[str]:
        """The devices on which no second load may begin while these are under way: the GPUs of each, or the RAM if it
        uses no GPU. Devices that are not checked take any number of loads. A load is what it holds, by device key."""
        if not loads:
            return frozenset()
        gpus = {key for node in self.totals.nodes_with_lost for key in node.gpus}
        taken: set[str] = set()
        for held in loads:
            taken |= gpus.intersection(held) or set(held)
        return frozenset(key for key in taken if self.margins.get(key, 0))

    def sparing(self, models: Collection[str]) -> Snapshot:
        """The same machine, on which none of these models may go."""
        if not models:
            return self
        spared = tuple(replace(r, pinned=True) if r.model in models else r for r in self.residents)
        victims = {model: at for model, at in self.totals.victim_order.items() if model not in models}
        return replace(self, residents=spared, known_totals=replace(self.totals, victim_order=victims))
