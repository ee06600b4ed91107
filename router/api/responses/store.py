"""Responses that are kept for `previous_response_id`, for references to items, and to be read again.

In memory, and bounded in number and bytes: the response that was not used for the longest time goes first. Each belongs
to the key that the client sent, so one client cannot read another's.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.api.responses.fields import invalid
from router.api.responses.items import is_reference
from router.errors import InvalidRequest, UnknownResponse
from router.proxy import weight
from router.proxy.body import json_object

MAX_RESPONSES = 1000
MAX_BYTES = 64 << 20
ENTRY_BYTES = 1024  # of memory besides the JSON, about

_OUTPUT_ID = re.compile(r"[a-z]{2,4}_([0-9a-f]{48})([0-9a-f]{2,8})")

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`response` is the object, and `input` an object with the list of its own input `items`, both as JSON. `previous`
    is the id of the response before it; empty if there is none."""

    response: bytes
    input: bytes
    previous: str = ""

    @property
    def size(self) -> int:
        return len(self.response) + len(self.input) + ENTRY_BYTES

    def items(self) -> list[Item]:
        return [*self.input_items(), *self.output()]

    def input_items(self) -> list[Item]:
        items: list[Item] = json_object(self.input)["items"]
        return items

    def output(self) -> list[Item]:
        output: list[Item] = json_object(self.response)["output"]
        return output


class ResponseStore:
    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._kept: OrderedDict[tuple[bytes, str], StoredResponse] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._kept)} responses, {self._bytes} bytes>"

    def add(self, owner: bytes, id: str, stored: StoredResponse) -> None:
        """One that would take more than a quarter of all the room is not kept."""
        if stored.size > self._max_bytes // 4:
            return
        self._kept[owner, id] = stored
        self._bytes += stored.size
        while len(self._kept) > self._max_responses or self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size

    def get(self, owner: bytes, id: str) -> StoredResponse:
        """Raises UnknownResponse."""
        found = self._kept.get((owner, id))
        if found is None:
            raise UnknownResponse(
                f"There is no response {id[:80]!r}, or not any more: responses are kept in memory for some time, "
                "for the key that made them, and not if 'store' is false."
            )
        self._kept.move_to_end((owner, id))
        return found

    def remove(self, owner: bytes, id: str) -> None:
        """Raises UnknownResponse."""
        self._bytes -= self.get(owner, id).size
        del self._kept[owner, id]

    def conversation(self, owner: bytes, id: str) -> list[StoredResponse]:
        """The responses up to this one, the oldest first; none for no id. All count as used. Raises InvalidRequest."""
        found: list[StoredResponse] = []
        while id:
            try:
                found.append(self.get(owner, id))
            except UnknownResponse as exc:
                raise invalid(f"{exc.message} Send the whole input.", "previous_response_id") from None
            id = found[-1].previous
        return found[::-1]

    def referenced(self, owner: bytes, items: Any) -> References:
        """What the item references among these input items name, as far as it is kept."""
        found: dict[str, StoredResponse] = {}
        for item in items if isinstance(items, list) else ():
            id = item.get("id") if isinstance(item, dict) and is_reference(item) else None
            match = _OUTPUT_ID.fullmatch(id) if isinstance(id, str) else None
            if match and (stored := self._kept.get((owner, f"resp_{match[1]}"))):
                found[match[1]] = stored
        return References(found)


class References:
    """Items of answers that are kept, for one request. Each can be taken once: a short request must not become a long
    one by naming a long item many times."""

    def __init__(self, responses: Mapping[str, StoredResponse]) -> None:
        self.size = sum(stored.size for stored in responses.values())  # bytes
        self._responses = responses
        self._items: dict[str, Item] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {len(self._responses)} responses>"

    def take(self, id: str) -> Item | None:
        """Called in a thread: what is kept is parsed here."""
        if self._items is None:
            self._items = {item["id"]: item for stored in self._responses.values() for item in stored.output()}
        return self._items.pop(id, None)


def items_of(conversation: list[StoredResponse]) -> list[Item]:
    """Their items. Raises InvalidRequest if they are more than the router parses for one request."""
    parts = (part for stored in conversation for part in (stored.input, stored.response))
    if sum(map(weight.weight, parts)) > weight.MAX_WEIGHT:
        raise InvalidRequest("The conversation holds too many values. Begin a new one.")
    return [item for stored in conversation for item in stored.items()]


def owner_of(headers: Mapping[str, str]) -> bytes:
    """Who stores and reads: the credentials of a request, as a digest, so that no key is kept."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("authorization", "x-api-key"):
        value = headers.get(name, "").encode()
        digest.update(b"%d:%b" % (len(value), value))
    return digest.digest()


def with_ids(items: Sequence[Mapping[str, Any]], token: str) -> list[Item]:
    """Input items as the API lists them: each has a type and an id, and messages have parts."""
    return [_listed(item, f"in_{token}{index:02x}") for index, item in enumerate(items)]


def _listed(item: Mapping[str, Any], id: str) -> Item:
    listed = {"type": "message", **item} if "role" in item else dict(item)
    if not isinstance(listed.get("id"), str):
        listed["id"] = id
    if listed.get("type") != "message":
        return listed if listed.get("type") == "item_reference" else {"status": "completed", **listed}
    if isinstance(listed.get("content"), str):
        kind = "output_text" if listed["role"] == "assistant" else "input_text"
        more: Item = {"annotations": []} if kind == "output_text" else {}
        listed["content"] = [{"type": kind, "text": listed["content"], **more}]
    return {"status": "completed", **listed}
