"""PURE: memory devices, what a model needs of them, and what it was given.

Everything is `int` bytes. Devices are named by their key, `NODE/NAME`. These are the words in which `memory` (what a
model needs), `node` (what a machine has) and `policy` (where a model goes) talk to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

# The size of a GPU that was never read. It counts as larger than any model, so that a model is told of this GPU, and is
# not called too large, or sent to RAM.
UNKNOWN_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class Device:
    """One pool of memory.

    `kind` is `"gpu"`, or `"host"` for RAM: one a node.
    `name` is the engine's name: `CUDA0`, `RAM`.
    `total` is what may be used at all. A cgroup limit or an operator's cap is already applied.
    `index` is the physical index, which a visibility mask takes.
    `uuid` is the vendor's identity.
    `is_alone`: a child that uses it sees no other GPU beside it. So it is with MIG instances (CUDA Programming Guide).
    `mask` is the word for it in a visibility mask. Empty: its index.
    `label` is what people call it, such as `NVIDIA GeForce RTX 4090`; empty if nobody says.
    `key` names the device everywhere else: `NODE/NAME`.
    """

    node: str
    name: str
    kind: str
    total: int
    index: int = 0
    uuid: str = ""
    is_alone: bool = False
    mask: str = ""
    label: str = field(default="", repr=False, compare=False)
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.node}/{self.name}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the driver reports about one device.

    `free` is None if the device could not be read.
    `lost` says why, if a device that should be there cannot be used: it takes no model until it can be read again.
    Empty: nothing is known, and our own books count alone.
    """

    device: Device
    free: int | None
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model needs.

    `split` divides over the GPUs on which the model is placed: weights, KV cache.
    `fixed` repeats on each of these GPUs: context, compute buffers.
    `host` is RAM, whatever the GPUs. On a machine without GPUs everything is in `host`.
    `names` restricts the GPUs (`--device`). Empty: any.
    `layers` is `split` piece by piece, in the order in which the engine deals the layers out to several GPUs. Empty if
    the pieces are not known: then the engine divides by itself.
    `user_split` is `split` as the user divided it (`--tensor-split`): one amount for each of the first GPUs, or of the
    first GPUs in `names`. Empty if the user left the division to us.
    `prompt_cache` is the most RAM that a prompt cache can use besides, if it is given any (`prompt_caches`). It
    is no part of the need, so demands that differ in it are equal.
    """

    split: int = 0
    fixed: int = 0
    host: int = 0
    names: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    user_split: tuple[int, ...] = ()
    prompt_cache: int = field(default=0, compare=False)

    @property
    def total(self) -> int:
        return self.split + self.fixed + self.host

    def resized(self, split: int) -> Demand:
        """The same demand with another `split`. Its parts keep their proportions."""
        layers, user_split = _scaled(self.layers, split), _scaled(self.user_split, split)
        return replace(self, split=split, layers=layers, user_split=user_split)


def _scaled(parts: Sequence[int], whole: int) -> tuple[int, ...]:
    """The parts in their proportions, so that their sum is `whole`."""
    before = sum(parts)
    if not before:
        return ()
    return tuple(end - start for start, end in pairwise(whole * n // before for n in accumulate(parts, initial=0)))


@dataclass(frozen=True, slots=True)
class Allocation:
    """Where a model goes.

    `held` are the bytes booked for it, by device key.
    `devices` are the GPUs that its child may see.
    `layer_counts` is how many layers go to each of these GPUs. Empty if there is nothing to divide, or if the engine or
    the user divides.
    `prompt_cache` is the part of the RAM in `held` that its prompt cache may take.
    """

    held: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    layer_counts: tuple[int, ...] = ()
    prompt_cache: int = 0

    @property
    def node(self) -> str | None:
        """The node of these devices. None if it uses no GPU, and nothing is booked: then any node will do."""
        if self.devices:
            return self.devices[0].node
        return next((key.rpartition("/")[0] for key in self.held), None)
