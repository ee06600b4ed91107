"""Log lines of what happens: each event that operators see becomes one line, in the words of its sentence.

The parts that make events write no such lines of their own. What is not an event has its line where it comes about: a
load's progress, defects, and devices, which their node tells of.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from router.events import kinds
from router.events.journal import Entry, Journal
from router.events.kinds import AnyEvent
from router.scheduling.causes import Cause

_RUN = logging.getLogger("router.run")
_POOL = logging.getLogger("router.pool")

# Where a line of this kind belongs to, and how grave it is.
_LINES: Mapping[type[AnyEvent], tuple[logging.Logger, int]] = {
    kinds.Start: (_RUN, logging.INFO),
    kinds.Ready: (_RUN, logging.INFO),
    kinds.Evict: (_RUN, logging.INFO),
    kinds.Stop: (_RUN, logging.INFO),
    kinds.Expire: (_RUN, logging.INFO),
    kinds.Exited: (_RUN, logging.INFO),
    kinds.Crash: (_RUN, logging.ERROR),
    kinds.LoadFailed: (_RUN, logging.ERROR),
    kinds.Wait: (_POOL, logging.INFO),
    kinds.Drain: (_POOL, logging.INFO),
    kinds.Refused: (_POOL, logging.INFO),
    kinds.Download: (_POOL, logging.INFO),
    kinds.Reload: (_POOL, logging.INFO),
    kinds.Pin: (_POOL, logging.INFO),
    kinds.Pressure: (_POOL, logging.WARNING),
    kinds.PressureEnded: (_POOL, logging.INFO),
}


def listen(journal: Journal) -> None:
    """Write a line for each event from now on."""
    journal.subscribe(write, *_LINES)


def write(entry: Entry) -> None:
    event = entry.event
    log, level = _LINES[type(event)]
    if _is_grave(event):
        level = logging.ERROR
    if log.isEnabledFor(level):
        subject = "" if event.model == kinds.EVERYTHING else f"{event.model}: "
        told = entry.as_json
        named = {"event": told["kind"], "for": told["for"], "reason": told["reason"]}
        fields = {name: value for name, value in named.items() if value is not None} | told["numbers"]
        request = getattr(event, "request", "")
        extra = {"model": event.model if subject else "", "request_id": request, "fields": fields}
        log.log(level, "%s%s", subject, told["text"], extra=extra)


def _is_grave(event: AnyEvent) -> bool:
    match event:
        case kinds.Stop():
            return event.cause is Cause.HUNG
        case kinds.Download():
            return event.step == "failed"
        case kinds.Reload():
            return bool(event.why)
        case _:
            return False
