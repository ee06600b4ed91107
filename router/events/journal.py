"""Everything that happens, in its order: the last events that operators see, and all of them for subscribers.

The one idea: what happened is told once. Whoever wants to know subscribes to kinds of events: the log, the metrics, the
data API. A subscriber is called in the same step, so that it sees each event while the books are still as the event
left them. It must not wait, and must not call the pool.

An emitter of events that cost something to make, or that are many, asks before it makes one: `hears_requests` is False
as long as nobody subscribed to the events of single requests.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router.events.kinds import NUMBERS, PER_REQUEST, AnyEvent, Refused
from router.events.sentences import sentence
from router.redaction import without_credentials

log = logging.getLogger("router.events")

KEPT = 2_000
REPEAT_S = 1.0  # a model's refusals for the same reason: of so many seconds one is kept
MAX_REFUSED = 20  # of all refusals so many are kept in this time


@dataclass(frozen=True, slots=True)
class Entry:
    """`seq` counts the events that are kept, from 1 without a gap; another event has that of the last of them.
    `at` is the wall clock, in seconds since 1970."""

    seq: int
    at: float
    event: AnyEvent

    @property
    def as_json(self) -> dict[str, Any]:
        """As clients get it: `{seq, at, kind, model, for, reason, text, numbers}`. What does not apply is null."""
        event = self.event
        cause = getattr(event, "cause", None)
        numbers = {name: value for name in NUMBERS if (value := getattr(event, name, None)) not in (None, {})}
        return {
            "seq": self.seq,
            "at": self.at,
            "kind": event.KIND,
            "model": event.model,
            "for": getattr(event, "wanted_by", "") or None,
            "reason": cause.value if cause else getattr(event, "refusal", None) or getattr(event, "waits_for", None),
            "text": without_credentials(sentence(event)),
            "numbers": numbers,
        }


Subscriber = Callable[[Entry], None]


class Journal:
    """`clock` returns the wall clock, in seconds since 1970::

    end = journal.subscribe(note, Evict, Crash)
    journal.emit(Crash(...))  # calls note(Entry(...))
    journal.since(0)  # [Entry(...)]
    end()
    """

    def __init__(self, clock: Callable[[], float] = time.time, kept: int = KEPT) -> None:
        self._clock = clock
        self._kept: deque[Entry] = deque(maxlen=kept)
        self._subscribers: dict[type[AnyEvent], tuple[Subscriber, ...]] = {}
        self._refused: dict[tuple[str, str], float] = {}  # when each was kept last, by model and reason
        self.seq = 0
        self.hears_requests = False  # somebody subscribed to events of single requests

    def __repr__(self) -> str:
        return f"<Journal: {self.seq} events, {len(self._kept)} kept>"

    def emit(self, event: AnyEvent) -> None:
        """This has happened just now. Never raises."""
        now = self._clock()
        is_kept = event.IS_SHOWN and not (type(event) is Refused and self._is_flood(event, now))
        if is_kept:
            self.seq += 1
        entry = Entry(self.seq, now, event)
        if is_kept:
            self._kept.append(entry)
        for subscriber in self._subscribers.get(type(event), ()):
            try:
                subscriber(entry)
            except Exception as exc:  # who listens must not spoil what happens
                log.critical("a defect in the router", exc_info=exc)

    def subscribe(self, subscriber: Subscriber, *kinds: type[AnyEvent]) -> Callable[[], None]:
        """Call it with each event of these kinds from now on, in their order. Returns what ends that."""
        for kind in kinds:
            self._subscribers[kind] = (*self._subscribers.get(kind, ()), subscriber)
        self._note_listeners()

        def end() -> None:
            for kind in kinds:
                self._subscribers[kind] = tuple(each for each in self._subscribers[kind] if each is not subscriber)
            self._note_listeners()

        return end

    def since(self, seq: int) -> list[Entry]:
        """The events that are kept after this one, the oldest first, as far as they are kept."""
        first = self.seq - len(self._kept)
        return list(self._kept)[max(0, seq - first) :] if seq < self.seq else []

    def _is_flood(self, event: Refused, now: float) -> bool:
        """Whether the same was kept a moment ago, or many others were. Clients that are refused ask again, also for one
        model after the other: all else would be lost soon."""
        key = event.model, event.refusal
        if abs(now - self._refused.get(key, -math.inf)) < REPEAT_S:
            return True
        if len(self._refused) >= MAX_REFUSED:
            self._refused = {each: at for each, at in self._refused.items() if abs(now - at) < REPEAT_S}
            if len(self._refused) >= MAX_REFUSED:
                return True
        self._refused[key] = now
        return False

    def _note_listeners(self) -> None:
        self.hears_requests = any(self._subscribers.get(kind) for kind in PER_REQUEST)
