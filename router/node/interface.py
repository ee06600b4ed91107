"""The interface between the pool and a machine that runs children.

`Node` and `Child` are all that the pool knows of a machine. `local.LocalNode` and the tests' fake node satisfy them.
All data that cross are frozen. Memory is `int` bytes, time is `float` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from router.scheduling.resources import Device, Reading
from router.wire.address import Address


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come.

    `stage` is the engine's word (`text_model`, `mmproj_model`, ...).
    `value` is 0..1 over all stages.
    `payload` is what the child reported, as it is.
    """

    stage: str
    value: float
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slept:
    """The child freed its weights after `--sleep-idle-seconds`."""


@dataclass(frozen=True, slots=True)
class Woke:
    """The child loaded its weights again."""


ChildEvent = LoadProgress | Slept | Woke


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended.

    `code` is the exit code, or the negative number of a signal, as in `subprocess`.
    `sentence` says to a person what happened and the likely cause.
    `log` holds the child's last lines.
    `out_of_memory`: it needed more memory than there was.
    `device_lost`: its GPU, or the driver, does not work any more. The devices have to be read anew.
    """

    code: int
    sentence: str
    log: tuple[str, ...] = ()
    out_of_memory: bool = False
    device_lost: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """One child to start.

    `args` are llama-server's, without host, port, alias and keys: the node adds these.
    `devices` are the devices that the child may use; the vendor's visibility mask hides all others. Empty: CPU only.
    `layer_counts` is how many layers go to each device. Empty: the engine or `args` decide.
    `env` are variables of this child alone.
    `stop_timeout` is how many seconds the child has for its end before it is killed.
    `load_timeout` is how many seconds it may be silent while it loads, counted from its last sign of life.
    `template` is the text of a chat template. The child gets it as a file that only this user can read, and the file is
    removed when the child has ended.
    `engine` is the llama-server to run, as `--engine` names one; empty for the router's own.
    `is_bare`: it gets none of the variables by which the router's user sets llama-server's flags for all models.
    `on_event` is called in the event loop.
    `on_output` is called there with whole lines that the child wrote, and must be quick: no state lines, no line feeds,
    none longer than a few KiB, and no secret of the child in them.
    """

    model: str
    args: tuple[str, ...]
    devices: tuple[Device, ...]
    layer_counts: tuple[int, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stop_timeout: float = 10.0
    load_timeout: float = 600.0
    template: str | None = None
    engine: str = ""
    is_bare: bool = False
    on_event: Callable[[ChildEvent], None] = lambda event: None
    on_output: Callable[[Sequence[bytes]], None] = lambda lines: None


class Child(Protocol):
    """One running llama-server."""

    @property
    def pid(self) -> int: ...

    @property
    def started(self) -> float:
        """When the process began, in seconds since 1970, as the machine reports it. With the pid it identifies one
        process among all that ever ran."""

    @property
    def address(self) -> Address: ...

    @property
    def key(self) -> str:
        """The child's own secret. Requests send it as `Authorization: Bearer`; it is never shown."""

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that the child wrote."""

    async def ready(self) -> Mapping[str, Any]:
        """Wait until the child serves. Returns the model info that it reported.

        Raises LoadFailed if the child ended, or was silent for `load_timeout`. Then the process is gone already.
        """

    async def wait(self) -> Exit:
        """Wait for the end of the child. Several callers may wait at once."""

    async def shows_life(self, within: float) -> bool:
        """Whether the child, which serves, answers `/health`, writes or computes within so many seconds."""

    async def kill(self) -> Exit:
        """End the child and all processes it has started, without time for their end."""

    async def stop(self) -> Exit:
        """Stop the child and all processes it has started: exit message, then SIGTERM, then SIGKILL after the stop
        timeout. A second call waits for the same end."""


class Node(Protocol):
    """One machine."""

    @property
    def name(self) -> str: ...

    async def probe(self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
        """Read how much memory is free on each device now.

        If children have ended, `expected` says by device key how many bytes should be free once their memory is back.
        Then this returns when they are free, after two seconds at most. `enough` says by device key how many bytes the
        next start needs: once these are free, the rest is not waited for. It never raises: a device that cannot be
        read has `free=None`.
        """

    async def footprint(self, child: Child) -> Mapping[str, int]:
        """Bytes that the child and its descendants hold now, by device key, as far as the machine reports them."""

    def prefetch(self, files: Sequence[Path]) -> None:
        """A start that has to wait will read these files: bring them closer if the machine can. An empty list ends what
        the last call began. Returns at once."""

    async def spawn(self, launch: Launch) -> Child:
        """Start a child. Raises LoadFailed if the process cannot be created."""
