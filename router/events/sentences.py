"""PURE: what has happened, as a sentence for people. Log, page and API tell an event in the same words.

The model stands beside the sentence, not in it: `f"{event.model}: {sentence(event)}"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from router.events import kinds
from router.events.kinds import AnyEvent
from router.scheduling.causes import Cause
from router.units import counted, size


def sentence(event: AnyEvent) -> str:
    match event:
        case kinds.Start():
            return f"starting, booked {_on_devices(event.need)}"
        case kinds.Ready():
            return f"ready after {event.seconds:.2f} s, pid {event.pid}"
        case kinds.Booked():
            return f"holds {_on_devices(event.need)}"
        case kinds.Slept():
            return "asleep"
        case kinds.Woke():
            return "awake again"
        case kinds.Evict():
            missing = f", {_on_devices(event.missing)} missing" if event.missing else ""
            return f"stopping ({event.why}){missing}, frees {_on_devices(event.freed)}{_idle(event.idle)}"
        case kinds.Stop() if event.cause is Cause.HUNG:
            return f"{event.why} while {counted(event.requests, 'request')} ran: it is ended"
        case kinds.Stop() | kinds.Expire():
            return f"stopping ({event.why}), frees {_on_devices(event.freed)}"
        case kinds.Exited():
            return f"stopped ({event.why})"
        case kinds.Crash():
            return event.why
        case kinds.LoadFailed():
            return f"{event.why}; it is tried once more" if event.will_retry else event.why
        case kinds.Wait():
            return f"{event.why}, with {event.requests} requests" if event.requests > 1 else event.why
        case kinds.Drain():
            running, room = counted(event.requests, "request"), f"room for {event.wanted_by or 'others'}"
            return f"draining: {room}; {running} to finish; frees {_on_devices(event.freed)}"
        case kinds.DrainEnded():
            return f"drained for {event.seconds:.1f} s"
        case kinds.Refused():
            return f"a request is refused: {event.why}"
        case kinds.Joined():
            return "a request waits"
        case kinds.Left():
            return "a request has left"
        case kinds.Granted():
            return "a request is served"
        case kinds.Released():
            return "a request has ended"
        case kinds.Download():
            return _download(event)
        case kinds.Reload():
            return event.why or f"catalog: {event.summary}"
        case kinds.Pin():
            return "pinned" if event.pinned else "not pinned any more"
        case kinds.DeviceLost():
            return f"{event.device} takes no model until it can be read again: {event.why}"
        case kinds.DeviceFound():
            return f"{event.device} can be read again"
        case kinds.Settled():
            return f"the memory of {event.device} has settled after {event.seconds:.2f} s"
        case kinds.Pressure():
            return _pressure(event)
        case kinds.PressureEnded():
            return f"memory: {event.device} has as much free again as is to stay free"
        case _:
            assert_never(event)


def _on_devices(held: Mapping[str, int]) -> str:
    return ", ".join(f"{size(count)} on {key}" for key, count in held.items()) or "nothing"


def _idle(seconds: float | None) -> str:
    return f"; idle for {seconds:.0f} s" if seconds is not None else ""


def _download(event: kinds.Download) -> str:
    match event.step:
        case "finished":
            return f"downloaded in {event.seconds or 0.0:.1f} s"
        case "failed":
            return f"the download failed: {event.why}"
        case "cancelled":
            return "the download is cancelled"
        case _:
            return "downloading"


def _pressure(event: kinds.Pressure) -> str:
    then = (
        "idle models are stopped for it"
        if event.stops_for_it
        else "nothing is stopped for it: --models-pressure on stops idle models"
    )
    key = event.device
    return (
        f"memory: {key} has {size(event.free.get(key, 0))} free, and {size(event.margin.get(key, 0))} are to stay "
        f"free: other programs have taken memory since models were loaded; {then}"
    )
