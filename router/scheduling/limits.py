"""PURE: the operator's bounds on scheduling. Made from the settings, read by `scheduler`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are in seconds. 0 means no bound, except where a line says something else.

    `models_max`: processes at once.
    `margins`: bytes that stay free, by device key. A device without a margin is not checked.
    `queue_max`: requests that wait for room at once. 0: no request waits.
    `queue_timeout`: how long a request waits for room.
    `drain_grace`: how long a request waits before a busy model is closed for it. 0: not at all.
    `drain_timeout`: how long a model is closed for others before the requests that run on it are cut. 0: never cut.
    `task_grace`: how long after its last use a model is spared by background requests. 0: not at all.
    `finish_loads`: a load or a download goes on when no request waits for it any more.
    `downloads_max`: downloads at once. 0 is taken as 1.
    `backoff_max`: the longest pause after repeated failures.
    `prompt_caches`: bytes of RAM for the prompt caches of all models together. None: what is left.
    `pressure_poll`: how often the memory is read while models run and nothing else happens. 0: never.
    `stops_for_others`: idle models are stopped when other programs take the memory that is to stay free.
    `poll`: how often models that need room are planned for again although nothing has happened.
    """

    models_max: int = 4
    margins: Mapping[str, int] = field(default_factory=dict)
    queue_max: int = 256
    queue_timeout: float = 300.0
    drain_grace: float = 10.0
    drain_timeout: float = 0.0
    task_grace: float = 60.0
    finish_loads: bool = True
    downloads_max: int = 2
    backoff_max: float = 60.0
    prompt_caches: int | None = None
    pressure_poll: float = 0.0
    stops_for_others: bool = False
    poll: float = 0.5
