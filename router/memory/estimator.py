"""A model's need from the best source there is: what it took before, the engine's own measure, or header and flags.

The sources differ in cost: a footprint is a look into a table, the header takes milliseconds, and the measure starts a
program. Each need is kept by file identity and arguments, so a model is measured once. The pool calls `Estimator.need`
for each load, in a thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cachetools import LRUCache

from router import files
from router.engine import engines, flags
from router.engine.discovery import EMBEDDED, Engine
from router.engine.flags import Arg, FlagTable
from router.errors import EngineError, GgufError, LoadFailed, SettingsRefused
from router.memory import fit_params, prompt_cache
from router.memory.demand import CUDA_CONTEXT_BYTES, projector_size
from router.memory.faults import fault
from router.memory.fitting import fit, gpus_of, leave_to_engine
from router.memory.flag_values import gpu_names, is_mapped
from router.memory.footprints import Footprint, Footprints, key_of
from router.memory.implied_args import implied_args
from router.memory.need import Need
from router.memory.overrides import overridden
from router.models import gguf
from router.models.describe import describe
from router.models.projector import misfit, without_misfit
from router.models.spec import ModelSpec
from router.models.stamps import Stamp, files_of, of_program, stamp
from router.scheduling import policy
from router.scheduling.policy import Reject
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.snapshot import Snapshot
from router.units import size

log = logging.getLogger("router.estimate")

# The engine measures within 0.3 s here, and within 1 s for the largest models. If it takes longer, the header must do.
MEASURE_TIMEOUT_S = 10.0
# Of what a model takes of its GPUs by its header, at least this part is really taken: weights do not shrink.
LEAST_PART = 0.5
# No process takes more than so many times what the machine has. Memory that is shared may be counted more than once.
MOST_TIMES = 2


class Estimator:
    """Finds the need of models. Blocks; may be called from several threads.

    `margins` are the bytes that stay free, by device key.
    `environ` are the variables that children inherit; some of them are flags.
    `empty` is the machine without any model.

    ::

        need = estimator.need(spec)
        need.demand.total, need.source  # 5_368_709_120, "engine"
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
        self._margins = margins
        self._footprints = footprints
        self._environ = environ
        self._build = engine.version()
        self._needs: LRUCache[str, Need] = LRUCache(4096)
        self._warned: LRUCache[tuple[str, str], bool] = LRUCache(1024)
        self._lock = threading.Lock()
        self.use(devices)

    def __repr__(self) -> str:
        return f"<Estimator for {self._build}: GPUs {', '.join(self._gpus) or 'none'}, {len(self._needs)} needs kept>"

    def use(self, devices: Sequence[Device]) -> None:
        """From now on this is the empty machine: GPUs may have come that could not be read before."""
        with self._lock:
            self.empty = Snapshot(tuple(Reading(device, None) for device in devices), margins=self._margins)
            self._gpus = [gpu.name for gpu in gpus_of(self.empty)]
            self._needs.clear()

    def need(self, spec: ModelSpec, *, quick: bool = False) -> Need:
        """With `quick` headers are read, but no program runs.

        Raises GgufError, and LoadFailed for a GPU that is not there, a file that is none, and settings that the engine
        would refuse.
        """
        asked, (spec, left_out) = spec, without_misfit(spec)
        if left_out:
            self._warn(spec.name, left_out)
        engine, table = self._engine_of(spec)
        args = flags.merge(flags.from_environment({**self._environ, **dict(spec.env)}, table), spec.args)
        _check_files(spec.name, args)
        if spec.engine and self._gpus and not self._sees_gpus(spec, engine):  # the devices are those of our own engine
            args = flags.merge(args, flags.parse(["--device", "none"], self._table))
        args, device_args = self._choose_devices(spec.name, args)
        if spec.model_path is None:  # its child downloads it: only where it goes is known
            uses_gpu = self._gpus and flags.value_of(args, "--device") != "none"
            demand = Demand(fixed=CUDA_CONTEXT_BYTES, names=gpu_names(args)) if uses_gpu else Demand()
            cache = prompt_cache.most(replace(spec, args=args), table)
            return Need(replace(demand, prompt_cache=cache), device_args)
        left_out_args = [arg for arg in asked.args if arg not in spec.args]
        files_now = (*stamp(args), *stamp(left_out_args), *_program_of(engine))
        key = self._key(spec, engine)
        with self._lock:
            need = self._needs.get(key)
        if need is None:
            need = self._estimate(spec, spec.model_path, args, engine, table, quick=quick)
            need = replace(need, args=(*device_args, *need.args))
            if not quick:
                _log_need(spec.name, need)
                with self._lock:
                    self._needs[key] = need
        footprint = self._footprints.get(key)
        if footprint and self._is_plausible(footprint, need):
            need = replace(need, demand=_by_footprint(need.demand, footprint), source="footprint")
        described = describe(replace(spec, args=args))
        implied = (*implied_args(described, table, need.estimate), *prompt_cache.args_without(described, table))
        demand = replace(need.demand, prompt_cache=prompt_cache.most(described, table))
        return replace(need, demand=demand, args=(*need.args, *implied), stamp=files_now, left_out=left_out)

    def longest_context(self, spec: ModelSpec) -> int:
        """The longest context that fits the empty machine, on as few GPUs as the shortest; 0 for a model that is not
        here."""
        if spec.model_path is None:
            return 0
        automatic = replace(spec, args=flags.merge(spec.args, flags.parse(["--ctx-size", "0"], self._table)))
        need = self.need(automatic, quick=True)
        return need.estimate.n_ctx if need.estimate else 0

    def learn(self, spec: ModelSpec, footprint: Footprint) -> None:
        """Remember what a process of this model took, if that can be. Raises GgufError if its file has gone."""
        if spec.model_path is None:
            return
        spec, _ = without_misfit(spec)
        key = self._key(spec, self._engine_of(spec)[0])
        with self._lock:
            need = self._needs.get(key)
        if need is None or self._is_plausible(footprint, need):
            self._footprints.put(key, footprint)
        else:
            log.info(
                "%s: a measurement is ignored, it cannot be right: %s", spec.name, footprint, extra={"model": spec.name}
            )

    def _is_plausible(self, footprint: Footprint, need: Need) -> bool:
        """Whether a process of this need can have taken so much. One that was about to end when it was measured has
        given back most of it already, and what the driver says of a process may be another one's."""
        sizes = {"gpu": 0, "host": 0}
        for reading in self.empty.readings:
            sizes[reading.device.kind] += reading.device.total
        demand = need.demand
        least = LEAST_PART * (demand.split + footprint.gpus * demand.fixed) if footprint.gpus else 0
        most = {kind: MOST_TIMES * total for kind, total in sizes.items()}
        return least <= footprint.gpu <= most["gpu"] and footprint.host <= max(most["host"], demand.host)

    def _engine_of(self, spec: ModelSpec) -> tuple[Engine, FlagTable]:
        """The engine that runs this model, and its flags. Raises LoadFailed if it cannot be used."""
        if not spec.engine:
            return self._engine, self._table
        try:
            return engines.named(spec.engine), engines.table_of(spec.engine)
        except EngineError as exc:
            raise LoadFailed(f"{spec.name!r} cannot be loaded: {exc.message}") from exc

    def _sees_gpus(self, spec: ModelSpec, engine: Engine) -> bool:
        try:
            return engine.sees_gpus()
        except EngineError as exc:
            raise LoadFailed(f"{spec.name!r} cannot be loaded: {exc.message}") from exc

    def _build_of(self, engine: Engine) -> str:
        """The build that an engine is now: an upgrade may have replaced it."""
        if engine.kind != EMBEDDED:
            try:
                return engine.version()
            except EngineError as exc:
                log.warning("%s", exc.message)
        return self._build

    def _key(self, spec: ModelSpec, engine: Engine | None = None) -> str:
        parts = [path for path in (spec.model_path, spec.mmproj_path) if path]
        # A draft model and adapters take memory too. If one is missing, the child says so.
        parts += [path for path in files_of(spec.args) if path not in parts and os.path.exists(path)]
        words = [*flags.render(spec.args), *(f"{name}={value}" for name, value in spec.env)]
        try:
            return key_of(parts, words, self._build_of(engine or self._engine))
        except OSError as exc:
            raise GgufError(
                f"{exc.filename} cannot be read ({exc.strerror}). Put it back, or take it out and POST /models/reload."
            ) from exc

    def _warn(self, model: str, left_out: str) -> None:
        """Once for each model and reason."""
        with self._lock:
            is_known = self._warned.get((model, left_out))
            self._warned[model, left_out] = True
        if not is_known:
            log.warning("%s: its projector is left out, so it serves text: %s", model, left_out, extra={"model": model})

    def _choose_devices(self, model: str, args: tuple[Arg, ...]) -> tuple[tuple[Arg, ...], tuple[str, ...]]:
        """The arguments to estimate with, and words about devices that the child must get.

        A visibility mask picks the GPUs that the router knows, so no argument names them. Devices that no mask can
        pick (Metal, Vulkan, SYCL, none) are passed to the child as `--device`. With `--split-mode none` the main GPU is
        the only one that the child sees, so its number is 0.
        """
        devices, gpus = flags.value_of(args, "--device"), gpu_names(args)
        absent = [name for name in gpus if name not in self._gpus]
        if absent:
            have = ", ".join(self._gpus) or "none: models go to RAM (device = none)"
            raise LoadFailed(
                f"{model!r} cannot be loaded: it asks for {', '.join(absent)}, and the GPUs here are {have}. "
                "Change its device."
            )
        if devices and not gpus:
            return args, ("--device", devices)
        number, candidates = flags.value_of(args, "--main-gpu") or "", gpus or tuple(self._gpus)
        if flags.value_of(args, "--split-mode") != "none" or number not in map(str, range(len(candidates))):
            return args, ()
        first = ("--main-gpu", "0")
        return flags.merge(args, flags.parse(["--device", candidates[int(number)], *first], self._table)), first

    def _estimate(
        self, spec: ModelSpec, path: Path, args: Sequence[Arg], engine: Engine, table: FlagTable, *, quick: bool
    ) -> Need:
        """By header and flags, and by the engine's measure unless `quick`."""
        model = overridden(args, gguf.read_model(path))
        wrong = fault(args, model)
        if spec.mmproj_path and not wrong and (reason := misfit(model, spec.mmproj_path)):
            reason = f"its projector does not fit: {reason}; name the model's own, or take the mmproj out"
            raise SettingsRefused(spec.name, reason)
        projector = projector_size(args, gguf.read_model(spec.mmproj_path)) if spec.mmproj_path else 0
        estimate, words = fit(self.empty, table, args, model, projector)
        if wrong and not isinstance(policy.plan(self.empty, estimate.demand), Reject):
            raise SettingsRefused(spec.name, wrong)  # what is too large as well is told with its numbers
        args = (*args, *flags.parse(words, table))
        demand, source = leave_to_engine(self.empty, args, estimate), "header"
        # The program does not know how to leave weights in RAM.
        if demand == estimate.demand and not quick and not wrong:
            measured = engine.measure(fit_params.fit_args(args, estimate), MEASURE_TIMEOUT_S)
            if measured:
                try:
                    estimate, source = fit_params.correct(estimate, measured, is_mapped=is_mapped(args)), "engine"
                    demand = estimate.demand
                except ValueError as exc:
                    log.debug("%s: the engine's measure is not understood: %s", spec.name, exc)
        return Need(demand, tuple(words), source, estimate)


def _program_of(engine: Engine) -> Stamp:
    return () if engine.kind == EMBEDDED else of_program(engine.command[0])


def _check_files(model: str, args: Sequence[Arg]) -> None:
    """Raises LoadFailed for a pipe or a device: the child would open it and wait for ever."""
    for arg in args:
        for path in files_of([arg]):
            if files.is_special(path):
                raise LoadFailed(
                    f"{model!r} cannot be loaded: {path} ({arg.flag.name}) is no regular file, but a folder, a pipe or "
                    "a device. Put a file there, or change the path."
                )


def _by_footprint(demand: Demand, footprint: Footprint) -> Demand:
    """The demand corrected by what a process took.

    On GPUs a process takes everything while it loads, so the footprint is the truth. In RAM it takes much later, so the
    estimate stays the least.
    """
    host = max(demand.host, footprint.host)
    if not footprint.gpus:
        return replace(demand, host=host)
    return replace(demand.resized(max(0, footprint.gpu - footprint.gpus * demand.fixed)), host=host)


def _log_need(name: str, need: Need) -> None:
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
        extra={"model": name},
    )
