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
