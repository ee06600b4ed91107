"""Bytes that all clients together may have the router hold for them."""

from __future__ import annotations

from router.errors import BodyTooLarge, QueueFull

MIB = 1024**2


class Budget:
    """`limit` is in bytes, 0 for none; `taken` are those that are held now."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.taken = 0

    def check(self, size: int) -> None:
        """Raises QueueFull if that many bytes more are too many now, BodyTooLarge if they always were."""
        if not self.limit or self.taken + size <= self.limit:
            return
        if size > self.limit:
            raise BodyTooLarge(
                f"The request body is larger than all that may wait, {self.limit / MIB:g} MiB. Send less, or raise "
                "--models-queue-bytes."
            )
        raise QueueFull(
            f"The bodies of the requests that wait take {self.taken / MIB:.0f} of {self.limit / MIB:g} MiB already. "
            "Try again later, or raise --models-queue-bytes."
        )


class Held:
    """What one request holds of a budget. Whoever makes it gives it back, whatever becomes of the request."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0

    def take(self, size: int) -> None:
        """Raises QueueFull, BodyTooLarge; then nothing more is held than before."""
        if self._size + size > self._budget.limit > 0:
            Budget(self._budget.limit).check(self._size + size)
        self._budget.check(size)
        self._budget.taken += size
        self._size += size

    def give_back(self) -> None:
        """All of it. Twice is the same as once."""
        self._budget.taken -= self._size
        self._size = 0
