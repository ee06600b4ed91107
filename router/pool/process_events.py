"""PURE: events of processes, with their numbers, made of the scheduler's records.

Called by `processes`, which performs what the scheduler decides and hears what becomes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.events import kinds
from router.scheduling.books import ModelRecord
from router.scheduling.causes import Cause, Why
from router.scheduling.states import SERVING, WITHOUT_PROCESS, State


def of_stop(
    model: ModelRecord, why: Why, margins: Mapping[str, int], now: float
) -> kinds.Evict | kinds.Stop | kinds.Expire:
    """The model's process is stopped. Its record still has what ran on it."""
    name, run, held, cause, text = model.name, model.run, dict(model.held), why.cause, why.text
    requests = len(model.leases)
    idle = now - model.finished if model.ready_at and not requests else None
    if cause.is_eviction:
        need, free = dict(why.shortage.need), dict(why.shortage.free)
        margin, missing = {key: margins.get(key, 0) for key in need}, why.shortage.missing
        return kinds.Evict(name, run, cause, text, why.model, need, free, margin, missing, held, idle, requests)
    if cause is Cause.TTL:
        return kinds.Expire(name, run, cause, text, held, idle)
    return kinds.Stop(name, run, cause, text, held, idle, requests, why.shortage.missing)


@dataclass(frozen=True, slots=True)
class Before:
    """What a process was before its end: then its record forgets it."""

    state: State
    held: Mapping[str, int]
    requests: int

    @classmethod
    def of(cls, model: ModelRecord, run: int) -> Before | None:
        """None if the run has ended already."""
        if model.run != run or model.state in WITHOUT_PROCESS:
            return None
        return cls(model.state, model.held, len(model.leases))


def of_end(
    model: ModelRecord, before: Before, why: Why | None, sentence: str, exit_code: int, seconds: float, now: float
) -> kinds.Exited | kinds.Crash | kinds.LoadFailed:
    """The process is gone, and its record knows that already.

    `why` it was stopped, if it was; `sentence` says how it ended. `seconds` are those since it was stopped, if it was,
    or since its start.
    """
    name, run, freed = model.name, model.run, dict(before.held)
    if before.state is State.STOPPING:
        why = why or Why(Cause.UNLOAD)
        return kinds.Exited(name, run, why.cause, why.text, freed, seconds, exit_code)
    pause = model.backoff_until - now if model.backoff_until > now else None
    text = kinds.shortened(sentence)
    if before.state in SERVING:
        return kinds.Crash(name, run, text, freed, exit_code, before.requests, pause)
    return kinds.LoadFailed(name, run, text, freed, exit_code, seconds, model.retrying, pause)
