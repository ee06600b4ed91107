"""How far a router is between its start and its end, and how much time the steps of the end have.

A signal begins the end::

    SERVING
    DRAINING   for --shutdown-delay: `/readyz` says 503, and all else is served; a load balancer looks elsewhere
    FINISHING  for --shutdown-grace at most: what runs may finish; what waits and what comes is refused with 503
    CUT        what still runs is cut off, with an error event if it is a stream; the children are stopped
    KILLED     a second signal: the same at once, and the children are killed
    ENDED

If another router takes over the port, nothing is refused: this one accepts no more connections, and finishes all that
comes over the ones it has. That is so if a service manager holds the listening sockets, or if routers share the port.

`serve` makes the one LifeCycle, `http_server` moves it on, and the application reads it for `/readyz`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum, auto

CUT_OFF_S = 3.0  # for the last events of streams that are cut off
# For what a client still sends of a request that it has begun. And when another router takes over: how long a
# connection that waits for its client's next request is kept. The response to that request ends it, as HTTP wants it. A
# connection that is closed without one may cost the request that is on its way.
IDLE_LINGER_S = 1.0


class Stage(IntEnum):
    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()
    FINISHING = auto()
    CUT = auto()
    KILLED = auto()
    ENDED = auto()


@dataclass(slots=True)
class LifeCycle:
    """`delay` and `grace` are in seconds. `is_handed_over`: another router takes over the port.
    `reason` is what ends the router: the name of a signal, or empty.
    `began` is by `time.monotonic`. `answers` counts the requests that were answered until the present stage began."""

    delay: float = 0.0
    grace: float = 30.0
    is_handed_over: bool = False
    stage: Stage = Stage.STARTING
    reason: str = ""
    began: float = field(default_factory=time.monotonic)
    answers: int = 0

    @property
    def is_draining(self) -> bool:
        """Whether the router is about to end, so that new clients should go elsewhere."""
        return self.stage >= Stage.DRAINING
