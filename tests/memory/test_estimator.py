"""Which source of a need wins, and which devices a model may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from router.engine import discovery as engine
from router.engine import flags
from router.errors import GgufError, LoadFailed
from router.memory.demand import CUDA_CONTEXT_BYTES
from router.memory.footprints import Footprint
from router.models.spec import ModelSpec
from router.scheduling.resources import Demand, Device
from tests.memory.rig import MIB, TABLE, Estimators, Specs, gpus
from tests.projector_shapes import small_projector
from tests.routers import ENGINES


@pytest.mark.parametrize(
    ("devices", "have"), [(gpus(100, 100), "the GPUs here are CUDA0, CUDA1"), (gpus(), "the GPUs here are none")]
)
def test_absent_gpu_is_an_error(estimator: Estimators, spec: Specs, devices: Sequence[Device], have: str) -> None:
    with pytest.raises(LoadFailed, match=f"'long' cannot be loaded: it asks for CUDA9, and {have}"):
        estimator(devices).need(spec("--device", "CUDA0,CUDA9" if len(devices) > 1 else "CUDA9"))
    with pytest.raises(LoadFailed, match="CUDA9"):
        estimator(devices, LLAMA_ARG_DEVICE="CUDA9").need(spec(), quick=True)


@pytest.mark.parametrize("names", ["Metal", "Vulkan0,Vulkan1", "SYCL0", "none"])
def test_devices_that_no_mask_can_pick_are_passed_to_the_child(estimator: Estimators, spec: Specs, names: str) -> None:
    for devices in (gpus(), gpus(200)):
        need = estimator(devices).need(spec("--device", names))
        assert need.args[:2] == ("--device", names)
        assert need.demand.names == ()
        assert need.demand.fixed == 0 or names != "none"
    assert "--device" not in estimator(gpus(200)).need(spec("--device", "CUDA0")).args


def test_single_main_gpu_is_the_only_one_that_the_child_sees(estimator: Estimators, spec: Specs) -> None:
    one = estimator(gpus(200, 200, 200))
    need = one.need(spec("--split-mode", "none", "--main-gpu", "1"))
    assert (need.demand.names, need.args[:2]) == (("CUDA1",), ("--main-gpu", "0"))
    need = one.need(spec("--split-mode", "none", "--main-gpu", "1", "--device", "CUDA0,CUDA2"))
    assert (need.demand.names, need.args[:2]) == (("CUDA2",), ("--main-gpu", "0"))
    assert "--main-gpu" not in one.need(spec("--main-gpu", "1")).args


def test_what_a_model_took_wins(estimator: Estimators, spec: Specs) -> None:  # B-D1 B-D7
    devices = gpus(100)
    first = estimator(devices)
    before = first.need(spec())
    first.learn(spec(), Footprint(gpu=700 * MIB, gpus=1, host=90 * MIB))
    for each in (first, estimator(devices)):  # the second is another router, later
        need = each.need(spec())
        assert need.source == "footprint"
        assert need.demand.split + need.demand.fixed == 700 * MIB
        assert need.demand.host == max(90 * MIB, before.demand.host)
    assert first.need(spec("--ctx-size", "4096")).source == "header"  # other flags, another need


def test_in_ram_the_estimate_is_the_least(estimator: Estimators, spec: Specs) -> None:  # B-D7
    one = estimator((Device("n", "RAM", "host", 4096 * MIB),))
    before = one.need(spec())
    one.learn(spec(), Footprint(gpu=0, gpus=0, host=MIB))
    assert one.need(spec()).demand == before.demand


def test_the_engines_own_measure_beats_the_header(estimator: Estimators, spec: Specs) -> None:  # B-D1
    real = engine.find(ENGINES["llama-server"](), {})
    one = estimator((Device("n", "RAM", "host", 4096 * MIB),), real)
    assert one.need(spec(), quick=True).source == "header"
    assert one.need(spec()).source == "engine"
    assert one.need(spec(), quick=True).source == "engine"  # it is known now


def test_missing_file_is_an_error(estimator: Estimators, spec: Specs, tmp_path: Path) -> None:
    gone = replace(spec(), model_path=tmp_path / "gone.gguf")
    for method in (estimator(gpus()).need, lambda spec: estimator(gpus()).learn(spec, Footprint(0, 0, 1))):
        with pytest.raises(GgufError, match=r"gone\.gguf cannot be read \(No such file"):
            method(gone)


def test_a_model_that_is_not_here_goes_to_a_gpu(estimator: Estimators) -> None:
    spec = ModelSpec("far", "preset", flags.parse(["--hf-repo", "a/b"], TABLE))
    assert estimator(gpus(100)).need(spec).demand == Demand(fixed=CUDA_CONTEXT_BYTES)
    assert estimator(gpus()).need(spec).demand == Demand()
    named = ModelSpec("far", "preset", flags.parse(["--hf-repo", "a/b", "--device", "CUDA1"], TABLE))
    assert estimator(gpus(100, 100)).need(named).demand == Demand(fixed=CUDA_CONTEXT_BYTES, names=("CUDA1",))


@pytest.mark.parametrize(
    "found",
    [
        Footprint(0, 1, 0),
        Footprint(MIB, 1, 10 * MIB),
        Footprint(2**45, 1, 10 * MIB),
        Footprint(0, 0, 2**45),
    ],
    ids=["nothing", "little", "more than all GPUs", "more than all RAM"],
)
def test_what_cannot_be_is_neither_learned_nor_believed(estimator: Estimators, spec: Specs, found: Footprint) -> None:
    devices = gpus(100)  # B-D7
    one = estimator(devices)
    before = one.need(spec("--ctx-size", "65536"))
    assert before.demand.split > 16 * MIB
    one.learn(spec("--ctx-size", "65536"), found)
    assert one.need(spec("--ctx-size", "65536")) == before
    one._footprints.put(one._key(spec("--ctx-size", "65536")), found)  # as a router of before may have
    assert estimator(devices).need(spec("--ctx-size", "65536")).demand == before.demand


def test_a_projector_of_another_model_is_no_need_if_it_was_found(
    estimator: Estimators, spec: Specs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # B-L18
    mmproj = small_projector(tmp_path, 128)
    one = estimator(gpus(4000))
    plain = one.need(spec())
    found = spec("--mmproj", str(mmproj), mmproj_path=mmproj, found_mmproj=True)
    for _ in range(2):
        need = one.need(found)
        assert (need.demand, need.estimate) == (plain.demand, plain.estimate)
        assert "another model" in need.left_out
        assert str(mmproj) in [row[0] for row in need.stamp]
    assert len([record for record in caplog.records if "projector is left out" in record.message]) == 1
    one.learn(found, Footprint(gpu=600 * MIB, gpus=1, host=90 * MIB))
    assert one.need(found).source == "footprint"
    fits = small_projector(tmp_path, 64)
    need = one.need(replace(found, mmproj_path=fits))
    assert need.left_out == ""
    assert need.estimate is not None
    assert need.estimate.extra > 0


def test_a_projector_of_another_model_is_an_error_if_it_was_named(
    estimator: Estimators, spec: Specs, tmp_path: Path
) -> None:  # B-L18
    mmproj = small_projector(tmp_path, 128)
    with pytest.raises(LoadFailed, match="rows of 128, and this model takes 64; name the model's own"):
        estimator(gpus(4000)).need(spec("--mmproj", str(mmproj), mmproj_path=mmproj))
    mmproj.write_bytes(b"GGUF")
    with pytest.raises((GgufError, LoadFailed), match="damaged"):
        estimator(gpus(4000)).need(spec("--mmproj", str(mmproj), mmproj_path=mmproj))
