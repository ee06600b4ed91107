from __future__ import annotations

from dataclasses import replace

import pytest

from router.memory.demand import CUDA_CONTEXT_BYTES, MIB, Estimate, predict
from router.memory.fit_params import correct, fit_args
from tests.memory.rig import args, header

BASE = Estimate(
    weights=1000 * MIB, kv=100 * MIB, compute=50 * MIB, fixed=0, n_ctx=4096, extra=7 * MIB, measured_logits=40 * MIB
)


def test_measure_of_gpus_corrects_the_estimate() -> None:
    table = "CUDA0 600 60 300\nCUDA1 500 50 200\nHost 121 8 17\n"
    found = correct(BASE, table)
    assert (found.weights, found.kv, found.host) == (1221 * MIB, 118 * MIB, 129 * MIB)
    assert found.compute == (300 + 1 - 40) * MIB
    assert found.demand.split == (1221 + 118 + 7 - 129) * MIB
    assert found.demand.fixed == found.compute + CUDA_CONTEXT_BYTES
    layered = correct(replace(BASE, layers=(1, 2, 1), shares=(1, 1)), table).demand
    assert sum(layered.layers) == sum(layered.user_split) == layered.split


def test_measure_of_ram_never_lowers_the_estimate() -> None:
    found = correct(BASE, "Host 900 0 17\n")
    assert (found.weights, found.kv, found.compute) == (1000 * MIB, 100 * MIB, 50 * MIB)
    assert found.demand.split == 0


@pytest.mark.parametrize("table", ["", "\n", "error: no such model", "CUDA0 1 2 3", "Host 1 2", "Host a b c"])
def test_other_text_is_an_error(table: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- int() has its own words
        correct(BASE, table)


def test_fit_args_are_those_that_the_program_knows() -> None:
    given = args("-m x.gguf -c 0 -ngl 5 --jinja -kvu --mmproj y.gguf -ctk q8_0 -ot exps=CPU --temp 1")
    found = fit_args(given, predict(given, header(), gpus=1))
    assert found == [
        *("--model", "x.gguf", "--n-gpu-layers", "5", "--cache-type-k", "q8_0", "--override-tensor", "exps=CPU"),
        *("--ctx-size", "4096", "--parallel", "4", "--no-repack"),
    ]
