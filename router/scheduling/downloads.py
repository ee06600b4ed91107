"""SANS-I/O: which models' files are to be downloaded, and which download begins next.

Downloads need neither memory nor a slot, so they are no part of the plan: as many as the limit allows run at once, in
the order in which they were wanted. A model whose download is wanted is not started before the files are there.

Owned by `scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterator

from router.scheduling.books import Books, ModelRecord
from router.scheduling.effects import Abort, Effect, Fetch
from router.scheduling.states import STARTABLE, Event, State
from router.scheduling.waiting_line import Entry, WaitingLine


class WantedDownloads:
    """The models whose downloads run, or will."""

    def __init__(self, books: Books, line: WaitingLine) -> None:
        self._books = books
        self._line = line
        self._wanted: dict[str, bool] = {}  # in the order of their turns; True: even if no request waits for it

    def __repr__(self) -> str:
        return f"<WantedDownloads: {', '.join(self._wanted) or 'none'}>"

    def __len__(self) -> int:
        return len(self._wanted)

    def is_wanted(self, name: str) -> bool:
        """The model's download is under way, or will be."""
        return name in self._wanted

    def names(self) -> Iterator[str]:
        """In the order in which they begin."""
        return iter(self._wanted)

    def not_begun(self) -> frozenset[str]:
        """The models whose downloads wait for others to end."""
        if not self._wanted:
            return frozenset()
        return frozenset(name for name in self._wanted if self._books.records[name].state is not State.DOWNLOADING)

    def is_startable(self, entry: Entry) -> bool:
        """The entry's model waits for its start: it has no process, and its files are there."""
        return entry.model.state in STARTABLE and entry.model.name not in self._wanted

    def want(self, name: str, *, is_kept: bool) -> None:
        """`is_kept`: the download goes on when no request waits for the model any more."""
        self._wanted[name] = self._wanted.get(name, False) or is_kept

    def start(self, downloads_max: int) -> list[Effect]:
        """Begin as many downloads as may run at once."""
        wanted = [self._books.records[name] for name in self._wanted]
        able = (downloads_max or 1) - sum(model.state is State.DOWNLOADING for model in wanted)
        effects: list[Effect] = []
        for model in wanted:
            if len(effects) < able and model.state in STARTABLE:
                self._books.transit(model, Event.FETCH)
                effects.append(Fetch(model.name))
            if entry := self._line.by_arrival.get(model.name):
                entry.needs_room = model.state is not State.DOWNLOADING
        return effects

    def abort(self, model: ModelRecord) -> list[Effect]:
        """The download is not wanted any more."""
        self._wanted.pop(model.name, None)
        if model.state is not State.DOWNLOADING:
            return []
        self._books.transit(model, Event.STOP)
        return [Abort(model.name)]

    def abort_unless_kept(self, model: ModelRecord) -> list[Effect]:
        """No request waits for the model any more."""
        return [] if self._wanted.get(model.name, True) else self.abort(model)

    def restart(self, model: ModelRecord) -> list[Effect]:
        """The files are others now: a download that was wanted begins anew, at the end of the line."""
        is_kept = self._wanted.get(model.name)
        effects = self.abort(model)
        if is_kept is not None:
            self._wanted[model.name] = is_kept
        return effects

    def finish(self, model: ModelRecord, event: Event) -> None:
        """The download has ended, with the files (FETCHED) or without them (EXIT)."""
        self._books.transit(model, event)
        del self._wanted[model.name]

    def drop_waiting(self, model: ModelRecord) -> None:
        """No request waits for the model any more: a download that has not begun is dropped unless it is kept."""
        if model.state is not State.DOWNLOADING and not self._wanted.get(model.name, True):
            del self._wanted[model.name]
