"""The border between the pool and the place that missing models come from.

`hub_models.HubModels` and the tests' fake hub satisfy `DownloadSource`. `downloads` calls it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from router.models.catalog import ModelSpec


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How much of one file of a download is here, in bytes. `oid` identifies its content."""

    url: str
    done: int
    total: int
    oid: str = ""


OnProgress = Callable[[FileProgress], None]
# Raises a RouterError if the model will not fit; `model_path` is the file that arrives.
CheckHeader = Callable[[ModelSpec], Awaitable[None]]


class DownloadSource(Protocol):
    async def fetch(self, spec: ModelSpec, on_progress: OnProgress, check_header: CheckHeader) -> None:
        """Download the missing files of this model, then build the catalog again: the files are there.

        `check_header` is called as soon as the model's header has arrived. If it raises, the download ends.
        Raises RouterErrors.
        """

    def forget(self, name: str) -> None:
        """This model is not wanted any more."""

    def end(self) -> None:
        """Refuse all requests that wait for the source."""
