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
    positions = [graph.input(node.shape[1]) for _ in range(turns)]
    for n in walked(metadata.integer("audio.block_count")):
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
