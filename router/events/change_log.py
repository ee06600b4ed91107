"""Which models have changed since a given moment, and the news of it.

The listing of models keeps its JSON, and builds again only the entries that `since` returns. Every change counts a
version; `pool` and its parts report the changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from router.events.feed import Feed


class ChangeLog:
    """`version` counts the changes of what clients see of the models. `feed` gets the news."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.version = 0
        self.versions: dict[str, int] = {}  # the latest change of each model, the latest of all last

    def __repr__(self) -> str:
        return f"<ChangeLog version {self.version}, {len(self.versions)} models>"

    def mark_changed(self, model: str) -> None:
        """What clients see of this model has changed."""
        self.version += 1
        self.versions.pop(model, None)
        self.versions[model] = self.version

    def publish(self, model: str, event: str, data: Any) -> None:
        """Mark this model as changed, and send the news to all subscribers."""
        self.mark_changed(model)
        self.feed.publish(model, event, data)

    def since(self, version: int) -> Iterator[str]:
        """The models that have changed after this version, the latest first."""
        return itertools.takewhile(lambda model: self.versions[model] > version, reversed(self.versions))
