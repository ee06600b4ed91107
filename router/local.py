"""This machine as a `Node`: its engine, its devices, and the environment that its children get."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from router.devices import Devices
from router.engine import Engine
from router.node import Launch
from router.orphans import MARK, Run, Watchdog
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

    Raises ConfigError when it cannot be used. `close` ends what still runs.
    """

    name = "local"

    def __init__(
        self,
        engine: Engine,
        devices: Devices,
        folder: Path | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._engine = engine
        self._devices = devices
        self._run = Run.open((folder or _shared_folder(environ)).absolute())
        self._environ = {name: value for name, value in environ.items() if not HIDDEN.fullmatch(name)}
        self._watchdog = Watchdog()
        self._serial = itertools.count(1)
        self._readings: tuple[Reading, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()

    async def probe(self, freed: Mapping[str, int]) -> tuple[Reading, ...]:
        if freed and self._readings:
            self._readings = await self._devices.settle(freed, self._readings)
        else:
            self._readings = await self._devices.read()
        return self._readings

    async def spawn(self, launch: Launch) -> LocalChild:
        # The name is short and never used again: a server does not bind to a socket that is there already.
        socket = self._run.folder / f"{next(self._serial)}.sock"
        key = secrets.token_urlsafe(32)
        command = [*self._engine.command, *launch.args, "--host", str(socket), "--alias", launch.model]
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
        child.served.add_done_callback(lambda _: self._refresh())
        return child

    def close(self) -> None:
        self._watchdog.close()
        self._run.close()

    def _refresh(self) -> None:
        """Read what is free with the new child in memory: what `settle` compares with when the child is gone."""
        task = asyncio.create_task(self._read())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        self._readings = await self._devices.read()


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
