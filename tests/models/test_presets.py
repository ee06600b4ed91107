import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine import flags
from router.engine.flags import Arg, FlagTable, default_table, merge, render
from router.errors import PresetError
from router.models.presets import LARGEST, Preset, Problem, examine, ini, parse, read

TABLE = default_table()
EXAMPLES = sorted((Path(__file__).parents[2] / "presets").glob("*.ini"))


def sound(text: str) -> tuple[Preset, ...]:
    file, problems = parse(text, TABLE)
    assert not problems
    return file.presets


def one(text: str) -> Preset:
    (preset,) = sound(text if text.startswith("[") else f"[a]\n{text}")
    return preset


def argv(text: str) -> str:
    return " ".join(render(one(text).args))


def mistakes(text: str) -> tuple[Problem, ...]:
    return parse(text, TABLE)[1]


def mistake(text: str) -> Problem:
    (problem,) = mistakes(text)
    return problem


def test_keys_are_long_short_or_variables() -> None:
    assert argv("ctx-size = 1\nngl=2\nLLAMA_ARG_CACHE_RAM = 3") == "--ctx-size 1 --n-gpu-layers 2 --cache-ram 3"


@pytest.mark.parametrize("on", ["true", "on", "1", "ON", "enabled"])
@pytest.mark.parametrize("off", ["false", "off", "0", "Off", "disabled"])
def test_switches(on: str, off: str) -> None:
    assert argv(f"jinja = {on}\nno-warmup = {on}\nmetrics = {on}") == "--jinja --no-warmup --metrics"
    assert argv(f"jinja = {off}\nno-warmup = {off}\nmetrics = {off}") == "--no-jinja --warmup"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("penalties;dry;top_k", "penalties;dry;top_k"),
        ("C#-model#2", "C#-model#2"),
        ("a ; comment", "a"),
        ("a\t# comment # more", "a"),
        ("a;b #c", "a;b"),
        (r"\### User: \#1 # comment", "### User: #1"),
        (r"a \\# b", r"a \# b"),
        (r"C:\models\;x", r"C:\models\;x"),
        ('{"a": "b = c"}', '{"a": "b = c"}'),
        ("  spaced out  ", "spaced out"),
        ("ünïcode", "ünïcode"),
    ],
)
def test_values_lose_no_text(written: str, value: str) -> None:
    assert one(f"reverse-prompt = {written}").args[0].values == (value,)
    assert one(f"description = {written}").description == value


def test_comments_and_line_ends() -> None:
    text = "; c\r\n# c\r\r\n  [ a b/c:D ] ; c\r\n\t; c\r\n  ctx-size=5 ;c\r[b]# c\nctx-size=6"
    assert [(p.name, p.line, p.args[0].values) for p in sound(text)] == [("a b/c:D", 4, ("5",)), ("b", 7, ("6",))]


def test_sections_inherit() -> None:
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


def test_origins() -> None:
    (a,) = parse("[*]\nc = 1\nttl = 3\n[a]\nctx-size = 2\npin = on", TABLE, Path("p.ini"))[0].presets
    assert a.origins == {"--ctx-size": "p.ini:5", "ttl": "[*] p.ini:3", "pin": "p.ini:6"}


def test_own_keys() -> None:
    preset = one("""
alias = x, y ,
load-on-startup = 1
stop-timeout = 2.5
pin = yes
ttl = 90
priority = -3
dev = CUDA1, CUDA0
unlisted = on
description = it has a ; in it
env.HTTP_PROXY = http://x
dedup-cache-models = 1
""")
    assert preset == Preset(
        "a",
        aliases=("x", "y"),
        load_on_startup=True,
        stop_timeout=2.5,
        pin=True,
        ttl=90.0,
        priority=-3,
        device=("CUDA1", "CUDA0"),
        unlisted=True,
        description="it has a",
        env=(("HTTP_PROXY", "http://x"),),
        dedup_cache_models=True,
    )


def test_what_upstream_strips_is_tolerated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "router.presets"):
        preset = one("port = 1\nhost = ::\napi-key = hush\nssl-key-file = x\nmodels-max = 1\nno-webui = on\nui = 0")
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
    problem = mistake(text)
    assert all(word in problem.message for word in words), problem
    assert problem.nearest == nearest
    assert problem.line == text.count("\n")
    assert len(problem.message) < 250


def test_keys_that_this_engine_lacks(caplog: pytest.LogCaptureFixture) -> None:
    lacking = FlagTable(flag for flag in TABLE.flags if flag.name not in ("--models-max", "--override-kv"))
    _, problems = parse("[a]\nmodels-max = 3\noverride-kv = a=int:1\n", lacking)
    assert [problem.line for problem in problems] == [3]
    assert "this engine lacks it" in problems[0].message
    assert "models-max has no effect" in caplog.text


def test_alias_for_all_is_a_mistake() -> None:
    assert "alias" in mistake("alias = x").message
    assert mistake("[*]\na = x").line == 2


def test_all_problems_at_once_in_order() -> None:
    text = "[a]\nx = 1\n[b\nctx-size = 1\ny = 2\n[a]\nz = 3\n[*]\nwhat\n[c]\nctx-size = 1"
    assert [problem.line for problem in mistakes(text)] == [2, 3, 5, 6, 7, 9]


def test_good_file(tmp_path: Path) -> None:
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
        (b"GGUF" + bytes(LARGEST), ["no preset file", "MiB"]),
        (None, ["cannot read", "No such file"]),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes | None, words: list[str]) -> None:
    path = tmp_path / "bad.ini"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PresetError) as caught:
        read(path, TABLE)
    assert all(word in caught.value.message for word in [str(path), *words]), caught.value.message


def test_folder_is_no_file(tmp_path: Path) -> None:
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


ALLOWED = [f for f in TABLE.flags if f.name not in flags.OWNED | {"--tags", "--device", "--version"} and f.arity < 2]
VALUES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=r" \;#="), min_size=1).map(str.strip)
ARGS = st.sampled_from(ALLOWED).flatmap(
    lambda f: (
        st.builds(Arg, st.just(f), st.tuples(VALUES.filter(bool)))
        if f.arity
        else st.builds(Arg, st.just(f), st.just(()), st.booleans())
    )
)


@given(st.lists(ARGS, max_size=6))
def test_parse_undoes_ini(args: list[Arg]) -> None:
    args = list(merge(args))
    assert one(ini("a", args)).args == tuple(args)


@given(st.text(st.sampled_from("[]*a=;#\\ \n\rcpin"), max_size=40))
def test_any_text_is_answered(text: str) -> None:
    file, problems = parse(text, TABLE)
    assert all(problem.line for problem in problems)
    assert len({p.name for p in file.presets}) == len(file.presets) or problems


# Filters of requests


def test_filters() -> None:
    preset = one(
        'set-params = {"top_k": 20, "chat_template_kwargs": {"a": [1, null]}}\n'
        'default-params = {"temperature": 0.5}\nstrip-params = logprobs, user\nsystem-prefix = One.\\nTwo.'
    )
    assert preset.filters is not None
    assert preset.filters.forced == (("top_k", "20"), ("chat_template_kwargs", '{"a": [1, null]}'))
    assert preset.filters.defaults == (("temperature", "0.5"),)
    assert preset.filters.dropped == ("logprobs", "user")
    assert preset.filters.system == "One.\nTwo."
    assert preset.args == ()
    assert one("ctx-size = 1").filters is None
    assert one("set-params = {}\nstrip-params =").filters is None


def test_filters_of_all_models_are_taken_over_key_by_key() -> None:
    text = '[*]\nset-params = {"seed": 1}\nsystem-prefix = All.\n[a]\nset-params = {"top_k": 2}\n[b]\nsystem-prefix ='
    a, b = sound(text)
    assert a.filters
    assert (a.filters.forced, a.filters.system) == ((("top_k", "2"),), "All.")
    assert b.filters
    assert (b.filters.forced, b.filters.system) == ((("seed", "1"),), "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("set-params = {", "no JSON"),
        ("set-params = [1]", "a JSON object"),
        ("default-params = 5", "a JSON object"),
        ('default-params = {"a": NaN}', "no JSON"),
        ('default-params = {"a": [1e999]}', "no JSON"),
        ('set-params = {"model": "b"}', "cannot change 'model'"),
        ("strip-params = user, stream", "cannot change 'stream'"),
        ("set-param = {}", "did you mean set-params?"),
    ],
)
def test_mistakes_in_filters(line: str, says: str) -> None:
    problem = mistake(f"[a]\nctx-size = 1\n{line}")
    assert (problem.line, problem.key) == (3, line.partition(" ")[0])
    assert says in problem.message
