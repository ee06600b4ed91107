"""PURE: the parts of which the encoders of pictures and sound are made, as graphs of tensors.

`Tower` knows the tensors of a projector's file and adds what the engine computes with them: convolutions, norms,
networks, attention. What a tensor's absence leaves out is left out here too. The order of the steps is that of
tools/mtmd/clip.cpp in b11434, as it decides what lives at the same moment. `projectors` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from router.memory.graph import Graph, Node

HALF, FLOAT = 2, 4  # bytes of an element


def names(text: str) -> frozenset[str]:
    """Types of projectors, from a text."""
    return frozenset(text.split())


# These write up and down of the network the wrong way around in old files.
SWAPPED = names("""
    mlp ldp ldpv2 qwen2vl_merger qwen2.5vl_merger exaone4_5 adapter gemma3 idefics3 resampler minicpmv4_6
""")
MAX_LAYERS = 512  # as in llama.cpp; the number in the file may be anything
MAX_LAYERS_WALKED = 64  # no real projector has more


def walked(count: int, *special: int) -> list[int]:
    """The numbers of the layers that are walked: all, or of very many the first, the special ones and the last."""
    count = min(count, MAX_LAYERS)
    if count <= MAX_LAYERS_WALKED:
        return list(range(count))
    half = MAX_LAYERS_WALKED // 2
    return sorted({*range(half), *(n for n in special[:half] if 0 <= n < count), *range(count - half, count)})


@dataclass(slots=True)
class Tower:
    """An encoder under construction.

    `kind` is the projector's type. `prefix` is `v` for pictures and `a` for sound.
    `tensors` are the shapes by name, the length of a row first; `wide` are the names of those in BF16.
    `width`, `heads`, `kv_heads` and `head` are those of attention.
    `flash` is flash attention. `windowed` is whether some layers see a window only.
    `experts_used` is how many experts each row uses.
    """

    kind: str
    prefix: str
    tensors: Mapping[str, tuple[int, ...]]
    wide: frozenset[str]
    width: int
    heads: int
    kv_heads: int
    head: int
    flash: bool
    windowed: bool = False
    experts_used: int = 0
    graph: Graph = field(default_factory=Graph)

    # ---- single steps

    def same(self, node: Node, *others: Node) -> Node:
        """A step of the form of `node`, which may be written over it."""
        return self.graph.op(node.shape, node, *others, over=True)

    def copy(self, node: Node, *shape: int, element: int = FLOAT) -> Node:
        return self.graph.op(shape or node.shape, node, element=element)

    def multiply(self, rows: int, node: Node) -> Node:
        """The product with a matrix of so many rows."""
        return self.graph.op((rows, *node.shape[1:]), node)

    def linear(self, name: str, node: Node) -> Node:
        """The product with the matrix `name`, and its bias if there is one."""
        found = self.multiply(self.tensors[f"{name}.weight"][1], node)
        return self.same(found) if f"{name}.bias" in self.tensors else found

    def norm(self, node: Node, name: str, *, rms: bool = False) -> Node:
        """A norm. Only one by the root mean square can be written over its input."""
        found = self.same(node) if rms else self.copy(node)
        for part in ("weight", "bias"):
            if f"{name}.{part}" in self.tensors:
                found = self.same(found)
        return found

    def network(self, node: Node, up: str, down: str, gate: str = "") -> Node:
        if gate and f"{gate}.weight" in self.tensors:
            wide = self.linear(up, node)
            gated = self.linear(gate, node)
            inner = self.graph.op(wide.shape, gated, wide)
        else:
            inner = self.same(self.linear(up, node) if f"{up}.weight" in self.tensors else node)
        return self.linear(down, inner)

    def beside(self, *nodes: Node) -> Node:
        """The rows of several tensors side by side."""
        found = nodes[0]
        for node in nodes[1:]:
            found = self.graph.op((found.shape[0] + node.shape[0], *node.shape[1:]), found, node)
        return found

    # ---- convolutions

    def columns(self, node: Node, kernel: Sequence[int], stride: int, pad: int, element: int) -> Node:
        """The picture in pieces of the kernel's size, one a row."""
        across, down = ((side + 2 * pad - kernel[n]) // stride + 1 for n, side in enumerate(node.shape[:2]))
        return self.graph.op((kernel[0] * kernel[1] * kernel[2], across, down, *node.shape[3:]), node, element=element)

    def convolution(self, name: str, node: Node, stride: int, pad: int = 0) -> Node:
        """Over a picture `(width, height, channels)`."""
        kernel = self.tensors[name]
        kernel = (*kernel, *(1,) * (4 - len(kernel)))
        pieces = self.columns(node, kernel, stride, pad, FLOAT if name in self.wide else HALF)
        _, across, down, *many = pieces.shape
        count = across * down * (many[0] if many else 1)
        flat = self.graph.view(pieces, pieces.shape[0], count)
        product = self.graph.op((count, kernel[3]), flat)
        turned = self.graph.view(product, across, down, kernel[3], *many, is_plain=False)
        return self.copy(turned, across, down, kernel[3], *many)

    def convolution_1d(self, name: str, node: Node, stride: int) -> Node:
        """Over sound `(steps, channels)`."""
        kernel = self.tensors[name]
        steps = (node.shape[0] + 2 * (kernel[0] // 2) - kernel[0]) // stride + 1
        element = FLOAT if name in self.wide else HALF
        pieces = self.graph.op((kernel[0] * kernel[1], steps), node, element=element)
        return self.graph.op((steps, kernel[2]), pieces)

    def turn(self, node: Node, *shape: int) -> Node:
        """A copy with other lengths first."""
        return self.copy(self.graph.view(node, *shape, is_plain=False), *shape)

    def patches(self, picture: Node, patch: int) -> Node:
        """The usual first step: one row for each patch of the picture."""
        cut = self.convolution("v.patch_embd.weight", picture, patch)
        across, down, width = cut.shape[:3]
        found = self.turn(self.graph.view(cut, across * down, width), width, across * down)
        return self.same(found) if "v.patch_embd.bias" in self.tensors else found

    def patches_of_two(self, picture: Node, patch: int, merge: int = 2) -> Node:
        """The first step of those that see films: two frames are added, and neighbours brought together."""
        one = self.convolution("v.patch_embd.weight", picture, patch)
        both = self.same(one, self.convolution("v.patch_embd.weight.1", picture, patch))
        across, down, width = both.shape[:3]
        return self.together(self.graph.view(both, width, across, down, is_plain=False), width, across, down, merge)

    def together(self, node: Node, width: int, across: int, down: int, merge: int = 2) -> Node:
        """Patches that are merged later lie side by side."""
        rows = self.copy(node, width * merge, across // merge, down)
        squares = self.graph.view(rows, width * merge, merge, across // merge * (down // merge), is_plain=False)
        return self.copy(squares, width, across * down)

    def reordered(self, node: Node, order: Node, merged: int = 4) -> Node:
        """The rows in another order, of which `merged` ones stay together."""
        width, count = node.shape
        return self.graph.view(self.graph.op((width * merged, count // merged), node, order), width, count)

    # ---- attention

    def attention(self, name: str, query: Node, key: Node, value: Node, mask: Node | None = None) -> Node:
        graph = self.graph
        for node in (query, key, value):
            graph.expand(node)
        head, heads, count, *many = query.shape
        rows = count * (many[0] if many else 1)
        query, key = (
            graph.view(node, head, node.shape[2], node.shape[1], *many, is_plain=False) for node in (query, key)
        )
        masks = (mask,) if mask else ()
        if self.flash:
            value = graph.view(value, value.shape[0], value.shape[2], value.shape[1], *many, is_plain=False)
            casts = [self.copy(node, element=HALF) for node in (key, value, *masks)]
            found = graph.view(graph.op((head, heads, count, *many), query, *casts), head * heads, rows)
        else:
            turned = self.turn(value, value.shape[2], value.shape[0], value.shape[1], *many)
            scores = self.same(graph.op((key.shape[1], count, heads, *many), key, query), *masks)
            seen = graph.op((head, count, heads, *many), turned, scores)
            found = self.turn(seen, head * heads, rows)
        return self.linear(name, found) if f"{name}.weight" in self.tensors else found

    def heads_of(self, layer: str, node: Node, rms: bool) -> tuple[Node, Node, Node]:
        """Queries, keys and values of a layer, from one tensor or from three."""
        graph, tensors, count = self.graph, self.tensors, node.shape[1]
        sizes = (self.heads, self.kv_heads, self.kv_heads)
        if f"{layer}.attn_qkv.weight" in tensors:
            one = self.linear(f"{layer}.attn_qkv", node)
            parts = [graph.view(one, self.head, heads, count, is_plain=False) for heads in sizes]
            for n, letter in enumerate("qk"):
                if f"{layer}.attn_{letter}_norm.weight" in tensors:
                    parts[n] = self.norm(parts[n], f"{layer}.attn_{letter}_norm", rms=rms)
            return parts[0], parts[1], parts[2]
        found = [self.linear(f"{layer}.attn_{letter}", node) for letter in "qkv"]
        is_whole = tensors.get(f"{layer}.attn_q_norm.weight", (self.head,))[0] != self.head
        norms = [
            name if f"{name}.weight" in tensors else "" for name in (f"{layer}.attn_q_norm", f"{layer}.attn_k_norm", "")
        ]
        if is_whole:
            found = [self.norm(part, name, rms=rms) if name else part for part, name in zip(found, norms, strict=True)]
        found = [graph.view(part, self.head, heads, count) for part, heads in zip(found, sizes, strict=True)]
        if not is_whole:
            found = [self.norm(part, name, rms=rms) if name else part for part, name in zip(found, norms, strict=True)]
        return found[0], found[1], found[2]

    def layer(
        self,
        number: int,
        node: Node,
        *,
        rms: bool,
        positions: Sequence[Node] = (),
        mask: Node | None = None,
        first: bool = True,
    ) -> Node:
        """One layer: attention, then the network. By each of `positions` queries and keys are turned once.

        With `first` norms come before attention and network, else behind them.
        """
        layer = f"{self.prefix}.blk.{number}"
        query, key, value = self.heads_of(layer, self.norm(node, f"{layer}.ln1", rms=rms) if first else node, rms)
        for position in positions:
            query = self.same(query, position)
        for position in positions:
            key = self.same(key, position)
        if self.kind == "gemma4v":
            value = self.same(value)
        seen = self.attention(f"{layer}.attn_out", query, key, value, mask)
        seen = self._scaled(layer, seen, "ls1", "attn_post_norm")
        if not first:
            seen = self.norm(seen, f"{layer}.ln1", rms=rms)
        node = self.same(seen, node)
        inner = self.norm(node, f"{layer}.ln2", rms=rms) if first else node
        up, down = f"{layer}.ffn_up", f"{layer}.ffn_down"
        if self.kind in SWAPPED and self.tensors.get(f"{down}.weight", (0,))[0] == self.width:
            up, down = down, up
        if f"{layer}.ffn_gate_exps.weight" in self.tensors:
            inner = self.experts(layer, inner)
        else:
            inner = self.network(inner, up, down, f"{layer}.ffn_gate")
        inner = self._scaled(layer, inner, "ffn_post_norm", "ls2")
        if not first:
            return self.same(self.norm(inner, f"{layer}.ln2", rms=rms), node)
        return self._scaled(layer, self.same(node, inner), "out_scale")

    def _scaled(self, layer: str, node: Node, *names: str) -> Node:
        """Multiplied with those of the tensors that are there; a norm comes before it."""
        for name in names:
            if f"{layer}.{name}.weight" in self.tensors:
                node = self.norm(node, f"{layer}.{name}", rms=True) if "norm" in name else self.same(node)
        return node

    def experts(self, layer: str, node: Node) -> Node:
        """A network of which each row uses a few parts."""
        count = node.shape[1]
        all_of_them = self.tensors[f"{layer}.ffn_gate_inp.weight"][1]
        used = min(max(self.experts_used, 1), all_of_them)
        odds = self.same(self.multiply(all_of_them, node))
        choice = self.graph.view(self.copy(odds, all_of_them, count), used, count, is_plain=False)
        parts = self.graph.op((used, count), self.graph.view(odds, 1, all_of_them, count), choice)
        parts = self.same(parts, self.graph.op((1, count), parts))
        one = self.graph.view(node, node.shape[0], 1, count)
        inner = self.tensors[f"{layer}.ffn_gate_exps.weight"][1]
        gate = self.same(self.graph.op((inner, used, count), one, choice))
        wide = self.same(gate, self.graph.op((inner, used, count), one, choice))
        out = self.same(self.graph.op((self.width, used, count), wide, choice), self.graph.view(parts, 1, used, count))
        found = self.graph.view(out, self.width, count, is_plain=False)
        for _ in range(min(used, all_of_them) - 1):
            found = self.same(found, self.graph.view(out, self.width, count, is_plain=False))
        return found if used > 1 else self.copy(found)
