"""Arguments that a child gets although the user has not given them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from router.engine import flags
from router.memory.estimator import Estimator
from router.memory.footprints import Footprints
from tests.conftest import Starter
from tests.memory.rig import TABLE, TRAINED, Estimators, Silent, Specs, gpus, own_args

SWITCH = "{% if add_generation_prompt and enable_thinking is defined and enable_thinking %}<think>{% endif %}"
OFF = ("--chat-template-kwargs", '{"enable_thinking": false}')


@pytest.mark.parametrize(
    ("text", "given", "implied"),
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
def test_the_authors_default_of_thinking_is_passed_on(
    estimator: Estimators, spec: Specs, tmp_path: Path, text: str, given: Sequence[str], implied: Sequence[str]
) -> None:
    (tmp_path / "t.jinja").write_text(text)
    as_text = spec("--chat-template", text, *given)
    as_file = spec("--chat-template-file", str(tmp_path / "t.jinja"), *given)
    replaced = spec("--chat-template", "{{ of_no_use }}", *given, template=text)
    for each in (as_text, as_file, replaced):
        assert own_args(estimator(gpus(200)).need(each)) == tuple(implied)


def test_template_file_is_read_again_when_it_changes(estimator: Estimators, spec: Specs, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    one, with_file = estimator(gpus(200)), spec("--chat-template-file", str(file))
    assert own_args(one.need(with_file)) == ()
    file.write_text(SWITCH)
    assert own_args(one.need(with_file)) == OFF
    file.write_bytes(b"\xff" * 10_000_000)
    assert own_args(one.need(with_file)) == ()


def test_the_environment_decides_about_thinking(estimator: Estimators, spec: Specs) -> None:
    template = {"LLAMA_ARG_CHAT_TEMPLATE": SWITCH}
    assert own_args(estimator(gpus(200), **template).need(spec())) == OFF
    assert own_args(estimator(gpus(200)).need(spec(env=tuple(template.items())))) == OFF
    variables = {"LLAMA_ARG_CHAT_TEMPLATE_KWARGS": "{}"}
    assert own_args(estimator(gpus(200), **variables).need(spec("--chat-template", SWITCH))) == ()


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
        (("--embedding", "--ubatch-size", "512"), None),
        (("--rerank", "--ubatch-size", "512"), None),
    ],
)
def test_an_answer_ends_with_the_context(
    estimator: Estimators, spec: Specs, argv: Sequence[str], limit: str | None
) -> None:  # B-L14
    embeds = {"--embedding", "--rerank"}.intersection(argv)
    no_cache = ("--cache-ram", "0") if embeds else ()  # what embeds keeps no prompts
    assert estimator(gpus(900)).need(spec(*argv)).args == ((("--predict", limit) if limit else ()) + no_cache)


def test_the_environment_ends_answers(estimator: Estimators, spec: Specs) -> None:  # B-L14
    assert estimator(gpus(200), LLAMA_ARG_N_PREDICT="7").need(spec()).args == ()
    assert estimator(gpus(200)).need(spec(env=(("LLAMA_ARG_N_PREDICT", "7"),))).args == ()


def test_engine_gets_only_flags_that_it_knows(spec: Specs, tmp_path: Path) -> None:
    known = flags.FlagTable(flag for flag in TABLE.flags if flag.name not in ("--predict", "--n-predict", OFF[0]))
    kept = Footprints(tmp_path / "footprints.json")
    one = Estimator(Silent("silent", ("none",)), known, gpus(200), {}, kept, {})
    assert one.need(spec("--chat-template", SWITCH)).args == ()


def test_request_without_limit_ends_after_one_context(
    engine: str, routers: Starter, tiny_models: Path
) -> None:  # B-L14
    flags = ("--models-dir", str(tiny_models), "--ctx-size", "256", "--parallel", "1", "--context-shift")
    router = routers("--engine", engine, *flags)

    def answer(**limit: int) -> tuple[str, int]:
        body = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}], **limit}
        response = router.client.post("/v1/chat/completions", json=body).raise_for_status().json()
        return response["choices"][0]["finish_reason"], response["usage"]["completion_tokens"]

    assert answer() == ("length", 256)
    assert answer(max_tokens=-1) == ("length", 256)
    assert answer(max_tokens=5) == ("length", 5)
    assert answer(max_completion_tokens=300) == ("length", 300)  # its own limit counts, though it is the larger one
