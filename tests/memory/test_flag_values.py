from __future__ import annotations

import pytest

from router.memory.demand import predict
from router.memory.weights import split_by_shares
from tests.memory.rig import args, header


@pytest.mark.parametrize(
    ("flags", "n_ctx"),
    [
        *(("", 4096), ("-c 0", 4096), ("-c 5000", 5120), ("-c 100000", 100096), ("-c 8192 -np 2", 8192)),
        *(("-c 1000 -np 3", 1536), ("-c 1000 -np 3 -kvu", 1024), ("--kv-unified-per-slot 1024 -np 3 -kvu", 3072)),
        *(("-c x", 4096), ("-c -1", 4096)),
        *(("-np 2", 8192), ("-np 2 -fit off", 4096)),
    ],
)
def test_flags_decide_the_context(flags: str, n_ctx: int) -> None:  # B-D3
    assert predict(args(flags), header(), gpus=0).n_ctx == n_ctx


@pytest.mark.parametrize(
    ("flags", "gpus", "shares"),
    [
        ("-ts 3,1", 2, (3, 1)),
        ("-ts 3/1,4", 2, (3, 1)),
        ("-ts 3,1", 1, (3,)),
        ("-ts 3,1 --device CUDA2", 4, (3,)),
        ("-ts 0,1", 1, ()),
        ("-ts 1", 2, (1,)),
        ("-ts x,1", 2, ()),
        ("-ts 3,1 -sm row", 2, ()),
        ("-ts 3,1 -sm layer", 2, (3, 1)),
        ("-ts 3,1 -ngl 0", 2, ()),
        ("-ts 3,1", 0, ()),
    ],
)
def test_users_tensor_split_is_honoured(flags: str, gpus: int, shares: tuple[float, ...]) -> None:
    estimate = predict(args(flags), header(), gpus=gpus)
    assert estimate.shares == shares
    assert estimate.demand.user_split == (split_by_shares(estimate.layers, shares) if shares else ())
    assert sum(estimate.demand.user_split) in (0, estimate.demand.split)
