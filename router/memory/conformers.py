"""PURE: encoders of sound whose layers attend and convolve (conformers), as graphs of tensors.

Called by `sounds`. The graphs are those of conformer.cpp, parakeet.cpp, granite-speech.cpp and gemma4a.cpp in
tools/mtmd/models of b11434.
"""

from __future__ import annotations

from collections.abc import Callable

from router.memory.graph import Node
from router.memory.tower import Tower, walked
from router.models.metadata import Metadata

# gemma4a attends in pieces of so many steps, to as many steps before.
PIECE = 12


def conformer(tower: Tower, metadata: Metadata, sound: Node) -> Node | None:
    """The whole encoder; None for a type that is no conformer."""
    build = {"lfm2a": _lfm2, "parakeet": _parakeet, "granite_speech": _granite, "gemma4a": _gemma}.get(tower.kind)
    return build(tower, metadata, sound) if build else None


def _network(tower: Tower, layer: str, node: Node, which: str = "") -> Node:
    """Half a step of the network; the second one of a layer has `_1` in its names."""
    inner = tower.norm(node, f"{layer}.ffn_norm{which}", rms=tower.kind == "gemma4a")
    inner = _linear(tower, f"{layer}.ffn_down{which}", tower.same(_linear(tower, f"{layer}.ffn_up{which}", inner)))
    if f"{layer}.ffn_post_norm{which}.weight" in tower.tensors:
        inner = tower.norm(inner, f"{layer}.ffn_post_norm{which}", rms=True)
    return tower.same(node, tower.same(inner))


def _linear(tower: Tower, name: str, node: Node) -> Node:
    """gemma4a bounds what goes in and what comes out."""
    if tower.kind != "gemma4a":
        return tower.linear(name, node)
    return tower.same(tower.linear(name, tower.same(node)))


def _convolved(tower: Tower, layer: str, node: Node, pads: int) -> Node:
    """The convolution of a layer over time, with a gate. `pads` is in how many copies it is padded."""
    graph, rms = tower.graph, tower.kind == "gemma4a"
    inner = _linear(tower, f"{layer}.conv_pw1", tower.norm(node, f"{layer}.norm_conv", rms=rms))
    width, count = inner.shape[0] // 2, inner.shape[1]
    signal, gate = (graph.view(inner, width, count, is_plain=False) for _ in range(2))
    opened = tower.same(tower.copy(gate)) if rms else tower.copy(gate)
    gated = graph.op((width, count), signal, opened, over=True)
    inner = tower.turn(gated, count, width)
    for n in range(pads):
        inner = tower.copy(inner, count + (8 if n else 4), width)
    inner = tower.same(tower.same(tower.same(graph.op((width, count), inner))))
    return tower.same(node, _linear(tower, f"{layer}.conv_pw2", tower.same(inner)))


def _layers(
    tower: Tower, metadata: Metadata, node: Node, attend: Callable[[str, Node], Node], *, pads: int, middle: int = -1
) -> Node:
    """All layers: half a network, attention, convolution, half a network, norm."""
    for n in walked(metadata.integer("audio.block_count")):
        layer = f"a.blk.{n}"
        node = attend(layer, _network(tower, layer, node))
        node = _network(tower, layer, _convolved(tower, layer, node, pads), "_1")
        if f"{layer}.ln2.weight" in tower.tensors:
            node = tower.norm(node, f"{layer}.ln2", rms=tower.kind == "gemma4a")
        if n + 1 == middle:
            words = tower.same(tower.linear("a.enc_ctc_out", node))
            node = tower.same(node, tower.linear("a.enc_ctc_out_mid", words))
    return node


def _subsampled(tower: Tower, sound: Node, *, direct: bool) -> Node:
    """Three steps of convolutions make an eighth of the steps."""
    graph = tower.graph
    node = tower.turn(sound, sound.shape[1], sound.shape[0], 1)
    node = tower.same(tower.same(tower.convolution("a.conv1d.0.weight", node, 2, 1)))
    for flat in (3, 6):
        wide, high, channels = node.shape[:3]
        node = tower.same(graph.op(((wide + 1) // 2, (high + 1) // 2, channels), node))
        if direct:
            node = tower.same(graph.op((*node.shape[:2], tower.tensors[f"a.conv1d.{flat}.weight"][3]), node))
        else:
            node = tower.same(tower.convolution(f"a.conv1d.{flat}.weight", node, 1))
        node = tower.same(node)
    wide, high, channels = node.shape[:3]
    return tower.linear("a.pre_encode.out", graph.view(tower.turn(node, wide, channels, high), wide * channels, high))


def _relative(tower: Tower, layer: str, node: Node, position: Node, mask: Node | None) -> Node:
    """Attention whose scores have a part that depends on the distance alone."""
    graph, count, heads, head = tower.graph, node.shape[1], tower.heads, tower.head
    steps = position.shape[1]
    inner = tower.norm(node, f"{layer}.ln1")
    query = graph.view(tower.linear(f"{layer}.attn_q", inner), head, heads, count)
    one, two = tower.copy(query), tower.copy(query)
    one, two = (graph.view(each, head, count, heads, is_plain=False) for each in (one, two))
    key = tower.turn(graph.view(tower.linear(f"{layer}.attn_k", inner), head, heads, count), head, count, heads)
    value = tower.turn(graph.view(tower.linear(f"{layer}.attn_v", inner), head, heads, count), count, head, heads)
    content = tower.turn(graph.op((count, count, heads), one, key), count, count, heads)
    place = graph.view(tower.linear(f"{layer}.linear_pos", position), head, steps, heads, is_plain=False)
    distance = tower.turn(graph.op((count, steps, heads), two, place), steps, count, heads)
    distance = tower.copy(distance, steps + 1, count, heads)
    distance = tower.turn(distance, steps, count, heads)
    seen = graph.view(distance, count, count, heads, is_plain=False)
    scores = tower.same(tower.same(tower.same(content, seen), *((mask,) if mask else ())))
    found = tower.turn(graph.op((count, head, heads), scores, value), heads * head, count)
    return tower.same(node, tower.linear(f"{layer}.attn_out", found))


def _lfm2(tower: Tower, metadata: Metadata, sound: Node) -> Node:
    count = ((sound.shape[0] + 1) // 2 + 1) // 2
    position = tower.graph.input(512, (count + 1) // 2 * 2 - 1)
    tower.graph.expand(position)
    node = _subsampled(tower, sound, direct=True)
    node = _layers(tower, metadata, node, lambda layer, x: _relative(tower, layer, x, position, None), pads=3)
    node = tower.norm(node, "mm.a.mlp.0")
    return tower.linear("mm.a.mlp.3", tower.same(tower.linear("mm.a.mlp.1", node)))


def _parakeet(tower: Tower, metadata: Metadata, sound: Node) -> Node:
    graph = tower.graph
    node = _subsampled(tower, sound, direct=False)
    count, half = node.shape[1], tower.width // 2
    steps = 2 * count - 1
    waves = graph.op((half, steps), graph.op((half, steps), graph.input(half)), graph.input(1, steps), over=True)
    position = tower.copy(graph.op((2 * half, steps), tower.copy(waves), tower.copy(waves)))
    mask = graph.input(count, count)
    node = _layers(tower, metadata, node, lambda layer, x: _relative(tower, layer, x, position, mask), pads=1)
    if "mm.a.norm_pre.weight" in tower.tensors:
        node = tower.norm(node, "mm.a.norm_pre", rms=True)
    for name in ("mm.a.mlp.1", "mm.a.mlp.2"):
        node = tower.linear(name, node) if f"{name}.weight" in tower.tensors else node
    return node


def _granite(tower: Tower, metadata: Metadata, sound: Node) -> Node:
    graph, get = tower.graph, metadata.integer
    piece = min(max(get("audio.chunk_size"), 1), 8192)
    steps = sound.shape[0]
    pieces = -(-steps // piece)
    distances = graph.input(piece * piece)
    mask = graph.input(piece, piece, 1, pieces)
    heads, head, layers = tower.heads, tower.head, get("audio.block_count")
    node = tower.linear("a.input_projection", tower.turn(sound, sound.shape[1], steps))

    def attend(layer: str, node: Node) -> Node:
        inner = tower.norm(node, f"{layer}.ln1")
        if steps % piece:
            inner = tower.copy(inner, tower.width, pieces * piece)
        parts = [graph.view(tower.linear(f"{layer}.attn_{x}", inner), head, heads, piece, pieces) for x in "qkv"]
        key = tower.turn(parts[1], head, piece, heads, pieces)
        content = graph.op((piece, piece, heads, pieces), key, graph.view(parts[0], head, piece, heads, is_plain=False))
        place = graph.op((head, piece * piece), distances)
        turned = graph.view(parts[0], head, heads, pieces, piece, is_plain=False)
        distance = tower.turn(graph.op((piece, heads, pieces, piece), place, turned), piece, piece, heads, pieces)
        scores = tower.same(tower.same(content, distance), mask)
        value = tower.turn(parts[2], piece, head, heads, pieces)
        found = tower.turn(graph.op((head, piece, heads, pieces), value, scores), tower.width, pieces * piece)
        found = graph.view(found, tower.width, steps)
        return tower.same(node, tower.linear(f"{layer}.attn_out", found))

    return _layers(tower, metadata, node, attend, pads=1, middle=layers // 2)


def _gemma(tower: Tower, metadata: Metadata, sound: Node) -> Node:
    graph, tensors = tower.graph, tower.tensors
    node = tower.turn(sound, sound.shape[1], sound.shape[0], 1)
    for n in (0, 1):
        node = tower.convolution(f"a.conv1d.{n}.weight", node, 2, 1)
        node = tower.same(node) if f"a.conv1d.{n}.bias" in tensors else node
        wide, high, deep = node.shape[:3]
        if f"a.conv1d.{n}.norm.weight" in tensors:
            node = tower.norm(tower.turn(node, deep, wide, high), f"a.conv1d.{n}.norm")
            node = tower.turn(node, wide, high, deep)
        node = tower.same(node)
    wide, high, deep = node.shape[:3]
    flat = graph.view(tower.turn(node, deep, wide, high), deep * wide, high)
    node = _linear(tower, "a.input_projection", flat)
    count, heads, head = node.shape[1], tower.heads, tower.head
    pieces = -(-count // PIECE)
    reach, whole = 2 * PIECE, pieces * PIECE
    position = graph.input(heads * head, PIECE + 1)
    mask = graph.input(reach, PIECE, pieces)

    def blocks(node: Node) -> Node:
        padded = tower.copy(node, head, heads, reach * pieces)
        return tower.copy(graph.view(padded, head, heads, reach, pieces, is_plain=False), head, heads, reach, pieces)

    def attend(layer: str, node: Node) -> Node:
        inner = node
        for name in ("attn_pre_norm", "ln1"):
            if f"{layer}.{name}.weight" in tensors:
                inner = tower.norm(node, f"{layer}.{name}", rms=True)
                break
        parts = [graph.view(_linear(tower, f"{layer}.attn_{x}", inner), head, heads, count) for x in "qkv"]
        query, key = (tower.same(tower.same(part)) for part in parts[:2])
        if whole != count:
            query = tower.copy(query, head, heads, whole)
        query = tower.turn(graph.view(query, head, heads, PIECE, pieces), head, PIECE, pieces, heads)
        key = tower.turn(blocks(key), head, reach, pieces, heads)
        value = tower.turn(blocks(parts[2]), reach, head, pieces, heads)
        scores = graph.op((reach, PIECE, pieces, heads), key, query)
        if f"{layer}.attn_k_rel.weight" in tensors:
            place = tower.turn(tower.linear(f"{layer}.attn_k_rel", position), head, PIECE + 1, heads)
            found = graph.op((PIECE + 1, whole, heads), place, graph.view(query, head, whole, heads))
            found = tower.copy(found, reach + 1, PIECE, pieces, heads)
            cut = graph.view(found, PIECE * reach, pieces, heads, is_plain=False)
            scores = tower.same(scores, graph.view(tower.copy(cut), reach, PIECE, pieces, heads))
        for _ in range(3):
            scores = tower.same(scores)
        scores = tower.same(tower.same(scores, mask))
        seen = tower.turn(graph.op((head, PIECE, pieces, heads), value, scores), head, heads, PIECE, pieces)
        seen = tower.copy(seen, head * heads, whole)
        if whole != count:
            seen = tower.copy(graph.view(seen, head * heads, count), head * heads, count)
        seen = _linear(tower, f"{layer}.attn_out", seen)
        if f"{layer}.attn_post_norm.weight" in tensors:
            seen = tower.norm(seen, f"{layer}.attn_post_norm", rms=True)
        return tower.same(node, seen)

    node = _layers(tower, metadata, node, attend, pads=1)
    if "a.pre_encode.out.weight" in tensors:
        node = _linear(tower, "a.pre_encode.out", node)
    node = tower.same(node)
    return _linear(tower, "mm.a.input_projection", node)
