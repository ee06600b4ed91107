"""PURE: the buffers in which a projector computes one picture or one piece of sound.

The engine reserves them for what it calls the worst case: a picture of a size that the projector's type decides
(`load_hparams` in tools/mtmd/clip.cpp of b11434), or thirty seconds of sound. The graphs are those of
tools/mtmd/models; where a step at the end is far smaller than the layers it is left out. What a type that is not known
here needs is computed like the commonest one. Called by `demand`. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

from router.memory.graph import Node
from router.memory.tower import FLOAT, HALF, Tower
from router.models.metadata import Metadata

MAX_SIDE_PIXELS = 8192  # the engine refuses more
SOUND_STEPS = 3000  # 30 seconds
MAX_LAYERS_WALKED = 64  # no real projector has more


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
# A file of both kinds has one name for both.
BOTH = {"qwen2.5o": {"vision": "qwen2.5vl_merger", "audio": "qwen2a"}}


def projector_bytes(metadata: Metadata, *, flash: bool, max_tokens: int = 0) -> int:
    """The buffers of all encoders in a file. `max_tokens` is `--image-max-tokens`, 0 if it is not given."""
    total = 0
    for part, build in (("vision", _pictures), ("audio", _sound)):
        if metadata.fields.get(f"clip.has_{part}_encoder") is True:
            total += build(metadata, kind_of(metadata, part), flash, max_tokens)
    return total or metadata.weights_bytes // 4  # a file without these fields is an old one


def kind_of(metadata: Metadata, part: str) -> str:
    """The projector's type for `vision` or `audio`."""
    kind = metadata.text("clip.projector_type") or metadata.text(f"clip.{part}.projector_type") or ""
    return BOTH.get(kind, {}).get(part, kind)


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
    return Tower(kind, prefix, tensors, wide, width, heads, kv_heads, head, flash)


def _walked(count: int, *special: int) -> list[int]:
    """The numbers of the layers that are walked: all, or of very many the first, the special ones and the last."""
    if count <= MAX_LAYERS_WALKED:
        return list(range(count))
    half = MAX_LAYERS_WALKED // 2
    return sorted({*range(half), *(n for n in special[:half] if 0 <= n < count), *range(count - half, count)})


# ---- pictures


def _pictures(metadata: Metadata, kind: str, flash: bool, max_tokens: int) -> int:
    tower = _tower(metadata, kind, "vision", flash)
    side, patch, merge = picture_side(metadata, kind, max_tokens)
    count = side // patch
    if not count or "v.patch_embd.weight" not in tower.tensors:
        return metadata.weights_bytes // 4
    try:
        result = _see(tower, metadata, side, patch, merge)
    except (KeyError, IndexError):  # a tensor that the engine needs is missing, so it refuses the file
        return metadata.weights_bytes // 4
    tower.graph.expand(result)
    return tower.graph.peak()


RMS = frozenset("pixtral lightonocr qwen2.5vl_merger glm4v glm5v dots_ocr dots3note_v gemma4v deepseek4v exaone4_5 mimovl".split())
TURNS = dict.fromkeys("pixtral lightonocr kimivl kimik25 llama4 step3vl gemma4v minimax_m3 muse-glimmer".split(), 2) | dict.fromkeys(
    "qwen2vl_merger qwen2.5vl_merger qwen3vl_merger ling3vl glm4v glm5v dots_ocr dots3note_v paddleocr youtuvl deepseek4v exaone4_5 mimovl".split(),
    1,
)
OF_TWO = frozenset("qwen2vl_merger qwen2.5vl_merger qwen3vl_merger ling3vl glm4v glm5v exaone4_5 mimovl minimax_m3".split())
# The positions in the file are stretched to the picture's size.
STRETCHED = frozenset("lfm2 phi4 kimivl kimik25 step3vl paddleocr qwen3vl_merger ling3vl glm4v glm5v muse-glimmer".split())
# Positions are picked by number.
PICKED = frozenset("mlp ldp ldpv2 adapter resampler minicpmv4_6".split())


def _see(tower: Tower, metadata: Metadata, side: int, patch: int, merge: int) -> Node:
    graph, kind, tensors = tower.graph, tower.kind, tower.tensors
    get, across = metadata.integer, side // patch
    count, width = across * across, tower.width
    picture = graph.input(side, side, 3)
    rms, turns = kind in RMS, TURNS.get(kind, 0)
    if kind == "internvl" and (width, get("vision.block_count")) == (3200, 45):  # the one of 6B
        rms = True
    if kind == "gemma4v":
        picture = tower.same(picture)
    if kind == "gemma4uv":
        return _unified(tower, picture, patch, count)
    if kind == "llama4":
        pieces = tower.columns(picture, (patch, patch, 3), patch, 0, FLOAT)
        node = tower.multiply(width, graph.view(pieces, pieces.shape[0], count))
    elif kind == "youtuvl":
        node = picture
        for _ in range(4):
            node = tower.turn(node, patch * patch * 3, count)
        node = tower.linear("v.patch_embd", node)
    elif kind in OF_TWO:
        node = tower.patches_of_two(picture, patch, merge if kind == "minimax_m3" else 2)
        if kind not in ("qwen2vl_merger", "qwen2.5vl_merger") and "v.patch_embd.bias" in tensors:
            node = tower.same(node)
        if "v.norm_embd.weight" in tensors:
            node = tower.norm(node, "v.norm_embd", rms=rms)
    else:
        node = tower.patches(picture, patch)
    node = _placed(tower, node, across, kind)
    count = node.shape[1]
    if "v.pre_ln.weight" in tensors:
        node = tower.norm(node, "v.pre_ln", rms=rms)
    window, masks = _windows(tower, metadata, count)
    tower.windowed = window is not None
    if window and kind != "mimovl":
        node = tower.reordered(node, graph.input(count // 4))
    positions = [graph.input(count * (4 if turns == 1 else 1)) for _ in range(turns)]
    n_layers = get("vision.block_count")
    if kind in ("mlp", "ldp", "ldpv2"):
        n_layers = max(n_layers - 1, 0)
    deep = [n for n in range(n_layers) if f"v.deepstack.{n}.fc1.weight" in tensors]
    stacks: list[Node] = []
    features = metadata.fields.get("clip.vision.feature_layer")
    kept = [n for n in features if isinstance(n, int)] if isinstance(features, tuple) else []
    if kept and kind == "mlp":
        n_layers = min(max(kept), n_layers + 1)
    for n in _walked(n_layers, *deep, *kept):
        if n in kept and kind == "mlp":
            stacks.append(node)
        node = tower.layer(n, node, rms=rms, positions=positions, mask=window if n in masks else None, first=kind != "cogvlm")
        if n in deep:
            feature = graph.view(node, width * merge * merge, count // (merge * merge))
            feature = tower.norm(feature, f"v.deepstack.{n}.norm")
            feature = tower.network(feature, f"v.deepstack.{n}.fc1", f"v.deepstack.{n}.fc2")
            stacks = [_beside(tower, *stacks, feature)]
    if window and kind != "muse-glimmer" and kind not in LATE_ORDER:
        node = tower.reordered(node, graph.input(count // 4))
    if "v.post_ln.weight" in tensors or "mm.post_norm.weight" in tensors and kind in ("dots_ocr", "dots3note_v"):
        node = tower.norm(node, "v.post_ln" if "v.post_ln.weight" in tensors else "mm.post_norm", rms=rms)
    if kept and kind == "mlp":
        node = _beside(tower, *stacks, node)
        stacks = []
    return _projected(tower, node, across, merge, stacks)


def _beside(tower: Tower, *nodes: Node) -> Node:
    """The rows of several tensors side by side."""
    found = nodes[0]
    for node in nodes[1:]:
        found = tower.graph.op((found.shape[0] + node.shape[0], *node.shape[1:]), found, node)
    return found


def _placed(tower: Tower, node: Node, across: int, kind: str) -> Node:
    """Each patch knows its position, and a token for the whole picture comes in."""
    graph, tensors, width, count = tower.graph, tower.tensors, tower.width, node.shape[1]
    stored = tensors.get("v.position_embd.weight")
    special = tensors.get("v.class_embd")
    if kind == "nemotron_v2_vl":
        node = tower.same(node) if stored else node
    if special:
        count += special[1] if len(special) > 1 else 1
        repeated = [graph.op((width,), graph.weight(width))] if kind == "internvl" else []
        node = graph.op((width, count), node, *repeated)
    if kind == "hunyuanvl":
        return tower.same(node, graph.input(width, count))
    if not stored or kind == "nemotron_v2_vl":
        return node
    if kind == "gemma4v":
        for _ in range(2):
            node = tower.same(node, graph.op((width, count), graph.input(count)))
        return node
    if kind in PICKED:
        return tower.same(node, graph.op((width, count), graph.input(count)))
    if kind in STRETCHED and stored[1:] != (across * across,) and stored[1:] != (across, across):
        wide = graph.op((across, across, width), graph.view(graph.weight(1), 1, is_plain=False))
        position = tower.turn(wide, width, across * across)
        if kind in OF_TWO:
            position = tower.together(position, width, across, across)
        return tower.same(node, position)
    return tower.same(node)


def _windows(tower: Tower, metadata: Metadata, count: int) -> tuple[Node | None, list[int]]:
    """The mask of the layers that see a window only, and their numbers."""
    get, n_layers, kind = metadata.integer, metadata.integer("vision.block_count"), tower.kind
    masked: list[int] = []
    if kind in ("qwen2.5vl_merger", "exaone4_5", "qwen2vl_merger") and (period := get("vision.n_wa_pattern")):
        masked = [n for n in range(n_layers) if (n + 1) % period]
    elif kind == "youtuvl":
        whole = metadata.fields.get("clip.vision.wa_layer_indexes")
        masked = [n for n in range(n_layers) if isinstance(whole, tuple) and n not in whole]
    elif kind == "mimovl":
        modes = metadata.fields.get("clip.vision.wa_pattern_mode")
        masked = [n for n, mode in enumerate(modes) if mode != -1] if isinstance(modes, tuple) else []
    elif kind == "muse-glimmer":
        masked = [n for n in range(n_layers - 1) if (n + 1) % 4]
    if not masked:
        return None, []
    mask = tower.graph.input(count, count)
    if tower.flash and kind != "muse-glimmer":
        mask = tower.copy(mask, element=HALF)
    return mask, masked


def _unified(tower: Tower, picture: Node, patch: int, count: int) -> Node:
    pieces = tower.columns(picture, (patch, patch, 3), patch, 0, FLOAT)
    node = tower.norm(tower.graph.view(pieces, pieces.shape[0], count), "v.patch_norm.1")
    node = tower.norm(tower.linear("v.patch_embd", node), "v.patch_norm.2")
    for _ in range(2):
        node = tower.same(node, tower.graph.op(node.shape, tower.graph.input(count)))
    return tower.linear("mm.input_projection", tower.same(tower.norm(node, "v.patch_norm.3")))


def _projected(tower: Tower, node: Node, across: int, merge: int, stacks: Sequence[Node]) -> Node:
    """The rows of the picture become the text model's."""
    graph, tensors, width = tower.graph, tower.tensors, tower.width
    area, count = merge * merge, across * across
    if node.shape[1] != count:  # without the special tokens
        node = graph.view(node, node.shape[0], count, is_plain=False)
        node = tower.copy(node) if tower.kind == "internvl" else node
    node = tower.norm(node, "mm.input_norm", rms=tower.kind == "youtuvl") if tower.kind in NORMED_FIRST else node
    match tower.kind:
        case "gemma3" | "gemma4v":
            grid = tower.turn(node, across, across, width)
            small = graph.op((across // merge, across // merge, width), grid)
            node = tower.same(tower.turn(small, width, count // area))
            node = tower.same(node)
            if tower.kind == "gemma4v":
                return tower.linear("mm.input_projection", node)
            shape = tensors["mm.input_projection.weight"]
            turned = graph.op(shape, graph.weight(*shape), element=HALF)
            return graph.op((shape[0], count // area), turned, tower.same(node))
        case "cogvlm":
            node = tower.same(tower.norm(tower.linear("mm.model.fc", node), "mm.post_fc_norm"))
        case "mlp" | "ldp" | "ldpv2":
            node = graph.op((node.shape[0], count), node, graph.input(count))
        case "resampler":
            return _resampled(tower, node)
        case "glm4v" | "glm5v":
            grid = tower.turn(graph.view(node, width, merge, merge, count // area), merge, merge, width, count // area)
            node = tower.convolution("mm.patch_merger.weight", grid, merge)
            node = tower.same(graph.view(node, node.shape[2], count // area))
            node = tower.same(tower.norm(tower.linear("mm.model.fc", node), "mm.post_norm"))
            return tower.network(node, "mm.up", "mm.down", "mm.gate")
        case "hunyuanvl":
            node = tower.turn(tower.norm(node, "mm.pre_norm", rms=True), across, across, width)
            node = tower.same(tower.same(tower.convolution("mm.0.weight", node, merge)))
            node = tower.same(tower.convolution("mm.2.weight", node, 1))
            rows = tower.turn(node, node.shape[2], node.shape[0] * node.shape[1])
            return tower.copy(tower.copy(tower.linear("mm.model.fc", rows)))
        case "step3vl":
            node = tower.turn(node, across, across, width)
            for name in ("mm.0", "mm.1"):
                node = tower.convolution(f"{name}.weight", node, 2, 1)
                if f"{name}.bias" in tensors:
                    wide, high, deep = node.shape
                    rows = tower.same(tower.turn(graph.view(node, wide * high, deep), deep, wide * high))
                    node = graph.view(tower.turn(rows, wide * high, deep), wide, high, deep)
            wide, high, deep = node.shape
            return tower.linear("mm.model.fc", tower.turn(graph.view(node, wide * high, deep), deep, wide * high))
        case "pixtral" | "lightonocr" | "deepseek4v" if tower.kind == "deepseek4v" or "mm.patch_merger.weight" in tensors:
            if tower.kind != "deepseek4v":
                node = tower.norm(node, "mm.input_norm", rms=True)
            grid = tower.turn(node, across, across, width)
            pieces = tower.columns(grid, (merge, merge, width), merge, 0, FLOAT)
            node = graph.view(pieces, pieces.shape[0], pieces.shape[1] * pieces.shape[2])
            if "mm.patch_merger.weight" in tensors:
                node = tower.linear("mm.patch_merger", node)
        case "minimax_m3":
            node = tower.network(node, "mm.1", "mm.2")
            node = graph.view(node, node.shape[0] * area, count // area)
            return tower.network(node, "mm.merger.fc1", "mm.merger.fc2")
        case kind if kind in SHUFFLED:
            node = tower.turn(node, width * area, count // area)
            node = tower.turn(node, width * area, count // area)
            if kind in ("internvl", "nemotron_v2_vl"):
                node = tower.norm(node, "mm.model.mlp.0", rms=kind != "internvl")
            elif kind in ("kimivl", "kimik25", "lfm2") and "mm.input_norm.weight" in tensors:
                node = tower.norm(graph.view(node, width, count), "mm.input_norm")
                node = graph.view(node, width * area, count // area)
        case kind if kind in SIDE_BY_SIDE:
            if kind == "ling3vl":
                node = tower.norm(node, "mm.input_norm")
            node = graph.view(node, width * area, count // area)
    for up, down, gate in MLPS:
        if f"{up}.weight" in tensors and f"{down}.weight" in tensors and len(tensors[f"{up}.weight"]) == 2:
            if up == "mm.1" and tower.kind == "janus_pro":
                continue
            node = tower.network(node, up, down, gate)
            break
    else:
        for name in ("mm.model.fc", "mm.0"):
            if f"{name}.weight" in tensors:
                node = tower.linear(name, node)
    if tower.kind in LATE_ORDER and tower.windowed:
        node = graph.op(node.shape, node, graph.input(count // area))
    return _beside(tower, node, *stacks)


def _resampled(tower: Tower, node: Node) -> Node:
    """A fixed number of queries attends to the picture (MiniCPM-V)."""
    graph, count = tower.graph, node.shape[1]
    width, queries = tower.tensors["resampler.query"]
    value = tower.norm(tower.linear("resampler.kv", node), "resampler.ln_kv")
    query = tower.norm(graph.op((width, queries), graph.weight(width, queries)), "resampler.ln_q")
    waves = graph.op((width // 4, count), graph.input(width // 4))
    parts = []
    for _ in range(2):
        angle = graph.op((width // 4, count), waves, graph.input(1, count))
        parts.append(_beside(tower, tower.copy(angle), tower.copy(angle)))
    key = graph.op(value.shape, value, _beside(tower, *parts), over=True)
    size, heads = 128, width // 128
    found = [tower.linear(f"resampler.attn.{name}", each) for name, each in (("q", query), ("k", key), ("v", value))]
    one, two, three = (graph.view(each, size, heads, each.shape[1]) for each in found)
    node = tower.attention("resampler.attn.out", one, two, three)
    return tower.linear("resampler.proj", tower.norm(node, "resampler.ln_post"))


LATE_ORDER = frozenset(("qwen2.5vl_merger", "qwen2vl_merger", "exaone4_5"))  # the rows are put in order at the end
NORMED_FIRST = frozenset(("dots_ocr", "dots3note_v", "paddleocr", "youtuvl"))
SHUFFLED = frozenset("idefics3 lfm2 internvl llama4 kimivl kimik25 dots_ocr dots3note_v paddleocr nemotron_v2_vl".split())
SIDE_BY_SIDE = frozenset("qwen2vl_merger qwen2.5vl_merger qwen3vl_merger ling3vl exaone4_5 mimovl youtuvl muse-glimmer".split())
# Names of the last network: up, down, gate. The first that the file has counts.
MLPS = (
    ("mm.model.mlp.1", "mm.model.mlp.3", ""),
    ("mm.model.mlp.1", "mm.model.mlp.2", ""),
    ("mm.0", "mm.2", ""),
    ("mm.1", "mm.2", ""),
    ("mm.0", "mm.1", ""),
    ("mm.up", "mm.down", "mm.gate"),
)


# ---- sound


def _sound(metadata: Metadata, kind: str, flash: bool, max_tokens: int) -> int:
    tower = _tower(metadata, kind, "audio", flash)
    bins = min(max(metadata.integer("audio.num_mel_bins"), 1), 256)
    try:
        result = _hear(tower, metadata, bins)
    except (KeyError, IndexError):
        return metadata.weights_bytes // 4
    tower.graph.expand(result)
    return tower.graph.peak()


def _hear(tower: Tower, metadata: Metadata, bins: int) -> Node:
    graph, tensors = tower.graph, tower.tensors
    sound = graph.input(SOUND_STEPS, bins)
    turns, rms = 0, False
    if tower.kind in ("qwen3a", "dots3note_a"):
        if tower.kind == "qwen3a":
            sound = tower.turn(sound, 100, bins, 1, SOUND_STEPS // 100)
        else:
            turns, rms = 1, True
            sound = graph.view(sound, SOUND_STEPS, bins, 1, 1)
        for n in (1, 2, 3):
            sound = tower.convolution(f"a.conv2d.{n}.weight", sound, 2, 1)
            sound = tower.same(tower.same(sound) if f"a.conv2d.{n}.bias" in tensors else sound)
        wide, high, deep, many = sound.shape
        node = tower.linear("a.conv_out", graph.view(tower.turn(sound, high, deep, wide, many), high * deep, wide * many))
        if "a.position_embd.weight" in tensors:
            node = tower.same(node, graph.op(node.shape, graph.weight(1)))
    else:
        node = tower.same(tower.same(tower.convolution_1d("a.conv1d.1.weight", sound, 1)))
        node = tower.same(tower.same(tower.convolution_1d("a.conv1d.2.weight", node, 2)))
        node = tower.turn(node, node.shape[1], node.shape[0])
        if "a.position_embd.weight" in tensors:
            node = tower.same(node)
    positions = [graph.input(node.shape[1]) for _ in range(turns)]
    for n in _walked(metadata.integer("audio.block_count")):
        node = tower.layer(n, node, rms=rms, positions=positions)
    width, count = node.shape
    if tower.kind in ("qwen2a", "musicflamingo"):  # half as many
        node = tower.turn(node, count, width)
        node = graph.op((count // 2, width), node)
        node = tower.turn(node, width, count // 2)
    if "a.post_ln.weight" in tensors:
        node = tower.norm(node, "a.post_ln")
    stack = max(metadata.integer("audio.projector.stack_factor"), 1)
    if stack > 1:
        rows = -(-node.shape[1] // stack)
        if rows * stack != node.shape[1]:
            node = graph.op((width * stack * rows,), graph.view(node, width * node.shape[1]))
        node = graph.view(node, width * stack, rows)
    if tower.kind in ("ultravox", "meralion", "glma", "dots3note_a"):
        node = tower.norm(node, "mm.a.norm_pre", rms=tower.kind == "ultravox")
    return _heard(tower, node)


def _heard(tower: Tower, node: Node) -> Node:
    names = [f"mm.a.mlp.{n}" for n in range(4) if f"mm.a.mlp.{n}.weight" in tower.tensors]
    if tower.kind == "ultravox":
        node = tower.linear("mm.a.mlp.1", node)
        node = tower.norm(tower.graph.op((node.shape[0] // 2, *node.shape[1:]), node), "mm.a.norm_mid", rms=True)
        return tower.linear("mm.a.mlp.2", node)
    if not names:
        return tower.linear("mm.a.fc", node)
    for name in names[:-1]:
        node = tower.same(tower.linear(name, node))
    return tower.linear(names[-1], node)


Builder = Callable[[Tower, Node], Node]
Builders = Iterator[Builder]
