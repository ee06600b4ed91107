"""Responses that are kept: how many, for whom, and in which conversations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api.responses.store import ResponseStore, StoredResponse, items_of, owner_of, with_ids
from router.errors import InvalidRequest, UnknownResponse

ME, YOU = b"me", b"you"
TOKEN = "0" * 48
MESSAGE_ID = f"msg_{TOKEN}00"
MESSAGE = {"id": MESSAGE_ID, "type": "message", "role": "assistant", "content": []}


def stored(words: str = "Hi", previous: str = "", size: int = 0) -> StoredResponse:
    items = with_ids([{"role": "user", "content": words}], TOKEN)
    response = {"output": [{**MESSAGE, "content": [{"type": "output_text", "text": f"{words}!"}]}], "x": "x" * size}
    return StoredResponse(json.dumps(response).encode(), json.dumps({"items": items}).encode(), previous)


def texts(store: ResponseStore, id: str) -> list[str]:
    return [item["content"][0]["text"] for item in items_of(store.conversation(ME, id))]


def test_a_conversation_is_all_responses_up_to_one() -> None:
    store = ResponseStore()
    for words, previous in (("a", ""), ("b", "a"), ("c", "b"), ("d", "b")):
        store.add(ME, words, stored(words, previous))
    assert texts(store, "") == []
    assert texts(store, "c") == ["a", "a!", "b", "b!", "c", "c!"]
    assert texts(store, "d") == ["a", "a!", "b", "b!", "d", "d!"]
    store.remove(ME, "a")
    with pytest.raises(InvalidRequest, match="'a'") as caught:
        store.conversation(ME, "d")
    assert caught.value.param == "previous_response_id"


def test_nobody_reads_what_another_has_stored() -> None:
    store = ResponseStore()
    store.add(ME, f"resp_{TOKEN}", stored())
    assert store.get(ME, f"resp_{TOKEN}").items()
    reference = [{"id": MESSAGE_ID}]
    assert (store.referenced(ME, reference).take(MESSAGE_ID) or {})["role"] == "assistant"
    assert store.referenced(YOU, reference).take(MESSAGE_ID) is None
    for read in (store.get, store.remove):
        with pytest.raises(UnknownResponse):
            read(YOU, f"resp_{TOKEN}")
    with pytest.raises(InvalidRequest):
        store.conversation(YOU, f"resp_{TOKEN}")


@pytest.mark.parametrize("id", ["msg_1", f"msg_{TOKEN}01", f"msg_{TOKEN[:-1]}100", f"msg_{TOKEN}00x", ""])
def test_unknown_items(id: str) -> None:
    store = ResponseStore()
    store.add(ME, f"resp_{TOKEN}", stored())
    for items in ([{"id": id}], [{"type": "item_reference", "id": id}], [{"id": 5}], [5], id):
        references = store.referenced(ME, items)
        assert references.take(id) is None
        assert references.size in (0, store.get(ME, f"resp_{TOKEN}").size)


def test_an_item_is_taken_once() -> None:
    store = ResponseStore()
    store.add(ME, f"resp_{TOKEN}", stored())
    references = store.referenced(ME, [{"id": MESSAGE_ID}] * 3)
    assert references.size == store.get(ME, f"resp_{TOKEN}").size
    assert references.take(MESSAGE_ID)
    assert references.take(MESSAGE_ID) is None


def test_what_was_not_used_for_the_longest_time_goes_first() -> None:
    store = ResponseStore(max_responses=2)
    for id in ("a", "b"):
        store.add(ME, id, stored(id))
    store.get(ME, "a")
    store.add(ME, "c", stored("c"))
    assert texts(store, "a")
    with pytest.raises(UnknownResponse):
        store.get(ME, "b")


def test_bytes_are_bounded() -> None:
    store = ResponseStore(max_bytes=10_000)
    for number in range(50):
        store.add(ME, str(number), stored(size=number * 50))
    assert "0 responses, 0 bytes" not in repr(store)
    kept = int(repr(store).split("responses, ")[1].split()[0])
    assert kept <= 10_000
    with pytest.raises(UnknownResponse):  # it alone would take the room of many
        store.get(ME, "49")


def test_owners_are_told_apart_by_their_keys() -> None:
    headers = [{}, {"authorization": "Bearer a"}, {"authorization": "Bearer b"}, {"x-api-key": "Bearer a"}]
    assert len({owner_of(each) for each in headers}) == len(headers)
    assert owner_of({"authorization": "Bearer a", "x": "y"}) == owner_of(headers[1])
    assert b"Bearer" not in owner_of(headers[1])


@pytest.mark.parametrize(
    ("item", "listed"),
    [
        (
            {"role": "user", "content": "Hi"},
            {"type": "message", "status": "completed", "content": [{"type": "input_text", "text": "Hi"}]},
        ),
        (
            {"role": "assistant", "content": "Hi"},
            {"content": [{"type": "output_text", "text": "Hi", "annotations": []}]},
        ),
        ({"type": "message", "role": "user", "content": [], "id": "mine"}, {"id": "mine", "content": []}),
        ({"type": "function_call_output", "call_id": "c", "output": ""}, {"status": "completed", "call_id": "c"}),
        ({"id": "msg_1"}, {"id": "msg_1"}),
    ],
)
def test_input_items_as_the_api_lists_them(item: dict[str, Any], listed: dict[str, Any]) -> None:
    (found,) = with_ids([item], TOKEN)
    assert found.items() >= listed.items()
    assert found["id"] == item.get("id", f"in_{TOKEN}00")
