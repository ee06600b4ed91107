"""System and messages as the messages of a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api.messages.conversation import chat_messages, prefill_of
from router.errors import InvalidRequest
from tests.api.messages.test_content import image, text


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def use(id: str, name: str = "look", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": given}


def result(id: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def chat(*messages: Any, **more: Any) -> list[dict[str, Any]]:
    return chat_messages({"messages": list(messages), **more})


def test_system_prompts() -> None:
    for system, prompt in (
        ("Be brief.", "Be brief."),
        ([text("Be brief."), {**text("Go."), "cache_control": {"type": "ephemeral"}}], "Be brief.\n\nGo."),
    ):
        assert chat(user("a"), system=system)[0] == {"role": "system", "content": prompt}
    for none in ("", [], None, [text("")]):
        assert chat(user("a"), system=none) == [{"role": "user", "content": "a"}]


def test_claude_codes_billing_header_is_left_out() -> None:
    """It would make each request begin in another way."""
    header = "x-anthropic-billing-header: cc_version=2.1.197.0df; cc_entrypoint=cli; cch=a5145;"
    for system in ([text(header), text("You are.")], header + "You are.", header + "\nYou are."):
        assert chat(user("a"), system=system)[0]["content"] == "You are."
    assert chat(user("a"), system=f"You are. {header}")[0]["content"] == f"You are. {header}"


def test_a_late_system_message_stays_where_it_is() -> None:  # B-C8
    """What the template takes is known later."""
    messages = chat(user("a"), {"role": "system", "content": [text("Now.")]}, user("b"), system="First.")
    assert [message["role"] for message in messages] == ["system", "user", "system", "user"]
    assert messages[2]["content"] == "Now."


def test_turns_of_one_role_are_one_turn() -> None:
    messages = chat(user("a"), user([text("b"), image()]), assistant(text("c")), assistant(use("1")), user("d"))
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[0]["content"]] == ["text", "text", "image_url"]
    assert messages[1]["content"] == "c"
    assert messages[1]["tool_calls"][0]["id"] == "1"


def test_calls_and_their_results() -> None:
    messages = chat(
        user("go"),
        assistant(text("I look."), use("1", place="ä", near=None), use("2", "wait")),
        user([result("1", "sunny"), result("2", [text("a"), image(), text("b")]), text("and now?")]),
    )
    _, asked, first, second, last = messages
    assert asked["content"] == "I look."
    assert [each["function"]["name"] for each in asked["tool_calls"]] == ["look", "wait"]
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"place": "ä", "near": None}
    assert first == {"role": "tool", "tool_call_id": "1", "name": "look", "content": "sunny"}
    assert [part["type"] for part in second["content"]] == ["text", "image_url", "text"]
    assert last == {"role": "user", "content": "and now?"}


def test_a_failed_tool_is_told() -> None:
    def told(content: Any, **more: Any) -> Any:
        return chat(user([result("1", content, **more)]))[0]["content"]

    assert told("no such file", is_error=True) == "Error: no such file"
    assert told([text("Error 5")], is_error=True) == "Error 5"
    assert told(None, is_error=True) == "Error: the tool failed."
    assert told("no such file", is_error=False) == "no such file"
    assert told(None) == ""


def test_thoughts_of_earlier_turns_go_to_the_template() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "secret"}
    message = chat(user("a"), assistant(thinking, hidden, text("b")), user("c"))[1]
    assert message == {"role": "assistant", "content": "b", "reasoning_content": "Hm."}


def test_an_answer_that_has_begun() -> None:
    assert prefill_of([]) is None
    assert prefill_of(chat(user("a"))) is None
    assert prefill_of(chat(user("a"), {"role": "assistant", "content": "The"})) == "The"
    assert prefill_of(chat(user("a"), assistant())) == ""
    with pytest.raises(InvalidRequest, match=r"tool_use without tool_result.*: 1"):
        prefill_of(chat(user("a"), assistant(use("1"))))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "messages: must be a list, not null"),
        ([], "messages: at least one message"),
        ([5], "messages.0: must be an object"),
        ([{"role": "tool", "content": "a"}], "messages.0.role: must be"),
        ([user(None)], "messages.0.content: must be a list, not null"),
        ([user([result("", "a")])], "messages.0.content.0.tool_use_id: must not be empty"),
        ([user([result("1", [use("2")])])], 'messages.0.content.0.content.0: a block of type "tool_use"'),
        ([user([result("1", "a", is_error="yes")])], "messages.0.content.0.is_error: must be true or false"),
        ([assistant(image())], 'messages.0.content.0: a block of type "image" cannot be used in a turn'),
        ([assistant({**use("1"), "input": "{"})], "messages.0.content.0.input: must be an object, not a string"),
        ([assistant({"type": "server_tool_use"})], 'a block of type "server_tool_use"'),
        ([{"role": "system", "content": [image()]}], "messages.0.content: a system prompt consists of text"),
    ],
)
def test_mistakes_are_named(messages: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_messages({"messages": messages})
    assert said in caught.value.message
