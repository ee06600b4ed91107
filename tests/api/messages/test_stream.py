"""A child's stream as the events of a message, each checked by Anthropic's own types."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.messages.answer import SIGNATURE
from router.api.messages.request import AnswerShape
from router.api.messages.stream import MessageEvents
from router.errors import UpstreamFailed
from tests.api.messages.child import PROGRESS, call, chunk, events_of, message_of, script

WHOLE = AnswerShape(stream=True)
WEATHER = script(
    PROGRESS,
    chunk(role="assistant", content=None),
    chunk(reasoning_content="Let me"),
    chunk(reasoning_content=" see."),
    chunk(content="I"),
    chunk(content=" look \u2014 \u2602"),
    chunk(content='\n"here"'),
    call(0, "", "rain", "a1"),
    call(0, '{"city": "B'),
    call(0, 'onn"}'),
    call(1, "{}", "now", "a2"),
    chunk("tool_calls"),
)


def streamed(said: bytes, shape: AnswerShape = WHOLE, step: int = 100_000) -> list[dict[str, Any]]:
    """The events for a child that sends `step` bytes at a time."""
    events = MessageEvents("m", shape)
    pieces = [events.feed(said[start : start + step]) for start in range(0, len(said), step)]
    return events_of(b"".join([*pieces, events.end()]))


@pytest.mark.parametrize("step", [1, 7, 160, 100_000])
def test_blocks_of_every_kind(step: int) -> None:
    message = message_of(streamed(WEATHER, step=step))
    thoughts, text, rain, now = message["content"]
    assert thoughts == {"type": "thinking", "thinking": "Let me see.", "signature": SIGNATURE}
    assert text["text"] == 'I look \u2014 \u2602\n"here"'
    assert (rain["id"], rain["name"], rain["input"]) == ("a1", "rain", {"city": "Bonn"})
    assert (now["id"], now["name"], now["input"]) == ("a2", "now", {})
    assert (message["role"], message["model"], message["stop_reason"]) == ("assistant", "m", "tool_use")
    assert message["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 2,
        "output_tokens": 4,
    }


def test_the_first_event_tells_the_length_of_the_prompt() -> None:
    first, ping, *_ = streamed(WEATHER)
    assert ping["type"] == "ping"
    usage = first["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (7, 2, 0)


@pytest.mark.parametrize("kind", ["content", "reasoning_content"])
@pytest.mark.parametrize("together", [1, 2, 50])
def test_a_long_text_is_the_same_however_it_comes(kind: str, together: int) -> None:
    """Most of its events are not parsed; those that differ in more than their text are."""
    odd = ["one", " two", "", "\n", ' "three"', "\\", " \u00e4", " \u2028", "\x7f", "}", '"}}],']
    words = [*odd * 3, *["x" * 50] * 60]
    chunks = [chunk(**{kind: word}) for word in words]
    chunks[20]["timings"] = {"predicted_n": 1}
    *lines, end = script(*chunks, chunk("stop")).split(b"\n\n")
    assert end == b""
    events = MessageEvents("m", WHOLE)
    groups = [lines[start : start + together] for start in range(0, len(lines), together)]
    pieces = [events.feed(b"".join(line + b"\n\n" for line in group)) for group in groups]
    (block,) = message_of(events_of(b"".join([*pieces, events.end()])))["content"]
    assert block["text" if kind == "content" else "thinking"] == "".join(words)


def test_texts_that_have_come_together_are_one_event() -> None:
    events = MessageEvents("m", WHOLE)
    first, *others = script(*(chunk(content=word) for word in ("a", "b", "c", "d")), chunk("stop")).split(b"\n\n")
    begun = events_of(events.feed(first + b"\n\n"))
    assert [event["type"] for event in begun] == ["message_start", "content_block_start", "content_block_delta"]
    (told,) = events_of(events.feed(*(other + b"\n\n" for other in others[:3])))
    assert told["delta"] == {"type": "text_delta", "text": "bcd"}


@pytest.mark.parametrize(
    ("reason", "word", "told"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "", ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "<|im_end|>", ("end_turn", None)),  # the template's own
        ("length", "", ("max_tokens", None)),
        ("tool_calls", None, ("tool_use", None)),
    ],
)
def test_why_it_ended(reason: str, word: str | None, told: tuple[str, str | None]) -> None:
    last = {**chunk(reason), **({} if word is None else {"__verbose": {"stopping_word": word}})}
    message = message_of(streamed(script(chunk(content="a"), last), AnswerShape(("END",), stream=True)))
    assert (message["stop_reason"], message["stop_sequence"]) == told


def test_an_answer_without_content() -> None:
    assert message_of(streamed(script(chunk("stop"), usage=None)))["content"] == []


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["The", " sun"], " sun"),
        (["T", "h", "e", " sun"], " sun"),
        (["Th", "e", " sun", " is", " up"], " sun is up"),
        (["T", "he", "", " sun", " is"], " sun is"),
        (["The sun"], " sun"),
        (["Then"], "n"),
        (["A sun"], "A sun"),
        (["T", "om"], "Tom"),
        (["Th"], "Th"),
        (["The"], None),
    ],
)
def test_the_clients_beginning_is_not_repeated(pieces: list[str], text: str | None) -> None:
    shape = AnswerShape(prefill="The", stream=True)
    message = message_of(streamed(script(*(chunk(content=piece) for piece in pieces), chunk("stop")), shape))
    assert [block["text"] for block in message["content"]] == ([text] if text else [])


def test_thoughts_that_are_not_shown() -> None:
    shape = AnswerShape(shows_thinking=False, stream=True)
    thoughts, text = message_of(streamed(WEATHER, shape))["content"][:2]
    assert (thoughts["thinking"], thoughts["signature"]) == ("", SIGNATURE)
    assert text["text"].startswith("I look")


def test_nothing_is_generated_where_nothing_was_asked_for() -> None:
    message = message_of(streamed(script(PROGRESS, chunk(content="a"), chunk("length")), AnswerShape(is_warmup=True)))
    assert (message["content"], message["stop_reason"]) == ([], "max_tokens")
    assert message["usage"]["output_tokens"] == 0


@pytest.mark.parametrize(
    "said",
    [
        script(chunk(content="a")),
        script(call(0, "{}"), chunk("tool_calls")),
        script(b'{"choices": [{"delta": 5}]}'),
        script(b'{"choices": 5}'),
        script(b'{"choices"'),
        script({"error": {"code": 500, "message": "out of luck"}}),
        b"",
    ],
)
def test_an_answer_that_makes_no_sense_is_a_failure(said: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        streamed(said)


def test_odd_characters_are_well_formed() -> None:
    odd = [b'{"choices":[{"delta":{"content":"\\ud800"}}]}', b'{"choices":[{"delta":{"content":"\xff"}}]}']
    message = message_of(streamed(script(chunk(content="a"), *odd, chunk("stop"))))
    assert message["content"][0]["text"][0] == "a"
    assert len(message["content"][0]["text"]) == 3
