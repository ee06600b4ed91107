"""All metrics of the router: their names, what they mean, and their labels. Nothing else makes a family.

Names follow Prometheus (https://prometheus.io/docs/practices/naming): base units, counters that end in `_total`. A
label is a model of the catalog, a device, or of a small closed set: nothing that a client sends becomes a label.

`device` is the key of a device, as everywhere, and `node` its machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from router.metrics.families import Counter, Gauge, Histogram, Info, Registry

PREFIX = "llama_router_"
MODEL, DEVICE, MODEL_ON_DEVICE = ("model",), ("device", "node"), ("model", "device", "node")


class Metrics:
    """`clock` is the wall clock, in seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.registry = registry = Registry(PREFIX, clock)
        make = registry.make

        # The router
        self.build = make(Info, "build", "The router's version and its engine", "version", "engine", "engine_build")
        self.start_time = make(Gauge, "start_time_seconds", "When the router started, in seconds since 1970")
        self.loop_lag = make(
            Gauge, "event_loop_lag_seconds", "By how much the event loop was late at most, in the last seconds"
        )
        self.reloads = make(Counter, "config_reloads", "Times that the catalog was read again")
        self.last_reload = make(
            Gauge, "config_last_reload_successful", "Whether the catalog could be read when that was tried last"
        )

        # Requests
        self.requests = make(Counter, "requests", "Requests answered", "model", "dialect", "code", "background")
        self.duration = make(Histogram, "request_duration_seconds", "From a request to the end of its answer", *MODEL)
        self.first_token = make(
            Histogram, "time_to_first_token_seconds", "From a request to the first token of its answer", *MODEL
        )
        self.queue_wait = make(
            Histogram, "queue_wait_seconds", "How long requests waited for their model", "model", "outcome"
        )
        self.prompt = make(Counter, "tokens_prompt", "Tokens of prompts", *MODEL)
        self.cached = make(Counter, "tokens_prompt_cached", "Tokens of prompts that came from a cache", *MODEL)
        self.generated = make(Counter, "tokens_generated", "Tokens generated", *MODEL)
        self.prompt_seconds = make(Counter, "prompt_seconds", "Time that models spent on prompts", *MODEL)
        self.generation_seconds = make(Counter, "generation_seconds", "Time that models spent on generating", *MODEL)
        self.refused = make(
            Counter, "requests_refused", "Requests refused while they waited for their model", "model", "reason"
        )
        self.errors = make(Counter, "errors", "Requests that ended with an error", "kind")
        self.active = make(Gauge, "requests_active", "Requests being served", *MODEL)
        self.waiting = make(Gauge, "requests_waiting", "Requests waiting for their model", *MODEL)
        self.queue = make(Gauge, "queue_entries", "Models that requests are waiting for")
        self.queue_oldest = make(Gauge, "queue_oldest_seconds", "How long the oldest request has been waiting")

        # Models
        self.state = make(Gauge, "model_state", "1 for the state that the model is in", "model", "state")
        self.loads = make(Counter, "loads", "Processes started, by how that ended", "model", "outcome")
        self.load_duration = make(
            Histogram, "load_duration_seconds", "From the start of a process until it served", *MODEL
        )
        self.stops = make(Counter, "stops", "Processes stopped", "model", "reason")
        self.drains = make(Counter, "drains", "Times that a model was closed to new requests for another one", *MODEL)
        self.drain_duration = make(Histogram, "drain_duration_seconds", "How long models were closed to others", *MODEL)
        self.exits = make(Counter, "child_exits", "Processes that ended", "model", "cause")
        self.downloads = make(Gauge, "downloads_active", "Downloads that run")
        self.downloaded = make(Counter, "download_bytes", "Bytes downloaded", "repo")

        # Memory
        self.memory_total = make(Gauge, "memory_total_bytes", "Memory of the device that may be used", *DEVICE)
        self.memory_free = make(Gauge, "memory_free_bytes", "Memory that is free on the device", *DEVICE)
        self.memory_margin = make(Gauge, "memory_margin_bytes", "Memory that is to stay free on the device", *DEVICE)
        self.memory_other = make(Gauge, "memory_other_bytes", "Memory that other programs hold of the device", *DEVICE)
        self.booked = make(Gauge, "memory_booked_bytes", "Memory booked for the model's process", *MODEL_ON_DEVICE)
        self.measured = make(
            Gauge,
            "memory_measured_bytes",
            "Memory that the model's process really held",
            *MODEL_ON_DEVICE,
        )
        self.estimated = make(
            Gauge, "memory_estimated_bytes", "Memory booked for the model's process at its start", *MODEL_ON_DEVICE
        )
        self.prompt_cache = make(
            Gauge, "model_prompt_cache_bytes", "RAM that the model's process may fill with old prompts", *MODEL
        )
        self.lost = make(Gauge, "device_lost", "1 while the device cannot be read", "device", "reason")
        self.short = make(
            Gauge, "device_memory_short", "1 while other programs hold memory that is to stay free", "device"
        )
        self.pressure = make(Counter, "memory_pressure", "Times that other programs took memory that is to stay free")
        self.settling = make(
            Histogram, "settle_seconds", "How long the memory of ended processes took to come back", "device"
        )
