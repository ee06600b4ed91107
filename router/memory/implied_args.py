"""PURE: arguments that a child gets although the user has not given them.

They replace defaults of the engine that would be wrong:

- A chat template may have the switch `enable_thinking` with a default of its own. llama.cpp takes it for on
  (server-context.cpp), so the author's default is passed on. Other variables stay undefined in the engine, and their
  defaults hold anyway.
- With --context-shift a request without a limit would be generated for ever. It ends after one context. A request's own
  limit wins, even a larger one (`n_predict_max` in server-context.cpp).

Called by `estimator` for each load. `proxy.chat` asks whether a request may make the model think.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from router.engine import flags
from router.engine.flags import Arg, FlagTable
from router.memory.demand import Estimate
from router.models.spec import ModelSpec
from router.models.template import SWITCHES

# Flags that decide about thinking, each with the values that leave it open. A level or a budget means that it is on.
THINKING_FLAGS: Mapping[str, tuple[str, ...]] = {
    "--chat-template-kwargs": (),
    "--reasoning": ("auto", "-1"),
    "--reasoning-budget": ("-1",),
    "--reasoning-effort": ("default",),
}

# Values of them that turn it off.
OFF_FLAGS: Mapping[str, tuple[str, ...]] = {
    "--reasoning": ("off", "0"),
    "--reasoning-budget": ("0",),
    "--reasoning-effort": ("none",),
}


def implied_args(spec: ModelSpec, table: FlagTable, estimate: Estimate | None) -> list[str]:
    """The words for the child's command line, of flags that its engine knows.

    `spec` is described, and has all arguments of the child.
    """
    if "completion" not in spec.info.capabilities or estimate is None:
        return []
    implied: dict[str, str] = {}
    if is_thinking_off(spec):
        implied["--chat-template-kwargs"] = '{"enable_thinking": false}'
    if flags.value_of(spec.args, "--predict") is None:
        implied["--predict"] = str(estimate.n_slot)
    return [word for flag, value in implied.items() if table.find(flag) for word in (flag, value)]


def is_thinking_off(spec: ModelSpec) -> bool:
    """Whether the child must be started with thinking off: the template's author wants that, and no flag decides."""
    reasoning = spec.info.reasoning
    is_default = reasoning is not None and (reasoning.control, reasoning.default) == ("enable_thinking", False)
    return is_default and not _decides_thinking(spec.args)


def forbids_thinking(args: Sequence[Arg]) -> bool:
    """Whether a flag says that the model does not think. Then a request's wish to think has no effect."""
    if any(flags.value_of(args, flag) in values for flag, values in OFF_FLAGS.items()):
        return True
    try:
        kwargs = json.loads(flags.value_of(args, "--chat-template-kwargs") or "{}")
    except ValueError:
        return False
    return isinstance(kwargs, dict) and any(kwargs.get(switch) is False for switch in SWITCHES)


def _decides_thinking(args: Sequence[Arg]) -> bool:
    given = ((flags.value_of(args, flag), open_values) for flag, open_values in THINKING_FLAGS.items())
    return any(value is not None and value not in open_values for value, open_values in given)
