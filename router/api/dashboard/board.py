"""What operators see of the whole router, kept as JSON: only what has changed is made again.

The one idea: the board counts revisions, and knows in which of them each piece changed last. `state` is all pieces
together. `patch` is those that are newer than what a listener has; so nothing is queued for a listener, and one that
reads slowly gets a single patch with all that it missed. `GET /router/state` and the stream both read the board, and
therefore say the same.

`refresh` brings the board up to date, and costs what has changed, not what there is. `endpoints` calls it for each
state that is asked for, `stream` some times a second while anybody listens. Nothing here waits: devices are read in the
background (`Facts.devices`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from router import __version__
from router.api.dashboard.entries import Piece, device_piece, encode, model_piece, queue_piece
from router.api.dashboard.requests import LiveRequests
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.facts import ModelFacts, QueueFacts
from router.pool.pool import Pool
from router.records.records import Records

MAX_EVENTS = 500  # of one patch; who missed more asks `/router/events`
MAX_PATCHES = 8  # that are kept for the next listener, until something changes


class Cursor(NamedTuple):
    """How much of the board a listener has: up to this revision, this event, and this change of a request."""

    revision: int
    seq: int
    requests: int


class Kept:
    """Pieces by name, in order. `changed` is the revision in which each changed last; the latest change is its last."""

    def __init__(self) -> None:
        self.pieces: dict[str, Piece] = {}
        self.changed: dict[str, int] = {}
        self._told: dict[str, bytes] = {}
        self._running: set[str] = set()  # those that run with the clock

    def put(self, name: str, piece: Piece, revision: int) -> None:
        self.pieces[name] = piece
        self.changed.pop(name, None)
        self.changed[name] = revision
        self._told[name] = piece.told(0.0)
        (self._running.add if piece.clocks else self._running.discard)(name)

    def drop(self, name: str) -> None:
        del self.pieces[name], self.changed[name], self._told[name]
        self._running.discard(name)

    def order(self, names: Iterable[str]) -> None:
        """`names` are all of them."""
        names = list(names)
        self.pieces = {name: self.pieces[name] for name in names}
        self._told = {name: self._told[name] for name in names}

    def told(self, now: float) -> bytes:
        for name in self._running:
            self._told[name] = self.pieces[name].told(now)
        return b"[%b]" % b",".join(self._told.values())

    def since(self, revision: int) -> list[str]:
        """The names of what changed after this revision."""
        found = []
        for name in reversed(self.changed):
            if self.changed[name] <= revision:
                break
            found.append(name)
        return found[::-1]


class Board:
    """`engine` is the kind of the router's own engine, `build` its version.
    `clock` returns the wall clock, in seconds since 1970.

    ::

        board.refresh()
        body = board.state()
        cursor = board.cursor
        ...
        board.refresh()
        board.patch(cursor)  # what a client with that state lacks
    """

    def __init__(
        self, pool: Pool, records: Records, engine: str, build: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._pool = pool
        self._records = records
        self.requests = LiveRequests(records)
        self._clock = clock
        self._began = clock()
        self._about = encode(
            {"version": __version__, "engine": {"kind": engine, "build": build}, "limits": limits_of(pool)}
        )[1:-1]
        self.revision = 0
        self._whole_since = 0  # a listener that has less than this revision needs the state: models came or left
        self._catalog: Catalog | None = None
        self._specs: dict[str, ModelSpec] = {}
        self._log_version = -1
        self._facts: dict[str, ModelFacts] = {}
        self._lively: set[str] = set()  # models that are not quiet
        self._models, self._devices = Kept(), Kept()
        self._queue: list[Piece] = []
        self._totals: Piece | None = None
        self._queue_changed = self._totals_changed = 0
        self._patches: tuple[Cursor, dict[Cursor, bytes]] = Cursor(0, 0, 0), {}  # those of the present revision

    def __repr__(self) -> str:
        return f"<Board {len(self._facts)} models, revision {self.revision}>"

    @property
    def cursor(self) -> Cursor:
        """Of a client that has all of it."""
        return Cursor(self.revision, self._pool.journal.seq, self.requests.count)

    def seq_before(self, since: int) -> int:
        """The event after which a client goes on that has all events up to `since`. An event that is still to come is
        one of another router, which was here before: the client has none of this one's."""
        return since if since <= self._pool.journal.seq else 0

    # Reading

    def state(self) -> bytes:
        """All of it, as of the last refresh; what runs with the clock is as of now."""
        now, wall = self._pool.facts.now(), self._clock()
        head = b'{"seq":%d,"now":%.3f,"uptime":%.1f,' % (self._pool.journal.seq, wall, wall - self._began)
        parts = (
            (head, self._about),
            (b',"totals":', self._totals.told(now) if self._totals else b"{}"),
            (b',"devices":', self._devices.told(now)),
            (b',"queue":', _list(self._queue, now)),
            (b',"models":', self._models.told(now)),
        )
        return b"".join([part for pair in parts for part in pair] + [b"}"])

    def needs_state(self, cursor: Cursor) -> bool:
        """Models or devices came or left: no patch tells that."""
        return cursor.revision < self._whole_since

    def patch(self, cursor: Cursor) -> bytes:
        """What has changed since: `seq`, `now`, and each kind of what changed. Of the events that are many the latest:
        their numbers show that some are missing."""
        if self._patches[0] != self.cursor:
            self._patches = self.cursor, {}
        found = self._patches[1].get(cursor)
        if found is None:
            found = self._make_patch(cursor)
            if len(self._patches[1]) < MAX_PATCHES:  # most listeners are at the same place; some may be anywhere
                self._patches[1][cursor] = found
        return found

    def _make_patch(self, cursor: Cursor) -> bytes:
        journal, now = self._pool.journal, self._pool.facts.now()
        parts: list[bytes] = []
        if cursor.revision < self.revision:
            for kind, kept in ((b"device", self._devices), (b"model", self._models)):
                if names := kept.since(cursor.revision):
                    parts.append(b',"%b":%b' % (kind, _list([kept.pieces[name] for name in names], now)))
            if self._queue_changed > cursor.revision:
                parts.append(b',"queue":' + _list(self._queue, now))
            if self._totals_changed > cursor.revision and self._totals:
                parts.append(b',"totals":' + self._totals.told(now))
        if events := journal.since(cursor.seq)[-MAX_EVENTS:]:
            parts.append(b',"event":' + encode([entry.as_json for entry in events]))
        if requests := self.requests.since(cursor.requests):
            parts.append(b',"request":[%b]' % b",".join(requests))
        return b'{"seq":%d,"now":%.3f%b}' % (journal.seq, self._clock(), b"".join(parts))

    # Keeping

    def refresh(self) -> None:
        """Bring it up to date."""
        revision = self.revision + 1
        queue = self._pool.facts.queue()
        waiting = {entry.model: entry.requests for entry in queue}
        is_changed = self._update_queue(revision, queue)
        is_changed |= self._update_models(revision, waiting)
        is_changed |= self._update_devices(revision)
        totals = self._make_totals(sum(waiting.values()))
        if totals != self._totals:
            self._totals, self._totals_changed, is_changed = totals, revision, True
        if is_changed:
            self.revision = revision

    def _make_totals(self, waiting: int) -> Piece:
        found = self._records.totals()
        totals = {
            "running": sum(self._facts[name].leases for name in self._lively),
            "waiting": waiting,
            "tokens_per_second": round(found.tokens_per_second, 1),
            "requests_1h": found.requests,
            "errors_1h": found.errors,
        }
        return Piece(encode(totals))

    def _update_queue(self, revision: int, queue: Sequence[QueueFacts]) -> bool:
        pieces = [queue_piece(entry) for entry in queue]
        if pieces == self._queue:
            return False
        self._queue, self._queue_changed = pieces, revision
        return True

    def _update_models(self, revision: int, waiting: Mapping[str, int]) -> bool:
        """A quiet model becomes another one with news in the log of changes, or with a request that waits. Whatever
        becomes of one that is not quiet, it is looked at each time."""
        about, log = self._pool.facts, self._pool.change_log
        names = {*log.since(self._log_version), *waiting, *self._lively}
        self._log_version = log.version
        catalog, has_other_order = self._pool.catalog, False
        if catalog is not self._catalog:
            self._catalog = catalog
            specs = {spec.name: spec for spec in catalog.models}
            names.update(name for name, spec in specs.items() if self._specs.get(name) is not spec)
            names.update(self._specs.keys() - specs.keys())
            has_other_order = list(self._specs) != list(specs)
            self._specs = specs
        speed = {name: round(value, 1) for name, value in self._records.speed.by_model.items()}
        is_changed = False
        for name in names:
            facts = about.of(name, waiting=waiting.get(name, 0), tokens_per_second=speed.get(name))
            if facts is None:
                if name in self._facts:
                    self._forget(name, revision)
                    is_changed = True
                continue
            (self._lively.discard if facts.is_quiet else self._lively.add)(name)
            if self._facts.get(name) != facts:
                self._facts[name], is_changed = facts, True
                self._models.put(name, model_piece(name, facts), revision)
        if has_other_order:
            self._whole_since, is_changed = revision, True
        if self._whole_since == revision:
            self._models.order(self._in_order())
        return is_changed

    def _forget(self, name: str, revision: int) -> None:
        self._lively.discard(name)
        del self._facts[name]
        self._models.drop(name)
        self._whole_since = revision

    def _in_order(self) -> Iterable[str]:
        """As the catalog has them, and then those that it has no more, while they still have a process."""
        yield from (name for name in self._specs if name in self._facts)
        yield from sorted(self._facts.keys() - self._specs.keys())

    def _update_devices(self, revision: int) -> bool:
        pieces = {facts.key: device_piece(facts) for facts in self._pool.facts.devices()}
        before = list(self._devices.pieces)
        changed = [key for key, piece in pieces.items() if self._devices.pieces.get(key) != piece]
        for key in changed:
            self._devices.put(key, pieces[key], revision)
        for key in self._devices.pieces.keys() - pieces.keys():
            self._devices.drop(key)
        if list(pieces) != before:
            self._devices.order(pieces)
            self._whole_since = revision
        return bool(changed) or self._whole_since == revision


def limits_of(pool: Pool) -> dict[str, Any]:
    """The bounds that the operator has set; 0 is no bound."""
    limits = pool.limits
    return {
        "models_max": limits.models_max,
        "queue_max": limits.queue_max,
        "queue_timeout": limits.queue_timeout,
        "drain_grace": limits.drain_grace,
        "drain_timeout": limits.drain_timeout,
        "task_grace": limits.task_grace,
        "downloads_max": limits.downloads_max,
    }


def _list(pieces: Iterable[Piece], now: float) -> bytes:
    return b"[%b]" % b",".join([piece.told(now) for piece in pieces])
