"""From a command line to a plan: the settings, the engine and its flags, and where the catalog comes from.

`commands` calls `read_plan`, and `serve` makes a router of the Plan. `Machine` is what a plan runs on: devices, limits
and the estimator of needs. Reading blocks, and runs the engine to get its version.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router import settings, variables
from router.config import Config
from router.engine import discovery, flags
from router.engine.discovery import Engine
from router.engine.flags import Arg, FlagTable
from router.errors import EngineError, RouterError
from router.hub import cache as hub
from router.hub import fetch, snapshots
from router.hub.names import Name
from router.memory.estimator import Estimator
from router.memory.footprints import Footprints, default_path
from router.models.catalog import Catalog
from router.models.created import CreatedStore
from router.models.created import default_path as created_path
from router.models.sources import Sources
from router.models.spec import MODEL_FLAGS, SINGLE_MODEL_FLAGS
from router.models.stores import places
from router.node import unified_memory
from router.node.devices import Devices
from router.node.visibility import MASK_VARIABLES
from router.scheduling.limits import Limits
from router.scheduling.resources import Device
from router.settings import Settings
from router.units import size

log = logging.getLogger("router.serve")

MIB = 2**20
PRESSURE_POLL_S = 5.0  # between two looks at the memory while models run


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command line means.

    `settings`: the router's own options.
    `common`: llama-server's arguments for all children.
    `table`: the flags that the engine knows.
    `engine`: the engine, None for commands that need none."""

    settings: Settings
    common: tuple[Arg, ...]
    table: FlagTable
    engine: Engine | None

    def __repr__(self) -> str:  # the settings hold keys, and the arguments may
        return f"<Plan for {self.engine.kind if self.engine else 'no engine'}, {len(self.common)} arguments>"

    def sources(self) -> Sources:
        s = self.settings
        foreign = _foreign_preset(s, self.common)
        common = [arg for arg in self.common if not (foreign and arg.flag.name == "--hf-repo")]
        return Sources(
            common,
            self.table,
            os.environ,
            preset=s.models_preset,
            foreign=foreign,
            models_dir=s.models_dir,
            default_name=s.models_default,
            offline=s.offline,
            created=CreatedStore(created_path(os.environ)),
            engine=self.engine,
            stores=[
                *places.ollama(s.ollama_models, os.environ),
                *places.lm_studio(s.lmstudio_models, os.environ),
            ],
        )

    def catalog(self) -> Catalog:
        """The catalog, read from the sources. Raises ConfigError, which names the place of the mistake."""
        return self.sources().read()


def read_plan(argv: Sequence[str], environ: Mapping[str, str], *, needs_engine: bool = True) -> Plan:
    """Parse a command line by the flags of the engine that it names, or that is found. Raises ConfigError."""
    config = settings.read_config(argv, environ)
    engine = _find_engine(argv, environ, config) if needs_engine else None
    table = engine.table() if engine else known_flags(argv, environ, config)
    found, common = settings.parse(argv, environ, table, config)
    for finding in variables.without_effect(environ, settings.OPTIONS, table):
        log.warning("%s", finding.message)
    return Plan(found, flags.merge(_model_from_environment(environ, table, common), common), table, engine)


def known_flags(argv: Sequence[str], environ: Mapping[str, str], config: Config) -> FlagTable:
    """The flags of the engine that would run. If no engine is found, those of the build that this router knows.

    Raises EngineError if the command line, the environment or `config` names an engine that cannot be used."""
    try:
        return _find_engine(argv, environ, config).table()
    except EngineError:
        if _engine_choice(argv, environ, config):
            raise
        return flags.default_table()


def _find_engine(argv: Sequence[str], environ: Mapping[str, str], config: Config) -> Engine:
    engine = discovery.find(_engine_choice(argv, environ, config), environ)
    engine.version()  # raises EngineError for a program that is no llama-server
    return engine


def _engine_choice(argv: Sequence[str], environ: Mapping[str, str], config: Config) -> str | None:
    """The value of --engine. It is looked for before all other flags, because the engine decides which flags exist."""
    given = settings.given_early("--engine", argv)
    return given or environ.get("LLAMA_ROUTER_ENGINE") or config.get("--engine")


def _model_from_environment(environ: Mapping[str, str], table: FlagTable, common: Sequence[Arg]) -> list[Arg]:
    """The model that LLAMA_ARG_MODEL and similar variables name. The command line wins over them.

    Only the router reads these variables; children do not get them."""
    is_named = any(arg.flag.name in MODEL_FLAGS for arg in common)
    wanted = SINGLE_MODEL_FLAGS - MODEL_FLAGS if is_named else SINGLE_MODEL_FLAGS
    found = flags.from_environment({name: word for name, word in environ.items() if word}, table)
    return [arg for arg in found if arg.flag.name in wanted]


def _foreign_preset(s: Settings, common: Sequence[Arg]) -> Path | None:
    """The preset file of --hf-repo, if its repository on the hub holds one instead of a model, as in llama.cpp."""
    repo, root = flags.value_of(common, "--hf-repo"), hub.cache_root(os.environ)
    if not repo or s.models_preset or flags.value_of(common, "--hf-file") or hub.repo_and_quant(repo) is None:
        return None
    name, token = Name.parse(repo), flags.value_of(common, "--hf-token")
    if hub.find(root, repo) and not snapshots.preset(root, name):
        return None
    try:
        preset = asyncio.run(fetch.preset(name, root, token=token, offline=s.offline))
    except RouterError as exc:
        log.warning("cannot find out whether %s holds a preset file: %s", repo, exc.message)
        return None
    if preset:
        log.warning("the models come from %s of %s: serve only presets that you trust", preset.name, repo)
    return preset


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices of this machine, the limits for what runs on them, and the estimator of models' needs."""

    devices: Devices
    limits: Limits
    estimator: Estimator

    def follow(self, settings: Settings) -> None:
        """From now on limits and estimates are those of the GPUs that are known: some may come late."""

        def use() -> None:
            listed = self.devices.all()
            margins = self.limits.margins
            assert isinstance(margins, dict)
            margins.clear()
            margins.update(limits_of(settings, listed).margins)
            self.estimator.use(listed)
            log.info("memory: %s", ", ".join(f"{device.name} {size(device.total)}" for device in listed))

        self.devices.on_change(use)

    @classmethod
    def of_plan(cls, plan: Plan, engine: Engine) -> Machine:
        """Reads the devices, which blocks."""
        devices = _usable_devices(engine, plan.settings.models_memory_limit)
        listed = devices.all()
        limits = limits_of(plan.settings, listed)
        footprints = Footprints(default_path(os.environ))
        return cls(devices, limits, Estimator(engine, plan.table, listed, limits.margins, footprints, os.environ))


def _usable_devices(engine: Engine, memory_limit_mib: int | None) -> Devices:
    """This machine's devices, without GPUs if the engine cannot use them: then every model goes to RAM."""
    limit = memory_limit_mib * MIB if memory_limit_mib else None
    found = Devices(os.environ, limit)
    *gpus, ram = found.list()
    if found.problems and not gpus:
        return found  # the engine sees none of them either now, and that says nothing
    if not gpus:
        shared = None if limit else unified_memory.limit(ram.total)
        return Devices(os.environ, shared) if shared and engine.sees_gpus() else found
    if engine.sees_gpus():
        return found
    log.warning("this engine sees no GPU: it was built for the CPU, or its GPU libraries are missing; using RAM alone")
    return Devices({**os.environ, **dict.fromkeys(MASK_VARIABLES, "")}, limit)


def limits_of(s: Settings, devices: Sequence[Device]) -> Limits:
    """`--models-memory-margin` is one number for all devices, or one for each in their order. The last number holds for
    all further devices."""
    margins = s.models_memory_margin
    by_device = {device.key: margins[min(index, len(margins) - 1)] * MIB for index, device in enumerate(devices)}
    return Limits(
        models_max=s.models_max,
        margins=by_device,
        queue_max=s.models_queue_max,
        queue_timeout=s.models_queue_timeout,
        drain_grace=s.models_drain_grace,
        drain_timeout=s.models_drain_timeout,
        task_grace=s.task_grace,
        finish_loads=s.models_finish_loads,
        downloads_max=s.hub_downloads,
        prompt_caches=None if s.models_cache_ram is None else s.models_cache_ram * MIB,
        pressure_poll=PRESSURE_POLL_S if any(by_device.values()) else 0.0,
        stops_for_others=s.models_pressure,
    )
