"""The right to use a running child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.node.interface import Child


class Lease:
    """The right to send one request to a running child; it is not stopped meanwhile. Release it exactly once; a second
    release does nothing."""

    # How long a child that cannot be reached may take to be gone.
    MOMENT = 2.0

    __slots__ = ("_ended", "_release", "_renounce", "address", "key", "model", "released", "used")

    def __init__(
        self,
        model: str,
        child: Child,
        ended: asyncio.Event,
        release: Callable[[bool], None],
        renounce: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.address, self.key = model, child.address, child.key
        self.released = False
        self.used = True
        self._ended = ended
        self._release = release
        self._renounce = renounce

    @property
    def has_ended(self) -> bool:
        """Whether the child is gone, and with it all that it knew."""
        return self._ended.is_set()

    async def is_over(self) -> bool:
        """Whether the child has ended, or does within a moment."""
        try:
            async with asyncio.timeout(self.MOMENT):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def renounce(self) -> bool:
        """Nobody listens where this child should, though it lives: have it ended once its last requests have. Whether
        the next lease is of another child."""
        return self._renounce()

    def release(self) -> None:
        if not self.released:
            self.released = True
            self._release(self.used)
