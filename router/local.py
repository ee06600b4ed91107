"""This machine as a `Node`: its engine, its devices, and the environment that its children get."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from router.devices import Devices
from router.engine import Engine
from router.node import Child, Launch
from router.orphans import MARK, Run, Watchdog, tree_of
from router.policy import Device, Reading
from router.process import LocalChild

# What a child must not get from the router's environment: where to listen and who may ask, which are the router's
# to say; what the model is, which its arguments say; and what is meant for the router itself.
HIDDEN = re.compile(
    r"LLAMA_API_KEY|LLAMA_ROUTER_.*|LLAMA_SERVER_.*|AIP_.*"
    r"|LLAMA_ARG_(HOST|PORT|REUSE_PORT|API_.*|SSL_.*|CORS_.*|ALIAS|TAGS|LOG_FILE|MODEL.*|HF_.*|MMPROJ(_URL)?|DOCKER_REPO)"
)


class LocalNode:
    """`folder` is for the children's sockets (`--run-dir`); by default one that all of this user's routers share.

    `margins` are bytes that stay free, by device key; leave them out for an engine without `--fit-target`. Raises
    ConfigError when the folder cannot be used. `close` ends what still runs.
    """

    name = "local"

    def __init__(
        self,
        engine: Engine,
        devices: Devices,
        folder: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        margins: Mapping[str, int] | None = None,
    ) -> None:
        self._engine = engine
        self._devices = devices
        self._run = Run.open((folder or _shared_folder(environ)).absolute())
        self._environ = {name: value for name, value in environ.items() if not HIDDEN.fullmatch(name)}
        self._margins = margins or {}
        self._watchdog = Watchdog()
        self._serial = itertools.count(1)
        self._before: tuple[Reading, ...] = ()  # what `settle` compares with when a child is gone
        self._children: list[LocalChild] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def probe(self, freed: Mapping[str, int]) -> tuple[Reading, ...]:
        if not freed or not self._before:
            readings = await self._devices.read()
            ending = any(child.is_ending for child in self._children)
            self._before = _least(readings, self._before or readings, {}) if ending else readings
            return readings
        self._children = [child for child in self._children if not child.is_gone]
        readings = await self._devices.settle(freed, self._before)
        # Others that are ending may have given memory back too: it counts when their end is told, here and above.
        self._before = _least(readings, self._before, freed)
        return readings

    async def footprint(self, child: Child) -> Mapping[str, int]:
        return await self._devices.footprint(await asyncio.to_thread(tree_of, child.pid))

    async def spawn(self, launch: Launch) -> LocalChild:
        # The name is short and never used again: a server does not bind to a socket that is there already.
        socket = self._run.folder / f"{next(self._serial)}.sock"
        key = secrets.token_urlsafe(32)
        args = [*launch.args, *self._fit_target(launch), "--host", str(socket), "--alias", launch.model]
        command = [*self._engine.command, *args]
        env = {
            **self._environ,
            **self._engine.env,
            **dict(launch.env),
            **masks(launch.devices, self._devices.list()),
            MARK: self._run.mark,
            "LLAMA_API_KEY": key,
            "LLAMA_SERVER_ROUTER_PORT": "1",  # any value: it makes llama-server a child that speaks the protocol
        }
        child = await LocalChild.start(launch, command, env, socket, key, self._watchdog)
        self._children.append(child)
        child.served.add_done_callback(lambda _: self._refresh())
        return child

    def _fit_target(self, launch: Launch) -> list[str]:
        """The engine divides a model over its GPUs, and shortens an automatic context, so that as much stays free on
        each as this tells it: without, 1 GiB whatever our margins are (common/fit.cpp)."""
        mib = [self._margins.get(device.key, 0) >> 20 for device in launch.devices]
        if not mib or not all(mib) or "--fit-target" in launch.args:
            return []
        return ["--fit-target", ",".join(map(str, mib))]

    def close(self) -> None:
        self._watchdog.close()
        self._run.close()

    def _refresh(self) -> None:
        """Read what is free with the new child in memory."""
        task = asyncio.create_task(self._read())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        readings = await self._devices.read()
        self._before = _least(readings, self._before or readings, {})


def _least(readings: Sequence[Reading], before: Sequence[Reading], freed: Mapping[str, int]) -> tuple[Reading, ...]:
    """What is free of each device now, but no more than was free before and has been freed."""
    return tuple(
        now
        if now.free is None or then.free is None
        else replace(now, free=min(now.free, then.free + freed.get(now.device.key, 0)))
        for now, then in zip(readings, before, strict=True)
    )


def masks(chosen: Sequence[Device], present: Sequence[Device]) -> dict[str, str]:
    """The visibility masks that leave a child nothing but the chosen GPUs; nothing on a machine without GPUs."""
    env: dict[str, str] = {}
    if any(device.name.startswith("CUDA") for device in present):
        indices = [str(device.index) for device in chosen if device.name.startswith("CUDA")]
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(indices) or "-1"}
    if any(device.name.startswith("ROCm") for device in present):
        indices = [str(device.index) for device in chosen if device.name.startswith("ROCm")]
        # HIP counts within what ROCR lets through, and would heed CUDA's mask if it had none of its own.
        env["ROCR_VISIBLE_DEVICES"] = ",".join(indices) or "0"
        env["HIP_VISIBLE_DEVICES"] = ",".join(map(str, range(len(indices)))) or "-1"
    return env


def _shared_folder(environ: Mapping[str, str]) -> Path:
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "llama-router"
    return Path(tempfile.gettempdir()) / f"llama-router-{os.getuid()}"
