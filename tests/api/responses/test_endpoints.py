"""OpenAI's own client over the Responses API: real engines, and scripted calls of the fake one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.api.error_shapes import JSON, error_of
from tests.api.responses.child import checked, final, kinds
from tests.api.responses.conftest import client_of
from tests.routers import Router

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
FEW: Any = {"max_output_tokens": 4, "temperature": 0}
RAIN: Any = {
    "type": "function",
    "name": "rain",
    "description": "Does it rain?",
    "parameters": {"type": "object", "properties": {"today": {"type": "boolean"}}},
    "strict": False,
}


class Weather(BaseModel):
    hot: bool


def test_a_stream_is_put_together_by_the_client(client: openai.OpenAI) -> None:  # B-C10
    with client.responses.stream(model="plain", input="hello", text_format=Weather, temperature=0) as stream:
        events = list(stream)
        last = stream.get_final_response()
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == sorted(
        event.sequence_number for event in events
    )
    assert last.status == "completed"
    assert isinstance(last.output_parsed, Weather)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == last.output_text


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_structured_output(client: openai.OpenAI, kind: str) -> None:
    schema = {"name": "weather", "schema": Weather.model_json_schema(), "strict": True}
    wanted: Any = {"type": kind, **(schema if kind == "json_schema" else {})}
    answer = client.responses.create(model="plain", input="hi", text={"format": wanted}, max_output_tokens=200)
    if answer.status == "completed":  # an object of any fields may have no end
        assert isinstance(json.loads(answer.output_text), dict)
    else:
        assert answer.output_text.lstrip().startswith("{")
    if kind == "json_schema":
        assert client.responses.parse(model="plain", input="hi", text_format=Weather).output_parsed is not None


def test_a_stream_says_the_tokens_of_a_chat(router: Router, client: openai.OpenAI) -> None:
    fields = {"model": "tiny-a", "temperature": 0, "seed": 1, "cache_prompt": False}
    chat = router.client.post(
        "/v1/chat/completions", json={**fields, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
    ).json()
    body = {**fields, "input": "hi", "max_output_tokens": 40, "stream": True}
    events = checked(router.client.post("/v1/responses", json=body).content)
    response = final(events)
    assert response["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert 1 <= kinds(events).count("output_text.delta") <= 40
    assert (response["status"], response["usage"]["output_tokens"]) == ("incomplete", 40)


def test_turns_go_on_by_their_id(client: openai.OpenAI) -> None:  # B-C10
    first = client.responses.create(model="plain", input="one", instructions="Be brief.", **FEW)
    second = client.responses.create(model="plain", input="two", previous_response_id=first.id, **FEW)
    assert second.previous_response_id == first.id
    whole: Any = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "two"},
    ]
    for items in (whole, [whole[0], *first.output, whole[2]], [whole[0], {"id": first.output[0].id}, whole[2]]):
        again = client.responses.create(model="plain", input=items, **FEW)
        assert again.usage
        assert second.usage
        assert again.usage.input_tokens == second.usage.input_tokens
        assert again.output_text == second.output_text
    counted = client.responses.input_tokens.count(model="plain", input="two", previous_response_id=first.id)
    assert counted.input_tokens == second.usage.input_tokens


def test_responses_are_read_listed_and_forgotten(client: openai.OpenAI) -> None:
    first = client.responses.create(model="plain", input="one", **FEW)
    second = client.responses.create(model="plain", input="two", previous_response_id=first.id, **FEW)
    assert client.responses.retrieve(second.id).to_dict() == second.to_dict()
    items = client.responses.input_items.list(second.id, order="asc")
    words = [part.text for item in items for part in getattr(item, "content", ()) if hasattr(part, "text")]
    assert words == ["one", first.output_text, "two"]
    page = client.responses.input_items.list(second.id, limit=1)
    assert len(page.data) == 1
    assert len(list(page)) == 3  # it asks for the other pages
    client.responses.delete(second.id)
    for read in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            read(second.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="plain", input="three", previous_response_id=second.id)
    assert caught.value.param == "previous_response_id"


def test_a_response_belongs_to_its_key(router: Router, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="plain", input="one", **FEW)
    with client_of(router, "yours") as other:
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(answer.id)
        for fields in ({"previous_response_id": answer.id}, {"input": [{"id": answer.output[0].id}]}):
            with pytest.raises(openai.BadRequestError):
                other.responses.create(**{"model": "plain", "input": "two", **fields})
    with client_of(router, "nobodys") as nobody, pytest.raises(openai.AuthenticationError):
        nobody.responses.retrieve(answer.id)


def test_odd_items_are_kept_and_sent_again(router: Router) -> None:
    odd = f'{{"role": "user", "content": "hi", "y": "\\ud800", "x": 1{"0" * 40}, "id": 5}}'
    body = f'{{"model": "plain", "input": [{odd}], "max_output_tokens": 4}}'
    first = router.client.post("/v1/responses", content=body, headers=JSON).json()
    for path in (f"/v1/responses/{first['id']}", f"/v1/responses/{first['id']}/input_items"):
        assert router.client.get(path).status_code == 200
    again = {"model": "plain", "input": "hi", "previous_response_id": first["id"], **FEW}
    assert router.client.post("/v1/responses", json=again).status_code == 200


def test_a_conversation_is_part_of_what_waits(launch: Callable[..., Router], folder: Callable[..., Path]) -> None:
    """A short request that continues a long conversation holds as many bytes as the conversation has."""
    router = launch("--models-dir", str(folder("m")), "--max-body-size", "1")
    id = ""
    for words, status in (("a" * 700_000, 200), ("b" * 200_000, 200), ("c" * 200_000, 413)):
        body = {"model": "m", "input": words, **({"previous_response_id": id} if id else {})}
        response = router.client.post("/v1/responses", json=body)
        assert response.status_code == status, response.text
        id = response.json().get("id", "")


def test_what_is_not_stored_is_gone(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="plain", input="one", store=False, **FEW)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


@pytest.mark.parametrize("is_stream", [True, False])
def test_the_oldest_turns_may_go(router: Router, is_stream: bool) -> None:
    """With `truncation` "auto", a conversation that is too long for the context begins with a later turn."""
    turns = [{"role": role, "content": "hi " * 60} for role in ("user", "assistant") * 10]
    body = {"model": "plain", "input": [*turns, {"role": "user", "content": "last"}], "stream": is_stream, **FEW}
    body["instructions"] = "Be brief."
    response = router.client.post("/v1/responses", json={**body, "truncation": "auto"})
    answer = final(checked(response.content)) if is_stream else response.json()
    assert (answer["status"], answer["truncation"]) == ("incomplete", "auto")
    assert 500 < answer["usage"]["input_tokens"] < 2048
    alone = {**body, "input": "hi " * 5000, "stream": False}
    assert router.client.post("/v1/responses", json={**alone, "truncation": "auto"}).status_code == 400


def test_too_long_an_input_is_an_event_of_a_stream(client: openai.OpenAI) -> None:
    """As OpenAI's servers say it: Codex compacts its conversation for the code of an event, and for no other answer."""
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.responses.create(model="tiny-a", input="hi " * 5000)
    assert caught.value.type == "exceed_context_size_error"
    stream = client.responses.create(model="tiny-a", input="hi " * 5000, stream=True)
    with pytest.raises(openai.APIError, match="context") as streamed:
        list(stream)
    assert streamed.value.code == "context_length_exceeded"


def test_errors_before_the_answer(router: Router, client: openai.OpenAI) -> None:
    for stream in (True, False):
        with pytest.raises(openai.NotFoundError, match="tiny-a"):
            client.responses.create(model="tiny-aa", input="hi", stream=stream)
        picture: Any = {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL, "detail": "auto"}]}
        with pytest.raises(openai.BadRequestError, match="image"):
            client.responses.create(model="tiny-a", input=[picture], stream=stream)
    for body in ("", "[]", "{", '{"model": 5}', '{"model": "plain", "input": "hi", "background": true}'):
        response = router.client.post("/v1/responses", content=body, headers=JSON)
        assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")
    for odd in (
        '"text": {"format": {"type": "text", "x": 1e400}}',
        '"input": [{"role": "user", "content": "", "x": 1e400}]',
    ):
        response = router.client.post(
            "/v1/responses", content=f'{{"model": "plain", "input": "hi", {odd}}}', headers=JSON
        )
        assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")
    wrong = router.client.post("/v1/responses", json={"model": "plain", "input": "hi", "keep_alive": "soon"})
    assert error_of(wrong)["param"] == "keep_alive"
    for query in ("?limit=0", "?limit=x", "?order=up", "?after=nothing"):
        id = client.responses.create(model="plain", input="one", **FEW).id
        assert router.client.get(f"/v1/responses/{id}/input_items{query}").status_code == 400
        assert router.client.get(f"/v1/responses/{id}?stream=true").status_code == 400


@pytest.mark.parametrize("is_stream", [True, False])
def test_calls_and_their_outputs(
    launch: Callable[..., Router], folder: Callable[..., Path], is_stream: bool
) -> None:  # B-C10
    """The call arrives letter by letter; the next turn has its output, as text or in parts."""
    router = launch("--models-dir", str(folder("m")), FAKE_TOOL_ARGUMENTS='{"today": true}')
    router.client.headers["authorization"] = "Bearer none"
    body: dict[str, Any] = {"model": "m", "input": "Rain?", "tools": [RAIN], "stream": is_stream}

    def ask(**fields: Any) -> dict[str, Any]:
        response = router.client.post("/v1/responses", json={**body, **fields})
        assert response.status_code == 200, response.text
        return final(checked(response.content)) if is_stream else response.json()

    first = ask(tool_choice={"type": "function", "name": "rain"})
    (call,) = first["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "rain", {"today": True})
    for output in ("yes", [{"type": "input_text", "text": "yes"}]):
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": output}
        for fields in ({"input": ["x", call, result]}, {"input": [result], "previous_response_id": first["id"]}):
            if "x" in fields["input"]:
                fields["input"][0] = {"role": "user", "content": "Rain?"}
            second = ask(**fields)
            assert second["output"][0]["content"][0]["text"].startswith("one two")
    Response.model_validate(second)


def test_a_stream_that_waits_for_its_model(launch: Callable[..., Router], folder: Callable[..., Path]) -> None:
    """Comments come before the events; what goes wrong after them is told by events."""
    flags = ("--models-dir", str(folder("m")), "--stream-keepalive", "0.05")
    body = {"model": "m", "input": "hi", "stream": True}
    router = launch(*flags, FAKE_LOAD_SECONDS="0.5")
    comments, events = router.client.post("/v1/responses", json=body).content.rsplit(b": loading\n\n", 1)
    assert comments == b": loading\n\n" * (len(comments) // 11)
    assert final(checked(events))["status"] == "incomplete"
    broken = launch(*flags, FAKE_LOAD_SECONDS="0.5", FAKE_FAIL="error: out of luck")
    events = broken.client.post("/v1/responses", json=body).content.rpartition(b": loading\n\n")[2]
    assert kinds(checked(events)) == ["created", "in_progress", "failed", "error"]


def test_a_request_without_a_limit_gets_a_time_limit(
    launch: Callable[..., Router], folder: Callable[..., Path]
) -> None:  # B-L14
    """One that takes twice as long is told as cut, never as complete."""
    flags = ("--models-dir", str(folder("m")), "--max-generation-time", "1")
    router = launch(*flags, FAKE_TOKENS="100000", FAKE_CHUNK_SECONDS="0.05")
    body = {"model": "m", "input": "hi", "stream": True}
    events = checked(router.client.post("/v1/responses", json=body).content)
    whole = router.client.post("/v1/responses", json={**body, "stream": False}).json()
    for response in (final(events), whole):
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["output"][0]["content"][0]["text"].startswith("one two")
    limited = router.client.post("/v1/responses", json={**body, "max_output_tokens": 50})
    assert final(checked(limited.content))["status"] == "incomplete"
