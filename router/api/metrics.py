"""Prometheus metrics of the router itself: the answer of `/metrics` without a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from router.pool.pool import Pool
from router.pool.status import DeviceStatus


def render(pool: Pool, devices: Sequence[DeviceStatus]) -> str:
    """The metrics in the text exposition format 0.0.4. Values are counts or bytes; label values are escaped."""
    return "".join(f"{line}\n" for line in (*_lines(pool), *_of_devices(devices)))


def _of_devices(devices: Sequence[DeviceStatus]) -> Iterator[str]:
    yield from _metric(
        "device_lost",
        "gauge",
        "1 while the device cannot be read and takes no model",
        [(_label(device=device.id, reason=device.reason or ""), int(device.lost)) for device in devices],
    )
    yield from _metric(
        "device_memory_short",
        "gauge",
        "1 while other programs hold memory that is to stay free",
        [(_label(device=device.id), int(device.short)) for device in devices],
    )
    yield from _metric(
        "device_memory_total_bytes",
        "gauge",
        "Memory of the device that may be used",
        [(_label(device=device.id), device.total) for device in devices if device.total is not None],
    )
    yield from _metric(
        "device_memory_free_bytes",
        "gauge",
        "Memory that is free on the device",
        [(_label(device=device.id), device.free) for device in devices if device.free is not None],
    )


def _lines(pool: Pool) -> Iterator[str]:
    yield from _metric("loads_total", "counter", "Models loaded", [("", pool.processes.loads)])
    yield from _metric("evictions_total", "counter", "Models stopped to make room", [("", pool.processes.evictions)])
    short = pool.pressure_episodes
    yield from _metric("memory_pressure_total", "counter", "Times that other programs took memory", [("", short)])
    statuses = {spec.name: pool.status(spec.name) for spec in pool.catalog.models}
    yield from _metric(
        "model_loaded",
        "gauge",
        "1 while the model serves",
        [(_label(model=name), int(status.value in ("loaded", "sleeping"))) for name, status in statuses.items()],
    )
    yield from _metric(
        "model_requests_active",
        "gauge",
        "Requests being served",
        [(_label(model=name), status.leases) for name, status in statuses.items()],
    )
    yield from _metric(
        "model_requests_waiting",
        "gauge",
        "Requests waiting for the model",
        [(_label(model=name), status.waiting) for name, status in statuses.items()],
    )
    yield from _metric(
        "model_memory_booked_bytes",
        "gauge",
        "Memory booked for the model's process",
        [
            (_label(model=name, device=key), held)
            for name, status in statuses.items()
            for key, held in status.held.items()
        ],
    )
    yield from _metric(
        "model_prompt_cache_bytes",
        "gauge",
        "RAM that the model's process may fill with old prompts, as the plan gave it",
        [(_label(model=name), status.prompt_cache) for name, status in statuses.items() if status.pid],
    )


def _metric(name: str, kind: str, text: str, samples: list[tuple[str, int]]) -> Iterator[str]:
    yield f"# HELP llama_router_{name} {text}."
    yield f"# TYPE llama_router_{name} {kind}"
    for labels, value in samples:
        yield f"llama_router_{name}{labels} {value}"


def _label(**labels: str) -> str:
    def escape(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escape(value)}"' for name, value in labels.items()) + "}"
