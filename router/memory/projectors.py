"""PURE: the buffers in which a projector computes one picture or one piece of sound.

The engine reserves them for what it calls the worst case: a picture of a size that the projector's type decides
(`load_hparams` in tools/mtmd/clip.cpp of b11434), or thirty seconds of sound. The graphs are those of
tools/mtmd/models; where a step at the end is far smaller than the layers it is left out. What a type that is not known
here needs is computed like the commonest one. Called by `demand`. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

from router.memory.graph import Node
from router.memory.pictures import see
from router.memory.sounds import hear
from router.memory.tower import Tower
from router.models.metadata import Metadata
from router.models.projector import kind_of

MAX_SIDE_PIXELS = 8192  # the engine refuses more


@dataclass(frozen=True, slots=True)
class Picture:
    """How large a picture of one type of projector is in the worst case.

    `merge` is how many patches become one token, in each direction, and `key` the field that says otherwise.
    `side` is the side in tokens; 0 for a picture of the size in the file.
    `most` is the limit in tokens of types that compute the largest picture instead.
    """

    merge: int = 1
    key: str = "projector.scale_factor"
    side: int = 0
    most: int = 0


SPATIAL = "spatial_merge_size"
PICTURES = {
    "phi4": Picture(1, "", side=16),
    "pixtral": Picture(1, SPATIAL, side=16),
    "lightonocr": Picture(1, SPATIAL, side=16),
    "dots_ocr": Picture(1, side=46),
    "dots3note_v": Picture(1, SPATIAL, side=46),
    "kimivl": Picture(1, side=16),
    "kimik25": Picture(1, most=4096),
    "deepseek4v": Picture(1, side=16),
    "gemma4v": Picture(3, side=16),
    "gemma4uv": Picture(3, side=16),
    "lfm2": Picture(1, most=256),
    "qwen2vl_merger": Picture(2, SPATIAL, side=46),
    "qwen2.5vl_merger": Picture(2, SPATIAL, side=46),
    "qwen3vl_merger": Picture(2, SPATIAL, side=46),
    "ling3vl": Picture(2, SPATIAL, side=46),
    "mimovl": Picture(2, SPATIAL, side=46),
    "glm4v": Picture(2, SPATIAL, side=46),
    "glm5v": Picture(2, SPATIAL, side=46),
    "exaone4_5": Picture(2, SPATIAL, side=46),
    "minimax_m3": Picture(2, SPATIAL, side=16),
    "muse-glimmer": Picture(2, SPATIAL, side=32),
    "youtuvl": Picture(2, SPATIAL, side=16),
    "paddleocr": Picture(2, "", side=28),
    "hunyuanvl": Picture(2, SPATIAL, side=32),
    "gemma3": Picture(4),
    "step3vl": Picture(4),
    "minicpmv4_6": Picture(4),
}


def projector_bytes(metadata: Metadata, *, flash: bool, max_tokens: int = 0) -> int:
    """The buffers of all encoders in a file. `max_tokens` is `--image-max-tokens`, 0 if it is not given."""
    total = 0
    for part, build in (("vision", _pictures), ("audio", _sound)):
        if metadata.fields.get(f"clip.has_{part}_encoder") is True:
            total += build(metadata, kind_of(metadata, part), flash, max_tokens)
    return total or metadata.weights_bytes // 4  # a file without these fields is an old one


def picture_side(metadata: Metadata, kind: str, max_tokens: int) -> tuple[int, int, int]:
    """Side of the picture in pixels, side of a patch, and how many patches are merged in each direction."""
    get, picture = metadata.integer, PICTURES.get(kind, Picture())
    patch, size = max(get("vision.patch_size"), 1), get("vision.image_size")
    merge = max(get(f"vision.{picture.key}", picture.merge) if picture.key else picture.merge, 1)
    if kind == "gemma4uv":
        patch, merge = patch * merge, 1
    if kind in ("deepseekocr", "deepseekocr2"):
        patch, size = 16, 1024
    if picture.side:
        side = picture.side
        if max_tokens and side * side > max_tokens:
            side = max(1, isqrt(max_tokens))
        size = side * patch * merge
    elif picture.most:
        pixels = (max_tokens or picture.most) * (patch * merge) ** 2
        if kind == "kimik25" and get("vision.image_min_pixels") and get("vision.image_max_pixels"):
            pixels = get("vision.image_max_pixels")
        size = isqrt(pixels)
    return min(size, MAX_SIDE_PIXELS), patch, merge


def _tower(metadata: Metadata, kind: str, part: str, flash: bool) -> Tower:
    get = metadata.integer
    width, heads = max(get(f"{part}.embedding_length"), 1), max(get(f"{part}.attention.head_count"), 1)
    prefix = part[0]
    kv_heads = get(f"{part}.attention.head_count_kv", heads) or heads
    tensors = {tensor.name: tensor.shape for tensor in metadata.tensors}
    head = get(f"{part}.attention.head_dim") or max(width // heads, 1)
    if kind == "mimovl":  # its heads are not those of the width
        head = tensors.get("v.blk.0.attn_qkv.weight", (0, 0))[1] // (heads + 2 * kv_heads) or head
    wide = frozenset(tensor.name for tensor in metadata.tensors if tensor.type == "BF16")
    used = min(get(f"{part}.expert_used_count"), 64)
    return Tower(kind, prefix, tensors, wide, width, heads, kv_heads, head, flash, experts_used=used)


def _pictures(metadata: Metadata, kind: str, flash: bool, max_tokens: int) -> int:
    tower = _tower(metadata, kind, "vision", flash)
    side, patch, merge = picture_side(metadata, kind, max_tokens)
    count = side // patch
    if not count:
        return metadata.weights_bytes // 4
    return _peak(metadata, tower, lambda: see(tower, metadata, side, patch, merge))


def _sound(metadata: Metadata, kind: str, flash: bool, max_tokens: int) -> int:
    tower = _tower(metadata, kind, "audio", flash)
    bins = min(max(metadata.integer("audio.num_mel_bins"), 1), 256)
    bins = 640 if kind == "gemma4ua" else bins  # steps of the sound itself
    return _peak(metadata, tower, lambda: hear(tower, metadata, bins))


def _peak(metadata: Metadata, tower: Tower, build: Callable[[], Node]) -> int:
    try:
        tower.graph.expand(build())
    except (KeyError, IndexError, ValueError, ZeroDivisionError):  # the engine refuses the file: its tensors are
        return metadata.weights_bytes // 4  # not all there, or do not fit together
    return tower.graph.peak()
