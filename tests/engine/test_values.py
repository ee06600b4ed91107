"""What values flags take; the tables speak of flags that b11434 has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine import renamed, values
from router.engine.flags import Arg, default_table, unknown_flag

TABLE = default_table()
NAMES = {
    *(values.PATHS | values.TEXTS | values.SWITCH_WORDS | values.LAYERS | values.FRACTIONS),
    *values.CHOICES,
    *values.WHOLE,
    *values.SHAPES,
    "--override-kv",
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_tables_name_flags_by_their_names(name: str) -> None:
    flag = TABLE.find(name)
    assert flag
    assert flag.name == name
    assert flag.arity == 1


@pytest.mark.parametrize("old", sorted(renamed.RENAMED))
def test_what_a_flag_is_called_now_exists(old: str) -> None:
    now = renamed.RENAMED[old]
    assert bool(now.key) != bool(now.why)
    if now.key:
        found = TABLE.by_key(now.key)
        assert found
        assert now.value is None or values.fault(Arg(found[0], (now.value,) if found[0].arity else ())) is None
    assert now.key is None or now.key in str(now)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--no-mmap", "unknown flag '--no-mmap': write --load-mode none"),
        ("--mlock", "write --load-mode mlock"),
        ("--ctx_size_draft", "leave it out"),
        ("--lora-base=x", "leave it out"),
    ],
)
def test_hints_on_the_command_line(word: str, hint: str) -> None:
    assert hint in unknown_flag(word, TABLE)


@given(st.sampled_from(sorted(NAMES)), st.text(max_size=20) | st.integers().map(str) | st.floats().map(str))
def test_any_value_is_right_or_has_a_sentence(name: str, value: str) -> None:
    flag = TABLE.find(name)
    assert flag
    wrong = values.fault(Arg(flag, (value,)))
    assert wrong is None or (wrong.startswith("takes ") and len(wrong) < 300)
    for path in values.paths_of(Arg(flag, (value,))):
        assert path in value


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        (
            "override-kv",
            ["a.b=int:3", "a=int:-5,b=bool:true, c=float:1e-5", "a=str:x,b=str:", '"a=str:x,y"', "a=str:x:y=z"],
            [
                "a.b=3",
                "a",
                "",
                "a=int:x",
                "a=bool:yes",
                "a=bool:1",
                "a=int:5,",
                "a=str:x,y",
                "a= int:5",
                "a=u32:5",
                "a=str:" + "x" * 128,
                "k" * 128 + "=int:1",
                "a=int:٣",
            ],
        ),
        ("override-tensor", ["exps=CPU", r"blk\.(1|2)\.=CUDA0,b=CPU"], ["exps", "a=CPU,", "a=CPU,b", "=CPU", ""]),
        ("logit-bias", ["15043+1", "15043-1.5", "5 + 1", "5-inf", "5+1,6-2"], ["5", "x+1", "5+", "5+x", "{}"]),
        ("fit-target", ["1024", "1024,2048", "1/2", "1024,"], ["1024,x", "x", "1G", "-5", ""]),
        ("cpu-mask", ["ff", "0xFF"], ["zz", "0-3", ""]),
        ("cpu-range", ["0-3", "5-", "-5"], ["5", "0:3", "a-b", ""]),
        ("lora-scaled", ["x.gguf:0.5", "C:\\x.gguf:-1,y:2"], ["x.gguf", "x.gguf 0.5", "x:big", "x:1,y", "x:", ""]),
        ("control-vector-scaled", ["x:1"], ["x"]),
        ("parallel", ["1", "-1", "4"], ["0", "+0", "00", "auto"]),
        ("ctx-size", ["4096", "0"], ["\u0664\u0660", "\u00b2", "\uff11"]),
        ("temperature", ["0.7", "-1", ".5", "1e-3"], ["\u0663", "\u00bd", "0,7"]),
        ("n-gpu-layers", ["99", "all"], ["\u0669", "many"]),
        ("tensor-split", ["3,1", "1/2"], ["\u0663,1", "3;1"]),
    ],
)
def test_shapes_that_the_engine_ends_for(name: str, right: list[str], wrong: list[str]) -> None:  # B-F7
    flag = TABLE.find(f"--{name}")
    assert flag
    assert [(value, said) for value in right if (said := values.fault(Arg(flag, (value,))))] == []
    assert [value for value in wrong if not values.fault(Arg(flag, (value,)))] == []
