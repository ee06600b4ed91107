"""A model's need, from the best source there is: what it took before, the engine's own measure, the header and flags.

An explicit context is honoured as asked. An automatic one is the largest that fits on the fewest devices of the empty
machine: it does not depend on what happens to run, so the same model is the same each time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cachetools import LRUCache

from router import files, threads
from router.engine import flags
from router.engine.discovery import Engine
from router.engine.flags import Arg, FlagTable
from router.errors import GgufError, LoadFailed
from router.memory import demand as memory
from router.memory.demand import Estimate
from router.memory.footprints import Footprint, Footprints, key_of
from router.models import gguf
from router.models.describe import describe
from router.models.metadata import Metadata
from router.models.spec import ModelSpec
from router.scheduling import policy
from router.scheduling.policy import Place
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.snapshot import Snapshot
from router.units import size

log = logging.getLogger("router.estimate")

# The engine measures within 0.3 s here, 1 s for the largest models; then the header has to do.
PATIENCE = 10.0
SHORTEST = 4096  # tokens; an automatic context is not shortened below this
STEP = 256  # what llama.cpp rounds a context to
# Flags that name a file which the child reads from its begin to its end.
READ = ("--model", "--mmproj", "--spec-draft-model", "--chat-template-file", "--grammar-file", "--json-schema-file")
READ_LISTS = ("--lora", "--control-vector")  # of such files, with commas between
# Flags that decide about thinking, each with the values that leave it open; a level or a budget presumes it.
THINKING: Mapping[str, tuple[str, ...]] = {
    "--chat-template-kwargs": (),
    "--reasoning": ("auto", "-1"),
    "--reasoning-budget": ("-1",),
    "--reasoning-effort": ("default",),
}


@dataclass(frozen=True, slots=True)
class Need:
    """`args` go to the child besides the model's own. `source` is "footprint", "engine" or "header"; `estimate` is None
    for a model whose file is not here yet."""

    demand: Demand
    args: tuple[str, ...] = ()
    source: str = "unknown"
    estimate: Estimate | None = None


class Estimates:
    """Those under way, each in a thread: `need` blocks. However many ask for the same model, it is estimated once.
    `patience` is in seconds: files whose disk hangs cost their own model alone."""

    def __init__(self, need: Callable[[ModelSpec], Need], patience: float = threads.PATIENCE) -> None:
        self._need = need
        self._patience = patience
        self._tasks: dict[ModelSpec, asyncio.Task[Need]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def of(self, spec: ModelSpec) -> Need:
        """Raises LoadFailed for a model that cannot be loaded at all, GgufError, Unanswered."""
        if spec.problem:
            raise LoadFailed(f"{spec.name!r} cannot be loaded: {spec.problem}")
        task = self._tasks.get(spec)
        if task is None:
            what = f"The model file {spec.model_path} of {spec.name!r}"
            asked = threads.ESTIMATES.run(self._need, spec, patience=self._patience, what=what)
            task = self._tasks[spec] = asyncio.create_task(asked)
            task.add_done_callback(lambda done: self._done(spec, done))
        return await asyncio.shield(task)

    def _done(self, spec: ModelSpec, task: asyncio.Task[Need]) -> None:
        del self._tasks[spec]
        if not task.cancelled():
            task.exception()  # whoever asked may have left; then nobody else looks at it


class Estimator:
    """Results are kept by file identity and arguments. Safe to call from threads; blocks.

    `environ` are the variables that children get, some of which are flags; `margins` are bytes by device key. `empty`
    is the machine without anybody on it.
    """

    def __init__(
        self,
        engine: Engine,
        table: FlagTable,
        devices: Sequence[Device],
        margins: Mapping[str, int],
        footprints: Footprints,
        environ: Mapping[str, str],
    ) -> None:
        self._engine = engine
        self._table = table
        self._gpus = [device.name for device in devices if device.kind == "gpu"]
        self.empty = Snapshot(tuple(Reading(device, None) for device in devices), margins=margins)
        self._footprints = footprints
        self._environ = environ
        self._build = engine.version()
        self._measured: LRUCache[str, Need] = LRUCache(4096)
        self._lock = threading.Lock()

    def need(self, spec: ModelSpec, *, quick: bool = False) -> Need:
        """`quick` reads headers but runs nothing. Raises GgufError, and LoadFailed for a GPU that is not there."""
        args = flags.merge(flags.of_environment({**self._environ, **dict(spec.env)}, self._table), spec.args)
        _check_files(spec.name, args)
        args, chosen = self._chosen(spec.name, args)
        if spec.model_path is None:  # its child fetches it: nothing is known but where it goes
            names = memory.names(args)
            goes = self._gpus and flags.value_of(args, "--device") != "none"
            return Need(Demand(fixed=memory.CONTEXT, names=names) if goes else Demand(), chosen)
        key = self._key(spec)
        with self._lock:
            need = self._measured.get(key)
        if need is None:
            need = self._estimate(spec, args, quick=quick)
            need = replace(need, args=(*chosen, *need.args))
            if not quick:
                _tell(spec.name, need)
                with self._lock:
                    self._measured[key] = need
        if found := self._footprints.get(key):
            need = replace(need, demand=_learned(need.demand, found), source="footprint")
        return replace(need, args=(*need.args, *self._presumed(spec, args, need.estimate)))

    def longest(self, spec: ModelSpec) -> int:
        """The longest context that fits the empty machine, on as few GPUs as the shortest; 0 for a model that is not
        here."""
        if spec.model_path is None:
            return 0
        free = replace(spec, args=flags.merge(spec.args, flags.parse(["--ctx-size", "0"], self._table)))
        need = self.need(free, quick=True)
        return need.estimate.n_ctx if need.estimate else 0

    def learn(self, spec: ModelSpec, found: Footprint) -> None:
        """What a process of this model took."""
        if spec.model_path is not None:
            self._footprints.put(self._key(spec), found)

    def _key(self, spec: ModelSpec) -> str:
        parts = [path for path in (spec.model_path, spec.mmproj_path) if path]
        try:
            said = [*flags.render(spec.args), *(f"{name}={value}" for name, value in spec.env)]
            return key_of(parts, said, self._build)
        except OSError as exc:
            raise GgufError(
                f"{exc.filename} cannot be read ({exc.strerror}). Put it back, or take it out and POST /models/reload."
            ) from exc

    def _chosen(self, model: str, args: tuple[Arg, ...]) -> tuple[tuple[Arg, ...], tuple[str, ...]]:
        """What is meant, and what the child must be told, where devices were asked for: those that no visibility mask
        can say (Metal, Vulkan, SYCL, none), and that the one main GPU is the first that it sees."""
        asked = flags.value_of(args, "--device")
        absent = [name for name in memory.names(args) if name not in self._gpus]
        if absent:
            have = ", ".join(self._gpus) or "none: models go to RAM (device = none)"
            raise LoadFailed(
                f"{model!r} cannot be loaded: it asks for {', '.join(absent)}, and the GPUs here are {have}. "
                "Change its device."
            )
        if asked and not memory.names(args):
            return args, ("--device", asked)
        number, candidates = flags.value_of(args, "--main-gpu") or "", memory.names(args) or tuple(self._gpus)
        if flags.value_of(args, "--split-mode") != "none" or number not in map(str, range(len(candidates))):
            return args, ()
        first = ("--main-gpu", "0")
        return flags.merge(args, flags.parse(["--device", candidates[int(number)], *first], self._table)), first

    def _presumed(self, spec: ModelSpec, args: tuple[Arg, ...], estimate: Estimate | None) -> list[str]:
        """What the child is told where nobody says it.

        Of a template with the switch `enable_thinking` llama.cpp presumes that it is on (server-context.cpp); here its
        author's default counts. Other variables are left undefined by the engine, so their defaults hold anyway. And
        with --context-shift a request without a limit of its own would go on for ever: it ends with one context. That
        is no cap, a request's own limit wins (`n_predict_max` in server-context.cpp).
        """
        spec = describe(replace(spec, args=args))
        if "completion" not in spec.info.capabilities or estimate is None:
            return []
        told: dict[str, str] = {}
        if is_silent(spec):
            told["--chat-template-kwargs"] = '{"enable_thinking": false}'
        if flags.value_of(args, "--predict") is None:
            told["--predict"] = str(estimate.n_slot)
        return [word for flag, value in told.items() if self._table.find(flag) for word in (flag, value)]

    def _estimate(self, spec: ModelSpec, args: Sequence[Arg], *, quick: bool) -> Need:
        assert spec.model_path is not None
        model = gguf.read_model(spec.model_path)
        mmproj = gguf.read_model(spec.mmproj_path) if spec.mmproj_path else None
        estimate, more = self._context(args, model, mmproj)
        args = (*args, *flags.parse(more, self._table))
        demand, source = self._offload(args, estimate), "header"
        is_whole = demand == estimate.demand
        if is_whole and not quick and (table := self._engine.measure(memory.fit_args(args, estimate), PATIENCE)):
            try:
                estimate, source = memory.measured(table, estimate), "engine"
                demand = estimate.demand
            except ValueError as exc:
                log.debug("%s: the engine's measure is not understood: %s", spec.name, exc)
        return Need(demand, tuple(more), source, estimate)

    def _context(self, args: Sequence[Arg], model: Metadata, mmproj: Metadata | None) -> tuple[Estimate, list[str]]:
        """The estimate with the context that the child gets, and the flag that says so where the engine's own choice
        would be another one."""

        def at(length: int | None) -> Estimate:
            said = flags.parse(["--ctx-size", str(length)], self._table) if length else ()
            return memory.demand(flags.merge(args, said), model, gpus=len(self._gpus), mmproj=mmproj)

        whole = at(None)
        if flags.value_of(args, "--ctx-size") not in (None, "0") or whole.n_ctx <= SHORTEST:
            return whole, []
        fewest = self._spread(at(SHORTEST).demand)
        if fewest is not None and self._spread(whole.demand) == fewest:
            return whole, []
        # Slots that do not share one context have one each, and the flag is for all of them together.
        step = STEP * max(1, whole.n_ctx // max(1, model.context_length))
        low, high = max(1, SHORTEST // step), whole.n_ctx // step
        while fewest is not None and high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._spread(at(middle * step).demand) == fewest else (low, middle)
        return at(low * step), ["--ctx-size", str(low * step)]

    def _spread(self, demand: Demand) -> int | None:
        """Over how many GPUs it goes on the empty machine; None if it does not fit."""
        plan = policy.plan(self.empty, demand)
        return len(plan.claim.devices) if isinstance(plan, Place) else None

    def _offload(self, args: Sequence[Arg], estimate: Estimate) -> Demand:
        """Weights that fit nowhere are left to the engine, which fills the GPUs and keeps the rest in RAM, unless the
        user has said how many layers or how to split them."""
        demand = estimate.demand
        asked = demand.user_split or flags.value_of(args, "--gpu-layers") not in (None, "auto", "-1")
        if asked or not estimate.offloaded or self._spread(demand) is not None:
            return demand
        rooms = [
            reading.device.total - self.empty.margins.get(reading.device.key, 0) - demand.fixed
            for reading in self.empty.readings
            if reading.device.kind == "gpu" and (not demand.names or reading.device.name in demand.names)
        ]
        split = min(demand.split, sum(room for room in rooms if room > 0))
        if not split:
            return Demand(host=demand.host + demand.split + estimate.compute)
        return replace(demand, split=split, host=demand.host + demand.split - split, layers=())


def _check_files(model: str, args: Sequence[Arg]) -> None:
    """Raises LoadFailed for what the child would open and wait for ever."""
    for arg in args:
        name, value = arg.flag.name, arg.values[0] if arg.values else ""
        for path in [value] if name in READ else value.split(",") if name in READ_LISTS else ():
            if files.is_special(path):
                raise LoadFailed(
                    f"{model!r} cannot be loaded: {path} ({name}) is no regular file, but a folder, a pipe or "
                    "a device. Put a file there, or change the path."
                )


def is_silent(spec: ModelSpec) -> bool:
    """Whether the child is told not to think: its template's author presumes that, and nobody says otherwise."""
    found = spec.info.reasoning
    presumed = found is not None and (found.control, found.default) == ("enable_thinking", False)
    return presumed and not _decides(spec.args)


def _decides(args: Sequence[Arg]) -> bool:
    """Whether somebody said if the model is to think."""
    said = ((flags.value_of(args, flag), silent) for flag, silent in THINKING.items())
    return any(value is not None and value not in silent for value, silent in said)


def _learned(demand: Demand, found: Footprint) -> Demand:
    """On GPUs what it took, as all of it is taken at the load; in RAM at least what is expected, of which much is taken
    later."""
    host = max(demand.host, found.host)
    if not found.gpus:
        return replace(demand, host=host)
    return replace(demand.resized(max(0, found.gpu - found.gpus * demand.fixed)), host=host)


def _tell(name: str, need: Need) -> None:
    assert need.estimate is not None
    log.info(
        "%s: needs %s (weights %s, KV %s, compute %s, context %d) by the %s",
        name,
        size(need.demand.total),
        size(need.estimate.weights),
        size(need.estimate.kv),
        size(need.estimate.compute),
        need.estimate.n_ctx,
        need.source,
    )
