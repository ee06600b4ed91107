"""PURE: how much memory a graph of tensors takes, if memory is used again as soon as nobody needs it.

The engine describes a computation as a graph, and reserves one buffer in which all its results find room one after the
other. Which results live at the same moment is decided by ggml's allocator: it walks through the graph, gives each
result the smallest gap that fits, writes some results over their input, and frees an input after its last use. This
module walks in the same way, by the rules of ggml/src/ggml-alloc.c in b11434. `tower` and `projectors` describe the
graphs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

ALIGNMENT = 128  # bytes; the CPU's is 64, a GPU's 128


@dataclass(slots=True, eq=False)
class Node:
    """One tensor. The length of a row comes first in `shape`.

    `sources` are the tensors that it is computed from, without weights.
    `root` is the tensor whose memory this one shows; None for a tensor with memory of its own.
    `over` is whether the result may be written over a source of the same form.
    `is_plain` is whether its elements lie in order; views are often not.
    `is_weight` is whether its memory is that of the weights.
    """

    shape: tuple[int, ...]
    element: int
    sources: tuple[Node, ...] = ()
    root: Node | None = None
    over: bool = False
    is_plain: bool = True
    is_weight: bool = False
    # As the walk goes on:
    children: int = 0
    views: int = 0
    place: int | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.element

    def is_like(self, other: Node) -> bool:
        """Whether both have the same form, so that one may be written over the other."""
        return (
            self.is_plain
            and other.is_plain
            and self.element == other.element
            and _trimmed(self.shape) == _trimmed(other.shape)
        )


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without lengths of one at its end."""
    count = len(shape)
    while count and shape[count - 1] == 1:
        count -= 1
    return tuple(shape[:count])


@dataclass(slots=True)
class Graph:
    """Tensors in the order in which they are computed. Inputs are in the order in which they are first needed: all
    have their place before the first step.

    ::

        graph = Graph()
        x = graph.input(1024, 256)
        y = graph.op((4096, 256), x)
        graph.expand(graph.op((4096, 256), y, over=True))
        graph.peak()  # bytes: x and y together
    """

    inputs: list[Node] = field(default_factory=list)
    order: list[Node] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def input(self, *shape: int, element: int = 4) -> Node:
        """A tensor that is there before the computation begins."""
        return Node(shape, element)

    def weight(self, *shape: int) -> Node:
        """A tensor of the file. Only what is computed from nothing else needs to name it."""
        return Node(shape, 4, is_weight=True)

    def op(self, shape: Sequence[int], *sources: Node, over: bool = False, element: int = 4) -> Node:
        """A result with memory of its own, or that of a source if it may be written `over` one.

        Raises ValueError for a length below zero: the file does not fit together, and the engine refuses it.
        """
        if min(shape, default=0) < 0:
            raise ValueError(f"no tensor has the shape {tuple(shape)}")
        return Node(tuple(shape), element, sources, over=over)

    def view(self, source: Node, *shape: int, is_plain: bool = True) -> Node:
        """The same memory in another form."""
        return Node(shape, source.element, (source,), root=source.root or source, is_plain=is_plain and source.is_plain)

    def expand(self, node: Node) -> Node:
        """Take in what `node` is computed from, then `node`. Without recursion, as a graph can be deep."""
        stack = [(node, 0)]
        while stack:
            at, n = stack.pop()
            if id(at) in self._seen:
                continue
            if n < len(at.sources):
                stack += [(at, n + 1), (at.sources[n], 0)]
                continue
            self._seen.add(id(at))
            if not at.is_weight:
                (self.order if at.sources else self.inputs).append(at)
        return node

    def peak(self) -> int:
        """The size of the buffer, in bytes."""
        space = _Space()
        for node in (*self.inputs, *self.order):
            node.children = node.views = 0
            node.place = None
        for node in self.inputs:
            node.place = space.take(node.nbytes)
        for node in self.order:
            if node.root:
                node.root.views += 1
            for source in node.sources:
                source.children += 1
        for node in self.order:
            if node.root is None:
                self._place(space, node)
            for source in node.sources:
                self._release(space, source)
        return space.end

    def _place(self, space: _Space, node: Node) -> None:
        for source in node.sources if node.over else ():
            # What is shown in two forms is never written over: the allocator counts a view as nobody's own.
            if source.place is None or source.root or source.children != 1 or source.views:
                continue
            if node.is_like(source):
                node.place, source.place = source.place, None
                return
        node.place = space.take(node.nbytes)

    def _release(self, space: _Space, source: Node) -> None:
        """One use of `source` is over."""
        source.children -= 1
        if source.children or source.views:
            return
        owner = source.root or source
        if source.root:
            owner.views -= 1
        if not owner.views and not owner.children and owner.place is not None:
            space.free(owner.place, _aligned(owner.nbytes))
            owner.place = None


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Space:
    """Memory without an end, from which pieces are taken."""

    def __init__(self) -> None:
        self.end = 0  # as far as memory was ever used
        self._gaps: list[list[int]] = [[0, 1 << 600]]  # begin and size, in order; the last has no end

    def take(self, size: int) -> int:
        """The smallest gap that fits; among equals the last. The place without an end only if there is no other."""
        size = _aligned(size)
        best = len(self._gaps) - 1
        for n, (_, room) in enumerate(self._gaps[:-1]):
            if size <= room and (best == len(self._gaps) - 1 or room <= self._gaps[best][1]):
                best = n
        gap = self._gaps[best]
        place = gap[0]
        gap[0], gap[1] = place + size, gap[1] - size
        if not gap[1]:
            del self._gaps[best]
        self.end = max(self.end, place + size)
        return place

    def free(self, place: int, size: int) -> None:
        if not size:
            return
        n = next(n for n, (begin, _) in enumerate(self._gaps) if begin > place)
        self._gaps.insert(n, [place, size])
        for at in (n, n - 1):  # join with the gap behind, then with the one before
            if at >= 0 and sum(self._gaps[at]) == self._gaps[at + 1][0]:
                self._gaps[at][1] += self._gaps.pop(at + 1)[1]
