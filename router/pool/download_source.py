"""The border between the pool and the place that missing models come from.

`hub_models.HubModels` and the tests' fake hub satisfy `DownloadSource`. `downloads` calls it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from router.hub.progress import DownloadProgress
from router.models.spec import ModelSpec

OnProgress = Callable[[DownloadProgress], None]
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
