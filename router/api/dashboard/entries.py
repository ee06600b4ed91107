"""PURE: models, devices and the queue as JSON, from their facts.

Most of an entry changes only when something happens; a few of its values run with the clock. So an entry is kept as a
`Piece`: bytes of JSON without its end, and the moments from which the end is made each time it is told. A piece that is
equal to the one before need not be told again, however much time has passed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from router.pool.device_facts import DeviceFacts
from router.pool.facts import ModelFacts

encode = msgspec.json.Encoder().encode


class Piece(NamedTuple):
    """One object. `start` are its fields that do not run with the clock, as JSON without the closing brace.

    `counting_up` and `counting_down` are the others: their names as JSON with the colon, and the moment that they are
    counted from or to, by the loop's clock; None is null.
    """

    start: bytes
    counting_up: tuple[tuple[bytes, float | None], ...] = ()
    counting_down: tuple[tuple[bytes, float | None], ...] = ()

    @property
    def runs(self) -> bool:
        """Whether it has values that run with the clock."""
        return bool(self.counting_up or self.counting_down)

    def told(self, now: float) -> bytes:
        if not self.runs:
            return self.start + b"}"
        parts = [self.start]
        for name, moment in self.counting_up:
            parts.append(b",%b%b" % (name, b"null" if moment is None else b"%.1f" % max(0.0, now - moment)))
        for name, moment in self.counting_down:
            parts.append(b",%b%b" % (name, b"null" if moment is None else b"%.1f" % max(0.0, moment - now)))
        parts.append(b"}")
        return b"".join(parts)


def model_piece(name: str, facts: ModelFacts) -> Piece:
    """A quiet model has few fields: those that say something. Any other has them all."""
    if facts.is_quiet:
        entry: dict[str, Any] = {"id": name, "state": facts.state, "need": facts.need}
        entry |= {key: value for key in ("aliases", "pinned", "unlisted", "error") if (value := getattr(facts, key))}
        return Piece(encode(entry)[:-1])
    entry = {
        "id": name,
        "state": facts.state,
        "need": facts.need,
        "source": facts.source,
        "aliases": facts.aliases,
        "unlisted": facts.unlisted,
        "pinned": facts.pinned,
        "draining": facts.draining,
        "stopping": facts.stopping,
        "failed": facts.failed,
        "error": facts.error or None,
        "warning": facts.warning or None,
        "progress": None if facts.progress is None else round(facts.progress, 3),
        "leases": facts.leases,
        "slots": facts.slots,
        "waiting": facts.waiting,
        "ttl": facts.ttl,
        "held": facts.held,
        "context": facts.context,
        "pid": facts.pid,
        "started": facts.started,
        "restarts": facts.restarts,
        "failures": facts.failures,
        "tokens_per_second": facts.tokens_per_second,
    }
    return Piece(
        encode(entry)[:-1],
        ((b'"idle":', facts.idle_since),),
        ((b'"expires_in":', facts.expires_at), (b'"eta":', facts.ends_at), (b'"retry_in":', facts.retry_at)),
    )


def device_piece(facts: DeviceFacts) -> Piece:
    entry = {**facts._asdict(), "lost": facts.lost or None, "held": [held._asdict() for held in facts.held]}
    return Piece(encode(entry)[:-1])
