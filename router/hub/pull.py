"""`llama-router pull`: models from the hub into the cache, with a bar for each file, or a line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from router.hub.fetch import fetch
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.repo import Resolved
from router.hub.resolve import resolve
from router.logs import streams as logs
from router.logs.letters import visible
from router.units import size

LINE_INTERVAL_S = 5.0
MINUTE_S, HOUR_S = 60, 3600


async def pull(name: Name, root: Path, *, fallback: bool = False, offline: bool = False) -> Resolved:
    """Download a model into the cache, and show on stderr how far it is.

    When interrupted, the parts that have arrived are kept. Raises what `resolve` and `fetch` do.
    """
    resolved = await resolve(name, root, fallback=fallback, offline=offline)
    with contextlib.ExitStack() as bars:
        show = Bars(bars).show if sys.stderr.isatty() else Lines(resolved).show
        await fetch(resolved, root, show)
    return resolved


class Bars:
    """One bar for each file, for terminals; they are closed with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._bars: dict[str, tqdm[None]] = {}

    def __repr__(self) -> str:
        return f"<Bars of {len(self._bars)} files>"

    def show(self, progress: DownloadProgress) -> None:
        bar = self._bars.get(progress.url)
        if bar is None:
            bar = tqdm(
                desc=visible(PurePosixPath(progress.path).name),
                total=progress.total or None,
                initial=progress.done,  # bytes that were here before do not count in the rate
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                dynamic_ncols=True,
            )
            self._bars[progress.url] = self._stack.enter_context(bar)
        bar.update(progress.done - bar.n)


class Lines:
    """One line for all files every few seconds, for logs."""

    def __init__(self, resolved: Resolved) -> None:
        self._name, self._total = resolved.name, resolved.bytes
        self._started_at = self._shown_at = time.monotonic()
        self._present: dict[str, int] = {}  # bytes at the start, by URL
        self._done: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Lines of {self._name}: {sum(self._done.values())} of {self._total} bytes>"

    def show(self, progress: DownloadProgress) -> None:
        self._present.setdefault(progress.url, progress.done)
        self._done[progress.url] = progress.done
        now = time.monotonic()
        if now - self._shown_at >= LINE_INTERVAL_S:
            self._shown_at = now
            present, done = sum(self._present.values()), sum(self._done.values())
            logs.say(f"{self._name}: {summary(present, done, self._total, now - self._started_at)}")


def summary(present: int, done: int, total: int, seconds: float) -> str:
    """Bytes at the start, now and at the end, as `1.0 GiB of 4.0 GiB, 20 MiB/s, 3 min left`."""
    rate = (done - present) / seconds
    left = f", {duration((total - done) / rate)} left" if rate > 0 and total >= done else ""
    return f"{size(done)}{f' of {size(total)}' if total >= done else ''}, {size(rate)}/s{left}"


def duration(seconds: float) -> str:
    """For a person: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE_S)
    return f"{minutes} min" if seconds < HOUR_S else f"{minutes // 60} h {minutes % 60} min"
