"""What a model would take on each device, whether it fits now, and which models would be evicted for it.

Nothing is loaded. Called by `GET /models/estimate` and `llama-router estimate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from router.memory.demand import PROCESS_BYTES
from router.memory.estimator import Estimator
from router.memory.need import Need
from router.models.spec import ModelSpec
from router.scheduling import policy
from router.scheduling.policy import Drain, Evict, Lost, Place, Plan, Reject, Wait
from router.scheduling.resources import Allocation
from router.scheduling.snapshot import Snapshot
from router.units import size


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes on one device.

    `fixed` is what a process takes whatever its model is.
    The parts are estimates; `total` is what would be booked.
    """

    name: str
    weights: int
    kv: int
    compute: int
    fixed: int
    total: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a load would do.

    `devices` are the GPUs on which the model would be placed; `host` is its share of RAM.
    `source` is where the figures come from: "footprint", "engine" or "header".
    `context` is the context that it would get, in tokens; `max_context` is the longest that fits the empty machine.
    `verdict` is a sentence; `evicts` are the models that would be stopped for it.
    """

    model: str
    devices: tuple[Share, ...]
    host: Share
    source: str
    context: int
    max_context: int
    fits: bool
    verdict: str
    evicts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast(estimator: Estimator, spec: ModelSpec, now: Snapshot, *, running: str = "", ending: str = "") -> Forecast:
    """The forecast for the machine as it is `now`, without the model's own process. Blocks: it reads headers and runs
    the engine's measure.

    `running` is a sentence if the model runs with these arguments already: then a load does nothing.
    `ending` is a sentence about a process that has to end first.
    Raises GgufError and LoadFailed.
    """
    need = estimator.need(spec)
    plan = policy.plan(now, need.demand)
    empty = policy.plan(estimator.empty, need.demand)
    claim = None if isinstance(plan, Reject | Lost) else plan.claim
    claim = claim or (empty.claim if isinstance(empty, Place) else Allocation({}))
    can_start = not isinstance(plan, Reject | Lost)
    verdict, evicts = (running, ()) if running else _verdict(plan)
    return Forecast(
        model=spec.name,
        devices=tuple(_gpu_shares(need, claim)),
        host=_host_share(need, claim),
        source=need.source,
        context=need.estimate.n_ctx if need.estimate else 0,
        max_context=estimator.longest_context(spec),
        fits=can_start or bool(running),
        verdict=f"{verdict} {ending}" if ending and can_start else verdict,
        evicts=evicts,
    )


def _verdict(plan: Plan) -> tuple[str, tuple[str, ...]]:
    match plan:
        case Place():
            return "It fits now.", ()
        case Evict(victims):
            return f"It fits once these idle models have gone: {', '.join(victims)}.", victims
        case Drain(victims):
            return f"It fits once these models, some of them busy, have gone: {', '.join(victims)}.", victims
        case Wait(reason):
            return f"It would wait: {reason}.", ()
        case Reject(reason):
            return f"It does not fit on this machine: {reason}.", ()
        case Lost(reason):
            return f"It cannot be loaded now: {reason}.", ()


def _gpu_shares(need: Need, claim: Allocation) -> Iterator[Share]:
    estimate = need.estimate
    for device in claim.devices:
        held = claim.held.get(device.key, 0)
        if estimate is None or not need.demand.split:
            yield Share(device.name, 0, 0, 0, held, held)
            continue
        split = max(0, held - need.demand.fixed)
        kv = (estimate.kv - estimate.kv_host) * split // need.demand.split
        yield Share(device.name, split - kv, kv, estimate.compute, estimate.fixed, held)


def _host_share(need: Need, claim: Allocation) -> Share:
    estimate, total = need.estimate, need.demand.host
    if estimate is None:
        return Share("RAM", 0, 0, 0, total, total)
    fixed = PROCESS_BYTES + estimate.prompt_cache
    if claim.devices:
        kv, compute = estimate.kv_host, estimate.staging
    else:
        kv, compute = estimate.kv, estimate.compute
    return Share("RAM", max(0, total - kv - compute - fixed), kv, compute, fixed, total)


def table(figures: dict[str, Any]) -> str:
    """A forecast as text, from what `as_json` returned here or in another router."""
    columns = ("weights", "kv", "compute", "fixed", "total")
    rows = [["device", *columns]]
    rows += [
        [row["name"], *(size(row[column]) for column in columns)] for row in [*figures["devices"], figures["host"]]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    facts = (
        f"By the {figures['source']}; context {figures['context']}, the longest that fits is {figures['max_context']}."
    )
    return "\n".join([*lines, "", facts, figures["verdict"]])
