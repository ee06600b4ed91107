"""Into a model that serves and out of it, for small requests: without a task, a place in the queue, or a `Lease`.

The books are the same: each request has a ticket of the scheduler, from `enter` to `leave`. Only the objects are
missing, and `lease` makes them for a request that turns out to be no small one.

`Pool.gate` gives it, the same one to all who ask. It is good for one process with one set of settings; after that,
`enter` lets nobody in, and `Gates` drops it. Who remembers it for later does so by a weak reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from router.events.journal import Entry
from router.events.kinds import Crash, Exited, Granted
from router.models.spec import ModelSpec
from router.pool.child_run import ChildRun
from router.pool.core import Core
from router.pool.lease import Lease
from router.pool.tickets import Tickets
from router.wire.address import Address

Release = Callable[[int, ChildRun, bool], None]


class Gates:
    """The gates of all models, at most one of each. `runs` are the processes that exist, `release` is the pool's."""

    def __init__(self, core: Core, tickets: Tickets, runs: dict[str, ChildRun], release: Release) -> None:
        self._core, self._tickets, self._runs, self._release = core, tickets, runs, release
        self._gates: dict[str, Gate] = {}
        core.journal.subscribe(self._drop, Exited, Crash)

    def __repr__(self) -> str:
        return f"<Gates of {', '.join(self._gates) or 'nothing'}>"

    def of(self, base: ModelSpec) -> Gate:
        """The gate of a model that takes new work now. `base` is the model as the catalog has it."""
        gate = self._gates.get(base.name)
        if gate is None or not gate.is_current():
            spec = self._core.store.effective(base)
            gate = Gate(self._core, self._tickets, self._runs, base, spec, self._release)
            self._gates[base.name] = gate
        return gate

    def _drop(self, entry: Entry) -> None:
        self._gates.pop(entry.event.model, None)


class Gate:
    """`base` is the model as the catalog has it, `spec` as it runs, on `run`. `release` is the pool's.

    ::

        ticket = gate.enter(background=False)
        if ticket:  # else it is time for another Gate
            ...  # send the request to gate.address
            gate.leave(ticket)  # or gate.lease(ticket).release()
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_catalog",
        "_core",
        "_policy",
        "_policy_version",
        "_release",
        "_run",
        "_runs",
        "_tickets",
        "address",
        "key",
        "name",
        "spec",
    )

    def __init__(
        self,
        core: Core,
        tickets: Tickets,
        runs: dict[str, ChildRun],
        base: ModelSpec,
        spec: ModelSpec,
        release: Release,
    ) -> None:
        run = runs[base.name]
        assert run.child is not None, "open without a child"
        self.name, self.spec = base.name, spec
        self.address: Address = run.child.address
        self.key: str = run.child.key
        self._core, self._tickets, self._runs, self._release = core, tickets, runs, release
        self._base, self._run, self._catalog = base, run, core.catalog
        self._policy_version = -1
        self._policy: tuple[float | None, bool, float] = (None, False, 0.0)

    def __repr__(self) -> str:
        return f"<Gate {self.name} {'as it is' if self.is_current() else 'as it was'}>"

    def is_current(self) -> bool:
        """Whether the process still runs, with the settings that hold."""
        core = self._core
        return (
            core.catalog is self._catalog
            and self._runs.get(self.name) is self._run
            and core.store.effective(self._base) is self.spec
            and not self._tickets.has_ended
        )

    def enter(self, *, background: bool) -> int:
        """Begin a request. Returns its ticket; 0 if the model does not take it now."""
        if not self.is_current():
            return 0
        core, keep_alive = self._core, self._core.keep_alive
        if self._policy_version != keep_alive.version:
            self._policy, self._policy_version = keep_alive.idle_policy(self.spec), keep_alive.version
        ttl, pinned, min_loaded = self._policy
        ticket = next(self._tickets.ids)
        is_open = core.scheduler.lease_if_open(
            self.name, ticket, core.now(), pinned=pinned, ttl=ttl, min_loaded=min_loaded, background=background
        )
        if not is_open:
            return 0
        core.plans.specs[self.name] = self.spec
        if core.journal.hears_requests:
            core.journal.emit(Granted(self.name, ticket, 0.0))
        return ticket

    def leave(self, ticket: int) -> None:
        """The request has ended."""
        self._release(ticket, self._run, True)

    def lease(self, ticket: int) -> Lease:
        """A lease in place of the ticket, which ends the request."""
        run = self._run
        assert run.child is not None
        release = partial(self._release, ticket, run)
        return Lease(self.name, run.child, run.ended, release, run.report_unreachable)
