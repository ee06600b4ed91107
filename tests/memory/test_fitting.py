"""Automatic contexts, and what is left to the engine."""

from __future__ import annotations

import pytest

from router.memory.demand import CUDA_CONTEXT_BYTES
from router.memory.fitting import CONTEXT_STEP_TOKENS, MIN_CONTEXT_TOKENS
from router.scheduling import policy
from router.scheduling.policy import Place
from router.scheduling.resources import Device
from tests.memory.rig import MIB, TRAINED, Estimators, Specs, context_of, gpus, gpus_needed, own_args


def test_a_context_that_fits_is_left_to_the_engine(estimator: Estimators, spec: Specs) -> None:  # B-D3
    need = estimator(gpus(200)).need(spec())
    assert (own_args(need), context_of(need), need.source) == ((), TRAINED, "header")


def test_an_automatic_context_is_the_largest_that_fits(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(30)
    need = estimator(devices).need(spec())
    length = context_of(need)
    assert own_args(need) == ("--ctx-size", str(length))
    assert length % CONTEXT_STEP_TOKENS == 0
    assert MIN_CONTEXT_TOKENS < length < TRAINED
    assert gpus_needed(devices, need.demand) == 1
    longer = estimator(devices).need(spec("--ctx-size", str(length + CONTEXT_STEP_TOKENS), "--n-gpu-layers", "all"))
    assert gpus_needed(devices, longer.demand) is None


def test_an_explicit_context_is_honoured(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(30)
    need = estimator(devices).need(spec("--ctx-size", str(TRAINED), "--n-gpu-layers", "all"))
    assert (own_args(need), context_of(need)) == ((), TRAINED)
    assert gpus_needed(devices, need.demand) is None  # and so it is refused, with the numbers
    need = estimator(devices).need(spec("--ctx-size", str(TRAINED)))
    assert (own_args(need), context_of(need)) == ((), TRAINED)
    assert gpus_needed(devices, need.demand) == 0  # the engine may keep layers in RAM


@pytest.mark.parametrize("where", ["router", "preset"])
def test_a_context_from_the_environment_is_explicit(estimator: Estimators, spec: Specs, where: str) -> None:
    variable = {"LLAMA_ARG_CTX_SIZE": "8192"}
    ours, theirs = (variable, {}) if where == "router" else ({}, variable)
    need = estimator(gpus(30), **ours).need(spec(env=tuple(theirs.items())))
    assert (own_args(need), context_of(need)) == ((), 8192)


def test_fewer_gpus_are_preferred_to_more_context(estimator: Estimators, spec: Specs) -> None:  # B-D3
    need = estimator(gpus(30, 30)).need(spec())
    assert gpus_needed(gpus(30, 30), need.demand) == 1
    assert context_of(need) < TRAINED


def test_slots_of_their_own_shorten_together(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(60)
    need = estimator(devices).need(spec("--parallel", "4"))
    assert own_args(need) == ("--ctx-size", str(context_of(need)))
    assert context_of(need) % (4 * CONTEXT_STEP_TOKENS) == 0
    assert gpus_needed(devices, need.demand) == 1


def test_without_gpus_the_context_fits_the_ram(estimator: Estimators, spec: Specs) -> None:  # B-D3 B-D5
    devices = (Device("n", "RAM", "host", 65 * MIB),)
    need = estimator(devices).need(spec())
    assert MIN_CONTEXT_TOKENS <= context_of(need) < TRAINED
    assert gpus_needed(devices, need.demand) == 0
    assert need.demand.split == need.demand.fixed == 0


def test_weights_that_fit_nowhere_are_left_to_the_engine(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(6.5, 1)  # on the second there is not even room for the buffers
    whole = estimator(gpus(100)).need(spec("--ctx-size", str(MIN_CONTEXT_TOKENS))).demand
    need = estimator(devices).need(spec())
    assert own_args(need) == ("--ctx-size", str(MIN_CONTEXT_TOKENS))
    assert gpus_needed(devices, need.demand) == 1
    assert 0 < need.demand.split < whole.split
    assert need.demand.host + need.demand.split == whole.host + whole.split  # RAM counts for the rest


def test_without_room_on_any_gpu_all_of_it_goes_to_ram(estimator: Estimators, spec: Specs) -> None:  # B-D3
    need = estimator(gpus(1)).need(spec())
    assert gpus_needed(gpus(1), need.demand) == 0
    assert need.demand.host > need.estimate.weights + need.estimate.kv if need.estimate else False


def test_explicit_gpu_layers_are_honoured(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(6.5)
    explicit = estimator(devices).need(spec("--n-gpu-layers", "all"))
    assert gpus_needed(devices, explicit.demand) is None
    none = estimator(devices).need(spec("--n-gpu-layers", "0"))
    assert none.demand.split == none.demand.fixed == 0


def test_a_model_goes_to_several_gpus_by_whole_layers(estimator: Estimators, spec: Specs) -> None:  # B-D1
    whole = estimator(gpus(1000)).need(spec("--ctx-size", "131072")).demand
    devices = gpus(*((whole.fixed - CUDA_CONTEXT_BYTES + part * whole.split) / MIB for part in (0.6, 0.8)))
    claim = policy.plan(estimator(devices).empty, estimator(devices).need(spec("--ctx-size", "131072")).demand)
    assert isinstance(claim, Place)
    assert sum(claim.claim.layer_counts) == len(whole.layers)
    assert len(claim.claim.layer_counts) == 2


def test_what_is_left_to_the_engine_is_not_divided_by_us(estimator: Estimators, spec: Specs) -> None:
    assert estimator(gpus(6.5, 1)).need(spec()).demand.layers == ()


def test_users_split_is_never_left_to_the_engine(estimator: Estimators, spec: Specs) -> None:
    need = estimator(gpus(6.5, 6.5)).need(spec("--ctx-size", str(TRAINED), "--tensor-split", "1,1"))
    assert sum(need.demand.user_split) == need.demand.split
    assert gpus_needed(gpus(6.5, 6.5), need.demand) is None
