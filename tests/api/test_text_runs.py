"""Texts are cut out of events exactly where a parser would find them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from router.api.text_runs import TextRuns


def event(text: str, **more: object) -> bytes:
    return (
        b"data: "
        + json.dumps({"a": 1, "content": text, **more}, separators=(",", ":"), ensure_ascii=False).encode()
        + b"\n\n"
    )


def learned(text: str = "one", **more: object) -> TextRuns:
    runs = TextRuns("content")
    runs.learn(event(text, **more).rstrip(b"\n"), text)
    return runs


def test_texts_of_many_events() -> None:
    assert learned().texts(event("two")) == [b"two"]
    assert learned().texts(event("two") + event("") + event(" 3")) == [b"two", b"", b" 3"]


def test_nothing_is_known_before_an_event_is() -> None:
    assert TextRuns("content").texts(event("two")) is None


def test_what_cannot_be_learned() -> None:
    others = ((b'data: {"b":"one"}', "one"), (b'data: {"content":"two"}', "one"), (b'{"content":"a\\n"}', "a\n"))
    for line, text in others:
        runs = TextRuns("content")
        runs.learn(line, text)
        assert runs.texts(line + b"\n\n") is None
    twice = b'data: {"content":"one","more":{"content":"one"}}'
    runs = TextRuns("content")
    runs.learn(twice, "one")
    assert runs.texts(twice + b"\n\n") is None


ANY = st.text(max_size=6) | st.text('"\\\n\x00}{, contex:[]', max_size=8)


@given(st.lists(st.tuples(ANY, st.sampled_from([{}, {"b": 2}, {"content": "x"}])), min_size=1, max_size=5), st.text())
def test_texts_are_those_that_a_parser_finds(said: list[tuple[str, dict[str, object]]], first: str) -> None:
    data = b"".join(event(text, **more) for text, more in said)
    texts = learned(first).texts(data)
    if texts is not None:
        parsed = [json.loads(line[6:])["content"] for line in data.decode().split("\n\n") if line]
        assert [json.loads(b'"%b"' % text) for text in texts] == parsed


@given(st.binary(max_size=60), st.integers(0, 40))
def test_other_bytes_are_left_to_the_parser(noise: bytes, cut: int) -> None:
    data = event("two") + event("three")
    for odd in (data[:cut] + noise + data[cut:], noise + data, data + noise, data[cut:]):
        texts = learned().texts(odd)
        if texts is not None:
            lines = [line for line in odd.split(b"\n\n") if line]
            assert [json.loads(line[6:])["content"].encode() for line in lines] == texts
