"""The right to send one request to a running child.

The pool grants it (`Pool.lease`), the response that is sent to the client holds it, and the child is not stopped until
it is released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.node.interface import Child


class Lease:
    """Release it exactly once: in a `finally` of whatever sends the answer. A second release does nothing.

    `used` says whether the release counts as a use of the model, which keeps it from being evicted next::

        lease = await pool.lease(spec)
        try:
            ...  # send the request to lease.address
        finally:
            lease.release()
    """

    # A child that cannot be reached gets this many seconds to be gone.
    EXIT_GRACE_S = 2.0

    __slots__ = ("_ended", "_release", "_report_unreachable", "address", "key", "model", "released", "used")

    def __init__(
        self,
        model: str,
        child: Child,
        ended: asyncio.Event,
        release: Callable[[bool], None],
        report_unreachable: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.address, self.key = model, child.address, child.key
        self.released = False
        self.used = True
        self._ended = ended
        self._release = release
        self._report_unreachable = report_unreachable

    def __repr__(self) -> str:
        state = "released" if self.released else "ended" if self._ended.is_set() else "held"
        return f"<Lease of {self.model} at {self.address}, {state}>"

    @property
    def has_ended(self) -> bool:
        """Whether the child is gone, and with it everything that it remembered."""
        return self._ended.is_set()

    async def is_over(self) -> bool:
        """Whether the child has ended, or ends within `EXIT_GRACE_S`."""
        try:
            async with asyncio.timeout(self.EXIT_GRACE_S):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def report_unreachable(self) -> bool:
        """Report that the child lives, but that nothing listens on its socket. The pool ends the child once its last
        requests have ended. Returns whether the next lease is of another child."""
        return self._report_unreachable()

    def release(self) -> None:
        if not self.released:
            self.released = True
            self._release(self.used)
