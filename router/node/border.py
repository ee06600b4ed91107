"""The border between the pool and a machine that runs children.

`Node` and `Child` are what the pool needs; `local.LocalNode` and the tests' fake node satisfy them. Everything that
crosses is frozen. Memory is `int` bytes, time is `float` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from router.scheduling.resources import Device, Reading
from router.wire.address import Address


@dataclass(frozen=True, slots=True)
class Progress:
    """`stage` is the engine's word (`text_model`, `mmproj_model`, ...); `value` is 0..1 over all stages."""

    stage: str
    value: float
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slept:
    """The child freed its weights after `--sleep-idle-seconds`."""


@dataclass(frozen=True, slots=True)
class Woke:
    """The child loaded its weights again."""


ChildEvent = Progress | Slept | Woke


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended: `code` is negative for a signal, as in `subprocess`.

    `sentence` tells a person what happened and the likely cause; `log` holds the child's last lines.
    """

    code: int
    sentence: str
    log: tuple[str, ...] = ()
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """One child to start. `args` are llama-server's, without host, port, alias and keys, which the node adds.

    `devices` are the devices the child may use, pinned by the vendor's visibility mask; empty means CPU only. `counts`
    is how many layers go to each; empty where the engine or `args` say. `load_timeout` counts from the last sign of
    life. `template` is a chat template, which the child gets as a file that only this user can read and that goes with
    it.
    """

    model: str
    args: tuple[str, ...]
    devices: tuple[Device, ...]
    counts: tuple[int, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stop_timeout: float = 10.0
    load_timeout: float = 600.0
    template: str | None = None
    on_event: Callable[[ChildEvent], None] = lambda event: None


class Child(Protocol):
    """One running llama-server."""

    @property
    def pid(self) -> int: ...

    @property
    def started(self) -> float:
        """When the machine says that it began, in seconds since 1970; with the pid it tells one process from all
        others."""

    @property
    def address(self) -> Address: ...

    @property
    def key(self) -> str:
        """The child's own secret; sent as `Authorization: Bearer`, shown to nobody."""

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that the child wrote."""

    async def ready(self) -> Mapping[str, Any]:
        """Wait until it serves. Returns the model info it reported. Raises LoadFailed when the child ended or was
        silent for `load_timeout`; the process is gone by then."""

    async def wait(self) -> Exit:
        """Wait for its end; any number of callers."""

    async def stop(self) -> Exit:
        """Exit message, then SIGTERM, then SIGKILL after the stop timeout; the whole process tree. Idempotent."""


class Node(Protocol):
    """One machine."""

    @property
    def name(self) -> str: ...

    async def probe(self, expected: Mapping[str, int]) -> tuple[Reading, ...]:
        """Free memory of each device, now.

        Where children have ended `expected` tells what should be free when their memory is back, by device key; the
        answer comes when it is, at most two seconds later. Never raises: a device that cannot be read has `free=None`.
        """

    async def footprint(self, child: Child) -> Mapping[str, int]:
        """Bytes that the child holds now by device key, as far as the machine tells; its process tree counts."""

    def expect(self, files: Sequence[Path]) -> None:
        """A child that has to wait will read these files when it starts, or none any more: what the machine can do
        about that beforehand, it does. Returns at once."""

    async def spawn(self, launch: Launch) -> Child:
        """Start a child. Raises LoadFailed when the process cannot be created."""
