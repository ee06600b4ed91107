"""`logs`: what a model's process wrote, or what happened in the router. With `-f` it goes on over a router's restart.

A router that was started again counts from 1, and the log of a model begins anew. So after every break all is asked for
again, and what has been shown is left out: events by their time, lines by those before them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.client import options, screen, target
from router.client.failures import KeyRefused, NoSuchModel
from router.client.session import Response, Session, in_url
from router.client.stream import lines as lines_of
from router.errors import FlagError, RouterError
from router.logs.letters import visible

LINES = 100
MOST = 10_000
POLL_S = 0.5  # between two questions for events; also after a break
TIMEOUT_S = 20.0
TAIL_LINES = 20  # by which the place in a log is found again
PATH = "/router/events"

COLOURS = {"ready": "32", "start": "33", "wait": "33", "drain": "35", "evict": "35", "stop": "35", "ttl": "35"}
PROBLEM = "31"  # crash, load_failed, refused
PROBLEMS = ("crash", "load_failed", "refused")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    words = options.read("logs", argv, most=1)
    count = _count(words.value("--lines"))
    model = words.words[0] if words.words else ""
    show = _show_json if words.has("--json") else _show

    def find() -> Session:
        return Session(target.find(words, environ), TIMEOUT_S)

    source = _Log(model, count) if model else _Events(count)
    if not words.has("--follow"):
        with find() as session:
            for record in source.now(session):
                show(record)
        return 0
    _follow(find, source, show)
    return 0


def _follow(find: Callable[[], Session], source: _Log | _Events, show: Callable[[Any], None]) -> None:
    """Until the user ends it. What is wrong at the beginning is raised; later only what does not pass by itself."""
    has_begun = is_told = False
    while True:
        try:
            with find() as session:
                for record in source.follow(session):
                    has_begun, is_told = True, False
                    if record is not None:
                        show(record)
        except (KeyRefused, NoSuchModel):
            raise
        except RouterError as exc:
            if not has_begun:
                raise
            if not is_told:
                print(f"llama-router: waiting for the router: {visible(exc.message)}", file=sys.stderr, flush=True)
                is_told = True
        time.sleep(POLL_S)


@dataclass(slots=True)
class _Events:
    """The router's events. A record is an event as the router tells it."""

    count: int
    at: float = 0.0  # of the last one that was shown

    def now(self, session: Session) -> Iterator[dict[str, Any]]:
        yield from self._ask(session, 0, self.count)[1]

    def follow(self, session: Session) -> Iterator[dict[str, Any] | None]:
        """None when there was nothing new."""
        since, is_new, count = 0, True, MOST if self.at else self.count
        while True:
            seq, found = self._ask(session, since, count)
            is_new, since, count = is_new or seq < since, seq, MOST
            before = self.at if is_new else 0.0  # a router that has begun anew numbers from 1: times go on
            for event in found:
                at = _seconds(event.get("at"))
                self.at = max(self.at, at)
                if at > before:
                    yield event
            is_new = False
            yield None
            time.sleep(POLL_S)

    @staticmethod
    def _ask(session: Session, since: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """The number of the last event, and the events."""
        if not limit:
            return _whole(session.json("GET", PATH, params={"limit": "1"}).get("seq")), []
        answer = session.json("GET", PATH, params={"since": str(since), "limit": str(limit)})
        found = answer.get("events")
        events = [event for event in found if isinstance(event, dict)] if isinstance(found, list) else []
        return _whole(answer.get("seq")), events


@dataclass(slots=True)
class _Log:
    """The lines of one model's processes. A record is a line."""

    model: str
    count: int
    shown: deque[str] = field(default_factory=lambda: deque(maxlen=MOST))

    def now(self, session: Session) -> Iterator[str]:
        with self._open(session, self.count, TIMEOUT_S) as answer:
            yield from lines_of(answer.iter_bytes())

    def follow(self, session: Session) -> Iterator[str | None]:
        count, known = self.count, 0
        if self.shown:  # after a break: all that there is, without what is known
            with self._open(session, MOST, TIMEOUT_S) as answer:
                count, known = MOST, overlap(self.shown, list(lines_of(answer.iter_bytes())))
        with self._open(session, count, None, follow="1") as answer:
            yield None
            for line in itertools.islice(lines_of(answer.iter_bytes()), known, None):
                self.shown.append(line)
                yield line

    def _open(
        self, session: Session, count: int, timeout: float | None, **more: str
    ) -> contextlib.AbstractContextManager[Response]:
        path = f"/models/{in_url(self.model, '/')}/log"
        return session.open("GET", path, params={"lines": str(count), **more}, timeout=timeout)


def overlap(shown: Sequence[str], found: Sequence[str]) -> int:
    """How many of the lines that were found have been shown already: up to the last place where they end as the shown
    ones do. The log of a new router has none of them."""
    tail = list(shown)[-TAIL_LINES:]
    for end in range(len(found), 0, -1):
        if end >= len(tail) and list(found[end - len(tail) : end]) == tail:
            return end
    return 0


def _show(record: Any) -> None:
    print(event_line(record) if isinstance(record, dict) else visible(record), flush=True)


def _show_json(record: Any) -> None:
    print(json.dumps(record if isinstance(record, dict) else {"line": record}), flush=True)


def event_line(event: Mapping[str, Any]) -> str:
    """`15:40:03 evict coder: ...`, with the day if it is not this one."""
    at, kind = _seconds(event.get("at")), str(event.get("kind"))
    moment = time.localtime(at)
    is_today = moment[:3] == time.localtime()[:3]
    when = time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", moment)
    model, text = str(event.get("model") or ""), str(event.get("text") or "")
    what = text if model in ("", "*") or text.startswith(model) else f"{model}: {text}"
    line = visible(f"{when} {kind:<11} {what}")
    colour = PROBLEM if kind in PROBLEMS else COLOURS.get(kind)
    return f"\x1b[{colour}m{line}\x1b[0m" if colour and screen.has_colours(sys.stdout) else line


def _count(word: str | None) -> int:
    if word is None:
        return LINES
    if word == "all":
        return MOST
    if not word.isascii() or not word.isdecimal() or len(word) > 9:
        raise FlagError(f"-n takes a number of lines, or all, not {word[:80]!r}")
    return min(int(word), MOST)


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e15 else 0


def _seconds(value: Any) -> float:
    """Since 1970; 0 for what is no such time, or none that a calendar has."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e11 else 0.0
