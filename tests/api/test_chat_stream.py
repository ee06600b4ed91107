"""A stream of chat completions, however it is cut into pieces, and whatever it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.chat_stream import MAX_EVENT_BYTES, Chunk, EventReader, Texts
from router.errors import RouterError, UpstreamFailed

TAIL = ',"created":1760000000,"id":"chatcmpl-0","object":"chat.completion.chunk"}'


def event(**delta: Any) -> bytes:
    """As llama-server writes it."""
    words = json.dumps(delta, ensure_ascii=False, separators=(",", ":"))
    return f'data: {{"choices":[{{"finish_reason":null,"index":0,"delta":{words}}}]{TAIL}\n\n'.encode()


def read(*parts: bytes) -> list[tuple[str, str]]:
    """What is said, with its kind; pieces of one kind are put together."""
    reader, said = EventReader(), list[tuple[str, str]]()

    def say(kind: str, text: str) -> None:
        if said and said[-1][0] == kind:
            text = said.pop()[1] + text
        said.append((kind, text))

    for part in parts:
        for found in reader.read(part):
            if isinstance(found, Texts):
                say("thoughts" if found.are_thoughts else "text", "".join(found.pieces))
                continue
            for choice in found.choices:
                if choice.delta.reasoning_content is not None:
                    say("thoughts", choice.delta.reasoning_content)
                if choice.delta.content is not None:
                    say("text", choice.delta.content)
                for call in choice.delta.tool_calls or ():
                    say("call", (call.function.arguments if call.function else None) or "")
    return said


PIECES = st.lists(
    st.tuples(st.sampled_from(["content", "content", "reasoning_content", "tool_calls"]), st.text(max_size=6)),
    max_size=12,
)


@given(pieces=PIECES, cuts=st.lists(st.integers(1, 300), max_size=20))
def test_nothing_depends_on_the_cuts(pieces: list[tuple[str, str]], cuts: list[int]) -> None:
    expected: list[tuple[str, str]] = []
    body = b": ping\n\n"
    names = {"content": "text", "reasoning_content": "thoughts", "tool_calls": "call"}
    for name, text in pieces:
        value = [{"index": 0, "function": {"arguments": text}}] if name == "tool_calls" else text
        body += event(**{name: value})
        if expected and expected[-1][0] == names[name]:
            text = expected.pop()[1] + text
        expected.append((names[name], text))
    parts = []
    for cut in cuts:
        parts.append(body[:cut])
        body = body[cut:]
    assert read(*parts, body) == expected


@given(pieces=PIECES, cuts=st.lists(st.integers(1, 300), max_size=6), together=st.integers(1, 9))
def test_nothing_depends_on_what_comes_together(pieces: list[tuple[str, str]], cuts: list[int], together: int) -> None:
    """Events as pieces of their own, as an engine writes them; some are cut, and several come at once."""
    expected: list[tuple[str, str]] = []
    sent = []
    names = {"content": "text", "reasoning_content": "thoughts", "tool_calls": "call"}
    for name, text in pieces:
        value = [{"index": 0, "function": {"arguments": text}}] if name == "tool_calls" else text
        sent.append(event(**{name: value}))
        if expected and expected[-1][0] == names[name]:
            text = expected.pop()[1] + text
        expected.append((names[name], text))
    for number, cut in enumerate(cuts):
        if 2 * number < len(sent):
            whole = sent[2 * number]
            sent[2 * number : 2 * number + 1] = [part for part in (whole[:cut], whole[cut:]) if part]
    reader, said = EventReader(), list[tuple[str, str]]()
    for start in range(0, len(sent), together):
        said += spoken(reader.read(*sent[start : start + together]))
    merged: list[tuple[str, str]] = []
    for kind, text in said:
        if merged and merged[-1][0] == kind:
            text = merged.pop()[1] + text
        merged.append((kind, text))
    assert merged == expected


def spoken(found: list[Chunk | Texts]) -> list[tuple[str, str]]:
    said = []
    for each in found:
        if isinstance(each, Texts):
            said.append(("thoughts" if each.are_thoughts else "text", "".join(each.pieces)))
            continue
        for choice in each.choices:
            delta = choice.delta
            if delta.reasoning_content is not None:
                said.append(("thoughts", delta.reasoning_content))
            if delta.content is not None:
                said.append(("text", delta.content))
            said += [("call", call.function.arguments or "") for call in delta.tool_calls or () if call.function]
    return said


def arguments(text: str, index: int = 0) -> bytes:
    return event(tool_calls=[{"index": index, "function": {"arguments": text}}])


def test_arguments_that_come_together_are_one_piece() -> None:
    reader = EventReader()
    reader.read(arguments("{"))
    (found,) = reader.read(arguments('"a":'), arguments(' "b'), arguments("\u2028\\"))
    assert isinstance(found, Chunk)
    assert found.choices[0].delta.tool_calls
    (call,) = found.choices[0].delta.tool_calls
    assert (call.index, call.id) == (0, None)
    assert call.function is not None
    assert (call.function.name, call.function.arguments) == (None, '"a": "b\u2028\\')
    others = reader.read(arguments("x", 1), arguments("y", 1), arguments("z", 1), arguments("0"))
    calls = [each.choices[0].delta.tool_calls or [] for each in others if isinstance(each, Chunk)]
    assert [call.index for each in calls for call in each] == [1, 1, 0]


def test_an_event_of_the_same_length_is_not_taken_for_a_text() -> None:
    reader = EventReader()
    reader.read(event(content="one"))
    other = event(comment=" two")
    assert len(other) == len(event(content=" two"))
    found = reader.read(event(content=" and"), other, event(content=" three"))
    assert spoken(found) == [("text", " and"), ("text", " three")]


def test_the_last_event_does_not_keep_the_others_from_being_texts() -> None:
    """It ends as they do, and begins in another way."""
    reader = EventReader()
    reader.read(event(content="one"))
    last = event().replace(b"null", b'"stop"')
    texts, end = reader.read(event(content=" two"), event(content=" three"), last, b"data: [DONE]\n\n")
    assert texts == Texts(False, [" two", " three"])
    assert isinstance(end, Chunk)
    assert end.choices[0].finish_reason == "stop"


def test_an_event_with_more_than_text_is_no_text() -> None:
    reader = EventReader()
    reader.read(event(content="one"))
    odd = event(content=" two").replace(b'"created"', b'"timings":{"predicted_n":1},"created"')
    found = reader.read(event(content=" and"), odd, event(content=" three"))
    assert [type(each) for each in found] == [Texts, Chunk, Texts]
    assert spoken(found) == [("text", " and"), ("text", " two"), ("text", " three")]


def test_texts_are_read_without_the_rest_of_their_events() -> None:
    reader = EventReader()
    (first,) = reader.read(event(content="one"))
    assert isinstance(first, Chunk)
    assert reader.read(event(content=" two") + event(content=' "three"')) == [Texts(False, [" two", ' "three"'])]
    thoughts, text = reader.read(event(reasoning_content="hm") + event(content="x"))
    assert isinstance(thoughts, Chunk)
    assert isinstance(text, Chunk)
    assert reader.read(event(content="y")) == [Texts(False, ["y"])]


@pytest.mark.parametrize("between", ['"a","b"', '"a" "b"', "5", "", '"a', '"\x01"', '"\\x"', "null}},{"])
def test_a_text_that_is_none_is_a_failure(between: str) -> None:
    reader = EventReader()
    whole = event(content="?").decode()
    reader.read(whole.encode())
    with pytest.raises(UpstreamFailed, match="makes no sense"):
        reader.read(whole.replace('"?"', between).encode())


def test_two_broken_texts_do_not_pass_as_two_whole_ones() -> None:
    reader = EventReader()
    whole = event(content="?").decode()
    reader.read(whole.encode())
    broken = whole.replace('"?"', '"a') + whole.replace('"?"', 'b","c"')
    try:
        found = reader.read(broken.encode())
    except UpstreamFailed:
        return
    assert [type(each) for each in found] == [Texts]  # they are texts again, whatever they say


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"code": 400, "message": "no", "type": "x_error"}, 400, "x_error"),
        ({"code": 99, "message": "no"}, 502, "upstream_error"),
        ({"code": "400", "message": "no", "type": 5}, 502, "upstream_error"),
        ("no", 502, "upstream_error"),
    ],
)
def test_a_reported_error_is_raised(error: Any, status: int, code: str) -> None:
    with pytest.raises(RouterError, match="no") as caught:
        read(b"data: %b\n\n" % json.dumps({"error": error}).encode())
    assert (caught.value.status, caught.value.code) == (status, code)


def test_an_event_without_an_end_is_not_kept() -> None:
    reader = EventReader()
    assert reader.read(b"x" * MAX_EVENT_BYTES) == []
    with pytest.raises(UpstreamFailed, match="an event of more than"):
        reader.read(b"x")
