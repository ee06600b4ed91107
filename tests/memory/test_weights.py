from __future__ import annotations

from dataclasses import replace

import pytest

from router.memory.demand import predict
from router.memory.weights import place_weights, split_by_shares
from tests.memory.rig import args, header


@pytest.mark.parametrize(
    ("flags", "offloaded", "stays"),
    [
        ("", 5, 1),
        ("", 3, 5),
        ("", 0, 10),
        ("-ot exps=CPU", 5, 5),
        ("-ot blk.1.ffn_up.weight=CUDA1 -ot ffn_up.weight=CPU", 5, 4),  # the first that matches counts
        ("-ot ffn_up.weight=CPU -ot blk.1.ffn_up.weight=CUDA1", 5, 5),
        ("-ot token_embd=CUDA0", 5, 0),
        ("-ot blk.0.ffn_up.weight=CPU,blk.3.ffn_up_exps=CPU", 5, 3),
        ("-ot blk.0.ffn_up.weight=CUDA0", 3, 4),
        ("-ot exps=CUDA0", 0, 6),
        ("--n-cpu-ffn 2", 5, 3),
        ("--n-cpu-moe 0", 5, 1),
        ("--n-cpu-moe 99", 5, 5),
    ],
)
def test_flags_place_tensors(flags: str, offloaded: int, stays: int) -> None:
    found = place_weights(args(flags), header(), 5 - offloaded)
    assert (found.host, found.total) == (stays * 400_000, 10 * 400_000)


def test_tied_output_is_on_the_gpu_too() -> None:
    tied = header()
    tied = replace(tied, tensors=tied.tensors[:-1])
    assert predict(args(), tied, gpus=0).weights == 9 * 400_000
    assert predict(args("-ngl 0"), tied, gpus=1).weights == 9 * 400_000
    whole = predict(args(), tied, gpus=1)
    assert (whole.weights, whole.host, whole.layers[-1]) == (10 * 400_000, 400_000, 400_000)
    bert = replace(header("bert"), tensors=tied.tensors)
    assert predict(args(), bert, gpus=1).weights == 9 * 400_000


def test_shares_divide_layers() -> None:
    """Layer n of N goes to the first GPU whose share, added to those before it, ends behind n/N."""
    layers = (10, 20, 30, 40, 5)
    assert split_by_shares(layers, [1]) == (105,)
    assert split_by_shares(layers, [1, 1]) == (60, 45)
    assert split_by_shares(layers, [3, 1]) == (100, 5)
    assert split_by_shares(layers, [0, 1]) == (0, 105)
    assert split_by_shares(layers, [1, 2, 2]) == (10, 50, 45)


def test_shares_by_whole_layers_give_exactly_these() -> None:
    """However the engine rounds."""
    for count in range(2, 130):
        for first in range(1, count):
            assert split_by_shares((1,) * count, (first, count - first)) == (first, count - first)
