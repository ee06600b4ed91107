"""A chat's stream as a response: events and whole answers, over real connections, checked by OpenAI's own types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.api.responses.items import sealed_thoughts
from router.errors import GenerationTimeout, RouterError, UpstreamFailed
from tests.api.responses.child import RESPONSE, answer_to, call, checked, chunk, final, kinds, script, sent

WEATHER = script(
    chunk(role="assistant", content=None),
    chunk(reasoning_content="Let me"),
    chunk(reasoning_content=" see."),
    chunk(content="I"),
    chunk(content=" look — ☂"),
    call(0, "", "rain", "a1"),
    call(0, '{"city": "B'),
    call(0, 'onn"}'),
    call(1, "{}", "now", "a2"),
    chunk("tool_calls"),
)
MESSAGE = ["output_item.added", "content_part.added", "output_text.delta"]
MESSAGE_END = ["output_text.done", "content_part.done", "output_item.done"]
CALL = ["output_item.added", "function_call_arguments.delta"]
CALL_END = ["function_call_arguments.done", "output_item.done"]


@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_every_event_is_of_its_type(tmp_path: Path, step: int) -> None:  # B-C10
    events = checked(await sent(tmp_path, answer_to(stream=True), WEATHER, step=step))
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done", "content_part.done"),
        *("output_item.done", *MESSAGE, "output_text.delta", *MESSAGE_END),
        *(*CALL, "function_call_arguments.delta", *CALL_END, *CALL, *CALL_END, "completed"),
    ]
    response = final(events)
    thoughts, message, rain, now = response["output"]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert message["content"][0]["text"] == "I look — ☂"
    assert (rain["call_id"], rain["name"], rain["arguments"]) == ("a1", "rain", '{"city": "Bonn"}')
    assert (now["call_id"], now["name"], now["arguments"]) == ("a2", "now", "{}")
    assert {item["status"] for item in response["output"]} == {response["status"]} == {"completed"}
    assert response["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 13,
    }
    assert {event["item_id"] for event in events if event.get("output_index") == 1 and "item_id" in event} == {
        message["id"]
    }


async def test_without_a_stream_the_answer_is_the_last_event(tmp_path: Path) -> None:  # B-C10
    whole = json.loads(await sent(tmp_path, answer_to(), WEATHER))
    RESPONSE.validate_python(whole)
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert (whole["status"], whole["error"], whole["incomplete_details"]) == ("completed", None, None)
    assert whole["completed_at"] >= whole["created_at"]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_thoughts_as_a_summary_and_sealed(tmp_path: Path, is_stream: bool) -> None:  # B-C10
    """For clients that show only summaries and send back only what is sealed."""
    wishes = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"], "stream": is_stream}
    told = await sent(tmp_path, answer_to(**wishes), WEATHER)
    if is_stream:
        events = checked(told)
        part = "reasoning_summary_part"
        text = "reasoning_summary_text"
        assert [kind for kind in kinds(events) if "reasoning" in kind] == [
            *(f"{part}.added", f"{text}.delta", f"{text}.delta", f"{text}.done", f"{part}.done")
        ]
    thoughts = (final(events) if is_stream else json.loads(told))["output"][0]
    assert thoughts["summary"] == [{"type": "summary_text", "text": "Let me see."}]
    assert "content" not in thoughts
    assert thoughts["encrypted_content"] == sealed_thoughts("Let me see.")


@pytest.mark.parametrize(
    ("chunks", "last"),
    [
        ([chunk(content="I"), chunk("length")], "message"),
        ([chunk(reasoning_content="Hm"), chunk("length")], "reasoning"),
        ([chunk(content="I"), call(0, '{"city": "B', "rain", "a1"), chunk("length")], "function_call"),
        ([chunk("length")], None),
    ],
)
async def test_an_answer_that_was_cut_is_incomplete(  # B-C10
    tmp_path: Path, chunks: list[dict[str, Any]], last: str | None
) -> None:
    events = checked(await sent(tmp_path, answer_to(stream=True), script(*chunks)))
    response = final(events)
    assert kinds(events)[-1] == response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in response["output"]][-1:] == ["incomplete"] * (last is not None)
    assert [item["type"] for item in response["output"]][-1:] == ([last] if last else [])


async def test_an_answer_of_nothing_is_an_empty_message(tmp_path: Path) -> None:
    events = checked(await sent(tmp_path, answer_to(stream=True), script(chunk("stop"))))
    assert final(events)["output"][0]["content"][0]["text"] == ""


async def test_items_in_any_order(tmp_path: Path) -> None:
    chunks = [
        chunk(content="A"),
        chunk(reasoning_content="B"),
        chunk(content="C"),
        call(0, "{}", "f"),
        chunk(content="D"),
    ]
    response = final(checked(await sent(tmp_path, answer_to(stream=True), script(*chunks, chunk("stop")))))
    kinds = ["message", "reasoning", "message", "function_call", "message"]
    assert [item["type"] for item in response["output"]] == kinds
    assert response["output"][3]["call_id"]
    assert len({item["id"] for item in response["output"]}) == 5


CUSTOM = {"type": "custom", "name": "patch"}
SKY = {"type": "namespace", "name": "sky", "description": "", "tools": [{"type": "function", "name": "rain"}]}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [('{"input": "a\\nb"}', "a\nb"), ('{"input": "a', '{"input": "a'), ('{"text": "a"}', '{"text": "a"}')],
)
async def test_calls_of_custom_tools(tmp_path: Path, arguments: str, given: str) -> None:
    pieces = [call(0, "", "patch", "a1"), *(call(0, letter) for letter in arguments)]
    body = script(*pieces, chunk("tool_calls"))
    events = checked(await sent(tmp_path, answer_to(stream=True, tools=[CUSTOM]), body))
    assert kinds(events)[2:-1] == [
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done")
    ]
    (item,) = final(events)["output"]
    assert (item["type"], item["name"], item["call_id"], item["input"]) == ("custom_tool_call", "patch", "a1", given)


async def test_calls_in_a_namespace(tmp_path: Path) -> None:
    body = script(call(0, "{}", "sky__rain", "a1"), chunk("tool_calls"))
    (item,) = final(checked(await sent(tmp_path, answer_to(stream=True, tools=[SKY]), body)))["output"]
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "rain", "sky")


async def test_logprobs(tmp_path: Path) -> None:
    logprob = {"id": 5, "token": "I", "bytes": [73], "logprob": -0.5}
    entry = {**logprob, "top_logprobs": [logprob, logprob]}
    body = script(chunk(content="I", logprobs=[entry]), chunk("stop"))
    expected = {"token": "I", "bytes": [73], "logprob": -0.5}
    for wish, others in (({"top_logprobs": 1}, [expected]), ({"include": ["message.output_text.logprobs"]}, [])):
        events = checked(await sent(tmp_path, answer_to(stream=True, **wish), body))
        found = [{**expected, "top_logprobs": others}]
        assert [event["logprobs"] for event in events if "logprobs" in event] == [found, found]
        assert final(events)["output"][0]["content"][0]["logprobs"] == found


@pytest.mark.parametrize(
    ("body", "status", "told_status", "code"),
    [
        (b'{"error":{"code":400,"message":"no such thing","type":"x_error"}}', 400, 400, "x_error"),
        (b"no such thing", 500, 500, "upstream_error"),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_error_before_the_answer_is_an_http_error(
    tmp_path: Path, body: bytes, status: int, told_status: int, code: str, is_stream: bool
) -> None:
    with pytest.raises(RouterError, match="no such thing") as caught:
        await sent(tmp_path, answer_to(stream=is_stream), body, status)
    assert (caught.value.status, caught.value.code) == (told_status, code)


LATE = {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 5}


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        ([chunk(content="I"), {"error": LATE}], "context_length_exceeded"),
        ([chunk(content="I"), {"error": {"code": 503, "message": "late"}}], "server_error"),
        ([{"error": "late"}], "server_error"),
        ([chunk(content="I")], "server_error"),
        ([chunk(content=5)], "server_error"),
        ([call(0, "{}")], "server_error"),
        ([b"{nonsense}"], "server_error"),
    ],
)
async def test_an_error_in_a_stream_is_told_by_typed_events(  # B-C10 B-C4
    tmp_path: Path, chunks: list[Any], code: str
) -> None:
    told = await sent(tmp_path, answer_to(stream=True), script(*chunks))
    blocks = [json.loads(block.split("data: ")[1]) for block in told.decode().split("\n\n") if block]
    failed, error = blocks[-2:]
    assert [block["sequence_number"] for block in blocks] == list(range(len(blocks)))
    assert (failed["type"], failed["response"]["status"], error["type"]) == ("response.failed", "failed", "error")
    assert failed["response"]["error"]["code"] == error["code"] == code
    assert failed["response"]["error"]["message"] == error["message"] == error["error"]["message"]
    checked("\n\n".join(told.decode().split("\n\n")[:-3]).encode() + b"\n\n")


async def test_without_a_stream_a_broken_answer_is_an_error(tmp_path: Path) -> None:  # B-C4
    with pytest.raises(UpstreamFailed, match="before it was complete"):
        await sent(tmp_path, answer_to(), script(chunk(content="I")))


def test_an_error_while_the_model_loads_is_a_whole_stream() -> None:
    """After comments have begun the stream."""
    events = checked(answer_to(stream=True).stream_error(GenerationTimeout("too late"), ""))
    assert kinds(events) == ["created", "in_progress", "failed", "error"]
    assert final(events[:-1])["error"] == {"code": "server_error", "message": "too late"}


async def test_what_json_can_hardly_express(tmp_path: Path) -> None:
    body = script(b'{"choices":[{"delta":{"content":"a\\ud800"}}]}', b'{"choices":[{"delta":{"content":"\xff"}}]}')
    body += script(b'{"x": NaN, "choices":[{"delta":{},"finish_reason":"stop"}]}')
    instructions = "half \ud800"
    events = checked(await sent(tmp_path, answer_to(stream=True, instructions=instructions), body))
    assert final(events)["output"][0]["content"][0]["text"] == "a?�"
    assert events[0]["response"]["instructions"] == instructions


async def test_a_finished_answer_is_kept_before_the_client_hears_of_it(tmp_path: Path) -> None:
    kept: dict[str, bytes] = {}
    answer = answer_to(stream=True)
    answer.keep = kept.__setitem__
    response = final(checked(await sent(tmp_path, answer, WEATHER)))
    assert json.loads(kept[response["id"]]) == response
    kept.clear()
    broken = answer_to(stream=True)
    broken.keep = kept.__setitem__
    await sent(tmp_path, broken, script(chunk(content="I")))
    assert kept == {}
