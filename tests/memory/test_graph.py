from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.memory.graph import ALIGNMENT, Graph, Node

UNIT = 1024  # bytes of `x` below


def test_memory_is_used_again() -> None:
    graph = Graph()
    x = graph.input(256)
    for _ in range(5):
        x = graph.op((256,), x)
    graph.expand(x)
    assert graph.peak() == 2 * UNIT


def test_a_result_may_be_written_over_its_only_source() -> None:
    graph = Graph()
    x = graph.input(256)
    graph.expand(graph.op((256,), graph.op((256,), x, over=True), over=True))
    assert graph.peak() == UNIT


def test_a_source_that_is_needed_later_is_not_written_over() -> None:
    graph = Graph()
    x = graph.input(256)
    y = graph.op((256,), x, over=True)
    graph.expand(graph.op((256,), y, x, over=True))
    assert graph.peak() == 2 * UNIT


def test_another_form_is_not_written_over() -> None:
    for shape, element in (((128,), 4), ((256,), 2), ((16, 16), 4)):
        graph = Graph()
        x = graph.input(256)
        y = graph.expand(graph.op(shape, x, over=True, element=element))
        assert graph.peak() == UNIT + y.nbytes


def test_a_view_holds_its_source_and_is_not_written_over() -> None:
    graph = Graph()
    x = graph.input(256)
    seen = graph.view(x, 16, 16)
    graph.expand(graph.op((16, 16), seen, over=True))
    assert graph.peak() == 2 * UNIT


def test_weights_take_nothing() -> None:
    graph = Graph()
    graph.expand(graph.op((256,), graph.view(graph.weight(1 << 40), 256)))
    assert graph.peak() == UNIT


def test_no_length_is_below_zero() -> None:
    graph = Graph()
    with pytest.raises(ValueError, match="shape"):
        graph.op((4, -1), graph.input(4))


def test_the_smallest_gap_that_fits_is_taken() -> None:
    graph = Graph()
    wide, narrow = graph.input(2048), graph.input(256)
    keep = graph.input(256)
    one = graph.op((256,), wide, narrow)  # leaves gaps of 8 and of 1
    two = graph.op((256,), one, keep)
    graph.expand(graph.op((2048,), two))
    assert graph.peak() == 8 * UNIT + 3 * UNIT


def test_a_deep_graph_is_walked() -> None:
    graph = Graph()
    x = graph.input(1)
    for _ in range(100_000):
        x = graph.op((1,), x)
    graph.expand(x)
    assert graph.peak() == 2 * ALIGNMENT


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=60))
def test_the_peak_lies_between_one_step_and_all_together(steps: list[tuple[int, int, int, bool]]) -> None:
    graph = Graph()
    nodes: list[Node] = [graph.input(100), graph.input(200)]
    for size, one, two, over in steps:
        nodes.append(graph.op((size,), nodes[-1 - one % len(nodes)], nodes[-1 - two % len(nodes)], over=over))
    for node in nodes:
        graph.expand(node)

    def room(node: Node) -> int:
        return -(-node.nbytes // ALIGNMENT) * ALIGNMENT

    assert max(map(room, nodes)) <= graph.peak() <= sum(map(room, nodes))
    assert graph.peak() == graph.peak()
