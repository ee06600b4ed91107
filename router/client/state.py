"""PURE: `GET /router/state` as commands read it, and its figures in words.

Fields that are missing or odd become None: a command may be older or newer than the router that it asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.units import counted, size

RUNNING = ("loading", "loaded", "sleeping", "stopping", "downloading")


@dataclass(frozen=True, slots=True)
class Model:
    """`held` is bytes by the label of a device. Times are in seconds; `progress` is a share of 1."""

    name: str
    state: str
    progress: float | None = None
    eta: float | None = None
    is_draining: bool = False
    is_stopping: bool = False
    is_pinned: bool = False
    running: int = 0
    waiting: int = 0
    slots: int | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    context: int | None = None
    expires_in: float | None = None
    pid: int | None = None
    speed: float | None = None
    retry_in: float | None = None
    error: str | None = None
    aliases: Sequence[str] = ()

    @property
    def is_running(self) -> bool:
        return self.state in RUNNING or self.is_stopping

    @property
    def words(self) -> str:
        """Its state, for people."""
        match self.state:
            case "loading" | "downloading":
                share = "" if self.progress is None else f" {self.progress:.0%}"
                return f"{self.state}{share}" + (f", {duration(self.eta)} left" if self.eta else "")
            case "loaded" if self.is_draining:
                return "draining"
            case "unloaded" if self.is_stopping:
                return "stopping"
            case "unloaded" if self.waiting:
                return "waiting"
        if self.error and not self.is_running:
            return "failed" + (f", again in {duration(self.retry_in)}" if self.retry_in else "")
        return self.state


@dataclass(frozen=True, slots=True)
class Waiter:
    """The requests that wait for one model, and why."""

    model: str
    requests: int
    waited: float
    why: str
    is_background: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    label: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class State:
    models: Sequence[Model] = ()
    queue: Sequence[Waiter] = ()
    devices: Sequence[Device] = ()
    running: int = 0
    waiting: int = 0
    speed: float = 0.0

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> State:
        labels, held = _devices(_list(fields, "devices"))
        totals = fields.get("totals")
        totals = totals if isinstance(totals, dict) else {}
        models = [_model(entry, held, labels) for entry in _list(fields, "models") if isinstance(entry.get("id"), str)]
        return cls(
            models,
            [_waiter(entry) for entry in _list(fields, "queue") if isinstance(entry.get("model"), str)],
            [
                Device(labels[str(entry.get("key"))], _count(entry, "total"), _count(entry, "free"))
                for entry in _list(fields, "devices")
            ],
            _count(totals, "running") if "running" in totals else sum(model.running for model in models),
            _count(totals, "waiting") if "waiting" in totals else sum(model.waiting for model in models),
            _number(totals, "tokens_per_second") or 0.0,
        )

    def model(self, name: str) -> Model | None:
        """By its name or one of its other names."""
        found = next((model for model in self.models if model.name == name), None)
        return found or next((model for model in self.models if name in model.aliases), None)

    def waits(self, name: str) -> Waiter | None:
        return next((waiter for waiter in self.queue if waiter.model == name), None)

    def outlook(self, name: str) -> str:
        """What a request for this model waits for now, as a sentence without an end; empty while it is answered."""
        model = self.model(name)
        waiter = self.waits(model.name if model else name)
        if model and model.words.startswith(("loading", "downloading", "stopping")):
            return f"{name}: {model.words}"
        if waiter:
            return f"{name} {waiter.why}" if waiter.why.startswith("waits ") else f"{name}: {waiter.why or 'waits'}"
        if model and model.is_draining:
            return f"{name} finishes what it has, and then makes room for another model"
        return ""


def _list(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = fields.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e15 < value < 1e15:
        return None
    return float(value)


def _count(fields: Mapping[str, Any], name: str) -> int:
    return int(_number(fields, name) or 0)


def _devices(entries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """The label of each device by its key, and what each model holds of it."""
    labels: dict[str, str] = {}
    held: dict[str, dict[str, int]] = {}
    for entry in entries:
        key = str(entry.get("key"))
        labels[key] = str(entry.get("label") or entry.get("name") or key)
        for part in _list(entry, "held"):
            of_model = held.setdefault(str(part.get("model")), {})
            of_model[labels[key]] = of_model.get(labels[key], 0) + _count(part, "bytes")
    return labels, held


def _model(entry: Mapping[str, Any], held: Mapping[str, Mapping[str, int]], labels: Mapping[str, str]) -> Model:
    name = str(entry["id"])
    own = entry.get("held")
    by_device = {labels.get(key, key): _count(own, key) for key in own} if isinstance(own, dict) else held.get(name, {})
    pid, slots, context = (_number(entry, field) for field in ("pid", "slots", "context"))
    error, aliases = entry.get("error"), entry.get("aliases")
    return Model(
        name,
        str(entry.get("state") or "unloaded"),
        _number(entry, "progress"),
        _number(entry, "eta"),
        bool(entry.get("draining")),
        bool(entry.get("stopping")),
        bool(entry.get("pinned")),
        _count(entry, "leases"),
        _count(entry, "waiting"),
        int(slots) if slots else None,
        {device: count for device, count in by_device.items() if count},
        int(context) if context else None,
        _number(entry, "expires_in"),
        int(pid) if pid else None,
        _number(entry, "tokens_per_second"),
        _number(entry, "retry_in"),
        error if isinstance(error, str) else None,
        aliases if isinstance(aliases, list) else (),
    )


def _waiter(entry: Mapping[str, Any]) -> Waiter:
    why = entry.get("why")
    text = why.get("text") if isinstance(why, dict) else why
    return Waiter(
        str(entry["model"]),
        _count(entry, "requests"),
        _number(entry, "waited") or 0.0,
        text if isinstance(text, str) else "",
        bool(entry.get("background")),
    )


def duration(seconds: float | None) -> str:
    """`8 s`, `4 min`, `3 h`; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def memory(held: Mapping[str, int]) -> str:
    return ", ".join(f"{device} {size(count)}" for device, count in held.items()) or "-"


def requests(model: Model) -> str:
    if not model.running and not model.waiting:
        return "idle" if model.state in ("loaded", "sleeping") else "-"
    parts = [f"{model.running} running"] if model.running else []
    parts += [f"{model.waiting} waiting"] if model.waiting else []
    return ", ".join(parts)


def waiting_line(waiter: Waiter) -> str:
    """`b: 3 requests for 12 s: waits for coder to finish 3 requests`."""
    kind = "background request" if waiter.is_background else "request"
    reason = f": {waiter.why}" if waiter.why else ""
    return f"{waiter.model}: {counted(waiter.requests, kind)} for {duration(waiter.waited)}{reason}"
