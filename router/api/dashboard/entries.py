"""PURE: models, devices and the queue as JSON, from their facts.

Most of an entry changes only when something happens; a few of its values run with the clock. So an entry is kept as a
`Piece`: bytes of JSON, and the moments from which those values are made each time it is told. A piece that is equal to
the one before need not be told again, however much time has passed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from router.pool.device_facts import DeviceFacts
from router.pool.facts import ModelFacts, QueueFacts

encode = msgspec.json.Encoder().encode


class Clock(NamedTuple):
    """A value that runs with the clock: `before` is the JSON in front of it. It is the seconds since the `moment`, or
    until it; None is null."""

    before: bytes
    moment: float | None
    is_until: bool = False


class Piece(NamedTuple):
    """One object: what runs with the clock, and the `rest` of its JSON."""

    rest: bytes
    clocks: tuple[Clock, ...] = ()

    def told(self, now: float) -> bytes:
        """As JSON. `now` is by the loop's clock."""
        if not self.clocks:
            return self.rest
        parts: list[bytes] = []
        for before, moment, is_until in self.clocks:
            seconds = None if moment is None else moment - now if is_until else now - moment
            parts += before, b"null" if seconds is None else b"%.1f" % max(0.0, seconds)
        return b"".join((*parts, self.rest))


def model_piece(name: str, facts: ModelFacts) -> Piece:
    """A quiet model has few fields: those that say something. Any other has them all."""
    if facts.is_quiet:
        entry: dict[str, Any] = {"id": name, "state": facts.state, "need": facts.need}
        entry |= {key: value for key in ("aliases", "pinned", "unlisted", "error") if (value := getattr(facts, key))}
        return Piece(encode(entry))
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
    clocks = (
        Clock(encode(entry)[:-1] + b',"idle":', facts.idle_since),
        Clock(b',"expires_in":', facts.expires_at, True),
        Clock(b',"eta":', facts.ends_at, True),
        Clock(b',"retry_in":', facts.retry_at, True),
    )
    return Piece(b"}", clocks)


def device_piece(facts: DeviceFacts) -> Piece:
    return Piece(encode({**facts._asdict(), "lost": facts.lost or None, "held": [h._asdict() for h in facts.held]}))


def queue_piece(facts: QueueFacts) -> Piece:
    head = {
        "position": facts.position,
        "model": facts.model,
        "requests": facts.requests,
        "background": facts.background,
    }
    why = {
        "kind": facts.kind,
        "text": facts.text,
        "blockers": [{"model": model, "requests": requests} for model, requests in facts.blockers],
        "missing": facts.missing,
    }
    clocks = (
        Clock(encode(head)[:-1] + b',"waited":', facts.since),
        Clock(b',"why":' + encode(why)[:-1] + b',"drain_in":', facts.until, True),
    )
    return Piece(b"}}", clocks)
