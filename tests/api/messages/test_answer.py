"""A child's whole answer as a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api.chat_stream import chunk_of
from router.api.messages.answer import SIGNATURE, message
from router.api.messages.request import AnswerShape
from router.errors import UpstreamFailed
from tests.api.messages.child import MESSAGE, USAGE


def answered(reason: str | None, shape: AnswerShape | None = None, **said: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **said}}
    answer = {"choices": [choice], "usage": USAGE, "__verbose": {"stopping_word": "END"}}
    made = message("m", chunk_of(json.dumps(answer).encode()), shape or AnswerShape())
    MESSAGE.validate_python(made)
    return made


def tool_call(arguments: str) -> dict[str, Any]:
    return {"id": "a1", "type": "function", "function": {"name": "rain", "arguments": arguments}}


def test_blocks_of_every_kind() -> None:
    made = answered("tool_calls", content="Well.", reasoning_content="Hm.", tool_calls=[tool_call('{"a": 1}')])
    thoughts, text, call = made["content"]
    assert thoughts == {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE}
    assert text == {"type": "text", "text": "Well."}
    assert call == {"type": "tool_use", "id": "a1", "name": "rain", "input": {"a": 1}}
    assert made["stop_reason"] == "tool_use"
    assert made["usage"]["input_tokens"] + made["usage"]["cache_read_input_tokens"] == 9


def test_a_stop_sequence_is_named() -> None:
    made = answered("stop", AnswerShape(("END",)), content="a")
    assert (made["stop_reason"], made["stop_sequence"]) == ("stop_sequence", "END")


def test_the_clients_beginning_is_not_repeated() -> None:
    made = answered("stop", AnswerShape(prefill="The"), content="The sun")
    assert made["content"] == [{"type": "text", "text": " sun"}]


def test_what_is_not_shown() -> None:
    made = answered("stop", AnswerShape(shows_thinking=False), content="a", reasoning_content="Hm.")
    assert made["content"][0]["thinking"] == ""
    assert answered("length", AnswerShape(is_warmup=True), content="a")["content"] == []


def test_a_call_that_was_cut_off_is_left_out() -> None:
    cut = answered("length", content="a", tool_calls=[tool_call('{"a": ')])
    assert cut["content"] == [{"type": "text", "text": "a"}]
    for arguments in ('{"a": ', "[]", "5"):
        with pytest.raises(UpstreamFailed, match="no JSON object"):
            answered("tool_calls", tool_calls=[tool_call(arguments)])


def test_an_answer_that_is_not_complete_is_a_failure() -> None:
    for said in (b"{}", b'{"choices":[]}', b'{"choices":[{"message":{}}]}', b'{"choices":[{"finish_reason":"stop"}]}'):
        with pytest.raises(UpstreamFailed, match="before it was complete"):
            message("m", chunk_of(said), AnswerShape())
