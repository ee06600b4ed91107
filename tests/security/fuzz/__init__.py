"""The fuzzer: random requests, random responses of children, and random files.

Each part is a module with `run(seed, seconds, cases)`. It ends after so many seconds or cases, and raises Found for the
first case that is answered wrongly. The same seed makes the same cases.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator


class Found(Exception):
    """A case that was answered wrongly. The text says how to repeat it."""

    def __init__(self, part: str, seed: int, number: int, what: str, case: object) -> None:
        again = f"python -m tests.security.fuzz {part} --seed {seed} --only {number}"
        super().__init__(f"{part}: {what}\nagain: {again}\ncase: {case!r:.6000}")


def numbers(seconds: float, cases: int, only: int | None = None) -> Iterator[int]:
    """The numbers of the cases of a run."""
    if only is not None:
        yield only
        return
    end = time.monotonic() + seconds
    for number in range(cases):
        if time.monotonic() > end:
            return
        yield number


def dice(seed: int, number: int) -> random.Random:
    """The random numbers of one case. They do not depend on the cases before it."""
    return random.Random(f"{seed}/{number}")


def pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """The data cut at random: not at all, into a few pieces, or byte by byte for a part."""
    way = rng.random()
    if way < 0.4 or len(data) < 2:
        return [data]
    if way < 0.88:
        places = sorted(rng.randrange(len(data)) for _ in range(rng.randint(1, 5)))
    else:
        start = rng.randrange(max(1, len(data) - 40))
        places = list(range(start, min(start + 150, len(data))))
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True) if begin < end]
