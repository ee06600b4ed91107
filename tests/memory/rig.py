"""What tests of memory are made of: headers of invented models, machines with GPUs, and what a need says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType

from router.engine import flags
from router.engine.discovery import Engine
from router.engine.flags import Arg
from router.memory.demand import CUDA_CONTEXT_BYTES, predict
from router.memory.estimator import Estimator
from router.memory.need import Need
from router.models.metadata import ArrayInfo, Metadata, Tensor, Value
from router.models.spec import ModelSpec
from router.scheduling import policy
from router.scheduling.policy import Place
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.snapshot import Snapshot

MIB = 2**20
TABLE = flags.default_table()
TRAINED = 131072  # tokens; the model's KV cache takes 256 bytes each: 32 MiB together
CELL_ELEMENTS = 2 * 1024 * 4  # of `header`: key and value, 8 heads of 128, 4 layers

Specs = Callable[..., ModelSpec]
Estimators = Callable[..., Estimator]


def args(text: str = "") -> tuple[Arg, ...]:
    return flags.parse(text.split(), TABLE)


def header(arch: str = "llama", layers: int = 4, **fields: Value) -> Metadata:
    """Metadata with one tensor a layer; `a__b` is the field `arch.a.b`."""
    known: dict[str, Value] = {
        "block_count": layers,
        "context_length": 4096,
        "embedding_length": 1024,
        "attention.head_count": 8,
        "feed_forward_length": 4096,
        **{key.replace("__", "."): value for key, value in fields.items()},
    }
    full: dict[str, Value] = {f"{arch}.{key}": value for key, value in known.items()}
    full["tokenizer.ggml.tokens"] = ArrayInfo("str", 32000)
    tensors = [
        Tensor("token_embd.weight", (1024, 100), "F32", 0, 400_000),
        *(Tensor(f"blk.{n}.ffn_up.weight", (1000, 100), "F32", 0, 400_000) for n in range(layers)),
        *(Tensor(f"blk.{n}.ffn_up_exps.weight", (1000, 100), "F32", 0, 400_000) for n in range(layers)),
        Tensor("output.weight", (1024, 100), "F32", 0, 400_000),
    ]
    return Metadata(Path("x.gguf"), 3, arch, MappingProxyType(full), tuple(tensors), 4_000_000)


def kv_bytes(metadata: Metadata, words: str = "") -> int:
    return predict(args(words), metadata, gpus=0).kv


class Silent(Engine):
    """An engine that measures nothing."""

    def version(self) -> str:
        return "silent"


def gpus(*sizes: float) -> tuple[Device, ...]:
    """GPUs of so many MiB beside what every process takes of each, and 64 GiB of RAM; 1 MiB is to stay free."""
    made = [
        Device("n", f"CUDA{i}", "gpu", int(size * MIB) + CUDA_CONTEXT_BYTES + MIB, i) for i, size in enumerate(sizes)
    ]
    return (*made, Device("n", "RAM", "host", 65536 * MIB))


def gpus_needed(devices: Sequence[Device], demand: Demand) -> int | None:
    margins = {device.key: MIB for device in devices}
    plan = policy.plan(Snapshot(tuple(Reading(device, None) for device in devices), margins=margins), demand)
    return len(plan.claim.devices) if isinstance(plan, Place) else None


def context_of(need: Need) -> int:
    assert need.estimate
    return need.estimate.n_ctx


def own_args(need: Need) -> tuple[str, ...]:
    """The arguments about place and size. The last one of all ends answers after one context."""
    assert need.args[-2:-1] == ("--predict",)
    return need.args[:-2]


def projector_header(kind: str, part: str, shapes: dict[str, tuple[int, ...]]) -> Metadata:
    """A small projector's header with these tensors. `part` is `vision` or `audio`."""
    known: dict[str, Value] = {
        f"clip.has_{part}_encoder": True,
        "clip.projector_type": kind,
        f"clip.{part}.embedding_length": 64,
        f"clip.{part}.block_count": 1,
        f"clip.{part}.attention.head_count": 4,
        "clip.vision.image_size": 64,
        "clip.vision.patch_size": 4,
        "clip.audio.num_mel_bins": 80,
    }
    tensors = tuple(Tensor(name, shape, "F32", 0, 400) for name, shape in shapes.items())
    return Metadata(Path("mmproj.gguf"), 3, "clip", MappingProxyType(known), tensors, 0)
