"""The processes of all models, at most one of each: started and stopped as the scheduler decides.

A process is a `ChildRun`. Everything that happens to it is reported to the scheduler in one step: it is ready, it
sleeps, it wakes, it has ended. `pool` hands in the effects `Spawn` and `Stop`.
"""

from __future__ import annotations

import contextlib
import logging
from asyncio import wait_for
from collections.abc import Callable
from functools import partial

from router import threads
from router.errors import RouterError
from router.events import kinds
from router.events.journal import Entry
from router.events.kinds import Evict, Ready, Start
from router.memory import prompt_cache
from router.memory.footprints import Footprint
from router.models import stamps
from router.models.spec import ModelSpec
from router.node.interface import ChildEvent, Exit, Slept, Woke
from router.pool import process_events
from router.pool.child_run import ChildRun
from router.pool.core import LOAD_BEGINS, STATUS_CHANGE, Core
from router.pool.health_watch import HealthWatch
from router.pool.load_times import LoadTimes
from router.pool.logs import EngineLogs
from router.pool.measurements import REMEASURE_S, Measurements
from router.pool.process_events import Before
from router.scheduling.causes import Cause
from router.scheduling.effects import Spawn, Stop
from router.scheduling.refusals import error_of_cut
from router.scheduling.states import State
from router.wire.upstream import Upstream

log = logging.getLogger("router.pool")

NO_TICKET = 0  # the pool's begin with 1


class Processes:
    """`runs` are the processes that exist, by model; a run whose child has not started yet is among them.

    `load_timeout` is the one of `Launch`, in seconds; `learn`, `health_timeout` and `upstream` are the pool's.
    `logs` keeps what they write.
    `loads` and `evictions` count since the start of the router.
    """

    def __init__(
        self,
        core: Core,
        learn: Callable[[ModelSpec, Footprint], None],
        upstream: Upstream,
        logs: EngineLogs,
        *,
        load_timeout: float,
        health_timeout: float,
    ) -> None:
        self._core = core
        self.logs = logs
        self._measurements = Measurements(core, learn)
        self._load_timeout = load_timeout
        self._watch = HealthWatch(core, upstream, health_timeout)
        self._upstream = upstream
        self.runs: dict[str, ChildRun] = {}
        self.exit_codes: dict[str, int] = {}  # of each model's last process
        self.load_times = LoadTimes()
        self.starts: dict[str, int] = {}  # how many processes each model has had
        self.load_seconds: dict[str, float] = {}  # how long each model's last load took
        self.loads = 0
        self.evictions = 0
        core.journal.subscribe(self._count, Ready, Evict)

    def __repr__(self) -> str:
        return f"<Processes {', '.join(self.runs) or 'none'}; {self.loads} loads, {self.evictions} evictions>"

    def spawn(self, effect: Spawn, on_failure: Callable[[Exception], None]) -> None:
        """Start a process of the model as it is planned now. `on_failure` is called if the run ends with an exception;
        then `give_up` has to be."""
        core, model = self._core, effect.model
        core.journal.emit(Start(model, effect.run, effect.allocation.held))
        spec = core.plans.specs[model]
        need = core.plans.needs[model]
        cache = prompt_cache.args_for(effect.allocation.prompt_cache) if need.demand.prompt_cache else ()
        args = (*(spec.without_projector() if need.left_out else spec).argv, *need.args, *cache)
        run = ChildRun(spec, effect.run, args, effect.allocation, core.nodes.of(effect.allocation))
        run.stamp, run.began = need.stamp, core.now()
        self.starts[model] = self.starts.get(model, 0) + 1
        run.report_unreachable = partial(self._replace_unreachable, run)
        run.on_output = partial(self.logs.add, model)
        self.runs[model] = run
        self.load_times.begin(model)
        core.change_log.mark_changed(model)
        core.tasks.start(self._live(run), on_failure)

    def stop(self, effect: Stop) -> None:
        """Stop the model's process. Requests that still run on it fail, and are told why."""
        core = self._core
        now, model = core.now(), core.scheduler.model(effect.model)
        core.journal.emit(process_events.of_stop(model, effect.why, core.scheduler.limits.margins, now))
        run = self.runs[effect.model]
        run.mark_stopping(effect.why, now)
        core.change_log.mark_changed(effect.model)
        if run.child is not None:
            core.tasks.start(run.stop(at_once=effect.at_once))
            self._upstream.cut(run.child.address, error_of_cut(effect))
            self._upstream.forget(run.child.address)  # open connections would delay its end

    def give_up(self, name: str, number: int, reason: str) -> None:
        """The run with this number could not be carried through: it counts as ended, so that nothing waits for it."""
        core, run, spec = self._core, self.runs.get(name), self._core.plans.specs.get(name)
        if run is not None and run.number == number:
            spec = run.spec
            del self.runs[name]
            self.load_times.end(name)
            core.tasks.start(run.stop())
            run.ended.set()
        pending = core.store.pending_ticket(spec) if spec else None
        now, before = core.now(), Before.of(core.scheduler.model(name), number)
        effects = core.scheduler.exited(name, number, reason, now, pending_ticket=pending)
        self._tell_end(name, before, run, reason, 1, now)
        core.apply(effects)

    def _tell_end(
        self, name: str, before: Before | None, run: ChildRun | None, sentence: str, exit_code: int, now: float
    ) -> None:
        if before is not None:
            why, since = (run.why_stopped, run.stopped_at or run.began) if run else (None, now)
            model = self._core.scheduler.model(name)
            event = process_events.of_end(model, before, why, sentence, exit_code, now - since, now)
            self._core.journal.emit(event)

    def _count(self, entry: Entry) -> None:
        if isinstance(entry.event, Ready):
            self.loads += 1
        else:
            self.evictions += 1

    def lasting_spec(self, name: str) -> ModelSpec | None:
        """What the model's process runs; None if there is none, or if it is about to end."""
        run = self.runs.get(name)
        if run is None or run.why_stopped or self._core.scheduler.model(name).closing:
            return None
        return run.spec

    async def replaced_file(self, name: str) -> str | None:
        """A file of the model's process that has been replaced since the process was started; None if there is none,
        if there is no process, or if the disk does not answer."""
        run = self.runs.get(name)
        if run is None or not run.stamp or self.lasting_spec(name) is None:
            return None
        what = f"The files of {name!r}"
        with contextlib.suppress(RouterError):
            return await threads.FILES.run(stamps.replaced, run.stamp, timeout=threads.DISK_TIMEOUT_S, what=what)
        return None

    async def wait_until_ended(self, name: str, timeout: float) -> bool:
        """Wait at most `timeout` seconds until this model has no process. Returns whether it has none."""
        run = self.runs.get(name)
        if run is None:
            return True
        with contextlib.suppress(TimeoutError):
            await wait_for(run.ended.wait(), timeout)
        return run.ended.is_set()

    def note_idle(self, run: ChildRun, now: float) -> None:
        """The last request on this run has ended."""
        if now - run.measured_at > REMEASURE_S:
            self._measurements.measure(run)

    def prefetch_next(self) -> None:
        """Let the nodes read the files of the model that starts next ahead, while its start has to wait. While another
        model loads, the disk is that model's."""
        core = self._core
        name = core.scheduler.next_to_start()
        if name and any(core.scheduler.model(running).state is State.LOADING for running in self.runs):
            name = None
        core.nodes.prefetch(core.plans.specs[name] if name else None)

    async def _live(self, run: ChildRun) -> None:
        """One process, from spawn to exit."""
        name = run.spec.name
        self._core.publish(name, LOAD_BEGINS, {})
        self.logs.note(name, "a process starts")
        exit = await run.live(self._load_timeout, partial(self._on_ready, run), partial(self._on_event, run))
        self._watch.end(run)
        self.logs.note(name, f"the process has ended with code {exit.code}")
        self._on_exit(run, exit)

    def _on_ready(self, run: ChildRun) -> None:
        core, name = self._core, run.spec.name
        now = core.now()
        self.load_times.end(name)
        seconds = self.load_seconds[name] = now - run.began
        core.store.changes.serves(run.spec)
        effects = core.scheduler.ready(name, run.number, now)
        if run.why_stopped is None and run.child is not None:
            core.journal.emit(Ready(name, run.number, run.child.pid, seconds))
        core.apply(effects)
        core.publish(name, STATUS_CHANGE, {})
        self._measurements.measure_soon(run)
        self._watch.begin(run)

    def _on_event(self, run: ChildRun, event: ChildEvent) -> None:
        core, name = self._core, run.spec.name
        state = core.scheduler.model(name).state
        match event:
            case Slept():
                core.scheduler.slept(name, run.number)
            case Woke():
                core.scheduler.woke(name, run.number)
        if core.scheduler.model(name).state is not state:
            kind = kinds.Slept if isinstance(event, Slept) else kinds.Woke
            core.journal.emit(kind(name, run.number))
        core.publish(name, STATUS_CHANGE, {})

    def _on_exit(self, run: ChildRun, exit: Exit) -> None:
        core, name = self._core, run.spec.name
        self.exit_codes[name] = exit.code
        if run.child is not None:
            self._upstream.forget(run.child.address)
        del self.runs[name]
        self.load_times.end(name)
        self._reap(run, exit)
        if not core.scheduler.waiting(name):  # a request that waits may have set the time of the next process
            core.keep_alive.drop_request(name)
        run.ended.set()
        core.publish(name, STATUS_CHANGE, {"exit_code": exit.code})
        core.forget(name)

    def _reap(self, run: ChildRun, exit: Exit) -> None:
        """Report the end of the run to the scheduler. If it ran settings that a load is only trying, its end fails that
        load alone. If it was to be the first one with a change of the model's own settings, those before it hold again,
        also for the requests that wait."""
        core, name = self._core, run.spec.name
        pending = core.store.pending_ticket(run.spec)
        is_change = run.why_stopped is None and pending is None and core.store.changes.is_tried(run.spec)
        is_change = is_change and not exit.device_lost  # no fault of the change
        now, before = core.now(), Before.of(core.scheduler.model(name), run.number)
        effects = core.scheduler.exited(
            name,
            run.number,
            exit.sentence,
            now,
            out_of_memory=exit.out_of_memory,
            device_lost=exit.device_lost,
            pending_ticket=NO_TICKET if is_change else pending,
        )
        self._tell_end(name, before, run, exit.sentence, exit.code, now)
        core.apply(effects)
        if is_change and not core.scheduler.model(name).retrying:
            change = core.store.fail_change(name, exit.sentence)
            log.error("%s: it goes on with the settings from before its change", name)
            core.plans.set(change.before, change.need)
            core.change_log.mark_changed(name)
            core.apply(core.scheduler.set_demand(name, change.need.demand, core.now()))

    def _replace_unreachable(self, run: ChildRun) -> bool:
        """The process lives, but its socket is gone: end it once its requests have ended, and start another one for
        the requests that wait. Returns True (see `Lease.report_unreachable`)."""
        core, name = self._core, run.spec.name
        if self.runs.get(name) is run and run.why_stopped is None and not core.scheduler.model(name).closing:
            log.error("%s: its socket is gone, though process %d lives: it is ended", name, run.child and run.child.pid)
            core.apply(core.scheduler.renew(name, core.now(), Cause.UNREACHABLE))
        return True
