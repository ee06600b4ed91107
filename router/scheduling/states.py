"""PURE: the states of a model, and the one table of transitions between them.

A pair of state and event that is not in the table is an error that names both. `Books.transit` is the only place that
reads the table. A stopping process still holds memory: that is why `stopping` is a state of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from router.scheduling.snapshot import Phase


class State(Enum):
    UNLOADED = "unloaded"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    LOADED = "loaded"
    SLEEPING = "sleeping"
    STOPPING = "stopping"
    FAILED = "failed"

    __hash__ = object.__hash__  # each member exists once; Enum's own hash is slow, and every event looks states up


class Event(Enum):
    FETCH = "fetch"
    FETCHED = "fetched"
    SPAWN = "spawn"
    READY = "ready"
    SLEEP = "sleep"
    WAKE = "wake"
    STOP = "stop"
    EXIT = "exit"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.UNLOADED, Event.FETCH): State.DOWNLOADING,
    (State.UNLOADED, Event.SPAWN): State.LOADING,
    (State.DOWNLOADING, Event.FETCHED): State.UNLOADED,
    (State.DOWNLOADING, Event.STOP): State.UNLOADED,
    (State.DOWNLOADING, Event.EXIT): State.FAILED,
    (State.LOADING, Event.READY): State.LOADED,
    (State.LOADING, Event.STOP): State.STOPPING,
    (State.LOADING, Event.EXIT): State.FAILED,
    (State.LOADED, Event.SLEEP): State.SLEEPING,
    (State.LOADED, Event.STOP): State.STOPPING,
    (State.LOADED, Event.EXIT): State.FAILED,
    (State.SLEEPING, Event.WAKE): State.LOADED,
    (State.SLEEPING, Event.STOP): State.STOPPING,
    (State.SLEEPING, Event.EXIT): State.FAILED,
    (State.STOPPING, Event.EXIT): State.UNLOADED,
    (State.FAILED, Event.FETCH): State.DOWNLOADING,
    (State.FAILED, Event.SPAWN): State.LOADING,
}

SERVING = frozenset({State.LOADED, State.SLEEPING})
STARTABLE = frozenset({State.UNLOADED, State.FAILED})
WITHOUT_PROCESS = frozenset({State.UNLOADED, State.FAILED, State.DOWNLOADING})
# The driver reports all that these processes hold as taken.
VISIBLE_TO_DRIVER = frozenset({State.LOADED, State.STOPPING})
PHASES: Mapping[State, Phase] = {
    State.LOADING: Phase.LOADING,
    State.LOADED: Phase.IDLE,
    State.SLEEPING: Phase.IDLE,
    State.STOPPING: Phase.STOPPING,
}


class IllegalTransition(RuntimeError):
    def __init__(self, model: str, state: State, event: Event) -> None:
        super().__init__(f"{model}: nothing is defined for event {event.value!r} in state {state.value!r}")
