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
from router.units import counted, duration

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
        running, waiting = self.pool.request_counts()
        if self._began is None:
            self._began = time.monotonic()
            self.supervisor.stopping(f"shutting down; running: {running}, waiting: {waiting}")
        match stage:
            case Stage.DRAINING:
                log.info(
                    "shutting down%s: /readyz says 503 now; requests are served for %g s more",
                    self._why(),
                    self.life.delay,
                )
            case Stage.FINISHING:
                self._finish(counted(running, "running request"), counted(waiting, "waiting request"))
            case Stage.CUT | Stage.KILLED:
                self._cut(stage, running)
            case Stage.ENDED:
                self._say_last(time.monotonic() - self._began)

    def _finish(self, running: str, waiting: str) -> None:
        self.reloader.stop()
        grace = f"up to {self.life.grace:g} s to finish; a second signal ends all at once"
        if self.life.is_handed_over:
            log.info(
                "shutting down%s: new connections are left to the next router; time for %s and %s: %s",
                self._why(),
                running,
                waiting,
                grace,
            )
            self.pool.end_unawaited()
        else:
            log.info(
                "shutting down%s: time for %s: %s; %s and all new ones get 503", self._why(), running, grace, waiting
            )
            self.pool.end()

    def _cut(self, stage: Stage, running: int) -> None:
        if stage is Stage.KILLED:
            log.warning("a second signal: %s cut off, children killed", counted(running, "running request"))
        elif running:
            log.warning("%s cut off: --shutdown-grace %g is over", counted(running, "running request"), self.life.grace)
        self.reloader.stop()
        self.pool.end(force=True)
        if stage is Stage.KILLED:
            self.node.kill_children()

    def _say_last(self, seconds: float) -> None:
        life = self.life
        up = time.monotonic() - life.began
        log.info(
            "llama-router ended%s: %s answered in %s; the end took %.1f s",
            self._why(),
            counted(life.answers, "request"),
            duration(up),
            seconds,
            extra={"fields": {"reason": life.reason, "requests": life.answers, "uptime": up, "seconds": seconds}},
        )

    def _why(self) -> str:
        return f" ({self.life.reason})" if self.life.reason else ""
