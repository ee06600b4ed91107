"""Where a model goes and who must go for it: pure functions over frozen snapshots.

No I/O, no clock, no logging. Everything is `int` bytes; times are only compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """One pool of memory.

    `kind` is `"gpu"` or `"host"` (RAM, one a node). `name` is the engine's name (`CUDA0`, `RAM`), `index` the physical
    index that a visibility mask takes, `uuid` the vendor's identity. `total` is what may be used of it at all: a cgroup
    limit or an operator's cap is already applied.
    """

    node: str
    name: str
    kind: str
    total: int
    index: int = 0
    uuid: str = ""

    @property
    def key(self) -> str:
        return f"{self.node}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine said about one device; `free` is None when it could not be read."""

    device: Device
    free: int | None


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model needs.

    `split` divides over the GPUs it is placed on (weights, KV cache), `fixed` repeats on each of them (context, compute
    buffers), `host` is RAM whatever the GPUs. A machine without GPUs has it all in `host`. `names` restricts the GPUs
    (`--device`), empty means any.
    """

    split: int = 0
    fixed: int = 0
    host: int = 0
    names: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return self.split + self.fixed + self.host
