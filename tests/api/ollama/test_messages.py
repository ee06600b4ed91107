"""Messages of an Ollama chat as OpenAI's."""

from __future__ import annotations

import base64
import json
from typing import Any

from router.api.ollama import prompt
from router.api.ollama.options import AliasDefaults

HI = [{"role": "user", "content": "hi"}]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()


def chat(defaults: AliasDefaults | None = None, **fields: Any) -> dict[str, Any]:
    return prompt.chat({"messages": HI, **fields}, defaults or AliasDefaults()).fields


def test_images_become_parts_of_the_content() -> None:
    jpeg = base64.b64encode(b"\xff\xd8\xff\xe0....").decode()
    given = {"role": "user", "content": "what?", "images": [PNG, f"data:image/x;base64,{jpeg}"]}
    parts = chat(messages=[given])["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    urls = [part["image_url"]["url"] for part in parts[:2]]
    assert urls == [f"data:image/png;base64,{PNG}", f"data:image/jpeg;base64,{jpeg}"]
    generated = prompt.generate({"prompt": "what?", "images": [PNG]}, AliasDefaults()).fields["messages"][0]["content"]
    assert generated == [parts[0], parts[2]]


def test_roles_and_images_are_read_as_clients_write_them() -> None:
    broken = "\r\n".join(PNG[start : start + 8] for start in range(0, len(PNG), 8))
    given = {"role": "User", "content": "", "images": [f"{broken}\n", f"DATA:image/png;base64,{broken}"]}
    (message,) = chat(messages=[given])["messages"]
    assert message["role"] == "user"
    assert {part["image_url"]["url"] for part in message["content"]} == {f"data:image/png;base64,{PNG}"}
    assert chat(messages=[{"role": "SYSTEM", "content": "x"}])["messages"][0]["role"] == "system"


def test_what_a_name_stands_for_comes_before_the_conversation() -> None:  # B-C13
    defaults = AliasDefaults("Be brief.", {}, ({"role": "user", "content": "one"},))
    own = [{"role": "system", "content": "Be long."}, *HI]
    roles = [[m["content"] for m in chat(defaults, messages=given)["messages"]] for given in (HI, own)]
    assert roles == [["Be brief.", "one", "hi"], ["Be long.", "one", "hi"]]


def test_a_tool_result_gets_the_id_of_its_call() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"city": name}}, **more}

    messages = [
        {"role": "assistant", "tool_calls": [call("rain"), call("wind"), call("rain", id="mine")], "thinking": "hm"},
        {"role": "tool", "tool_name": "wind", "content": "3"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "tool_call_id": "mine", "content": "2"},
        {"role": "tool", "tool_name": "nobody", "content": "2"},
    ]
    translated = chat(messages=messages)["messages"]
    calls = translated[0]["tool_calls"]
    assert translated[0]["reasoning_content"] == "hm"
    assert [made["id"] for made in calls] == ["call00001", "call00002", "mine"]
    assert [json.loads(made["function"]["arguments"]) for made in calls] == [
        {"city": n} for n in ("rain", "wind", "rain")
    ]
    answered = [(result.get("tool_call_id"), result.get("name")) for result in translated[1:]]
    assert answered == [("call00002", "wind"), ("call00001", "rain"), ("mine", "rain"), (None, "nobody")]
    # LiteLLM sends the ids of results, and none of calls.
    foreign = [{"role": "tool", "tool_call_id": f"uuid-{n}", "content": n} for n in "123"]
    answered = [
        (result.get("tool_call_id"), result["content"])
        for result in chat(messages=[messages[0], *foreign])["messages"][1:]
    ]
    assert answered == [("call00001", "1"), ("call00002", "2"), ("uuid-3", "3")]
    again = chat(messages=[*messages, {"role": "user", "content": "and?"}])["messages"]
    assert again[: len(translated)] == translated, "the prompt so far stays as it was"
