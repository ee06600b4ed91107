"""This machine as a `Node`: what a child gets from it, namely its command, environment, socket and key.

`serve` makes the LocalNode and hands it to the pool.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from router import threads
from router.engine import engines
from router.engine.discovery import Engine
from router.engine.flags import MODEL_SOURCES
from router.errors import ConfigError, EngineError, LoadFailed
from router.node.devices import Devices
from router.node.interface import Child, Launch
from router.node.process import LocalChild
from router.node.processes import tree_of
from router.node.readahead import ReadAhead
from router.node.run_directory import MARK, RunDirectory
from router.node.run_roots import run_roots
from router.node.visibility import masks_for
from router.node.watchdog import Watchdog
from router.redaction import is_private, secrets_of
from router.scheduling.resources import Reading
from router.wire.address import Address

# Variables of the router's environment that a child must not get:
# - where to listen and which keys are valid: the router decides that;
# - what the model is and on which devices it goes: the child's arguments and the visibility masks say that;
# - what is meant for the router itself, by its user or by a service manager.
HIDDEN_VARIABLES = re.compile(
    r"LLAMA_API_KEY|LLAMA_ROUTER_.*|LLAMA_SERVER_.*|AIP_.*|LISTEN_(PID|FDS|FDNAMES|PIDFDID)|NOTIFY_SOCKET|WATCHDOG_(PID|USEC)"
    r"|LLAMA_ARG_(DEVICE|HOST|PORT|REUSE_PORT|API_.*|SSL_.*|CORS_.*|ALIAS|TAGS|LOG_FILE|MODEL.*|HF_.*)"
    r"|OTEL_EXPORTER_OTLP_.*HEADERS"
    r"|LLAMA_ARG_(MMPROJ(_URL)?|DOCKER_REPO)"
)
# Arguments with which a child downloads by itself. It alone gets what opens the hub, and the proxies with a password.
DOWNLOADS = MODEL_SOURCES - {"--model"} | {"--spec-draft-hf", "--hf-repo-draft", "--mmproj-url"}
DOWNLOAD_VARIABLES = re.compile(r"LLAMA_ARG_(MODEL_URL|MMPROJ_URL|DOCKER_REPO|HF_REPO|SPEC_DRAFT_HF_REPO)")
HUB_VARIABLES = re.compile(r"HF_TOKEN|HUGGING_FACE_HUB_TOKEN|HF_ENDPOINT|MODEL_ENDPOINT|.*_PROXY", re.IGNORECASE)


class LocalNode:
    """This machine.

    `folder` is for the children's sockets (`--run-dir`); by default all routers of this user share one. If there is no
    place for sockets, children listen on ports of loopback; their keys keep other users out.
    `environ` is the router's environment, from which children get what is not hidden.
    `margins` are bytes that stay free, by device key. Leave them out for an engine without `--fit-target`.

    `roots` are where such a folder may be if none is given; by default those of this user.

    Raises ConfigError if the folder cannot be used. `close` ends children that still run.
    """

    name = "local"

    def __init__(
        self,
        engine: Engine,
        devices: Devices,
        folder: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        margins: Mapping[str, int] | None = None,
        roots: Sequence[Path] | None = None,
    ) -> None:
        self._engine = engine
        self._devices = devices
        self._run = (
            RunDirectory.open(folder.absolute())
            if folder
            else RunDirectory.open_any(run_roots(environ) if roots is None else roots)
        )
        known = {name: value for name, value in environ.items() if not HIDDEN_VARIABLES.fullmatch(name)}
        # Of an empty address or token of the hub the engine makes a wrong one.
        known = {name: value for name, value in known.items() if value.strip() or not HUB_VARIABLES.fullmatch(name)}
        # What is private to the router reaches no child, unless the child needs it to download its own files. A
        # preset's `env` gives a model what the operator wants it to have.
        self._environ = {name: value for name, value in known.items() if not is_private(name, value)}
        self._for_downloads = {name: value for name, value in known.items() if HUB_VARIABLES.fullmatch(name)}
        self._margins = margins or {}
        self._watchdog = Watchdog()
        self._serial = itertools.count(1)
        self._readahead = ReadAhead(devices.spare)

    def __repr__(self) -> str:
        return f"<LocalNode {self._run.folder}>"

    @property
    def run_directory(self) -> RunDirectory:
        return self._run

    async def probe(self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
        return await self._devices.settle(expected, enough)

    async def footprint(self, child: Child) -> Mapping[str, int]:
        return await self._devices.footprint(await threads.MACHINE.run(tree_of, child.pid))

    def prefetch(self, files: Sequence[Path]) -> None:
        self._readahead.prefetch(files)

    async def spawn(self, launch: Launch) -> LocalChild:
        try:
            self._run.renew()
        except ConfigError as error:
            raise LoadFailed(f"{launch.model} has no place for its socket: {error.message}") from error
        # The name is short, and never used again: a server does not bind to a socket that exists already.
        place = self._run.folder / f"{next(self._serial)}.sock"
        key = secrets.token_urlsafe(32)
        try:
            engine, fit_target = await self._engine_for(launch)
        except EngineError as error:
            raise LoadFailed(f"{launch.model} cannot be started: {error.message}") from error
        address = Address(path=str(place)) if self._run.has_sockets else Address(port=_free_port())
        template = self._write_template(launch, place.with_suffix(".jinja")) if launch.template else []
        args = [*launch.args, *fit_target, *_tensor_split(launch), *template]
        args += ["--host", address.path] if address.path else ["--host", address.host, "--port", str(address.port)]
        args += ["--alias", launch.model]
        command = [*engine.command, *args]
        inherited = self._environ
        if launch.is_bare:
            inherited = {name: value for name, value in inherited.items() if not name.startswith("LLAMA_ARG_")}
        env = {
            **inherited,
            **(self._for_downloads if self._downloads(launch) else {}),
            **engine.env,
            **{name: value for name, value in launch.env if name != "LLAMA_ARG_DEVICE"},
            **masks_for(launch.devices, self._devices.list()),
            MARK: self._run.mark,
            "LLAMA_API_KEY": key,
            "LLAMA_SERVER_ROUTER_PORT": "1",  # with any value llama-server reports its states as a child does
        }
        files = [Path(file) for file in template[1:]]
        return LocalChild.start(launch, command, env, address, key, self._watchdog, files, secrets_of(env))

    async def _engine_for(self, launch: Launch) -> tuple[Engine, list[str]]:
        """The engine, and the margins as an argument for it. Raises EngineError."""
        fit_target = self._fit_target(launch)
        if not launch.engine:
            return self._engine, fit_target

        def look_up() -> tuple[Engine, list[str]]:
            engine = engines.named(launch.engine)
            is_known = fit_target and engines.table_of(launch.engine).find("--fit-target")
            return engine, fit_target if is_known else []

        # In a thread: if the program's file is another one since its flags were read, it is run to read them again.
        return await threads.ESTIMATES.run(look_up)

    def _downloads(self, launch: Launch) -> bool:
        """Whether the child downloads files by itself."""
        variables = (*self._environ, *(name for name, _ in launch.env))
        return not DOWNLOADS.isdisjoint(launch.args) or any(map(DOWNLOAD_VARIABLES.fullmatch, variables))

    def _write_template(self, launch: Launch, file: Path) -> list[str]:
        """Write the chat template to a file. Returns the arguments that name it."""
        try:
            with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
                stream.write(launch.template or "")
        except OSError as error:
            raise LoadFailed(f"{launch.model}: its chat template cannot be written ({error.strerror})") from error
        return ["--chat-template-file", str(file)]

    def _fit_target(self, launch: Launch) -> list[str]:
        """The margins as an argument. The engine divides a model over its GPUs, and shortens an automatic context, so
        that this much stays free on each. Without the argument it leaves 1 GiB (common/fit.cpp)."""
        mib = [self._margins.get(device.key, 0) >> 20 for device in launch.devices]
        if not mib or not all(mib) or "--fit-target" in launch.args:
            return []
        return ["--fit-target", ",".join(map(str, mib))]

    def kill_children(self) -> None:
        """End all children at once."""
        self._watchdog.close()

    def close(self) -> None:
        self._readahead.stop()
        self._watchdog.close()
        self._run.close()


def _tensor_split(launch: Launch) -> list[str]:
    """The division that was booked. Without it the engine divides by what is free at its start. That is less than what
    the model may have, because models that are stopping still hold some of it."""
    return ["--tensor-split", ",".join(map(str, launch.layer_counts))] if launch.layer_counts else []


def _free_port() -> int:
    """A port of loopback that is free now. Should another program take it before the child does, the load fails: a
    child that cannot listen ends, and is never asked anything."""
    with socket.socket() as sock:
        sock.bind((Address().host, 0))
        return int(sock.getsockname()[1])
