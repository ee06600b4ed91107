"""A model's demand, from the best source there is: the engine's own measure over what the header and flags say."""

from __future__ import annotations

import logging
import os
import threading

from cachetools import LRUCache

from router import gguf, memory
from router.catalog import ModelSpec
from router.engine import Engine
from router.memory import Estimate
from router.policy import Demand, size

log = logging.getLogger("router.estimate")

# The engine measures within 0.3 s here, 1 s for the largest models; then the header has to do.
PATIENCE = 10.0


class Estimator:
    """`gpus` is how many GPUs there are. Results are kept by file identity and arguments; safe to call from threads."""

    def __init__(self, engine: Engine, *, gpus: int) -> None:
        self._engine = engine
        self._gpus = gpus
        self._known: LRUCache[object, Estimate] = LRUCache(4096)
        self._lock = threading.Lock()

    def demand(self, spec: ModelSpec) -> Demand:
        """Blocks: reads headers and runs the engine's measure, once. Raises GgufError, or FlagError for a flag whose
        value makes no sense."""
        if spec.model_path is None:  # not here yet, its child fetches it: nothing is known but where it goes
            return Demand(fixed=memory.CONTEXT) if self._gpus else Demand()
        return self.estimate(spec).demand

    def estimate(self, spec: ModelSpec) -> Estimate:
        assert spec.model_path is not None
        files = [path for path in (spec.model_path, spec.mmproj_path) if path]
        key = (tuple(_identity(path) for path in files), tuple(spec.argv))
        with self._lock:
            if key in self._known:
                return self._known[key]
        estimate = self._measure(spec)
        with self._lock:
            self._known[key] = estimate
        return estimate

    def _measure(self, spec: ModelSpec) -> Estimate:
        assert spec.model_path is not None
        mmproj = gguf.read_model(spec.mmproj_path) if spec.mmproj_path else None
        estimate = memory.demand(spec.args, gguf.read_model(spec.model_path), gpus=self._gpus, mmproj=mmproj)
        source = "header"
        if table := self._engine.measure(memory.fit_args(spec.args, estimate), PATIENCE):
            try:
                estimate, source = memory.measured(table, estimate), "engine"
            except ValueError as exc:
                log.debug("%s: the engine's measure is not understood: %s", spec.name, exc)
        log.info(
            "%s: needs %s (weights %s, KV %s, compute %s) by the %s",
            spec.name,
            size(estimate.demand.total),
            size(estimate.weights),
            size(estimate.kv),
            size(estimate.compute),
            source,
        )
        return estimate


def _identity(path: os.PathLike[str]) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
