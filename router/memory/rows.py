"""PURE: how projectors make the text model's rows of what an encoder of pictures has seen, by type.

Called by `pictures` with the last layer's result. The graphs are those of tools/mtmd/models in b11434.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.memory.graph import Node
from router.memory.tower import FLOAT, HALF, Tower, names

NORMED_FIRST = names("dots_ocr dots3note_v paddleocr youtuvl")
# Patches that lie in a square become one row: they are moved together first, or lie so already.
SHUFFLED = names("idefics3 lfm2 internvl llama4 kimivl kimik25 dots_ocr dots3note_v paddleocr nemotron_v2_vl")
SIDE_BY_SIDE = names("""
    qwen2vl_merger qwen2.5vl_merger qwen3vl_merger ling3vl exaone4_5 mimovl youtuvl muse-glimmer
""")
# The rows are put in order again at the end, if some layers see a window only.
REORDERED = names("qwen2.5vl_merger qwen2vl_merger exaone4_5")
# Names of the last network: up, down, gate. The first that the file has counts.
MLPS = (
    ("mm.model.mlp.1", "mm.model.mlp.3", ""),
    ("mm.model.mlp.1", "mm.model.mlp.2", ""),
    ("mm.0", "mm.2", ""),
    ("mm.1", "mm.2", ""),
    ("mm.0", "mm.1", ""),
    ("mm.up", "mm.down", "mm.gate"),
)


def rows(tower: Tower, node: Node, across: int, merge: int, stacks: Sequence[Node]) -> Node:
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
        case "pixtral" | "lightonocr" | "deepseek4v" if (
            tower.kind == "deepseek4v" or "mm.patch_merger.weight" in tensors
        ):
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
    if tower.kind in REORDERED and tower.windowed:
        node = graph.op(node.shape, node, graph.input(count // area))
    return tower.beside(node, *stacks)


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
        parts.append(tower.beside(tower.copy(angle), tower.copy(angle)))
    key = graph.op(value.shape, value, tower.beside(*parts), over=True)
    size, heads = 128, width // 128
    found = [tower.linear(f"resampler.attn.{name}", each) for name, each in (("q", query), ("k", key), ("v", value))]
    one, two, three = (graph.view(each, size, heads, each.shape[1]) for each in found)
    node = tower.attention("resampler.attn.out", one, two, three)
    return tower.linear("resampler.proj", tower.norm(node, "resampler.ln_post"))
