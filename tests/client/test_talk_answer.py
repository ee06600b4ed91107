"""Answers as they come, and what they come in."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.client import stream
from router.client.failures import Failed, KeyRefused, NotReached, TryLater
from router.client.session import Session
from router.client.talk.answer import Answer, Piece
from router.client.target import Target
from router.errors import RouterError
from tests.client.stub import DONE, Reply, chunk, error, stub


def read(*pieces: bytes, reply: Reply | None = None) -> tuple[list[Piece], Answer]:
    answer = Answer()
    found: list[Piece] = []
    with (
        stub(lambda asked: reply or Reply(pieces=lambda: iter(pieces))) as server,
        Session(Target(server.url)) as session,
        contextlib.closing(answer.pieces(session, {"model": "m"})) as coming,
    ):
        found.extend(coming)
    return found, answer


def test_thoughts_text_and_figures() -> None:
    timings = {"predicted_n": 2, "predicted_per_second": 41.26, "prompt_n": 5, "cache_n": 3}
    pieces, answer = read(
        b": waiting\n\n",
        chunk(thought="hm"),
        chunk("He"),
        chunk("llo", finish="stop"),
        chunk(timings=timings, usage={"prompt_tokens": 8, "completion_tokens": 2}),
        DONE,
    )
    assert pieces == [Piece("hm", is_thought=True), Piece("He"), Piece("llo")]
    assert (answer.text, answer.thoughts, answer.finish) == ("Hello", "hm", "stop")
    assert answer.figures(0.5, 1.5) == (
        "prompt 5 tokens and 3 from the cache; answer 2 tokens, 41.3 tokens/s; first after 0.5 s, all 1.5 s"
    )
    assert answer.as_json("m")["reasoning_content"] == "hm"


def test_speed_without_the_engines_figures() -> None:
    answer = Answer(usage={"completion_tokens": 20})
    assert "answer 20 tokens, 20.0 tokens/s" in answer.figures(0.5, 1.5)
    assert "answer 0 tokens, 0.0 tokens/s" in Answer().figures(0.0, 0.0)


@pytest.mark.parametrize(
    ("pieces", "reply", "kind", "text"),
    [
        ((chunk("a"), b'data: {"error": {"message": "out of luck"}}\n\n'), None, Failed, "out of luck"),
        ((chunk("a"),), None, NotReached, "cut off"),
        ((), None, NotReached, "cut off"),
        ((DONE,), None, NotReached, "cut off"),
        ((b"data: <html>\n\n",), None, NotReached, "no stream"),
        ((b"data: [1]\n\n",), None, NotReached, "no stream"),
        ((), error("too busy", 503, retry_after="3"), TryLater, "too busy"),
        ((), error("a key", 401), KeyRefused, "a key"),
    ],
)
def test_what_goes_wrong_is_an_error(
    pieces: tuple[bytes, ...], reply: Reply | None, kind: type[RouterError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        read(*pieces, reply=reply)


def test_who_leaves_ends_the_request() -> None:
    ended: list[bool] = []

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield chunk("a")
        except OSError:
            raise
        finally:
            ended.append(True)

    with stub(lambda asked: Reply(pieces=endless)) as server, Session(Target(server.url)) as session:
        coming = Answer().pieces(session, {})
        assert next(coming) == Piece("a")
        coming.close()
        from tests.waiting import until

        until(lambda: ended)


odd: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "reasoning_content", "finish_reason", "usage", "timings"]),
            inner,
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "timings"]), odd))
def test_any_event_is_read(event: dict[str, Any]) -> None:
    answer = Answer()
    list(answer._read(event))
    answer.figures(0.1, 0.2)


@pytest.mark.parametrize("number", [10**400, math.inf, math.nan, -1], ids=["huge", "inf", "nan", "negative"])
def test_a_figure_that_is_none_is_left_out(number: float) -> None:
    answer = Answer()
    list(answer._read({"usage": {"prompt_tokens": number}, "timings": {"cache_n": number, "predicted_n": number}}))
    assert answer.figures(0.0, 0.0).startswith("prompt 0 tokens; answer 0 tokens")


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"))), st.integers(1, 7))
def test_lines_are_the_same_however_they_come(lines: list[str], size: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert list(stream.lines(pieces)) == lines


def test_a_line_has_a_bound() -> None:
    with pytest.raises(NotReached, match="does not end"):
        list(stream.lines([b"x" * (stream.MAX_LINE_BYTES + 1)]))
    assert list(stream.lines([b"a\r\nb"])) == ["a", "b"]


def test_a_stream_is_read_to_its_end() -> None:
    """Else the router would take the client for one that left."""
    pieces = iter([b'data: {"a": 1}\n\n', DONE, b": bye\n\n", b'data: {"late": 1}\n\n'])
    assert list(stream.events(pieces)) == [{"a": 1}]
    assert next(pieces, None) is None
