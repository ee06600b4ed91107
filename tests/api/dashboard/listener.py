"""A client of `/router/stream`, as its documentation says that one works: it keeps the state, and applies patches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

# Values that run with the clock, as of the `now` of the message that brought them.
UP = {"idle", "waited", "uptime"}
DOWN = {"expires_in", "eta", "retry_in", "drain_in"}


class Listener:
    """`state` is what it knows, `events` and `requests` are what it heard of."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.requests: dict[str, dict[str, Any]] = {}
        self.heard: list[str] = []  # the kinds of messages
        self.kinds: set[str] = set()  # of what patches have told
        self.has_ended = False

    def hear(self, message: bytes) -> None:
        """One message of the stream."""
        if message.startswith(b":"):
            self.heard.append("beat")
            return
        fields = dict(line.split(": ", 1) for line in message.decode().strip().split("\n"))
        data = json.loads(fields["data"])
        self.heard.append(fields["event"])
        match fields["event"]:
            case "state":
                self.state = data
                for entry in (data, *data["models"], *data["queue"]):
                    entry["at"] = data["now"]
            case "patch":
                self._patch(data)
            case "end":
                self.has_ended = True

    def _patch(self, data: dict[str, Any]) -> None:
        now = data["now"]
        self.kinds |= data.keys() - {"seq", "now"}
        self.state["seq"] = data["seq"]
        for kind, key in (("model", "id"), ("device", "key")):
            entries = self.state[f"{kind}s"]
            places = {entry[key]: place for place, entry in enumerate(entries)}
            for entry in data.get(kind, ()):
                entries[places[entry[key]]] = entry | ({"at": now} if kind == "model" else {})
        if "queue" in data:
            self.state["queue"] = [entry | {"at": now} for entry in data["queue"]]
        self.state["totals"] = data.get("totals", self.state["totals"])
        self.events += data.get("event", ())
        for request in data.get("request", ()):
            if request.get("gone"):
                self.requests.pop(request["id"])
            else:
                self.requests[request["id"]] = request

    def view(self, now: float) -> dict[str, Any]:
        """What it would show now: what runs with the clock is counted on."""
        state = json.loads(json.dumps(self.state))
        for entry in (state, *state["models"], *state["queue"]):
            passed = now - entry.pop("at")
            _count_on([entry, entry.get("why", {})], passed)
        return dict(state | {"now": now})


def _count_on(objects: Iterable[dict[str, Any]], passed: float) -> None:
    for each in objects:
        for name in each.keys() & UP:
            each[name] = None if each[name] is None else each[name] + passed
        for name in each.keys() & DOWN:
            each[name] = None if each[name] is None else max(0.0, each[name] - passed)


def assert_same(shown: Any, state: Any, place: str = "") -> None:
    """Equal, but for the tenths of a second to which the clock's values are rounded."""
    if isinstance(shown, dict) and isinstance(state, dict):
        assert shown.keys() == state.keys(), place
        for name in shown:
            assert_same(shown[name], state[name], f"{place}.{name}")
    elif isinstance(shown, list) and isinstance(state, list):
        assert len(shown) == len(state), place
        for number, (one, other) in enumerate(zip(shown, state, strict=True)):
            assert_same(one, other, f"{place}[{number}]")
    elif place.rpartition(".")[2] in UP | DOWN and shown is not None and state is not None:
        assert abs(shown - state) < 0.21, (place, shown, state)
    else:
        assert shown == state, place
