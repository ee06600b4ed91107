"""`logs`: what is shown, and what is shown only once."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.client import logs
from router.client.logs import event_line, overlap
from tests.client.conftest import Run
from tests.client.stub import Asked, Reply, error, stub
from tests.waiting import until


def event(seq: int, at: float, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "at": at, "kind": "ready", "model": "m", "text": f"event {seq} at {at:g}", **more}


def test_an_event_is_a_line() -> None:
    now = time.time()
    when = time.strftime("%H:%M:%S", time.localtime(now))
    assert event_line(event(1, now)) == f"{when} ready       m: event 1 at {now:g}"
    assert event_line({"at": now, "kind": "evict", "model": "m", "text": "m goes"}) == f"{when} evict       m goes"
    assert event_line({"at": now, "kind": "reload", "model": "*", "text": "new"}) == f"{when} reload      new"
    assert event_line(event(1, 86400.0 * 400)).startswith("1971-02-0")
    assert "\x1b" not in event_line({"at": now, "kind": "\x1b[2J", "model": "\x9b", "text": "\x1b]0;x\x07\n"})
    event_line({"at": "x", "kind": None, "model": None, "text": []})
    for odd in (1e300, 10**400, math.inf, math.nan, -1e300):  # times that no calendar has
        assert event_line(event(1, 1.0) | {"at": odd}).endswith(" ready       m: event 1 at 1")


@pytest.mark.parametrize(
    ("shown", "found", "known"),
    [
        ("abc", "abcd", 3),
        ("abc", "abc", 3),
        ("abc", "xyz", 0),
        ("abc", "", 0),
        ("c", "abcd", 3),
        ("bc", "c", 0),  # the log of a new router may begin with a line like the last one of the old
        ("aa", "aaaa", 4),
    ],
)
def test_lines_that_are_known_are_left_out(shown: str, found: str, known: int) -> None:
    assert overlap(shown, found) == known


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.lists(st.sampled_from("xyz"), max_size=20))
def test_after_a_break_the_log_goes_on(shown: Sequence[str], new: Sequence[str]) -> None:
    assert overlap(shown, [*shown, *new]) == len(shown)
    assert overlap(shown, list(new)) == 0


class Follower:
    """`logs -f` in a thread, against a server whose router may begin anew."""

    def __init__(self, url: str, capfd: pytest.CaptureFixture[str], *words: str) -> None:
        self._capfd, self._text, self.ended = capfd, "", False
        self._words = [*words, "-f", "--json", "--url", url]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            logs.run(self._words, {})
        except Exception:
            self.ended = True

    @property
    def shown(self) -> list[Any]:
        self._text += self._capfd.readouterr().out
        return [json.loads(line) for line in self._text.splitlines()]


def test_events_are_shown_once_over_breaks_and_restarts(capfd: pytest.CaptureFixture[str]) -> None:  # B-O6
    ring = [event(1, 10.0), event(2, 11.0), event(3, 12.0)]
    is_down = False

    def answer(asked: Asked) -> Reply:
        if is_down:
            return error("ends", 503)
        query = dict(pair.split("=") for pair in asked.path.partition("?")[2].split("&"))
        since = int(query.get("since", 0))
        since = since if since <= ring[-1]["seq"] else 0
        new = [each for each in ring if each["seq"] > since][-int(query["limit"]) :]
        return Reply({"seq": ring[-1]["seq"], "events": new})

    with stub(answer) as server:
        follower = Follower(server.url, capfd, "-n", "2")
        until(lambda: [each["seq"] for each in follower.shown] == [2, 3])
        ring.append(event(4, 12.0))  # in the same moment as the one before
        until(lambda: len(follower.shown) == 3)
        is_down = True
        count = len(server.asked)
        until(lambda: len(server.asked) > count + 1)
        ring.append(event(5, 14.0))
        is_down = False
        until(lambda: len(follower.shown) == 4)
        ring[:] = [event(1, 20.0), event(2, 21.0)]  # it has begun anew, unseen
        until(lambda: len(follower.shown) == 6)
        count = len(server.asked)
        until(lambda: len(server.asked) > count + 2)
        assert [each["at"] for each in follower.shown] == [11.0, 12.0, 12.0, 14.0, 20.0, 21.0]
        ring[:] = []
        is_down = False
        server.answers = lambda asked: error("another key", 401)
        until(lambda: follower.ended)


def test_a_break_within_a_log_repeats_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    lines = ["one", "two", "two"]

    def answer(asked: Asked) -> Reply:
        assert asked.path.startswith("/models/user/repo%3AQ8/log?lines=")
        if "follow" not in asked.path:
            return Reply("".join(f"{line}\n" for line in lines).encode())

        def pieces() -> Iterator[bytes]:  # the connection breaks after what there is
            for line in list(lines):
                yield f"{line}\n".encode()

        return Reply(pieces=pieces)

    with stub(answer) as server:
        follower = Follower(server.url, capfd, "user/repo:Q8")
        until(lambda: len(follower.shown) == 3)
        lines.append("three")
        until(lambda: len(follower.shown) == 4)
        count = len(server.asked)
        until(lambda: len(server.asked) > count + 4)
        assert [each["line"] for each in follower.shown] == ["one", "two", "two", "three"]
        server.answers = lambda asked: error("there is no model", 404)
        until(lambda: follower.ended)


def test_a_model_that_does_not_exist_is_not_waited_for(llama_router: Run) -> None:
    with stub(lambda asked: error("there is no model 'x'", 404)) as server:
        assert llama_router("logs", "x", "-f", "--url", server.url).code == 5
    assert llama_router("logs", "-f", "--url", "http://127.0.0.1:1").code == 3
    for word in ("x", "-1", "1.5", "9999999999"):
        assert llama_router("logs", "-n", word).code == 2
