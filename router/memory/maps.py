"""PURE: encoders of pictures that work on maps before or instead of layers of patches, as graphs of tensors.

`sam_rows` is the map of SAM with its windows, in front of the encoders of DeepSeek-OCR. `mobile_rows` is MobileNet V5
of Gemma 3n, `convolved_rows` the ConvNeXt of Reka. Called by `pictures`. The graphs are those of deepseekocr.cpp,
deepseekocr2.cpp, mobilenetv5.cpp and yasa2.cpp in tools/mtmd/models of b11434.
"""

from __future__ import annotations

from router.memory.graph import Node
from router.memory.tower import FLOAT, HALF, Tower, walked
from router.models.metadata import Metadata

WHOLE_LAYERS = frozenset((2, 5, 8, 11))  # layers of SAM that attend to the whole map
MAX_STAGES, MAX_BLOCKS = 8, 64  # no network has more stages, and no stage more blocks


def sam_rows(tower: Tower, metadata: Metadata, picture: Node) -> Node:
    """DeepSeek-OCR: SAM's map, then the encoder proper over it."""
    graph, get, tensors = tower.graph, metadata.integer, tower.tensors
    seen = graph.expand(_sam(tower, metadata, picture))
    count, deep = seen.shape[0] * seen.shape[1], seen.shape[2]
    node = tower.turn(graph.view(seen, count, deep), deep, count)
    layers = get("vision.block_count")
    if tower.kind == "deepseekocr":
        special = graph.op((deep,), graph.weight(deep))
        node = graph.op((deep, count + 1), special, node)
        numbers = tower.copy(graph.op((count + 1,), graph.weight(1)))
        node = tower.same(node, graph.op(node.shape, numbers))
        if "v.pre_ln.weight" in tensors:
            node = tower.norm(node, "v.pre_ln")
        for n in walked(layers):
            node = tower.layer(n, node, rms=False)
        node = graph.expand(node)
        flat = tower.turn(seen, deep, count)
        whole = graph.op((deep + tower.width, count), graph.view(node, tower.width, count, is_plain=False), flat)
        found = tower.linear("mm.model.fc", whole)
        side = seen.shape[0]
        lines = graph.op((found.shape[0], 1, side), graph.weight(found.shape[0]))
        found = graph.op((found.shape[0], side + 1, side), graph.view(found, found.shape[0], side, side), lines)
        return graph.op((found.shape[0], (side + 1) * side + 1), found)
    asked = graph.op((deep, count), graph.op((deep, count), graph.weight(deep, count)))
    node = graph.op((deep, 2 * count), node, asked)
    mask = graph.input(2 * count, 2 * count)
    positions = [tower.copy(graph.op((2 * count,), graph.weight(1)))]
    for n in walked(layers):
        node = tower.layer(n, node, rms=True, positions=positions, mask=mask)
    if "v.post_ln.weight" in tensors:
        node = tower.norm(node, "v.post_ln", rms=True)
    return tower.linear(
        "mm.model.fc", tower.copy(graph.view(node, tower.width, count, is_plain=False), tower.width, count)
    )


def _sam(tower: Tower, metadata: Metadata, picture: Node) -> Node:
    graph, get = tower.graph, metadata.integer
    width, heads = max(get("vision.sam.embedding_length"), 1), max(get("vision.sam.head_count"), 1)
    window = min(max(get("vision.window_size"), 1), 4096)
    patch = tower.tensors["v.sam.patch_embd.weight"][0]
    node = tower.same(tower.convolution("v.sam.patch_embd.weight", picture, patch))
    side = node.shape[0]
    node = tower.same(tower.turn(node, width, side, side))
    near, far = graph.input(window, window), graph.input(side, side)
    for n in walked(get("vision.sam.block_count")):
        layer = f"v.sam.blk.{n}"
        is_whole = n in WHOLE_LAYERS
        inner = tower.norm(node, f"{layer}.pre_ln")
        across, many = side, 1
        if not is_whole:
            parts = -(-side // window)
            if side % window:
                inner = tower.copy(inner, width, parts * window, parts * window)
            across, many = window, parts * parts
            inner = tower.turn(inner, width, window, window, many)
        inner = _map_attention(tower, layer, inner, (width, heads, across, many), far if is_whole else near)
        if not is_whole:
            whole = tower.turn(inner, width, parts * window, parts * window)
            inner = tower.copy(graph.view(whole, width, side, side, is_plain=False), width, side, side)
        node = tower.same(graph.view(inner, width, side, side) if inner.shape != node.shape else inner, node)
        inner = tower.norm(node, f"{layer}.post_ln")
        node = tower.same(tower.network(inner, f"{layer}.mlp.lin1", f"{layer}.mlp.lin2"), node)
    node = tower.turn(node, side, side, width)
    for name, pad in (("v.sam.neck.0", 0), ("v.sam.neck.2", 1)):
        node = tower.convolution(f"{name}.weight", node, 1, pad)
        wide, high, deep = node.shape
        node = tower.norm(tower.turn(node, deep, wide, high), f"v.sam.neck.{int(name[-1]) + 1}")
        node = tower.turn(node, wide, high, deep)
    for name in ("v.sam.net_2.weight", "v.sam.net_3.weight"):
        node = tower.convolution(name, node, 2, 1)
    return node


def _map_attention(tower: Tower, layer: str, node: Node, sizes: tuple[int, int, int, int], order: Node) -> Node:
    """Attention in windows of a map, with scores for the distance in each direction."""
    graph, (width, heads, across, many) = tower.graph, sizes
    head, count, all_heads = max(width // heads, 1), across * across, heads * many
    whole = tower.linear(f"{layer}.attn.qkv", node)
    thirds = [tower.copy(graph.view(whole, width, count, many, is_plain=False), width, count, many) for _ in range(3)]
    query, key, value = (graph.view(third, head, heads, count, many) for third in thirds)
    turned = tower.turn(query, head, across, across, all_heads)
    rows = [graph.view(graph.op((head, count), graph.view(order, count)), head, across, across) for _ in range(2)]
    line = graph.op((across, across, across, all_heads), rows[0], tower.turn(turned, head, across, across, all_heads))
    line = tower.turn(line, across, across, across, all_heads)
    spread = graph.op((across, across, count, all_heads), graph.view(line, across, 1, count, all_heads))
    column = graph.op((across, across, across, all_heads), rows[1], turned)
    mask = tower.same(spread, graph.view(column, 1, across, count, all_heads))
    mask = graph.view(mask, count, count, heads, many)
    if tower.flash:
        mask = tower.copy(mask, element=HALF)
    found = tower.attention(f"{layer}.attn.out", query, key, value, mask)
    return tower.copy(found)


def mobile_rows(tower: Tower, picture: Node) -> Node:
    """MobileNet V5: convolutions in four stages, the maps of the last two together, and a pooled map of 16 x 16."""
    graph, tensors = tower.graph, tower.tensors
    side = picture.shape[0]
    node = tower.copy(picture, side + 1, side + 1, 3)
    node = _direct(tower, "v.conv_stem.conv", node, 2, side // 2)
    node = tower.same(_map_norm(tower, "v.conv_stem.bn", node))
    kept: list[Node] = []
    blocks = {".".join(name.split(".", 4)[:4]) for name in tensors}
    for stage in range(4):
        for n in range(MAX_BLOCKS):
            block = f"v.blk.{stage}.{n}"
            if block not in blocks:
                break
            node = _block(tower, block, node, 1 if n else 2)
        if stage >= 2:
            kept.append(node)
    high = kept[0].shape[0]
    parts = [part if part.shape[0] == high else graph.op((high, high, part.shape[2]), part) for part in kept]
    node = graph.op((high, high, sum(part.shape[2] for part in parts)), *parts)
    node = tower.same(_map_norm(tower, "v.msfa.ffn.pw_exp.bn", _direct(tower, "v.msfa.ffn.pw_exp.conv", node, 1, high)))
    node = _map_norm(tower, "v.msfa.ffn.pw_proj.bn", _direct(tower, "v.msfa.ffn.pw_proj.conv", node, 1, high))
    node = graph.op((16, 16, node.shape[2]), node) if high > 16 else node
    node = _map_norm(tower, "v.msfa.norm", node)
    flat = tower.copy(tower.turn(node, node.shape[2], node.shape[0] * node.shape[1]))
    return tower.same(tower.linear("mm.input_projection", tower.same(tower.same(tower.same(flat)))))


def _direct(tower: Tower, name: str, node: Node, stride: int, side: int) -> Node:
    """A convolution without a copy of the map in pieces."""
    found = tower.graph.op((side, side, tower.tensors[f"{name}.weight"][3]), node)
    return tower.same(found) if f"{name}.bias" in tower.tensors else found


def _map_norm(tower: Tower, name: str, node: Node) -> Node:
    if f"{name}.weight" not in tower.tensors:
        return node
    wide, high, deep = node.shape
    return tower.turn(tower.same(tower.same(tower.turn(node, deep, high, wide))), wide, high, deep)


def _depthwise(tower: Tower, name: str, node: Node, side: int, *, pads: bool) -> Node:
    """A convolution of each channel by itself, over a copy of the map in pieces."""
    kernel = tower.tensors[f"{name}.weight"]
    wide, high, deep = node.shape
    if pads:
        node = tower.copy(node, wide + kernel[0] - 2, high + kernel[0] - 2, deep)
    element = FLOAT if f"{name}.weight" in tower.wide else HALF
    pieces = tower.graph.op((kernel[0] * kernel[1], side, side, deep), node, element=element)
    return tower.graph.op((side, side, deep), pieces)


def _block(tower: Tower, name: str, node: Node, stride: int) -> Node:
    tensors, source = tower.tensors, node
    side = -(-node.shape[0] // stride)
    if f"{name}.conv_exp.weight" in tensors:
        if stride == 2:
            node = tower.copy(node, node.shape[0] + 1, node.shape[1] + 1, node.shape[2])
        node = tower.same(_map_norm(tower, f"{name}.bn1", _direct(tower, f"{name}.conv_exp", node, stride, side)))
        node = _map_norm(tower, f"{name}.bn2", _direct(tower, f"{name}.conv_pwl", node, 1, side))
    elif f"{name}.attn.query.proj.weight" in tensors:
        node = _pooled_attention(tower, name, node)
    else:
        if f"{name}.dw_start.conv.weight" in tensors:
            node = _depthwise(tower, f"{name}.dw_start.conv", node, node.shape[0], pads=False)
            node = _map_norm(tower, f"{name}.dw_start.bn", node)
        if f"{name}.pw_exp.conv.weight" in tensors:
            node = _direct(tower, f"{name}.pw_exp.conv", node, 1, node.shape[0])
            node = tower.same(_map_norm(tower, f"{name}.pw_exp.bn", node))
        if f"{name}.dw_mid.conv.weight" in tensors:
            node = _depthwise(tower, f"{name}.dw_mid.conv", node, side, pads=stride > 1)
            node = tower.same(_map_norm(tower, f"{name}.dw_mid.bn", node))
        if f"{name}.pw_proj.conv.weight" in tensors:
            node = _direct(tower, f"{name}.pw_proj.conv", node, 1, node.shape[0])
            node = _map_norm(tower, f"{name}.pw_proj.bn", node)
        node = tower.same(node) if f"{name}.layer_scale.gamma" in tensors else node
    return tower.same(node, source) if node.shape == source.shape else node


def _pooled_attention(tower: Tower, name: str, node: Node) -> Node:
    """Each place of the map attends to a smaller map."""
    graph = tower.graph
    inner = _map_norm(tower, f"{name}.norm", node)
    side = inner.shape[0]
    count = side * side
    query = _direct(tower, f"{name}.attn.query.proj", inner, 1, side)
    small = []
    for part in ("key", "value"):
        source = inner
        if f"{name}.attn.{part}.down_conv.weight" in tower.tensors:
            source = _depthwise(tower, f"{name}.attn.{part}.down_conv", inner, -(-side // 2), pads=True)
            source = _map_norm(tower, f"{name}.attn.{part}.norm", source)
        small.append(_direct(tower, f"{name}.attn.{part}.proj", source, 1, source.shape[0]))
    head, places = small[0].shape[2], small[0].shape[0] * small[0].shape[1]
    heads = max(query.shape[2] // max(head, 1), 1)
    asked = tower.turn(graph.view(query, count, head, heads), head, count, heads)
    key = tower.turn(graph.view(small[0], places, head), head, places)
    value = tower.copy(graph.view(small[1], places, head))
    scores = tower.same(tower.same(graph.op((places, count, heads), key, asked)))
    found = tower.turn(graph.op((head, count, heads), value, scores), count, head, heads)
    found = tower.copy(graph.view(found, side, side, head * heads))
    found = _direct(tower, f"{name}.attn.output.proj", found, 1, side)
    return tower.same(found) if f"{name}.layer_scale.gamma" in tower.tensors else found


def convolved_rows(tower: Tower, picture: Node, patch: int) -> Node:
    """A ConvNeXt: convolutions of each channel in stages, a network for each place, and a pooled map of 8 x 8."""
    graph, tensors = tower.graph, tower.tensors
    node = tower.same(tower.convolution("v.patch_embd.weight", picture, patch))
    node = _channel_norm(tower, node)
    for stage in range(MAX_STAGES):
        if f"v.stage.{stage}.down.conv.weight" in tensors:
            node = tower.same(tower.convolution(f"v.stage.{stage}.down.conv.weight", _channel_norm(tower, node), 2))
        elif stage and f"v.stage.{stage}.blk.0.dw.weight" not in tensors:
            break
        for n in range(MAX_BLOCKS):
            block = f"v.stage.{stage}.blk.{n}"
            if f"{block}.dw.weight" not in tensors:
                break
            source, (wide, high, deep) = node, node.shape
            node = _channel_norm(tower, tower.same(_depthwise(tower, f"{block}.dw", node, wide, pads=False)))
            inner = tower.linear(f"{block}.pw1", tower.turn(node, deep, wide * high))
            inner = tower.copy(tower.turn(inner, wide, high, inner.shape[0]))
            squares = graph.op((1, 1, inner.shape[2]), tower.copy(inner))
            inner = tower.same(inner, tower.same(tower.same(graph.op(inner.shape, inner, squares))))
            node = tower.linear(f"{block}.pw2", tower.turn(inner, inner.shape[2], wide * high))
            node = tower.same(source, graph.view(tower.turn(node, wide * high, deep), wide, high, deep))
    wide, high, deep = node.shape
    flat = tower.same(tower.turn(node, deep, wide * high))
    small = graph.op((min(8, wide), min(8, high), deep), tower.turn(flat, wide, high, deep))
    return tower.network(tower.turn(small, deep, small.shape[0] * small.shape[1]), "mm.0", "mm.2")


def _channel_norm(tower: Tower, node: Node) -> Node:
    wide, high, deep = node.shape
    turned = tower.same(tower.turn(node, deep, high, wide))
    spread = tower.graph.op((1, high, wide), tower.copy(turned))
    return tower.same(tower.same(tower.turn(tower.same(turned, spread), wide, high, deep)))
