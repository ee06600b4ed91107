"""A model's need: contexts, offload, and which source wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router import demo
from router.engine import discovery as engine
from router.engine import flags
from router.engine.discovery import Engine
from router.errors import GgufError, LoadFailed
from router.memory.demand import CONTEXT
from router.memory.estimate import SHORTEST, STEP, Estimator, Need
from router.memory.footprints import Footprint, Footprints
from router.models.spec import ModelSpec
from router.scheduling import policy
from router.scheduling.policy import Place
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.snapshot import Snapshot
from tests.conftest import Starter
from tests.routers import ENGINES

MIB = 2**20
TABLE = flags.default_table()
TRAINED = 131072  # the model's KV cache takes 256 bytes a token: 32 MiB for all of it


class Silent(Engine):
    """An engine that measures nothing."""

    def version(self) -> str:
        return "silent"


def gpus(*sizes: float) -> tuple[Device, ...]:
    """GPUs of so many MiB beside what every process takes of each, and 64 GiB of RAM; 1 MiB is to stay free."""
    made = [Device("n", f"CUDA{i}", "gpu", int(size * MIB) + CONTEXT + MIB, i) for i, size in enumerate(sizes)]
    return (*made, Device("n", "RAM", "host", 65536 * MIB))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_tiny(tmp_path_factory.mktemp("model") / "long.gguf", context=TRAINED)


@pytest.fixture
def spec(model: Path) -> Callable[..., ModelSpec]:
    def make(*argv: str, **more: Any) -> ModelSpec:
        args = flags.parse(["--model", str(model), "--parallel", "1", *argv], TABLE)
        return ModelSpec("long", "models_dir", args, model_path=model, **more)

    return make


@pytest.fixture
def estimator(tmp_path: Path) -> Callable[..., Estimator]:
    def make(devices: Sequence[Device], which: Engine | None = None, **environ: str) -> Estimator:
        margins = {device.key: MIB for device in devices}
        kept = Footprints(tmp_path / "footprints.json")
        return Estimator(which or Silent("silent", ("none",)), TABLE, devices, margins, kept, environ)

    return make


Specs = Callable[..., ModelSpec]
Estimators = Callable[..., Estimator]


def spread(devices: Sequence[Device], demand: Demand) -> int | None:
    margins = {device.key: MIB for device in devices}
    plan = policy.plan(Snapshot(tuple(Reading(device, None) for device in devices), margins=margins), demand)
    return len(plan.claim.devices) if isinstance(plan, Place) else None


def context(need: Need) -> int:
    assert need.estimate
    return need.estimate.n_ctx


def chosen(need: Need) -> tuple[str, ...]:
    """What the child is told of its place and size; last of all comes the end of its answers."""
    assert need.args[-2:-1] == ("--predict",)
    return need.args[:-2]


def test_a_context_that_fits_is_left_to_the_engine(estimator: Estimators, spec: Specs) -> None:  # B-D3
    need = estimator(gpus(200)).need(spec())
    assert (chosen(need), context(need), need.source) == ((), TRAINED, "header")


def test_an_automatic_context_is_the_largest_that_fits(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(30)
    need = estimator(devices).need(spec())
    length = context(need)
    assert chosen(need) == ("--ctx-size", str(length))
    assert length % STEP == 0
    assert SHORTEST < length < TRAINED
    assert spread(devices, need.demand) == 1
    longer = estimator(devices).need(spec("--ctx-size", str(length + STEP), "--n-gpu-layers", "all"))
    assert spread(devices, longer.demand) is None


def test_an_explicit_context_is_honoured(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(30)
    need = estimator(devices).need(spec("--ctx-size", str(TRAINED), "--n-gpu-layers", "all"))
    assert (chosen(need), context(need)) == ((), TRAINED)
    assert spread(devices, need.demand) is None  # and so it is refused, with the numbers
    need = estimator(devices).need(spec("--ctx-size", str(TRAINED)))
    assert (chosen(need), context(need)) == ((), TRAINED)
    assert spread(devices, need.demand) == 0  # the engine may keep layers in RAM


@pytest.mark.parametrize("where", ["router", "preset"])
def test_a_context_from_the_environment_is_explicit(estimator: Estimators, spec: Specs, where: str) -> None:
    variable = {"LLAMA_ARG_CTX_SIZE": "8192"}
    ours, theirs = (variable, {}) if where == "router" else ({}, variable)
    need = estimator(gpus(30), **ours).need(spec(env=tuple(theirs.items())))
    assert (chosen(need), context(need)) == ((), 8192)


def test_fewer_gpus_are_preferred_to_more_context(estimator: Estimators, spec: Specs) -> None:  # B-D3
    need = estimator(gpus(30, 30)).need(spec())
    assert spread(gpus(30, 30), need.demand) == 1
    assert context(need) < TRAINED


def test_slots_of_their_own_shorten_together(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(60)
    need = estimator(devices).need(spec("--parallel", "4"))
    assert chosen(need) == ("--ctx-size", str(context(need)))
    assert context(need) % (4 * STEP) == 0
    assert spread(devices, need.demand) == 1


def test_without_gpus_the_context_fits_the_ram(estimator: Estimators, spec: Specs) -> None:  # B-D3 B-D5
    devices = (Device("n", "RAM", "host", 65 * MIB),)
    need = estimator(devices).need(spec())
    assert SHORTEST <= context(need) < TRAINED
    assert spread(devices, need.demand) == 0
    assert need.demand.split == need.demand.fixed == 0


def test_weights_that_fit_nowhere_are_left_to_the_engine(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(6.5, 1)  # on the second there is not even room for the buffers
    whole = estimator(gpus(100)).need(spec("--ctx-size", str(SHORTEST))).demand
    need = estimator(devices).need(spec())
    assert chosen(need) == ("--ctx-size", str(SHORTEST))
    assert spread(devices, need.demand) == 1
    assert 0 < need.demand.split < whole.split
    assert need.demand.host + need.demand.split == whole.host + whole.split  # RAM counts for the rest


def test_without_room_on_any_gpu_all_of_it_goes_to_ram(estimator: Estimators, spec: Specs) -> None:  # B-D3
    need = estimator(gpus(1)).need(spec())
    assert spread(gpus(1), need.demand) == 0
    assert need.demand.host > need.estimate.weights + need.estimate.kv if need.estimate else False


def test_layers_that_were_asked_for_are_honoured(estimator: Estimators, spec: Specs) -> None:  # B-D3
    devices = gpus(6.5)
    asked = estimator(devices).need(spec("--n-gpu-layers", "all"))
    assert spread(devices, asked.demand) is None
    none = estimator(devices).need(spec("--n-gpu-layers", "0"))
    assert none.demand.split == none.demand.fixed == 0


def test_a_model_goes_to_several_gpus_by_whole_layers(estimator: Estimators, spec: Specs) -> None:  # B-D1
    whole = estimator(gpus(1000)).need(spec("--ctx-size", "131072")).demand
    devices = gpus(*((whole.fixed - CONTEXT + part * whole.split) / MIB for part in (0.6, 0.8)))
    claim = policy.plan(estimator(devices).empty, estimator(devices).need(spec("--ctx-size", "131072")).demand)
    assert isinstance(claim, Place)
    assert sum(claim.claim.layer_counts) == len(whole.layers)
    assert len(claim.claim.layer_counts) == 2


def test_what_is_left_to_the_engine_is_not_divided_by_us(estimator: Estimators, spec: Specs) -> None:
    assert estimator(gpus(6.5, 1)).need(spec()).demand.layers == ()


def test_a_split_that_the_user_gave_is_never_left_to_the_engine(estimator: Estimators, spec: Specs) -> None:
    need = estimator(gpus(6.5, 6.5)).need(spec("--ctx-size", str(TRAINED), "--tensor-split", "1,1"))
    assert sum(need.demand.user_split) == need.demand.split
    assert spread(gpus(6.5, 6.5), need.demand) is None


@pytest.mark.parametrize(
    ("devices", "have"), [(gpus(100, 100), "the GPUs here are CUDA0, CUDA1"), (gpus(), "the GPUs here are none")]
)
def test_a_gpu_that_is_not_there(estimator: Estimators, spec: Specs, devices: Sequence[Device], have: str) -> None:
    with pytest.raises(LoadFailed, match=f"'long' cannot be loaded: it asks for CUDA9, and {have}"):
        estimator(devices).need(spec("--device", "CUDA0,CUDA9" if len(devices) > 1 else "CUDA9"))
    with pytest.raises(LoadFailed, match="CUDA9"):
        estimator(devices, LLAMA_ARG_DEVICE="CUDA9").need(spec(), quick=True)


@pytest.mark.parametrize("names", ["Metal", "Vulkan0,Vulkan1", "SYCL0", "none"])
def test_devices_that_no_mask_can_pick_are_told_to_the_child(estimator: Estimators, spec: Specs, names: str) -> None:
    for devices in (gpus(), gpus(200)):
        need = estimator(devices).need(spec("--device", names))
        assert need.args[:2] == ("--device", names)
        assert need.demand.names == ()
        assert need.demand.fixed == 0 or names != "none"
    assert "--device" not in estimator(gpus(200)).need(spec("--device", "CUDA0")).args


def test_one_main_gpu(estimator: Estimators, spec: Specs) -> None:
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


def test_a_file_that_has_gone(estimator: Estimators, spec: Specs, tmp_path: Path) -> None:
    gone = replace(spec(), model_path=tmp_path / "gone.gguf")
    for ask in (estimator(gpus()).need, lambda spec: estimator(gpus()).learn(spec, Footprint(0, 0, 1))):
        with pytest.raises(GgufError, match=r"gone\.gguf cannot be read \(No such file"):
            ask(gone)


def test_a_model_that_is_not_here_goes_to_a_gpu(estimator: Estimators) -> None:
    spec = ModelSpec("far", "preset", flags.parse(["--hf-repo", "a/b"], TABLE))
    assert estimator(gpus(100)).need(spec).demand == Demand(fixed=CONTEXT)
    assert estimator(gpus()).need(spec).demand == Demand()
    named = ModelSpec("far", "preset", flags.parse(["--hf-repo", "a/b", "--device", "CUDA1"], TABLE))
    assert estimator(gpus(100, 100)).need(named).demand == Demand(fixed=CONTEXT, names=("CUDA1",))


# ---- what nobody said


SWITCH = "{% if add_generation_prompt and enable_thinking is defined and enable_thinking %}<think>{% endif %}"
OFF = ("--chat-template-kwargs", '{"enable_thinking": false}')


@pytest.mark.parametrize(
    ("text", "said", "told"),
    [
        (SWITCH, (), OFF),
        (SWITCH, ("--reasoning", "auto", "--reasoning-budget", "-1", "--reasoning-effort", "default"), OFF),
        (SWITCH, ("--reasoning", "on"), ()),
        (SWITCH, ("--reasoning", "off"), ()),
        (SWITCH, ("--reasoning-budget", "0"), ()),
        (SWITCH, ("--reasoning-effort", "high"), ()),
        (SWITCH, ("--chat-template-kwargs", '{"custom": 1}'), ()),
        (SWITCH.replace("defined and", "undefined or"), (), ()),  # on, which llama.cpp presumes
        (SWITCH.replace("enable_thinking", "thinking"), (), ()),  # llama.cpp leaves it undefined
        ("{{ reasoning_effort | default('low') }}", (), ()),
        ("chatml", (), ()),  # built into the engine
    ],
)
def test_the_authors_default_of_thinking(
    estimator: Estimators, spec: Specs, tmp_path: Path, text: str, said: Sequence[str], told: Sequence[str]
) -> None:
    (tmp_path / "t.jinja").write_text(text)
    as_text = spec("--chat-template", text, *said)
    as_file = spec("--chat-template-file", str(tmp_path / "t.jinja"), *said)
    given = spec("--chat-template", "{{ of_no_use }}", *said, template=text)
    for each in (as_text, as_file, given):
        assert chosen(estimator(gpus(200)).need(each)) == tuple(told)


def test_a_template_file_that_changes_or_goes(estimator: Estimators, spec: Specs, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    one, asked = estimator(gpus(200)), spec("--chat-template-file", str(file))
    assert chosen(one.need(asked)) == ()
    file.write_text(SWITCH)
    assert chosen(one.need(asked)) == OFF
    file.write_bytes(b"\xff" * 10_000_000)
    assert chosen(one.need(asked)) == ()


def test_the_environment_decides_about_thinking(estimator: Estimators, spec: Specs) -> None:
    template = {"LLAMA_ARG_CHAT_TEMPLATE": SWITCH}
    assert chosen(estimator(gpus(200), **template).need(spec())) == OFF
    assert chosen(estimator(gpus(200)).need(spec(env=tuple(template.items())))) == OFF
    said = {"LLAMA_ARG_CHAT_TEMPLATE_KWARGS": "{}"}
    assert chosen(estimator(gpus(200), **said).need(spec("--chat-template", SWITCH))) == ()


@pytest.mark.parametrize(
    ("argv", "limit"),
    [
        ((), str(TRAINED)),
        (("--ctx-size", "8192"), "8192"),
        (("--ctx-size", "8192", "--parallel", "4"), "2048"),
        (("--ctx-size", "8192", "--parallel", "4", "--kv-unified"), "8192"),
        (("--ctx-size", "8192", "--parallel", "4", "--kv-unified", "--kv-unified-per-slot", "3000"), "3000"),
        (("--ctx-size", str(2 * TRAINED)), str(TRAINED)),
        (("--predict", "-1"), None),
        (("--embedding",), None),
        (("--rerank",), None),
    ],
)
def test_an_answer_ends_with_the_context(
    estimator: Estimators, spec: Specs, argv: Sequence[str], limit: str | None
) -> None:  # B-L14
    assert estimator(gpus(900)).need(spec(*argv)).args == (("--predict", limit) if limit else ())


def test_the_environment_ends_answers(estimator: Estimators, spec: Specs) -> None:  # B-L14
    assert estimator(gpus(200), LLAMA_ARG_N_PREDICT="7").need(spec()).args == ()
    assert estimator(gpus(200)).need(spec(env=(("LLAMA_ARG_N_PREDICT", "7"),))).args == ()


def test_an_engine_is_told_what_it_knows(spec: Specs, tmp_path: Path) -> None:
    known = flags.FlagTable(flag for flag in TABLE.flags if flag.name not in ("--predict", "--n-predict", OFF[0]))
    kept = Footprints(tmp_path / "footprints.json")
    one = Estimator(Silent("silent", ("none",)), known, gpus(200), {}, kept, {})
    assert one.need(spec("--chat-template", SWITCH)).args == ()


def test_who_says_no_limit_gets_one_context(engine: str, routers: Starter, tiny_models: Path) -> None:  # B-L14
    flags = ("--models-dir", str(tiny_models), "--ctx-size", "256", "--parallel", "1", "--context-shift")
    router = routers("--engine", engine, *flags)

    def ask(**limit: int) -> tuple[str, int]:
        body = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}], **limit}
        answer = router.client.post("/v1/chat/completions", json=body).raise_for_status().json()
        return answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]

    assert ask() == ("length", 256)
    assert ask(max_tokens=-1) == ("length", 256)
    assert ask(max_tokens=5) == ("length", 5)
    assert ask(max_completion_tokens=300) == ("length", 300)  # its own limit counts, though it is the larger one
