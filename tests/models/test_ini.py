from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine import flags
from router.engine.flags import Arg, merge
from router.models.ini import write_section
from router.models.presets import parse
from tests.models.rig import TABLE, one_preset, sound


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
    assert one_preset(f"reverse-prompt = {written}").args[0].values == (value,)
    assert one_preset(f"description = {written}").description == value


def test_comments_and_line_ends_are_understood() -> None:
    text = "; c\r\n# c\r\r\n  [ a b/c:D ] ; c\r\n\t; c\r\n  ctx-size=5 ;c\r[b]# c\nctx-size=6"
    assert [(p.name, p.line, p.args[0].values) for p in sound(text)] == [("a b/c:D", 4, ("5",)), ("b", 7, ("6",))]


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
def test_written_section_reads_back(args: list[Arg]) -> None:
    args = list(merge(args))
    assert one_preset(write_section("a", args)).args == tuple(args)


@given(st.text(st.sampled_from("[]*a=;#\\ \n\rcpin"), max_size=40))
def test_any_text_is_answered(text: str) -> None:
    file, problems = parse(text, TABLE)
    assert all(problem.line for problem in problems)
    assert len({p.name for p in file.presets}) == len(file.presets) or problems
