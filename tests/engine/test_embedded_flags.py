"""The flags of the embedded engine: what each sets in CommonParams, and that they are llama-server's."""

from __future__ import annotations

import enum
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from router.engine import flags
from router.engine.embedded import setters
from router.engine.embedded.arguments import configure
from router.engine.embedded.library import StartError
from router.engine.embedded.table import FLAGS, usage
from router.engine.help import parse_help

xllamacpp = pytest.importorskip("xllamacpp")

HOLDERS = re.compile("CpuParams|CommonParams(Model|Sampling|Speculative.*)")
ROWS = [
    line.split("\t")
    for line in Path(__file__).with_name("embedded_flags.tsv").read_text().splitlines()
    if not line.startswith("#")
]
# Flags of llama-server that this engine cannot serve, does not need, or that llama-server itself no longer takes.
MISSING = re.compile(
    r"--(usage|version|cache-list|completion-bash|list-devices|rpc|override-kv|control-vector.*|logit-bias|spm-infill"
    r"|top-n-sigma|dry-sequence-breaker|model-url|mmproj-url|docker-repo|tools-runtime|ssl-.*-file"
    r"|models-.*|draft-max|draft-n-min|spec-ngram-(size-.|min-hits)|(embd|fim|gpt|vision)-.*-(default|spec))"
)


def shown(value: Any) -> str:
    match value:
        case enum.Enum():
            return value.name
        case [bool(), *_]:
            return str([index for index, chosen in enumerate(value) if chosen])
        case [enum.Enum(), *_]:
            return " ".join(member.name for member in value)
        case [first, _, *_] if all(other == first for other in value):
            return f"{len(value)}*{first}"
        case [float(), *_]:
            return str([*itertools.dropwhile(lambda share: not share, value[::-1])][::-1])
        case [xllamacpp.CommonAdapterLoraInfo(), *_]:
            return " ".join(f"{adapter.path}:{adapter.scale}" for adapter in value)
        case xllamacpp.CommonGrammar():
            return f"{value.type.name} {value.grammar[:12].strip()}"
        case dict():
            return str(dict(sorted(value.items())))
        case set():
            return str(sorted(value))
        case _:
            return str(value)


def dump(params: Any, path: str = "") -> dict[str, str]:
    """Every attribute of CommonParams and of what it holds, by its path."""
    found: dict[str, str] = {}
    for name in dir(params):
        value = getattr(params, name)
        if HOLDERS.fullmatch(type(value).__name__):
            found |= dump(value, f"{path}{name}.")
        elif not (name.startswith("_") or callable(value) or name in ("user_sampling_config", "diffusion")):
            found[path + name] = shown(value)
    return found


def changes(*argv: str, **environ: str) -> set[str]:
    given = dump(configure(argv, {"LLAMA_ARG_MODEL": "x.gguf", **environ}))
    return {f"{path}={value}" for path, value in given.items() if value != PLAIN[path]}


PLAIN = dump(configure(["-m", "x.gguf"], {}))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the rows name."""
    (tmp_path / "content").write_text("text")
    (tmp_path / "schema").write_text('{"type":"object"}')
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("line", "expected"), [(line, set(sets)) for line, *sets in ROWS], ids=[row[0] for row in ROWS]
)
def test_each_flag_sets_its_attributes(line: str, expected: set[str]) -> None:
    name, *value = line.split(" ", 1)
    flag = next(flag for flag in FLAGS if name in flag.spellings + flag.negatives)
    same = flag.spellings if name in flag.spellings else flag.negatives
    for spelling in same:
        assert changes(spelling, *value) == expected
    if flag.env:
        off = flag.env.replace("_ARG_", "_ARG_NO_")
        variable = {flag.env: value[0] if value else "on"} if same is flag.spellings else {off: ""}
        assert changes(**variable) == expected
    if flag.negatives:
        last = {spelling: changes(name, spelling) for spelling in flag.spellings + flag.negatives}
        assert last[flag.spellings[0]] != last[flag.negatives[-1]]


def test_every_flag_has_a_row() -> None:
    shown = {line.split(" ")[0] for line, *_ in ROWS}
    rest = {flag.spellings[-1] for flag in FLAGS if not shown & {*flag.spellings, *flag.negatives}}
    ignored = {flag.spellings[-1] for flag in FLAGS if flag.setter is setters.nothing}
    assert rest == ignored | {"--spec-draft-device"}  # there is no device to name here
    for flag in FLAGS:
        if flag.spellings[-1] in rest:
            assert changes(flag.spellings[-1], *(["none"] if flag.arity else [])) == set()


def test_flags_are_those_of_llama_server() -> None:
    table = flags.default_table()
    ours = parse_help(usage())
    assert {flag.name for flag in ours.flags} <= {flag.name for flag in table.flags}
    for flag in FLAGS:
        theirs = table.find(flag.spellings[0])
        assert theirs, flag
        assert {*flag.spellings} == {*theirs.spellings}
        assert {*flag.negatives} == {*theirs.negatives}
        assert (flag.arity, flag.env) == (theirs.arity, theirs.env or "")
        read = ours.find(flag.spellings[0])
        assert read
        assert (read.arity, read.env, {*read.negatives}) == (theirs.arity, theirs.env, {*theirs.negatives})
    lacking = {flag.name for flag in table.flags} - {flag.name for flag in ours.flags}
    assert [name for name in lacking if not MISSING.fullmatch(name)] == []


@pytest.mark.parametrize(
    ("argv", "message", "code"),
    [
        (["--no-such-flag"], "--no-such-flag is not known to the embedded engine", 2),
        (["-c"], "-c needs a value", 2),
        (["--ctx_size", "many"], "--ctx_size: many cannot be used", 2),
        (["--ctx-size", "99999999999"], "too large", 2),
        (["--parallel", "0"], "must not be 0", 2),
        (["--port", "70000"], "from 0 to 65535", 2),
        (["--cache-type-k", "q9"], "must be one of f32, f16", 2),
        (["--device", "CUDA0"], "CUDA_VISIBLE_DEVICES", 2),
        (["--override-tensor", "x=GPU7"], "unknown buffer type", 2),
        (["--slot-save-path", "/no/such"], "is not a directory", 2),
        (["--json-schema", "{"], "--json-schema: { cannot be used", 2),
        (["--chat-template-file", "/no/such"], "/no/such cannot be read .No such file", 1),
    ],
)
def test_unusable_arguments_are_named(argv: list[str], message: str, code: int) -> None:
    with pytest.raises(StartError, match=message) as refused:
        configure(["-m", "x.gguf", *argv], {})
    assert refused.value.exit_code == code


def test_the_environment_ranks_below_the_command_line() -> None:
    """As in llama-server; an error about a variable names the variable."""
    assert changes("-c", "64", LLAMA_ARG_CTX_SIZE="32") == {"n_ctx=64"}
    assert changes("--jinja", LLAMA_ARG_NO_JINJA="1") == set()
    assert (PLAIN["port"], PLAIN["n_parallel"]) == ("8080", "-1")
    assert changes("--api-key", "b", LLAMA_API_KEY="a") == {"api_keys=['a', 'b']"}
    assert changes("-ot", "a=CPU", "--cpu-moe", LLAMA_ARG_OVERRIDE_TENSOR="b=CPU") == {
        r"tensor_buft_overrides=b=CPU,a=CPU,\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"
    }
    with pytest.raises(StartError, match="LLAMA_ARG_JINJA: perhaps"):
        changes(LLAMA_ARG_JINJA="perhaps")
    with pytest.raises(StartError, match="no model") as refused:
        configure([], {})
    assert refused.value.exit_code == 2


def test_sampling_of_the_user_is_marked() -> None:
    """Without the mark, the model's own `general.sampling.*` would replace it."""
    marks = xllamacpp.common_params_sampling_config
    params = configure(["-m", "x.gguf", "--temp", "1", "--repeat-last-n", "9", "--dry-multiplier", "1"], {})
    expected = marks.COMMON_PARAMS_SAMPLING_CONFIG_TEMP | marks.COMMON_PARAMS_SAMPLING_CONFIG_PENALTY_LAST_N
    assert params.sampling.user_sampling_config == expected


def test_tools_allow_local_origins_only() -> None:
    assert "cors_origins=localhost" in changes("--tools", "all")
    assert "cors_origins=*" not in changes("--agent")
    assert not {one for one in changes("--tools", "all", "--cors-origins", "*") if one.startswith("cors_origins=")}
