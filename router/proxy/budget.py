"""The bytes of request bodies that all clients together may have the router hold.

Requests that wait for their model keep their bodies in memory, so there is one limit for all of them. `body` reserves
the bytes as they come.
"""

from __future__ import annotations

from router.errors import BodyTooLarge, QueueFull

MIB = 1024**2


class Budget:
    """`limit` is in bytes, 0 for none. `reserved` is how many of them are in use now."""

    __slots__ = ("limit", "reserved")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.reserved = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.reserved} of {self.limit or 'any number of'} bytes>"

    def check(self, size: int) -> None:
        """Raises QueueFull if `size` bytes more do not fit now, BodyTooLarge if they never fit."""
        if not self.limit or self.reserved + size <= self.limit:
            return
        if size > self.limit:
            raise BodyTooLarge(
                f"The request body is larger than all that may wait, {self.limit / MIB:g} MiB. Send less, or raise "
                "--models-queue-bytes."
            )
        raise QueueFull(
            f"The bodies of the requests that wait take {self.reserved / MIB:.0f} of {self.limit / MIB:g} MiB already. "
            "Try again later, or raise --models-queue-bytes."
        )


class Reservation:
    """The part of a budget that one request uses. The code that makes it must release it, however the request ends."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._size} bytes>"

    def add(self, size: int) -> None:
        """Raises QueueFull or BodyTooLarge; then the reservation is as large as before."""
        if self._size + size > self._budget.limit > 0:
            # This body alone is too large: an empty budget of the same limit says so.
            Budget(self._budget.limit).check(self._size + size)
        self._budget.check(size)
        self._budget.reserved += size
        self._size += size

    def release(self) -> None:
        """All of it. A second call does nothing."""
        self._budget.reserved -= self._size
        self._size = 0
