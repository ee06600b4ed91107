"""The metrics of the router's process, by the names that all programs give them: `process_...`.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
"""

from __future__ import annotations

import math

from router.metrics.families import Counter, Gauge, Registry
from router.node.own_process import OwnProcess


class ProcessMetrics:
    def __init__(self) -> None:
        self.registry = registry = Registry("process_")
        self._process = OwnProcess()
        make = registry.make
        self._cpu = make(Counter, "cpu_seconds", "Processor time of the router").of()
        self._resident = make(Gauge, "resident_memory_bytes", "Memory that the router holds").of()
        self._virtual = make(Gauge, "virtual_memory_bytes", "Addresses that the router has taken").of()
        self._started = make(Gauge, "start_time_seconds", "When the process started, in seconds since 1970").of()
        self._files = make(Gauge, "open_fds", "Open files").of()
        self._max_files = make(Gauge, "max_fds", "Files that may be open").of()

    def __repr__(self) -> str:
        return f"<ProcessMetrics of {self._process!r}>"

    def update(self) -> None:
        usage = self._process.usage()
        self._cpu.add(max(0.0, usage.cpu - self._cpu.value))
        self._resident.set(usage.resident)
        self._virtual.set(usage.virtual)
        self._started.set(usage.started)
        self._files.set(math.nan if usage.open_files is None else usage.open_files)
        self._max_files.set(math.nan if usage.max_files is None else usage.max_files)
