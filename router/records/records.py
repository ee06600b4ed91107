"""The requests that run, the last ones that have ended, and those who want to know of each.

One `Records` is made with the gateway (`gateway.records`). Each request of a model begins here once and ends here once;
401s and what only looks at a model leave nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple, TypeVar

from router.records.record import MAX_ID, Record, clean
from router.records.running import Running
from router.records.small import Batch, Ended, SmallRequests, Sums, as_record
from router.records.speed import Speed
from router.records.totals import LastHour

log = logging.getLogger("router.records")

MAX_ENDED = 500  # records that are kept

T = TypeVar("T")
Subscriber = Callable[[Record], None]


class Totals(NamedTuple):
    """`requests` and `errors` are those of the last hour."""

    running: int
    waiting: int
    tokens_per_second: float
    requests: int
    errors: int


class Records:
    """`load_seconds(model, since)`: how many of the seconds since then the model took to load.
    `tracer`, if there is one, gets each request's `traceparent` and returns what is kept as its `trace`.

    ::

        unsubscribe = gateway.records.subscribe(lambda record: print(record.model, record.seconds))
        request = gateway.records.begin(b"17", "/v1/chat/completions", "openai", "127.0.0.1", "curl/8")
        request.model = "tiny"
        request.end(200)  # prints
    """

    def __init__(self, load_seconds: Callable[[str, float], float] = lambda model, since: 0.0) -> None:
        self.load_seconds = load_seconds
        self._running: dict[str, Running] = {}
        self._ended: deque[Record | Ended] = deque(maxlen=MAX_ENDED)
        self._subscribers: tuple[Subscriber, ...] = ()
        self._of_each: tuple[Subscriber, ...] = ()  # those that want the record of each small request, too
        self._of_sums: tuple[Callable[[Sums], None], ...] = ()
        self._numbers = count(2)
        self._last_hour = LastHour()
        self.speed = Speed(self._running)
        self.small = SmallRequests(self._take_small, lambda: bool(self._of_each))
        self.tracer: Callable[[str], str] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} running={len(self._running)} ended={len(self._ended)}>"

    def begin(self, id: bytes, path: str, dialect: str, client: str = "", agent: str = "", trace: str = "") -> Running:
        """A request has come. `path`, `client` and `agent` are clean and short (`record.clean`)."""
        if self.tracer is not None:
            trace = self.tracer(trace)
        key = id.decode("latin-1")
        if len(key) != 16 or not key.isalnum() or key in self._running:
            key = self._distinct(key)
        running = Running(self, id, key, path, dialect, client, agent, trace, time.monotonic())
        self._running[key] = running
        if self.speed.timer is None:
            self.speed.start()
        return running

    def _distinct(self, id: str) -> str:
        """Clients choose ids too, and may choose the same. The second of those that run at once gets a number."""
        found = id = clean(id, MAX_ID)
        while found in self._running or found in (".", ".."):  # which nobody can send in a path
            found = f"{id}~{next(self._numbers)}"
        return found

    def forget(self, request: Running) -> None:
        """This was no request of its own: no record is made of it."""
        request.is_over = True
        self._running.pop(request.id, None)

    def finish(self, request: Running, record: Record, now: float) -> None:
        """`Running` calls this at its end."""
        self.small.flush()  # these have ended before
        del self._running[request.id]
        answer = request.answer
        if answer is not None and answer.is_stream:
            self.speed.add_events(request.model, answer.pieces - request.counted)
        else:
            self.speed.add_answer(record)
        self._keep((record,), now)
        for subscriber in self._subscribers:
            _tell(subscriber, record)

    def _take_small(self, batch: Batch, now: float) -> None:
        self._keep(batch.entries, now)
        for sums in batch.sums:
            self.speed.add_tokens(sums.model, sums.last_second)
            for take_sums in self._of_sums:
                _tell(take_sums, sums)
        for record in batch.records:
            for subscriber in self._subscribers if record.error is not None else self._of_each:
                _tell(subscriber, record)

    def _keep(self, entries: Sequence[Record | Ended], now: float) -> None:
        self._ended.extend(entries)
        hour = self._last_hour
        if now >= hour.minute_ends:
            hour.turn(now)
        hour.minute[0] += len(entries)
        hour.minute[1] += sum([not isinstance(entry, tuple) and entry.error is not None for entry in entries])

    def subscribe(self, subscriber: Subscriber, take_sums: Callable[[Sums], None] | None = None) -> Callable[[], None]:
        """Calls `subscriber` with each record of a request that has ended, in the same step: it must not wait, and be
        quick. Returns the function that ends this.

        With `take_sums`, small requests that were answered well are told to that one alone, many at once: for whoever
        counts, or wants nothing of them."""
        self.settle()
        self._subscribers = (*self._subscribers, subscriber)
        if take_sums is None:
            self._of_each = (*self._of_each, subscriber)
        else:
            self._of_sums = (*self._of_sums, take_sums)

        def unsubscribe() -> None:
            self.settle()
            self._subscribers = tuple(each for each in self._subscribers if each is not subscriber)
            self._of_each = tuple(each for each in self._of_each if each is not subscriber)
            self._of_sums = tuple(each for each in self._of_sums if each is not take_sums)

        return unsubscribe

    def stop(self, id: str) -> bool:
        """Ends a running request, or one that waits: its client gets an error. False if there is none with this id."""
        self.settle()
        request = self._running.get(id)
        if request is None:
            return False
        request.stop()
        return True

    def settle(self) -> None:
        """What is done late for small requests is done now."""
        self.small.show()
        self.small.flush()

    @property
    def live(self) -> Mapping[str, Running]:
        """The running ones, by id; for reading only."""
        self.settle()
        return self._running

    def running(self) -> list[Record]:
        """The latest first."""
        return [request.record() for request in sorted(self.live.values(), key=lambda request: -request.began)]

    def ended(self) -> Iterator[Record]:
        """The latest first."""
        self.settle()
        self._ended = deque(map(as_record, self._ended), MAX_ENDED)
        return map(as_record, reversed(self._ended))

    def totals(self) -> Totals:
        waiting = sum(request.is_waiting for request in self.live.values())
        hour = self._last_hour
        return Totals(len(self._running) - waiting, waiting, self.speed.total, hour.requests(), hour.errors())


def _tell(subscriber: Callable[[T], None], news: T) -> None:
    try:
        subscriber(news)
    except Exception as exc:  # the client has its answer; who only watches must not take it away
        log.critical("a defect in the router", exc_info=exc)
