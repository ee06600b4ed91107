"""PURE: the header `traceparent` (https://www.w3.org/TR/trace-context/), which ties spans of several programs together.

While a request is traced, its record's `trace` holds two of them, with a line feed between, which no header can hold:
the client's, which may be empty, and the router's own, which the engine gets. `tracing` joins them, `proxy` takes the
second, `spans` both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SAMPLED = 1

# A version to come may have more fields behind these.
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """One span: `trace` and `span` are its ids, of 128 and 64 bits."""

    trace: int
    span: int
    flags: int

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    def __str__(self) -> str:
        return f"00-{self.trace:032x}-{self.span:016x}-{self.flags:02x}"


def parse(text: str) -> TraceParent | None:
    """None for what is no valid header; then the trace begins here."""
    found = _FORM.fullmatch(text.strip())
    if not found or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace, span = int(found[2], 16), int(found[3], 16)
    return TraceParent(trace, span, int(found[4], 16)) if trace and span else None


def joined(came: str, own: TraceParent) -> str:
    return f"{came}\n{own}"


def split(trace: str) -> tuple[str, str]:
    """What came, and what goes on; the second is empty if the request is not traced."""
    came, _, own = trace.partition("\n")
    return came, own
