from __future__ import annotations

import logging
from pathlib import Path

import pytest

from router.engine import flags
from router.engine.flags import Flag, FlagTable, render
from router.errors import PresetError
from router.models.presets import MAX_FILE_BYTES, examine, parse, read
from tests.models.rig import TABLE, mistakes, one_mistake, one_preset, sound

EXAMPLES = sorted((Path(__file__).parents[2] / "presets").glob("*.ini"))


def argv(text: str) -> str:
    return " ".join(render(one_preset(text).args))


def test_keys_may_be_long_short_or_variables() -> None:
    assert argv("ctx-size = 1\nngl=2\nLLAMA_ARG_CACHE_RAM = 3") == "--ctx-size 1 --n-gpu-layers 2 --cache-ram 3"


@pytest.mark.parametrize("on", ["true", "on", "1", "ON", "enabled"])
@pytest.mark.parametrize("off", ["false", "off", "0", "Off", "disabled"])
def test_switches_take_all_words(on: str, off: str) -> None:
    assert argv(f"jinja = {on}\nno-warmup = {on}\nmetrics = {on}") == "--jinja --no-warmup --metrics"
    assert argv(f"jinja = {off}\nno-warmup = {off}\nmetrics = {off}") == "--no-jinja --warmup"


def test_sections_inherit_defaults() -> None:
    text = """
version = 1
ctx-size = 1
tags = small, fast
env.A = 1
env.B = 1
metrics = on
lora = x
ttl = 60
[a]
c = 2
metrics = off
lora = y
lora = z
env.B = 2
[*]
pin = on
n-predict = 7
[b]
pin = off
ttl = 0
"""
    a, b = sound(text)
    assert render(a.args) == ["--ctx-size", "2", "--lora", "y", "--lora", "z", "--n-predict", "7"]
    assert render(b.args) == ["--ctx-size", "1", "--metrics", "--lora", "x", "--n-predict", "7"]
    assert (a.env, b.env) == ((("A", "1"), ("B", "2")), (("A", "1"), ("B", "1")))
    assert (a.pin, b.pin, a.ttl, b.ttl, a.tags) == (True, False, 60, 0, ("small", "fast"))
    assert parse(text, TABLE)[0].defaults.name == "*"


def test_origins_name_file_and_line() -> None:
    (a,) = parse("[*]\nc = 1\nttl = 3\n[a]\nctx-size = 2\npin = on", TABLE, Path("p.ini"))[0].presets
    assert a.origins == {"--ctx-size": "p.ini:5", "ttl": "[*] p.ini:3", "pin": "p.ini:6"}


def test_flags_that_the_router_sets_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "router.presets"):
        preset = one_preset(
            "port = 1\nhost = ::\napi-key = hush\nssl-key-file = x\nmodels-max = 1\nno-webui = on\nui = 0"
        )
    assert preset.args == ()
    assert len(caplog.records) == 7
    assert "port has no effect" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    ("line", "words", "nearest"),
    [
        ("ctx-sise = 5", ["ctx-sise", "ctx-size"], "ctx-size"),
        ("--ctx-size = 5", ["--ctx-size", "ctx-size"], "ctx-size"),
        ("stop-timeot = 5", ["stop-timeout"], "stop-timeout"),
        ("zzzzzzzz = 5", ["zzzzzzzz"], None),
        ("x" * 10_000 + " = 5", ["xxx"], None),
        ("help = on", ["help", "router"], None),
        ("api-prefix = /x", ["api-prefix", "router"], None),
        ("ctx-size =", ["ctx-size", "value"], None),
        ("reverse-prompt = # oh", ["reverse-prompt", "value", r"\#"], None),
        ("control-vector-layer-range = 5", ["2 values"], None),
        ("jinja = maybe", ["jinja", "on or off", "maybe"], None),
        ("pin = 2", ["pin", "on or off"], None),
        ("stop-timeout = soon", ["stop-timeout", "seconds", "soon"], None),
        ("ttl = -1", ["ttl", "seconds"], None),
        ("ttl = nan", ["ttl", "seconds"], None),
        ("stop-timeout = inf", ["stop-timeout", "seconds"], None),
        ("priority = 1.5", ["priority", "whole number"], None),
        ("env. = 1", ["env.", "NAME"], None),
        ("env.A-B = 1", ["env.A-B", "NAME"], None),
        ("env.LLAMA_ARG_PORT = 1", ["LLAMA_ARG_PORT", "router"], None),
        ("env.LLAMA_API_KEY = 1", ["LLAMA_API_KEY", "router"], None),
        ("env.CUDA_VISIBLE_DEVICES = 1", ["CUDA_VISIBLE_DEVICES", "device ="], None),
        ("just words", ["key = value", "behind just"], None),
        ("[unclosed", ["[name]"], None),
        ("[]", ["[name]"], None),
        ("[x] y", ["[name]"], None),
        ("[a]", ["[a]", "line 1"], None),
        ("pin = on\npin = on", ["pin", "line 2"], None),
        ("c = 1\nctx-size = 1", ["ctx-size", "line 2"], None),
    ],
)
def test_mistakes_are_named(line: str, words: list[str], nearest: str | None) -> None:
    text = f"[a]\n{line}\n"
    problem = one_mistake(text)
    assert all(word in problem.message for word in words), problem
    assert problem.nearest == nearest
    assert problem.line == text.count("\n")
    assert len(problem.message) < 250


def test_the_routers_margin_has_no_effect_in_a_preset(caplog: pytest.LogCaptureFixture) -> None:
    newer = FlagTable([*TABLE.flags, Flag.make(["--models-memory-margin"], [], 1, "LLAMA_ARG_MODELS_MEMORY_MARGIN")])
    for table in (TABLE, newer):
        for key in ("models-memory-margin", "LLAMA_ARG_MODELS_MEMORY_MARGIN"):
            file, problems = parse(f"[*]\n{key} = 512\n[a]\nhf-repo = user/repo\n", table)
            assert not problems
            assert "margin" not in str(file.presets[0].args)
            assert f"{key} has no effect: the router sets it" in caplog.text
            caplog.clear()


def test_keys_that_this_engine_lacks_are_named(caplog: pytest.LogCaptureFixture) -> None:
    lacking = FlagTable(flag for flag in TABLE.flags if flag.name not in ("--models-max", "--override-kv"))
    _, problems = parse("[a]\nmodels-max = 3\noverride-kv = a=int:1\n", lacking)
    assert [problem.line for problem in problems] == [3]
    assert "this engine lacks it" in problems[0].message
    assert "models-max has no effect" in caplog.text


def test_alias_for_all_is_a_mistake() -> None:
    assert "alias" in one_mistake("alias = x").message
    assert one_mistake("[*]\na = x").line == 2


def test_all_problems_at_once_in_order() -> None:
    text = "[a]\nx = 1\n[b\nctx-size = 1\ny = 2\n[a]\nz = 3\n[*]\nwhat\n[c]\nctx-size = 1"
    assert [problem.line for problem in mistakes(text)] == [2, 3, 5, 6, 7, 9]


def test_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.ini"
    path.write_bytes(b"\xef\xbb\xbf[a]\r\nmodel = x.gguf\r\n")
    file = read(path, TABLE)
    assert (file.path, file.presets[0].args[0].values) == (path, ("x.gguf",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[a]\nx1=1\nx2=2\nx3=3", [":2:", "x1", "2 more", "check"]),
        (b"[a]\nx1=1", [":2:", "x1"]),
        (b"[a]\n\xff\xfe=1", [":2:", "UTF-8"]),
        (b"GGUF" + bytes(MAX_FILE_BYTES), ["no preset file", "MiB"]),
        (None, ["cannot read", "No such file"]),
    ],
)
def test_bad_file_is_an_error_with_its_line(tmp_path: Path, content: bytes | None, words: list[str]) -> None:
    path = tmp_path / "bad.ini"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PresetError) as caught:
        read(path, TABLE)
    assert all(word in caught.value.message for word in [str(path), *words]), caught.value.message


def test_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="directory"):
        examine(tmp_path, TABLE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_sound(path: Path) -> None:
    file = read(path, TABLE)
    assert file.presets
    for preset in file.presets:
        assert {"--model", "--hf-repo"} & {arg.flag.name for arg in preset.args}, preset.name
        assert flags.parse(render(preset.args), TABLE) == preset.args


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
