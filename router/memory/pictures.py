"""PURE: what the encoders of pictures compute, by type of projector.

`see` adds the graph of a whole encoder to a `Tower`: patches, positions, layers, and what makes the text model's rows
of them. The types are those of tools/mtmd/clip.cpp in b11434, the graphs those of tools/mtmd/models.
"""

from __future__ import annotations

from router.memory.graph import Node
from router.memory.maps import convolved_rows, mobile_rows, sam_rows
from router.memory.rows import REORDERED, rows
from router.memory.tower import FLOAT, HALF, MAX_LAYERS, Tower, names, walked
from router.models.metadata import Metadata

# Norms by the root mean square.
RMS = names("""
    pixtral lightonocr qwen2.5vl_merger glm4v glm5v dots_ocr dots3note_v gemma4v deepseek4v exaone4_5 mimovl
""")
# Queries and keys are turned by the position of their patch: in one step, or by row and column.
TURNED = names("""
    qwen2vl_merger qwen2.5vl_merger qwen3vl_merger ling3vl glm4v glm5v dots_ocr dots3note_v paddleocr youtuvl deepseek4v
    exaone4_5 mimovl
""")
TURNED_TWICE = names("pixtral lightonocr kimivl kimik25 llama4 step3vl gemma4v minimax_m3 muse-glimmer")
# They see films, so a patch is two frames deep.
OF_TWO = names("qwen2vl_merger qwen2.5vl_merger qwen3vl_merger ling3vl glm4v glm5v exaone4_5 mimovl minimax_m3")
# The positions in the file are stretched to the picture's size.
STRETCHED = names("""
    lfm2 phi4 kimivl kimik25 step3vl paddleocr qwen3vl_merger ling3vl glm4v glm5v muse-glimmer
""")
# Positions are picked by number.
PICKED = names("mlp ldp ldpv2 adapter resampler minicpmv4_6")


def see(tower: Tower, metadata: Metadata, side: int, patch: int, merge: int) -> Node:
    graph, kind, tensors = tower.graph, tower.kind, tower.tensors
    get, across = metadata.integer, side // patch
    count, width = across * across, tower.width
    picture = graph.input(side, side, 3)
    rms, turns = kind in RMS, (kind in TURNED) + 2 * (kind in TURNED_TWICE)
    if kind == "internvl" and (width, get("vision.block_count")) == (3200, 45):  # the one of 6B
        rms = True
    if kind in ("deepseekocr", "deepseekocr2"):
        return sam_rows(tower, metadata, picture)
    if kind == "yasa2":
        return convolved_rows(tower, picture, patch)
    if kind == "gemma3nv":
        return mobile_rows(tower, picture)
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
    n_layers = min(get("vision.block_count"), MAX_LAYERS)
    if kind in ("mlp", "ldp", "ldpv2"):
        n_layers = max(n_layers - 1, 0)
    deep = [n for n in range(n_layers) if f"v.deepstack.{n}.fc1.weight" in tensors]
    stacks: list[Node] = []
    features = metadata.fields.get("clip.vision.feature_layer")
    kept = [n for n in features if isinstance(n, int)] if isinstance(features, tuple) else []
    features_of_each = kind == "granite4_vision"
    if kept and kind == "mlp":
        n_layers = min(max(kept), n_layers + 1)
    for n in walked(n_layers, *deep, *kept):
        if n in kept and kind == "mlp":
            stacks.append(node)
        node = tower.layer(
            n, node, rms=rms, positions=positions, mask=window if n in masks else None, first=kind != "cogvlm"
        )
        if features_of_each and n in kept:
            stacks.append(node)
        if n in deep:
            feature = graph.view(node, width * merge * merge, count // (merge * merge))
            feature = tower.norm(feature, f"v.deepstack.{n}.norm")
            feature = tower.network(feature, f"v.deepstack.{n}.fc1", f"v.deepstack.{n}.fc2")
            stacks = [tower.beside(*stacks, feature)]
    if features_of_each and stacks:
        return tower.beside(*(_queried(tower, n, node) for n, node in enumerate(stacks)))
    if window and kind != "muse-glimmer" and kind not in REORDERED:
        node = tower.reordered(node, graph.input(count // 4))
    if "v.post_ln.weight" in tensors or ("mm.post_norm.weight" in tensors and kind in ("dots_ocr", "dots3note_v")):
        node = tower.norm(node, "v.post_ln" if "v.post_ln.weight" in tensors else "mm.post_norm", rms=rms)
    if kept and kind == "mlp":
        node = tower.beside(*stacks, node)
        stacks = []
    return rows(tower, node, across, merge, stacks)


def _queried(tower: Tower, number: int, node: Node) -> Node:
    """What a few queries in each window of the picture find out (Granite Vision 4)."""
    graph, name, (width, count) = tower.graph, f"v.proj_blk.{number}", node.shape
    node = tower.norm(node, f"{name}.norm")
    windows = tower.same(graph.op((width, count), node, graph.input(count)))
    heads = max(width // 64, 1)
    few = max(count // 4, 1)
    query = tower.norm(
        tower.same(graph.op((width, few), graph.op((width, few), node), graph.input(few))), f"{name}.post_norm"
    )
    parts = [tower.linear(f"{name}.cross_attn_{x}", each) for x, each in (("q", query), ("k", windows), ("v", windows))]
    one, two, three = (graph.view(part, 64, heads, part.shape[1]) for part in parts)
    graph.expand(three)
    cast = (tower.copy(part, element=HALF) for part in (two, three))
    seen = tower.norm(tower.same(graph.op((width, few), one, *cast), query), f"{name}.cross_attn_norm")
    found = tower.norm(tower.same(tower.network(seen, f"{name}.ffn_up", f"{name}.ffn_down"), seen), f"{name}.ffn_norm")
    return tower.linear(f"{name}.linear", found)


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
    get, kind = metadata.integer, tower.kind
    n_layers = min(get("vision.block_count"), MAX_LAYERS)
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
