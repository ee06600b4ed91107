"""Items of a conversation, in every form that clients send them, as a chat's messages."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from router.api.responses.items import Conversation, sealed_thoughts
from router.errors import InvalidRequest

PIXEL = "data:image/png;base64,AAAA"
CALL = {"id": "c1", "type": "function", "function": {"name": "rain", "arguments": '{"city": "Bonn"}'}}
CALL_ITEM = {"type": "function_call", "call_id": "c1", "name": "rain", "arguments": '{"city": "Bonn"}'}


def messages(*items: dict[str, Any], system: str = "", **known: dict[str, Any]) -> list[dict[str, Any]]:
    conversation = Conversation(known.get)
    conversation.add_system(system)
    for index, item in enumerate(items):
        conversation.add(item, f"input[{index}]")
    return conversation.finish()


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("kind", [{}, {"type": "message"}, {"type": "message", "id": "msg_1", "status": "completed"}])
@pytest.mark.parametrize(
    ("role", "content"),
    [
        ("user", "Hi"),
        ("user", [{"type": "input_text", "text": "Hi"}]),
        ("user", [{"type": "text", "text": "Hi"}]),
        ("assistant", "Hi"),
        ("assistant", [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]),
        ("assistant", [{"type": "input_text", "text": "Hi"}]),
        ("assistant", [{"type": "refusal", "refusal": "Hi"}]),
        ("system", "Hi"),
        ("system", [{"type": "input_text", "text": "Hi"}]),
    ],
)
def test_messages_with_and_without_type(kind: dict[str, str], role: str, content: Any) -> None:  # B-C10
    assert messages({**kind, **said(role, content)}) == [said(role, "Hi")]


def test_developer_messages_at_the_beginning_are_one_system_message() -> None:
    """As Codex sends them: instructions, and two items."""
    parts = [{"type": "input_text", "text": "two"}, {"type": "input_text", "text": "three"}]
    items = (said("developer", "one"), said("developer", parts), said("user", "Hi"), said("developer", "late"))
    assert messages(*items, system="zero") == [
        said("system", "zero\n\none\n\ntwo\nthree"),
        said("user", "Hi"),
        said("system", "late"),
    ]


def test_pictures_sound_and_text_files() -> None:
    data = "data:text/plain;base64," + base64.b64encode(b"# A").decode()
    file = {"type": "input_file", "filename": "a.md", "file_data": data}
    sound = {"data": "AAAA", "format": "wav"}
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
        {"type": "input_audio", "input_audio": sound},
        file,
    ]
    assert messages(said("user", content)) == [
        said(
            "user",
            [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": PIXEL}},
                {"type": "input_audio", "input_audio": sound},
                {"type": "text", "text": "a.md:\n# A"},
            ],
        )
    ]


@pytest.mark.parametrize(
    ("thoughts", "text"),
    [
        ({"content": [{"type": "reasoning_text", "text": "Hm."}], "summary": []}, "Hm."),
        ({"summary": [{"type": "summary_text", "text": "Hm."}]}, "Hm."),
        ({"summary": [{"type": "summary_text", "text": "Hm."}], "content": None, "encrypted_content": None}, "Hm."),
        ({"id": "rs_1", "summary": [], "encrypted_content": sealed_thoughts("Hm, ☂.")}, "Hm, ☂."),
        ({"id": "rs_1", "summary": [], "encrypted_content": "gAAAAABo-of-another-server"}, None),
        ({"summary": [], "encrypted_content": "thoughts:not base64"}, None),
        ({"id": "rs_1", "summary": []}, None),
    ],
)
def test_thoughts_text_and_calls_of_a_turn_are_one_message(thoughts: dict[str, Any], text: str | None) -> None:  # B-C10
    output = {"type": "function_call_output", "call_id": "c1", "output": "yes"}
    reasoning = {"type": "reasoning", **thoughts}
    turn = {**said("assistant", "Let me look."), **({"reasoning_content": text} if text else {})}
    assert messages(said("user", "Rain?"), reasoning, said("assistant", "Let me look."), CALL_ITEM, output) == [
        said("user", "Rain?"),
        {**turn, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "yes"},
    ]


def test_items_of_one_turn_in_any_order() -> None:
    reasoning = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": each}]} for each in ("One.", "Two.")
    ]
    words = [said("assistant", each) for each in ("A", "B")]
    turn = {**said("assistant", "A\n\nB"), "reasoning_content": "One.\n\nTwo.", "tool_calls": [CALL]}
    assert messages(words[0], reasoning[0], CALL_ITEM, words[1], reasoning[1]) == [turn]


def test_thoughts_without_an_answer_at_the_end_are_left_out() -> None:
    reasoning = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    assert messages(said("user", "Hi"), reasoning) == [said("user", "Hi")]


@pytest.mark.parametrize(
    ("output", "content"),
    [
        ("yes", "yes"),
        (None, ""),
        ([], ""),
        ([{"type": "input_text", "text": "yes"}], "yes"),
        ([{"type": "output_text", "text": "yes"}], "yes"),
        (
            [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": PIXEL}],
            [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
        ),
    ],
)
@pytest.mark.parametrize("kind", ["function_call_output", "custom_tool_call_output"])
def test_outputs_as_text_or_parts(kind: str, output: Any, content: Any) -> None:  # B-C10
    item = {"type": kind, "call_id": "c1", "output": output}
    assert messages(CALL_ITEM, item)[1:] == [{"role": "tool", "tool_call_id": "c1", "content": content}]


def test_calls_of_custom_tools_and_in_namespaces() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'say "hi"'}
    spaced = {**CALL_ITEM, "namespace": "mcp__sky"}
    (turn,) = messages(custom, spaced)
    assert [call["function"] for call in turn["tool_calls"]] == [
        {"name": "patch", "arguments": '{"input":"say \\"hi\\""}'},
        {"name": "mcp__sky__rain", "arguments": '{"city": "Bonn"}'},
    ]


@pytest.mark.parametrize("kind", [{}, {"type": "item_reference"}, {"type": None}])
def test_references_to_items(kind: dict[str, Any]) -> None:
    assert messages({**kind, "id": "msg_1"}, msg_1=said("assistant", "Hi")) == [said("assistant", "Hi")]
    with pytest.raises(InvalidRequest, match="msg_2") as caught:
        messages({**kind, "id": "msg_2"})
    assert caught.value.param == "input[0].id"


def test_what_openais_server_did_is_left_out() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    assert messages(said("user", "Hi"), search, said("assistant", "Ho")) == [
        said("user", "Hi"),
        said("assistant", "Ho"),
    ]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "computer_call_output", "call_id": "x", "output": {}}, "input[0].type"),
        ({"type": "compaction", "encrypted_content": "x"}, "input[0].type"),
        ({"content": "Hi"}, "input[0].type"),
        ({"type": 5}, "input[0].type"),
        (said("critic", "Hi"), "input[0].role"),
        (said("user", 5), "input[0].content"),
        (said("user", [5]), "input[0].content[0]"),
        (said("user", [{"text": "Hi"}]), "input[0].content[0].type"),
        (said("user", [{"type": "input_video"}]), "input[0].content[0].type"),
        (said("user", [{"type": "input_text", "text": 5}]), "input[0].content[0].text"),
        (said("user", [{"type": "input_image", "file_id": "file-1"}]), "input[0].content[0].file_id"),
        (said("user", [{"type": "input_image"}]), "input[0].content[0].image_url"),
        (said("user", [{"type": "input_image", "image_url": {"url": PIXEL}}]), "input[0].content[0].image_url"),
        (said("user", [{"type": "input_audio", "input_audio": "x"}]), "input[0].content[0].input_audio"),
        (said("user", [{"type": "input_file", "file_id": "file-1"}]), "input[0].content[0].file_id"),
        (said("user", [{"type": "input_file", "file_url": "http://x"}]), "input[0].content[0].file_url"),
        (said("user", [{"type": "input_file", "file_data": "?"}]), "input[0].content[0].file_data"),
        (said("user", [{"type": "input_file", "file_data": "JVBERi0xLjcK"}]), "input[0].content[0]"),
        (said("user", [{"type": "input_file", "file_data": "/////w=="}]), "input[0].content[0]"),
        (said("system", [{"type": "input_image", "image_url": PIXEL}]), "input[0].content"),
        ({"type": "reasoning", "content": "Hm."}, "input[0].content"),
        ({"type": "reasoning", "summary": ["Hm."]}, "input[0].summary[0]"),
        ({"type": "function_call", "call_id": "c1", "arguments": "{}"}, "input[0].name"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[0].call_id"),
        ({"type": "function_call", "name": "f", "call_id": "c1", "arguments": {}}, "input[0].arguments"),
        ({"type": "function_call_output", "output": "yes"}, "input[0].call_id"),
        ({"type": "function_call_output", "call_id": "c1", "output": {}}, "input[0].output"),
    ],
)
def test_a_mistake_names_its_field(item: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages(item)
    assert caught.value.param == param
