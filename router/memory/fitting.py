"""How a model is fitted to the empty machine: how long an automatic context is, and what goes to RAM.

An explicit context stays as it is. An automatic one becomes the longest that fits on as few GPUs as the shortest does.
It is fitted to the machine without any model, so it does not depend on what runs now: the same model is the same each
time. Called by `estimator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from router.engine import flags
from router.engine.flags import Arg, FlagTable
from router.memory.demand import Estimate, predict
from router.models.metadata import Metadata
from router.scheduling import policy
from router.scheduling.policy import Place
from router.scheduling.resources import Demand, Device
from router.scheduling.snapshot import Snapshot

MIN_CONTEXT_TOKENS = 4096  # an automatic context is not shortened below this
CONTEXT_STEP_TOKENS = 256  # the engine rounds contexts to multiples of this


def gpus_of(empty: Snapshot) -> list[Device]:
    return [reading.device for reading in empty.readings if reading.device.kind == "gpu"]


def count_gpus_needed(empty: Snapshot, demand: Demand) -> int | None:
    """Over how many GPUs a demand is spread on the empty machine; 0 if it goes to RAM, None if it does not fit."""
    plan = policy.plan(empty, demand)
    return len(plan.claim.devices) if isinstance(plan, Place) else None


def fit_context(
    empty: Snapshot, table: FlagTable, args: Sequence[Arg], model: Metadata, mmproj: Metadata | None
) -> tuple[Estimate, list[str]]:
    """The estimate with the context that the child gets, and the flag for that context.

    No flag if the engine itself chooses this context.
    """
    n_gpus = len(gpus_of(empty))

    def at(length: int | None) -> Estimate:
        context = flags.parse(["--ctx-size", str(length)], table) if length else ()
        return predict(flags.merge(args, context), model, gpus=n_gpus, mmproj=mmproj)

    whole = at(None)
    if flags.value_of(args, "--ctx-size") not in (None, "0") or whole.n_ctx <= MIN_CONTEXT_TOKENS:
        return whole, []
    fewest = count_gpus_needed(empty, at(MIN_CONTEXT_TOKENS).demand)
    if fewest is not None and count_gpus_needed(empty, whole.demand) == fewest:
        return whole, []
    # Slots that do not share one context have one each, and the flag is for all of them together.
    step = CONTEXT_STEP_TOKENS * max(1, whole.n_ctx // max(1, model.context_length))
    # Bisection, in steps: `low` fits, `high` does not.
    low, high = max(1, MIN_CONTEXT_TOKENS // step), whole.n_ctx // step
    while fewest is not None and high - low > 1:
        middle = (low + high) // 2
        fits = count_gpus_needed(empty, at(middle * step).demand) == fewest
        low, high = (middle, high) if fits else (low, middle)
    return at(low * step), ["--ctx-size", str(low * step)]


def leave_to_engine(empty: Snapshot, args: Sequence[Arg], estimate: Estimate) -> Demand:
    """The demand, reduced for weights that fit nowhere.

    The engine then fills the GPUs and keeps the rest in RAM. If the user has said how many layers go to GPUs, or how to
    split them, the demand stays as it is.
    """
    demand = estimate.demand
    is_users_choice = demand.user_split or flags.value_of(args, "--gpu-layers") not in (None, "auto", "-1")
    if is_users_choice or not estimate.is_offloaded or count_gpus_needed(empty, demand) is not None:
        return demand
    rooms = [
        gpu.total - empty.margins.get(gpu.key, 0) - demand.fixed
        for gpu in gpus_of(empty)
        if not demand.names or gpu.name in demand.names
    ]
    split = min(demand.split, sum(room for room in rooms if room > 0))
    if not split:
        return Demand(host=demand.host + demand.split + estimate.compute)
    return replace(demand, split=split, host=demand.host + demand.split - split, layers=())
