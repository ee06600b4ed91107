"""Which files a name on the hub means, remembered for a minute.

The hub is queried once for a name, however many requests wait for the answer. Called by `hub_models`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

from router.errors import Cancelled, HubUnavailable
from router.hub.names import Name
from router.hub.repo import Resolved
from router.hub.resolve import resolve

RESOLVE_TTL_S = 60.0  # an answer of the hub counts for so long
FAILURE_TTL_S = 5.0  # and so long an error
MAX_NAMES = 1000  # that are remembered, or that the hub is queried for
MAX_QUERIES = 4  # at once

# A name, a file of its repository, a digest of the token, a kind of drafting, and whether a smaller quant will do.
Key = tuple[str, str | None, str | None, str | None, bool]
# When the query began, and its task.
Answer = tuple[float, asyncio.Task[Resolved]]


class HubNames:
    """`root` is the folder of the cache. `offline` looks nowhere else."""

    def __init__(self, root: Path, *, offline: bool = False) -> None:
        self._root = root
        self._offline = offline
        self._answers: dict[Key, Answer] = {}
        self._queries = asyncio.Semaphore(MAX_QUERIES)
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<HubNames {len(self._answers)} answers>"

    async def resolve(
        self,
        name: Name,
        file: str | None = None,
        *,
        token: str | None = None,
        drafting: str | None = None,
        fallback: bool = False,
    ) -> Resolved:
        """What `hub.resolve.resolve` returns and raises, from an answer that is not too old."""
        digest = token and hashlib.sha256(token.encode()).hexdigest()  # the token itself is not kept
        key = (str(name), file, digest, drafting, fallback)
        now = time.monotonic()
        self._answers = {known: answer for known, answer in self._answers.items() if _is_fresh(answer, now)}
        if self._has_ended:
            raise Cancelled.by_shutdown()
        if key not in self._answers:
            if len(self._answers) >= MAX_NAMES:
                raise HubUnavailable(
                    "The hub is being queried for too many names. Try again later.", retry_after=FAILURE_TTL_S
                )
            task = asyncio.create_task(self._query(name, file, token, drafting, fallback))
            # Reads the exception: all requests that wait for it may have left.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._answers[key] = now, task
        answer = self._answers[key]
        try:
            resolved = await asyncio.shield(answer[1])
        except asyncio.CancelledError:
            if answer[1].cancelled():
                raise Cancelled.by_shutdown() from None
            raise
        self._answers.setdefault((resolved.name, file, digest, drafting, False), answer)
        return resolved

    def forget_answers(self) -> None:
        """The next `resolve` queries the hub again: what it listed may have changed. Running queries go on."""
        self._answers = {key: answer for key, answer in self._answers.items() if not answer[1].done()}

    def end(self) -> None:
        """Refuse all requests that wait for the hub, and all later ones."""
        self._has_ended = True
        for _, task in self._answers.values():
            task.cancel()

    async def _query(
        self, name: Name, file: str | None, token: str | None, drafting: str | None, fallback: bool
    ) -> Resolved:
        async with self._queries:
            return await resolve(
                name,
                self._root,
                file=file,
                token=token,
                offline=self._offline,
                fallback=fallback,
                drafting=drafting,
            )


def _is_fresh(answer: Answer, now: float) -> bool:
    began, task = answer
    if not task.done():
        return True
    return now - began < (FAILURE_TTL_S if task.cancelled() or task.exception() else RESOLVE_TTL_S)
