"""What one model in the process takes: its weights, its KV cache and its buffers, each in RAM or on GPUs.

A process holds a main model, and perhaps a draft model: a file of its own, or the main model's last layers. `demand`
adds them up. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.engine.flags import Arg, switch_of, value_of
from router.memory import compute, kv
from router.memory.architectures import NO_LOGITS_WHEN_EMBEDDING
from router.memory.flag_values import cache_type_bytes, drafters, embeds, gpu_layers
from router.memory.kv import KvCache
from router.memory.layers import count_predicting
from router.memory.weights import Weights, place_weights
from router.models.gguf import read_model
from router.models.metadata import Metadata

# Flags of a draft model, and the flags that mean the same for a main model.
DRAFT_FLAGS = {
    "--spec-draft-override-tensor": "--override-tensor",
    "--spec-draft-cpu-moe": "--cpu-moe",
    "--spec-draft-n-cpu-moe": "--n-cpu-moe",
    "--kv-offload": "--kv-offload",
}


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """One model in the process.

    `kv` is what each layer keeps.
    `first` is the number of the first layer on GPUs; `kv_in_ram` keeps the cache of these layers in RAM all the same.
    `buffers` are the compute buffers of one device.
    `inputs` are kept in RAM as well if that device is a GPU.
    `outputs` are the results in RAM.
    """

    weights: Weights
    kv: list[int]
    first: int
    kv_in_ram: bool
    buffers: int
    inputs: int
    outputs: int

    @property
    def kv_host(self) -> int:
        """The cache in RAM."""
        return sum(self.kv if self.kv_in_ram else self.kv[: self.first])

    @property
    def layers(self) -> tuple[int, ...]:
        """The weights and the cache that go to GPUs, by layer; the output is the last one."""
        kv = [0 if self.kv_in_ram or n < self.first else size for n, size in enumerate([*self.kv, 0])]
        return tuple(weights + size for weights, size in zip(self.weights.layers, kv, strict=True))

    @property
    def compute(self) -> int:
        """The buffers of one device. Without GPUs RAM is that device."""
        return self.buffers if any(self.layers) else self.buffers + self.outputs

    @property
    def compute_on_gpus(self) -> int:
        """The buffers on each GPU; 0 for a model in RAM."""
        return self.compute if any(self.layers) else 0

    @property
    def host(self) -> int:
        """What stays in RAM if the process uses GPUs."""
        return self.weights.total + sum(self.kv) - sum(self.layers) + self.compute - self.compute_on_gpus

    @property
    def staging(self) -> int:
        """The inputs and results of a batch in RAM, while it is computed on GPUs."""
        return self.inputs + self.outputs

    @property
    def total(self) -> int:
        return self.weights.total + sum(self.kv) + self.compute


NO_MODEL = ModelBytes(Weights(0, (0,)), [], 1, True, 0, 0, 0)


def main_model(args: Sequence[Arg], metadata: Metadata, cache: KvCache, gpus: int) -> ModelBytes:
    """`gpus` is how many the machine has."""
    return _model(args, metadata, cache, gpu_layers(args, "--gpu-layers", metadata) if gpus else 0)


def draft_model(args: Sequence[Arg], metadata: Metadata, cache: KvCache, gpus: int) -> ModelBytes:
    """The model that drafts, NO_MODEL if there is none. Raises GgufError if its file cannot be read.

    It is a model of its own, or the last layers of the main model, whose weights are loaded already.
    """
    cache = replace(
        cache,
        key_bytes=cache_type_bytes(args, "--spec-draft-type-k"),
        value_bytes=cache_type_bytes(args, "--spec-draft-type-v"),
        snapshots=0,
    )
    if path := value_of(args, "--spec-draft-model"):
        model = read_model(Path(path))
        own = [replace(arg, flag=replace(arg.flag, name=DRAFT_FLAGS.get(arg.flag.name, ""))) for arg in args]
        return _model(own, model, cache, gpu_layers(args, "--spec-draft-ngl", model) if gpus else 0)
    if "draft-mtp" in drafters(args) and count_predicting(metadata):
        found = _model(args, metadata, cache, gpu_layers(args, "--gpu-layers", metadata) if gpus else 0, drafts=True)
        return replace(found, weights=Weights(0, (0,) * len(found.weights.layers)))
    return NO_MODEL


def _model(
    args: Sequence[Arg], metadata: Metadata, cache: KvCache, offload: int, *, drafts: bool = False
) -> ModelBytes:
    """`offload` is how many layers go to GPUs, the output among them."""
    first = metadata.n_layers + 1 - offload
    all_outputs = embeds(args) and metadata.architecture not in NO_LOGITS_WHEN_EMBEDDING
    buffers = compute.buffers(metadata, cache, all_outputs=all_outputs)
    return ModelBytes(
        weights=place_weights(args, metadata, first, predicts="draft-mtp" in drafters(args)),
        kv=kv.bytes_per_layer(metadata, cache, drafts=drafts),
        first=first,
        kv_in_ram=switch_of(args, "--kv-offload") is False,
        buffers=buffers.device,
        inputs=buffers.inputs,
        outputs=compute.output_bytes(metadata, cache),
    )
