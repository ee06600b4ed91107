"""PURE: what the encoders of sound compute, by type of projector.

`hear` adds the graph of a whole encoder to a `Tower`, for thirty seconds of sound. The types are those of
tools/mtmd/clip.cpp in b11434, the graphs those of tools/mtmd/models.
"""

from __future__ import annotations

from router.memory.conformers import conformer
from router.memory.graph import Node
from router.memory.tower import Tower, walked
from router.models.metadata import Metadata

SOUND_STEPS = 3000  # 30 seconds
SKIPPED_FROM = 2  # the layer of MiMo's encoder whose result is added at the end
MAX_CODES = 64  # no encoder has more


def hear(tower: Tower, metadata: Metadata, bins: int) -> Node:
    graph, tensors = tower.graph, tower.tensors
    sound = graph.input(SOUND_STEPS, bins)
    if (whole := conformer(tower, metadata, sound)) is not None:
        return whole
    if tower.kind == "gemma4ua":
        return tower.linear("mm.a.input_projection", tower.same(tower.turn(sound, *reversed(sound.shape[:2]))))
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
        node = tower.linear(
            "a.conv_out", graph.view(tower.turn(sound, high, deep, wide, many), high * deep, wide * many)
        )
        if "a.position_embd.weight" in tensors:
            node = tower.same(node, graph.op(node.shape, graph.weight(1)))
    else:
        node = tower.same(tower.same(tower.convolution_1d("a.conv1d.1.weight", sound, 1)))
        node = tower.same(tower.same(tower.convolution_1d("a.conv1d.2.weight", node, 2)))
        node = tower.turn(node, node.shape[1], node.shape[0])
        if "a.position_embd.weight" in tensors:
            node = tower.same(node)
    turns += tower.kind == "mimo_audio"
    positions = [graph.input(node.shape[1]) for _ in range(turns)]
    masks = [graph.input(node.shape[1], node.shape[1]) for _ in range(2)] if tower.kind == "mimo_audio" else []
    modes = metadata.fields.get("clip.audio.wa_pattern_mode")
    early = node
    for n in walked(metadata.integer("audio.block_count")):
        is_whole = not isinstance(modes, tuple) or n >= len(modes) or modes[n] == -1
        mask = masks[0 if is_whole else 1] if masks else None
        node = tower.layer(n, node, rms=rms, positions=positions, mask=mask)
        early = node if n == SKIPPED_FROM else early
    if masks:
        return _coded(tower, metadata, tower.same(node, early))
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


def _coded(tower: Tower, metadata: Metadata, node: Node) -> Node:
    """MiMo's sound as codes of several tables, one after the other, and what they mean to the text model."""
    graph, tensors, width = tower.graph, tower.tensors, tower.width
    node = tower.norm(node, "a.post_ln")
    count = node.shape[1] // 2
    cut = tower.convolution_1d("a.downsample.conv.weight", tower.turn(node, node.shape[1], width), 2)
    node = tower.norm(tower.turn(tower.same(cut), width, count), "a.downsample.norm")
    sizes = metadata.fields.get("clip.audio.rvq.codebook_size")
    known = [size for size in sizes if isinstance(size, int) and size > 0] if isinstance(sizes, tuple) else []
    codes = []
    for size in known[:MAX_CODES]:
        table = graph.op((width, size), graph.weight(width, size))
        lengths = tower.copy(graph.op((1, size), tower.copy(table)), size, 1)
        scores = tower.same(tower.same(graph.op((size, count), table, node)), lengths)
        codes.append(graph.op((count,), scores))
        node = tower.same(node, graph.op((width, count), table, codes[-1]))
    words = tensors["mm.a.code_embd.weight"][1]
    whole = None
    for code in codes:
        row = graph.op((width, count), graph.op((width, words), graph.weight(width, words)), code)
        whole = tower.same(whole, row) if whole else row
    return whole or node
