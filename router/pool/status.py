"""PURE: what clients see: a model, from the scheduler's books, its process and its download; and a memory device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.node.interface import LoadProgress
from router.pool.child_run import ChildRun
from router.scheduling.books import ModelRecord
from router.scheduling.resources import UNKNOWN_BYTES, Reading
from router.scheduling.states import State


@dataclass(frozen=True, slots=True)
class Status:
    """`value` is one of llama.cpp's words for the state.
    `warning` says why it does not run with its own settings as they are now; empty if it does.
    `exit_code` is that of the last process, if the model has `failed`; `failure` says why.
    `progress` is that of a load or a download.
    `info` is what the child reported.
    `started` is when the process with this pid began, in seconds since 1970.
    `leases` counts the requests that are served, `waiting` those that wait.
    `held` are bytes by device key; `prompt_cache` are those of RAM among them that its prompt cache may fill.
    `expires_in` are the seconds until the model is stopped if no request comes; None for never.
    """

    value: str
    failed: bool = False
    failure: str = ""
    warning: str = ""
    exit_code: int | None = None
    progress: LoadProgress | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    pid: int | None = None
    started: float | None = None
    leases: int = 0
    waiting: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    prompt_cache: int = 0
    expires_in: float | None = None

    @classmethod
    def of(
        cls,
        model: ModelRecord,
        run: ChildRun | None,
        *,
        now: float,
        waiting: int,
        download: LoadProgress | None,
        is_queued: bool,
        exit_code: int | None,
        warning: str = "",
    ) -> Status:
        """`waiting` counts the requests that wait for the model.
        `download` is the progress of a download that runs; `is_queued` says that one waits for others.
        `exit_code` is that of the model's last process.
        """
        failed = model.state is State.FAILED
        child = run.child if run else None
        return cls(
            value=State.DOWNLOADING.value if is_queued else word(model.state),
            failed=failed,
            failure=model.failure if failed else "",
            warning=warning,
            exit_code=exit_code if failed else None,
            progress=run.progress if run and model.state is State.LOADING else download,
            info=run.info if run else {},
            pid=child.pid if child else None,
            started=child.started if child else None,
            leases=len(model.leases),
            waiting=waiting,
            held=model.held,
            prompt_cache=model.prompt_cache,
            expires_in=_expires_in(model, now),
        )

    @property
    def news(self) -> dict[str, Any]:
        """The data of an event as llama.cpp's router sends it."""
        data: dict[str, Any] = {"status": self.value}
        if self.progress:
            data["progress"] = self.progress.payload
        if self.value == "loaded":
            data["info"] = self.info
        return data


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A memory device. One that cannot be read is lost and takes no model. A client that gets a 503 for it can see here
    whether it is back.

    `id` is NODE/NAME, `kind` "gpu" or "host".
    `uuid` is the vendor's identity; None if there is none.
    `total` and `free` are bytes; None where they are not known.
    `reason` says why it is `lost`; None if it is not.
    `short`: other programs have taken memory that is to stay free.
    """

    id: str
    kind: str
    uuid: str | None
    total: int | None
    free: int | None
    lost: bool
    reason: str | None
    short: bool = False

    @classmethod
    def of(cls, reading: Reading, *, short: bool = False) -> DeviceStatus:
        device = reading.device
        return cls(
            id=device.key,
            kind=device.kind,
            uuid=device.uuid or None,
            total=None if device.total == UNKNOWN_BYTES else device.total,
            free=reading.free,
            lost=bool(reading.lost),
            reason=reading.lost or None,
            short=short,
        )


def word(state: State) -> str:
    """llama.cpp's word for it: its clients know neither `stopping` nor `failed`."""
    return "unloaded" if state in (State.STOPPING, State.FAILED) else state.value


def _expires_in(model: ModelRecord, now: float) -> float | None:
    if model.ttl is None or model.ttl == math.inf or model.pinned:
        return None
    return max(0.0, model.ttl if model.expires is None else model.expires - now)
