"""This machine as a `Node`: its engine, its devices, and the environment that its children get."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from router import threads
from router.engine.discovery import Engine
from router.errors import ConfigError, LoadFailed
from router.node.border import Child, Launch
from router.node.devices import Devices
from router.node.orphans import MARK, Run, Watchdog, tree_of
from router.node.process import LocalChild
from router.node.readahead import ReadAhead
from router.redaction import secrets_of
from router.scheduling.resources import Device, Reading

# What a child must not get from the router's environment: where to listen and who may ask, which are the router's
# to say; what the model is and where it goes, which its arguments and the masks say; and what is meant for the router
# itself.
HIDDEN = re.compile(
    r"LLAMA_API_KEY|LLAMA_ROUTER_.*|LLAMA_SERVER_.*|AIP_.*"
    r"|LLAMA_ARG_(DEVICE|HOST|PORT|REUSE_PORT|API_.*|SSL_.*|CORS_.*|ALIAS|TAGS|LOG_FILE|MODEL.*|HF_.*|MMPROJ(_URL)?|DOCKER_REPO)"
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
        self._ahead = ReadAhead(devices.spare)

    async def probe(self, expected: Mapping[str, int]) -> tuple[Reading, ...]:
        return await self._devices.settle(expected)

    async def footprint(self, child: Child) -> Mapping[str, int]:
        return await self._devices.footprint(await threads.MACHINE.run(tree_of, child.pid))

    def expect(self, files: Sequence[Path]) -> None:
        self._ahead.expect(files)

    async def spawn(self, launch: Launch) -> LocalChild:
        try:
            self._run.renew()
        except ConfigError as error:
            raise LoadFailed(f"{launch.model} has no place for its socket: {error.message}") from error
        # The name is short and never used again: a server does not bind to a socket that is there already.
        socket = self._run.folder / f"{next(self._serial)}.sock"
        key = secrets.token_urlsafe(32)
        template = self._write(launch, socket.with_suffix(".jinja")) if launch.template else []
        args = [*launch.args, *self._fit_target(launch), *_tensor_split(launch), *template]
        args += ["--host", str(socket), "--alias", launch.model]
        command = [*self._engine.command, *args]
        env = {
            **self._environ,
            **self._engine.env,
            **{name: value for name, value in launch.env if name != "LLAMA_ARG_DEVICE"},
            **masks(launch.devices, self._devices.list()),
            MARK: self._run.mark,
            "LLAMA_API_KEY": key,
            "LLAMA_SERVER_ROUTER_PORT": "1",  # any value: it makes llama-server a child that speaks the protocol
        }
        files = [Path(file) for file in template[1:]]
        return LocalChild.start(launch, command, env, socket, key, self._watchdog, files, secrets_of(env))

    def _write(self, launch: Launch, file: Path) -> list[str]:
        """The chat template as a file, and the arguments that say so."""
        try:
            with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
                stream.write(launch.template or "")
        except OSError as error:
            raise LoadFailed(f"{launch.model}: its chat template cannot be written ({error.strerror})") from error
        return ["--chat-template-file", str(file)]

    def _fit_target(self, launch: Launch) -> list[str]:
        """The engine divides a model over its GPUs, and shortens an automatic context, so that as much stays free on
        each as this tells it: without, 1 GiB whatever our margins are (common/fit.cpp)."""
        mib = [self._margins.get(device.key, 0) >> 20 for device in launch.devices]
        if not mib or not all(mib) or "--fit-target" in launch.args:
            return []
        return ["--fit-target", ",".join(map(str, mib))]

    def close(self) -> None:
        self._ahead.stop()
        self._watchdog.close()
        self._run.close()


def _tensor_split(launch: Launch) -> list[str]:
    """As booked. Without, the engine divides by what is free at its start, which is not what is to be had: models that
    are stopping still hold some of it."""
    return ["--tensor-split", ",".join(map(str, launch.counts))] if launch.counts else []


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
