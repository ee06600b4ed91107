"""PURE: a model as clients see it, from the scheduler's books, its process and its download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.node.interface import LoadProgress
from router.pool.run import Run
from router.scheduling.books import ModelRecord
from router.scheduling.states import State


@dataclass(frozen=True, slots=True)
class Status:
    """`value` is one of llama.cpp's words; `held` are bytes by device key; `expires_in` are the seconds until it is
    stopped if nobody asks for it from now on, None for never. `started` is when the process with this pid began, in
    seconds since 1970."""

    value: str
    failed: bool = False
    failure: str = ""
    exit_code: int | None = None
    progress: LoadProgress | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    pid: int | None = None
    started: float | None = None
    leases: int = 0
    waiting: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    expires_in: float | None = None

    @classmethod
    def of(
        cls,
        model: ModelRecord,
        run: Run | None,
        *,
        now: float,
        waiting: int,
        download: LoadProgress | None,
        is_queued: bool,
        exit_code: int | None,
    ) -> Status:
        """`waiting` are those who wait for it; its `download` is under way, or waits for others (`is_queued`);
        `exit_code` is its last process's."""
        failed = model.state is State.FAILED
        child = run.child if run else None
        return cls(
            value=State.DOWNLOADING.value if is_queued else _word(model.state),
            failed=failed,
            failure=model.failure if failed else "",
            exit_code=exit_code if failed else None,
            progress=run.progress if run and model.state is State.LOADING else download,
            info=run.info if run else {},
            pid=child.pid if child else None,
            started=child.started if child else None,
            leases=len(model.leases),
            waiting=waiting,
            held=model.held,
            expires_in=_expires_in(model, now),
        )

    @property
    def news(self) -> dict[str, Any]:
        """What llama.cpp's router tells whoever listens."""
        data: dict[str, Any] = {"status": self.value}
        if self.progress:
            data["progress"] = self.progress.payload
        if self.value == "loaded":
            data["info"] = self.info
        return data


def _word(state: State) -> str:
    """llama.cpp's clients know neither `stopping` nor `failed`."""
    return "unloaded" if state in (State.STOPPING, State.FAILED) else state.value


def _expires_in(model: ModelRecord, now: float) -> float | None:
    if model.ttl is None or model.pinned:
        return None
    return max(0.0, model.ttl if model.expires is None else model.expires - now)
