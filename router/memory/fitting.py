"""How a model is fitted to the empty machine: how long a context and a batch are, and what goes to RAM.

An explicit context stays as it is. An automatic one becomes the longest that fits on as few GPUs as the shortest does.
It is fitted to the machine without any model, so it does not depend on what runs now: the same model is the same each
time. Called by `estimator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from router.engine import flags
from router.engine.flags import Arg, FlagTable
from router.memory import batches
from router.memory.demand import Estimate, predict
from router.memory.flag_values import DEFAULT_MICRO_BATCH_TOKENS
from router.models.metadata import Metadata
from router.scheduling import policy
from router.scheduling.policy import Place
from router.scheduling.resources import Demand, Device
from router.scheduling.snapshot import Snapshot

MIN_CONTEXT_TOKENS = 4096  # an automatic context is not shortened below this
CONTEXT_STEP_TOKENS = 256  # the engine rounds contexts to multiples of this


def gpus_of(empty: Snapshot) -> list[Device]:
    return [reading.device for reading in empty.readings if reading.device.kind == "gpu"]


def count_visible_gpus(empty: Snapshot) -> int:
    """How many GPUs one child may see at most."""
    gpus = gpus_of(empty)
    return max(sum(not gpu.is_alone for gpu in gpus), min(1, len(gpus)))


def count_gpus_needed(empty: Snapshot, demand: Demand) -> int | None:
    """Over how many GPUs a demand is spread on the empty machine; 0 if it goes to RAM, None if it does not fit."""
    plan = policy.plan(empty, demand)
    return len(plan.claim.devices) if isinstance(plan, Place) else None


def fit(
    empty: Snapshot, table: FlagTable, args: Sequence[Arg], model: Metadata, projector: int
) -> tuple[Estimate, list[str]]:
    """The estimate with what is added to `args`, and that: the task, the context and the batch of the child.

    `projector` is what its projector takes, in bytes.
    """
    task = batches.task_words(args, model)
    args = (*args, *flags.parse(task, table))
    estimate, context = fit_context(empty, table, args, model, projector)
    if not batches.follows_context(args, model):
        return estimate, [*task, *context]
    estimate, batch = fit_batch(empty, table, (*args, *flags.parse(context, table)), model, projector)
    return estimate, [*task, *context, *batch]


def fit_context(
    empty: Snapshot, table: FlagTable, args: Sequence[Arg], model: Metadata, projector: int
) -> tuple[Estimate, list[str]]:
    """The estimate with the context that the child gets, and the flag for that context.

    No flag if the engine itself chooses this context.
    """
    n_gpus = count_visible_gpus(empty)

    def at(length: int | None) -> Estimate:
        context = flags.parse(["--ctx-size", str(length)], table) if length else ()
        given = flags.merge(args, context)
        batch = flags.parse(batches.batch_words(given, batches.wanted_batch(given, model)), table)
        return predict(flags.merge(given, batch), model, gpus=n_gpus, projector=projector)

    whole, words = at(None), []
    if flags.value_of(args, "--ctx-size") not in (None, "0"):
        return whole, []
    if longest := batches.longest_automatic_context(args, model):
        length = longest * max(1, whole.n_ctx // max(1, model.context_length))
        whole, words = at(length), ["--ctx-size", str(length)]
    if whole.n_ctx <= MIN_CONTEXT_TOKENS:
        return whole, words
    fewest = count_gpus_needed(empty, at(MIN_CONTEXT_TOKENS).demand)
    if fewest is not None and count_gpus_needed(empty, whole.demand) == fewest:
        return whole, words
    # Slots that do not share one context have one each, and the flag is for all of them together.
    step = CONTEXT_STEP_TOKENS * max(1, whole.n_ctx // max(1, model.context_length))
    # Bisection, in steps: `low` fits, `high` does not.
    low, high = max(1, MIN_CONTEXT_TOKENS // step), whole.n_ctx // step
    while fewest is not None and high - low > 1:
        middle = (low + high) // 2
        fits = count_gpus_needed(empty, at(middle * step).demand) == fewest
        low, high = (middle, high) if fits else (low, middle)
    return at(low * step), ["--ctx-size", str(low * step)]


def fit_batch(
    empty: Snapshot, table: FlagTable, args: Sequence[Arg], model: Metadata, projector: int
) -> tuple[Estimate, list[str]]:
    """The estimate with the batch that the child gets, and the flags for it. In `args` the context has been decided.

    A batch that does not fit, or that takes more GPUs than the engine's own batch would, is halved until it does not:
    then inputs cannot be as long as the context.
    """

    def at(batch: int) -> Estimate:
        batch_args = flags.parse(batches.batch_words(args, batch), table)
        return predict(flags.merge(args, batch_args), model, gpus=n_gpus, projector=projector)

    n_gpus, batch = count_visible_gpus(empty), batches.wanted_batch(args, model)
    least = at(DEFAULT_MICRO_BATCH_TOKENS)
    fewest = count_gpus_needed(empty, least.demand)
    while batch > DEFAULT_MICRO_BATCH_TOKENS:
        estimate = at(batch)
        if count_gpus_needed(empty, estimate.demand) == fewest:
            return estimate, batches.batch_words(args, batch)
        batch //= 2
    return least, []


def leave_to_engine(empty: Snapshot, args: Sequence[Arg], estimate: Estimate) -> Demand:
    """The demand, reduced for weights that fit nowhere.

    The engine then fills the GPUs and keeps the rest in RAM. If the user has said how many layers go to GPUs, or how to
    split them, the demand stays as it is.
    """
    demand = estimate.demand
    is_users_choice = demand.user_split or flags.value_of(args, "--gpu-layers") not in (None, "auto", "-1")
    if is_users_choice or not estimate.is_offloaded or count_gpus_needed(empty, demand) is not None:
        return demand
    gpus = [gpu for gpu in gpus_of(empty) if not demand.names or gpu.name in demand.names]
    rooms = {gpu.key: max(0, gpu.total - empty.margins.get(gpu.key, 0) - demand.fixed) for gpu in gpus}
    together = sum(rooms[gpu.key] for gpu in gpus if not gpu.is_alone)
    split = min(demand.split, max([together, *(rooms[gpu.key] for gpu in gpus if gpu.is_alone)]))
    if not split:
        return Demand(host=demand.host + demand.split + estimate.compute)
    return replace(demand, split=split, host=demand.host + demand.split - split, layers=())
