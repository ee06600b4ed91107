"""The same work for many paths, of which some may lie on a disk that hangs: each of these costs itself alone.

A thread does the work, one item after the other. While it is stuck at an item, another thread goes on behind it. An
item that is stuck for too long is given up; its thread is left behind, and the item is not tried again before that
thread comes back. Nothing here needs an event loop: it is used for the folders and files of the catalog, at the start
and in the threads that read it again. `threads` has the same for the loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from router.threads import RELIEF_S

T = TypeVar("T")
R = TypeVar("R")

PATIENCE_S = 5.0  # for one item; a disk that sleeps may need longer, and is then read at a later look
MOST_LANES = 8  # threads of one call that are at work or stuck
MOST_LEFT_BEHIND = 24  # threads of all calls that nobody waits for any more
NEXT_PATIENCE_S = 1.0  # for further items, once one has been given up: they often are on the same disk

_left_behind: set[Hashable] = set()
_comebacks = 0
_lock = threading.Lock()


class Hung:
    """In the place of a result: the disk has not answered."""

    def __repr__(self) -> str:
        return "HUNG"


HUNG: Final = Hung()


def each(
    work: Callable[[T], R],
    items: Sequence[T],
    key: Callable[[T], Hashable],
    patience: float | None = None,
) -> list[R | Hung]:
    """What `work` returns for each item, in their order.

    `patience` is in seconds, for one item; PATIENCE_S if None.
    `key` names the item's part of the disk, from one call to the next. What `work` raises is raised here.
    """
    lanes = _Lanes(work, items, key, PATIENCE_S if patience is None else patience)
    return lanes.run() if items else []


def comebacks() -> int:
    """How many items that had been given up have been answered after all. If this has grown since the last look,
    another one may find more."""
    return _comebacks


def _come_back(key: Hashable) -> None:
    global _comebacks
    with _lock:
        _left_behind.discard(key)
        _comebacks += 1


class _Lane:
    """A thread, and the item that it is at. `is_given_up`: nobody waits for it any more."""

    def __init__(self) -> None:
        self.index = -1
        self.since = 0.0
        self.is_given_up = False


class _Lanes(Generic[T, R]):
    """The threads of one call."""

    def __init__(
        self, work: Callable[[T], R], items: Sequence[T], key: Callable[[T], Hashable], patience: float
    ) -> None:
        self._work, self._items, self._key, self._patience = work, items, key, patience
        self._left = iter(range(len(items)))
        self._is_empty = False  # no item is left
        self._results: dict[int, R | Hung] = {}
        self._error: BaseException | None = None
        self._lanes: set[_Lane] = set()
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        return f"<_Lanes: {len(self._results)} of {len(self._items)} done, {len(self._lanes)} threads>"

    def run(self) -> list[R | Hung]:
        with self._changed:
            self._start()
            while len(self._results) < len(self._items) and self._error is None:
                self._changed.wait(RELIEF_S if self._lanes else 0)
                self._look()
        if self._error is not None:
            raise self._error
        return [self._results[index] for index in range(len(self._items))]

    def _start(self) -> None:
        lane = _Lane()
        lane.since = time.monotonic()
        self._lanes.add(lane)
        try:
            threading.Thread(target=self._serve, args=(lane,), name="disk", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._lanes.discard(lane)
            if not self._lanes:
                raise

    def _look(self) -> None:
        """Give up what is stuck for too long, and let another thread go on if all are stuck; the lock is held."""
        now = time.monotonic()
        for lane in [lane for lane in self._lanes if now - lane.since > self._patience]:
            self._give_up(lane)
        is_stuck = all(now - lane.since > RELIEF_S for lane in self._lanes)
        if self._is_empty or not is_stuck or len(self._lanes) >= MOST_LANES:
            return
        with _lock:
            is_full = len(_left_behind) >= MOST_LEFT_BEHIND
        if not is_full:
            self._start()
        elif not self._lanes:  # too many hang: what is left is not tried
            self._is_empty = True
            for index in self._left:
                self._results[index] = HUNG

    def _give_up(self, lane: _Lane) -> None:
        self._lanes.discard(lane)
        lane.is_given_up = True
        self._patience = min(self._patience, NEXT_PATIENCE_S)
        if lane.index >= 0:
            self._results[lane.index] = HUNG
            with _lock:
                _left_behind.add(self._key(self._items[lane.index]))

    def _serve(self, lane: _Lane) -> None:
        try:
            while (item := self._next(lane)) is not None:
                result = self._work(item[0])
                with self._changed:
                    if lane.is_given_up:
                        return
                    self._results[lane.index] = result
        except BaseException as exc:
            with self._changed:
                self._error = self._error or exc
        finally:
            with self._changed:
                if lane.is_given_up and lane.index >= 0:
                    _come_back(self._key(self._items[lane.index]))
                self._lanes.discard(lane)
                self._changed.notify_all()

    def _next(self, lane: _Lane) -> tuple[T] | None:
        with self._changed:
            for index in self._left:
                with _lock:
                    hangs = bool(_left_behind) and self._key(self._items[index]) in _left_behind
                if hangs:
                    self._results[index] = HUNG
                    continue
                lane.index, lane.since = index, time.monotonic()
                return (self._items[index],)
            self._is_empty = True
            lane.index = -1
            return None
