"""PURE: models, devices and the queue as JSON, from their facts.

Most of an entry changes only when something happens; a few of its values run with the clock. So an entry is kept as a
`Piece`: bytes of JSON without its end, and the moments from which the end is made each time it is told. A piece that is
equal to the one before need not be told again, however much time has passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from router.pool.overview import ModelFacts
from router.scheduling.books import ModelRecord
from router.scheduling.resources import UNKNOWN_BYTES, Reading
from router.scheduling.states import State

encode = msgspec.json.Encoder().encode


class Piece(NamedTuple):
    """One object. `start` are its fields that do not run with the clock, as JSON without the closing brace.

    `counting_up` and `counting_down` are the others: their names as JSON with the colon, and the moment that they are
    counted from or to, by the loop's clock; None is null.
    """

    start: bytes
    counting_up: tuple[tuple[bytes, float | None], ...] = ()
    counting_down: tuple[tuple[bytes, float | None], ...] = ()

    def told(self, now: float) -> bytes:
        if not self.counting_up and not self.counting_down:
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


def device_pieces(
    readings: Iterable[Reading],
    models: Sequence[ModelRecord],
    margins: Mapping[str, int],
    short: Mapping[str, int],
    others: Mapping[str, int],
) -> tuple[dict[str, Piece], dict[str, int]]:
    """The devices by key, and what other programs hold of each.

    `models` are those with a process, `margins` and `short` are bytes by device key, and `others` is what the last call
    returned. While a model takes or gives back its memory, a reading shows a part of that, and nobody knows how much.
    So what others hold is then taken to be what it was, as far as the reading allows.
    """
    pieces: dict[str, Piece] = {}
    found: dict[str, int] = {}
    for reading in readings:
        device = reading.device
        key, total = device.key, None if device.total == UNKNOWN_BYTES else device.total
        held = [(model, count) for model in models if (count := model.held.get(key, 0))]
        if reading.free is not None and total is not None:
            found[key] = _others(total - reading.free, key, held, others.get(key))
        entry = {
            "key": key,
            "name": device.name,
            "node": device.node,
            "kind": device.kind,
            "total": total,
            "free": reading.free,
            "margin": margins.get(key, 0),
            "other": found.get(key),
            "short": key in short,
            "lost": reading.lost or None,
            "held": [{"model": model.name, "bytes": count, "phase": phase(model)} for model, count in held],
        }
        pieces[key] = Piece(encode(entry)[:-1])
    return pieces, found


def _others(used: int, key: str, held: Iterable[tuple[ModelRecord, int]], before: int | None) -> int:
    """`used` are all bytes that are not free. Memory that was promised and is not taken yet does not show."""
    shown = unclear = 0
    for model, count in held:
        if model.state in (State.LOADING, State.STOPPING):
            unclear += count
        else:
            shown += count - model.hidden_part(key)
    most = max(0, used - shown)
    return most if before is None else min(most, max(before, most - unclear))


def phase(model: ModelRecord) -> str:
    """What the process does about its memory: `loading` and `stopping` ones hold any part of what was booked, a
    `sleeping` one nothing for now; `idle` and `busy` ones hold it."""
    match model.state:
        case State.LOADED:
            return "busy" if model.leases else "idle"
        case state:
            return state.value
