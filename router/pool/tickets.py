"""The requests that wait for a lease. A ticket is one request's place: it is answered by
`grant`, `refuse` or `cancel`, exactly once.

Called by `Pool`: for its clients, and with the effects `Grant` and `Refuse`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from router import errors
from router.events.kinds import Granted, Joined, Left, Refused, shortened
from router.logs import request_ids
from router.memory.need import Need
from router.models.spec import ModelSpec
from router.pool.core import Core
from router.pool.downloads import Downloads
from router.pool.lease import Lease
from router.scheduling.effects import Refusal, Refuse
from router.scheduling.refusals import error_of
from router.scheduling.resources import Demand
from router.scheduling.waiting_line import Ticket


class Tickets:
    """`ids` numbers the tickets.
    `has_ended`: the router ends, and no request is served any more.
    `leased` returns the lease of a ticket and a model, once the scheduler has granted it.
    `on_answer` is called with a model and a ticket before the ticket is granted (True) and once it is refused (False).
    `drop_missing` is called with a model whose download no request wants any more.
    """

    def __init__(
        self,
        core: Core,
        downloads: Downloads,
        *,
        leased: Callable[[int, str], Lease],
        on_answer: Callable[[str, int, bool], None],
        drop_missing: Callable[[str], None],
    ) -> None:
        self._core = core
        self._scheduler = core.scheduler
        self._downloads = downloads
        self._journal = core.journal
        self._leased = leased
        self._on_answer = on_answer
        self._drop_missing = drop_missing
        self._waiters: dict[int, asyncio.Future[Lease]] = {}  # by ticket
        self._requests: dict[int, str] = {}  # the id of each ticket's request; empty for none
        self._since: dict[int, float] = {}  # when each ticket came; only while somebody listens
        self.ids = itertools.count(1)
        self.has_ended = False

    def __repr__(self) -> str:
        return f"<Tickets: {len(self._waiters)} waiting>"

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiters)

    async def acquire(
        self,
        spec: ModelSpec,
        need: Need | None,
        on_ticket: Callable[[int], object] = lambda ticket: None,
        *,
        background: bool = False,
    ) -> Lease:
        """Wait for a lease. `on_ticket` is called with the ticket before the scheduler has it."""
        if self.has_ended:
            raise errors.Cancelled.by_shutdown()
        core = self._core
        if need is not None:
            core.plans.set_need(spec.name, need)
        demand, missing = need.demand if need else Demand(), self._downloads.is_needed(spec)
        ttl, pinned, min_loaded = core.keep_alive.idle_policy(spec)
        ticket = Ticket(next(self.ids), spec.name, demand, spec.priority, pinned, ttl, background, missing, min_loaded)
        waiter: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiters[ticket.id] = waiter
        self._requests[ticket.id] = request_ids.current()
        on_ticket(ticket.id)
        core.plans.specs[spec.name] = spec
        now = core.now()
        effects = self._scheduler.acquire(ticket, now)
        if self._journal.hears_requests:
            self._since[ticket.id] = now
            self._journal.emit(Joined(spec.name, ticket.id, background, spec.priority))
        core.apply(effects)
        core.queue_news.tell_joined(spec.name, now)
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiters.pop(ticket.id, None):
                was_fetching = self._downloads.is_fetching(spec.name)
                self._leave(ticket.id, spec.name)
                if was_fetching and not self._downloads.is_fetching(spec.name):  # no other request wants it
                    self._drop_missing(spec.name)
            elif not waiter.cancelled() and not waiter.exception():  # it was granted in the same moment
                waiter.result().release()
            raise
        finally:
            del self._requests[ticket.id]

    def cancel(self, ticket: int, error: errors.RouterError) -> None:
        """Answer a ticket that still waits with this error."""
        if waiter := self._waiters.pop(ticket, None):
            waiter.set_exception(error)
            self._leave(ticket, self._scheduler.line.by_ticket[ticket].model.name)

    def _leave(self, ticket: int, model: str) -> None:
        """The request waits no more."""
        effects = self._scheduler.cancel(ticket, self._core.now())
        if self._journal.hears_requests:
            self._since.pop(ticket, None)
            self._journal.emit(Left(model, ticket))
        self._core.apply(effects)

    def grant(self, ticket: int, model: str) -> None:
        if self._journal.hears_requests:
            now = self._core.now()
            self._journal.emit(Granted(model, ticket, now - self._since.pop(ticket, now)))
        self._on_answer(model, ticket, True)
        lease = self._leased(ticket, model)
        waiter = self._waiters.pop(ticket)
        if waiter.cancelled():  # its task has not run yet to cancel the ticket
            asyncio.get_running_loop().call_soon(lease.release)
        else:
            waiter.set_result(lease)

    def refuse(self, effect: Refuse) -> None:
        waiter = self._waiters[effect.ticket]
        self._since.pop(effect.ticket, None)
        reason, request = shortened(effect.reason), self._requests.get(effect.ticket, "")
        self._journal.emit(
            Refused(effect.model, effect.ticket, effect.refusal.value, reason, effect.retry_after, request)
        )
        if not waiter.cancelled():
            kind = self._downloads.kind_of_failure(effect.model) if effect.refusal is Refusal.FETCH_FAILED else None
            error = error_of(effect.refusal, effect.model, effect.reason, retry_after=effect.retry_after, kind=kind)
            waiter.set_exception(errors.Cancelled.by_shutdown() if self.has_ended else error)
        del self._waiters[effect.ticket]
        self._on_answer(effect.model, effect.ticket, False)

    def fail(self, ticket: int, reason: str) -> bool:
        """The answer itself has failed. Returns whether the request still waited for it."""
        waiter = self._waiters.pop(ticket, None)
        if waiter and not waiter.done():
            waiter.set_exception(errors.RouterError(f"The request failed: {reason}"))
        return waiter is not None
