"""YAML as plain data, within bounds."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.llama_swap.document import MAX_DEPTH, MAX_SCALAR_BYTES, Document, Table, Unreadable


def plain(text: str) -> object:
    return Document(f"x: {text}\n").root["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-0.5", -0.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("on", "on"),  # a boolean in YAML 1.1
        ("no", "no"),
        ("2024-01-01", "2024-01-01"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("[a, 1]", ["a", 1]),
        ("{a: 1, b: [true]}", {"a": 1, "b": [True]}),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">\n  a\n  b\n", "a b\n"),
        ("!!python/object/apply:os.system [ls]", ["ls"]),
    ],
)
def test_scalars_are_those_of_json(text: str, value: object) -> None:
    assert plain(text) == value


def test_keys_are_words_with_lines() -> None:
    root = Document("a: 1\n7b: {x: 1}\non: 2\n1.5: 3\na: 4\n").root
    assert root == {"a": 4, "7b": {"x": 1}, "on": 2, "1.5": 3}
    assert root.lines == {"a": 5, "7b": 2, "on": 3, "1.5": 4}
    assert root.doubled == ["a"]
    assert "4" not in repr(root["7b"])


def test_anchors_and_merges() -> None:
    root = Document("base: &b {ttl: 5, cmd: x}\na: {<<: *b, ttl: 6}\nc: *b\nd: {<<: [*b, {e: 1}]}\n").root
    assert root["a"] == {"ttl": 6, "cmd": "x"}
    assert root["c"] == root["base"]
    assert root["d"] == {"ttl": 5, "cmd": "x", "e": 1}


def test_the_first_document_counts() -> None:
    document = Document("---\na: 1\n---\nb: 2\n")
    assert document.root == {"a": 1}
    assert document.has_more
    assert not Document("a: 1\n").has_more


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (bomb(9), 5, "with what its aliases repeat"),
        ("a: " + "[" * (MAX_DEPTH + 2), 1, "deeper than"),
        ("a: " + "[" * 100_000, 1, "deeper than"),
        ("a: &a [*a]", 1, "no anchor"),
        ("? [a]\n: 1", 1, "a key is a word"),
        ("b: &b x\n*b : 1", 2, "a key is a word"),
        ("a: {<<: 5}", 1, "<< takes a mapping"),
        ("a: 1\n b: 2\n", 2, "this is no YAML"),
        ("a: 'x", 1, "this is no YAML"),
        ("a:\n\t- b\n", 2, "this is no YAML"),
        ("a: \x07", 0, "this is no YAML"),
        ("", 0, "no configuration"),
        ("- a", 0, "no configuration"),
        ("just words", 0, "no configuration"),
        ("%TAG", 1, "this is no YAML"),
        (f"a: {'x' * (MAX_SCALAR_BYTES + 1)}", 1, "longer than"),
    ],
)
def test_what_is_none_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(Unreadable) as caught:
        Document(text)
    assert words in caught.value.message
    assert caught.value.line == line
    assert len(caught.value.message) < 200


@given(st.text(st.sampled_from("ab:&*[]{}- \n'\"|>!%#<~?,"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Unreadable):
        assert isinstance(Document(text).root, Table)
