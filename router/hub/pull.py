"""`llama-router pull`: models from the hub into the cache, with a bar for each file, or a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from tqdm import tqdm

from router import logs
from router.hub import fetch
from router.hub.fetch import Progress
from router.hub.repo import Name, Resolved
from router.units import size

INTERVAL = 5.0  # seconds between two lines
MINUTE, HOUR = 60, 3600


async def pull(name: Name, root: Path, *, fallback: bool = False, offline: bool = False) -> Resolved:
    """Have it in the cache, and tell stderr how far it is. When interrupted, what has arrived is kept. Raises what
    `fetch.resolve` and `fetch.fetch` do."""
    resolved = await fetch.resolve(name, root, fallback=fallback, offline=offline)
    with contextlib.ExitStack() as bars:
        tell = Bars(bars).tell if sys.stderr.isatty() else Lines(resolved).tell
        await fetch.fetch(resolved, root, tell)
    return resolved


class Bars:
    """One for each file; they end with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._bars: dict[str, tqdm[None]] = {}

    def tell(self, told: Progress) -> None:
        bar = self._bars.get(told.url)
        if bar is None:
            bar = tqdm(
                desc=logs.visible(told.file.path.name),
                total=told.total,
                initial=told.done,  # what was here before is no part of the rate
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                dynamic_ncols=True,
            )
            self._bars[told.url] = self._stack.enter_context(bar)
        bar.update(told.done - bar.n)


class Lines:
    """One for all files now and then, for logs."""

    def __init__(self, resolved: Resolved) -> None:
        self._name, self._total = resolved.name, resolved.bytes
        self._begun = self._told = time.monotonic()
        self._held: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def tell(self, told: Progress) -> None:
        self._held.setdefault(told.url, told.done)
        self._done[told.url] = told.done
        now = time.monotonic()
        if now - self._told >= INTERVAL:
            self._told = now
            held, done = sum(self._held.values()), sum(self._done.values())
            logs.say(f"{self._name}: {shown(held, done, self._total, now - self._begun)}")


def shown(held: int, done: int, total: int, seconds: float) -> str:
    """Bytes that were here before, are here now, and will be, as `1.0 GiB of 4.0 GiB, 20 MiB/s, 3 min left`."""
    rate = (done - held) / seconds
    left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
    return f"{size(done)} of {size(total)}, {size(rate)}/s{left}"


def duration(seconds: float) -> str:
    """For a person: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE)
    return f"{minutes} min" if seconds < HOUR else f"{minutes // 60} h {minutes % 60} min"
