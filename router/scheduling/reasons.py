"""PURE: what a request waits for, as words for people.

The scheduler knows the facts; the sentences stand here, for errors and for whoever shows what goes on. `refusals` puts
them into whole errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.units import counted


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A model whose requests must end first. `requests` of them run, and it has been busy for so many seconds."""

    model: str
    requests: int
    busy_for: float


def waits_for(obstacles: Sequence[Obstacle]) -> str:
    """`coder to finish 3 requests`. Empty without obstacles."""
    return " and ".join(f"{each.model} to finish {counted(each.requests, 'request')}" for each in obstacles)


def why_timed_out(timeout: float, obstacles: Sequence[Obstacle], reason: str) -> str:
    """`timeout` is in seconds. `reason` is the plan's, if no model is in the way."""
    why = f"it waited {timeout:g} s for memory or a free slot"
    if obstacles:
        since = " and ".join(f"{each.model} has been busy for {each.busy_for:.0f} s" for each in obstacles)
        return f"{why}, and still waits for {waits_for(obstacles)}; {since}"
    return f"{why}: {reason}" if reason else why
