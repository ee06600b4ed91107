"""Macros are replaced from the last to the first; variables of the environment stay references."""

from __future__ import annotations

from typing import Any

import pytest

from router.llama_swap.macros import Macros, Unexpandable, mark_variables, variables, with_references

ENTRIES: list[tuple[str, Any]] = [
    ("MODEL_ID", "m"),
    ("ctx", 4096),
    ("args", "-c ${ctx}"),
    ("all", "${args} -a ${MODEL_ID}"),
]


def test_macros_in_macros() -> None:
    assert Macros(ENTRIES).expand("x ${all} ${ctx}") == "x -c 4096 -a m 4096"
    assert Macros([*ENTRIES, ("ctx", 8)]).expand("${all}") == "-c 8 -a m"  # a model's own replaces that of all
    assert Macros([("on", True), ("t", 0.7), ("none", None)]).expand("${on} ${t}${none}") == "true 0.7"


def test_a_value_keeps_its_type() -> None:
    macros = Macros([("t", 0.7), ("on", False), ("name", "x"), ("map", {"a": 1})])
    value = {"a": ["${t}", "t=${t}", {"${name}": "${on}"}], "b": 5, "c": "${map}"}
    assert macros.expand_value(value) == {"a": [0.7, "t=0.7", {"x": False}], "b": 5, "c": {"a": 1}}


@pytest.mark.parametrize(
    ("entries", "text", "words"),
    [
        ([], "${nope}", "${nope} is not defined"),
        ([("a", "${b}"), ("b", "x")], "${a}", "${b} is not defined"),  # defined later
        ([("a", ["x"])], "${a}", "no text and no number"),
        ([(f"m{n}", f"${{m{n - 1}}}" * 8 if n else "x" * 8) for n in range(60)], "${m59}", "more than"),
    ],
)
def test_what_cannot_be_replaced(entries: list[tuple[str, Any]], text: str, words: str) -> None:
    with pytest.raises(Unexpandable, match="macro") as caught:
        Macros(entries).expand(text)
    assert words in str(caught.value)


def test_variables_stay_references() -> None:
    text = mark_variables("-m ${env.HOME}/x ${ctx} ${env.1bad}")
    assert variables(text) == ["HOME"]
    assert with_references(text, lambda name: f"<{name}>") == "-m <HOME>/x ${ctx} ${env.1bad}"
    assert variables(mark_variables("\ufdd0HOME\ufdd1")) == []
