"""The end of a router, stage by stage: what becomes of requests, downloads and children, and who is told.

`HttpServer` enters the stages; `server.life_cycle` says what they are.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from router.node.local import LocalNode
from router.pool.pool import Pool
from router.reloader import Reloader
from router.server.life_cycle import LifeCycle, Stage
from router.server.supervisor import Supervisor

log = logging.getLogger("router.serve")


@dataclass(slots=True)
class Ending:
    life: LifeCycle
    pool: Pool
    reloader: Reloader
    node: LocalNode
    supervisor: Supervisor
    _began: float | None = field(default=None, init=False)

    def enter(self, stage: Stage) -> None:
        if self._began is None:
            self._began = time.monotonic()
            self.supervisor.stopping("shutting down")
        running, waiting = self.pool.request_counts()
        match stage:
            case Stage.DRAINING:
                log.info(
                    "shutting down%s: /readyz says 503 now; requests are served for %g s more",
                    self._why(),
                    self.life.delay,
                )
            case Stage.FINISHING:
                self._finish(running, waiting)
            case Stage.CUT | Stage.KILLED:
                self._cut(stage, running, waiting)
            case Stage.ENDED:
                log.info("ended after %.1f s", time.monotonic() - self._began)

    def _finish(self, running: int, waiting: int) -> None:
        they = f"{running} running and {waiting} waiting requests"
        grace = f"have up to {self.life.grace:g} s to finish; a second signal ends them at once"
        self.reloader.stop()
        if self.life.is_handed_over:
            log.info("shutting down%s: new connections are left to the next router; %s %s", self._why(), they, grace)
            self.pool.end_unawaited()
        else:
            they = f"{running} running requests {grace}"
            log.info("shutting down%s: %s; new requests and %d waiting ones get 503", self._why(), they, waiting)
            self.pool.end()

    def _cut(self, stage: Stage, running: int, waiting: int) -> None:
        if stage is Stage.KILLED:
            log.warning("a second signal: %d running requests are cut off, and the children killed", running)
        elif running or waiting:
            log.warning("%d running requests are cut off: --shutdown-grace %g is over", running, self.life.grace)
        self.reloader.stop()
        self.pool.end(force=True)
        if stage is Stage.KILLED:
            self.node.kill_children()

    def _why(self) -> str:
        return f" ({self.life.reason})" if self.life.reason else ""
