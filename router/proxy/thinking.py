"""PURE: what a client wants about thinking, and how its model is told.

Clients say it in many ways: OpenAI's `reasoning_effort`, OpenRouter's `reasoning`, Anthropic's `thinking`, Ollama's
`think`, `enable_thinking`. All of them are one Wish. A model has one control of its own, which its chat template shows
(`models.template.Reasoning`). So there is one way from a wish to a control, for every API: translations express a wish
as `reasoning_effort`, and `chat` calls `with_wish`.

A client that sets the control itself, in `chat_template_kwargs`, is obeyed and not translated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.errors import InvalidField
from router.models.template import EFFORTS, SWITCHES, Reasoning

Fields = dict[str, Any]

# Whether to think, or how hard. None: the client does not say.
Wish = bool | str | None

# Levels, the least thinking first. The first two mean that there is to be none.
LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
OFF = LEVELS[:2]
# The levels of a template that puts any word into its text, as gpt-oss's does.
USUAL_LEVELS = ("low", "medium", "high")
# Words with which clients leave it to the model.
UNDECIDED = ("", "default", "auto")

# The fields that express a wish. If there are several, the first that does counts.
WISH_FIELDS = ("reasoning_effort", "reasoning", "thinking", "enable_thinking", "think")
KWARGS = "chat_template_kwargs"
BUDGET = "thinking_budget_tokens"  # the engine's name for a limit on the tokens of thoughts


def wish_of(fields: Mapping[str, Any]) -> Wish:
    """What the client wants. Raises InvalidField for a field that cannot be understood."""
    wishes = [_wish(name, fields[name]) for name in WISH_FIELDS if fields.get(name) is not None]
    return next((wish for wish in wishes if wish is not None), None)


def _wish(name: str, value: Any) -> Wish:
    if name == "reasoning":
        return _wish_of_reasoning(value)
    if name == "thinking" and isinstance(value, dict):
        return _wish_of_thinking(value)
    if name == "enable_thinking" and not isinstance(value, bool):
        raise InvalidField(name, "must be true or false.")
    return _level(name, value)


def _wish_of_reasoning(value: Any) -> Wish:
    """`{"effort"}` as in the Responses API; OpenRouter also has `enabled` and `max_tokens`."""
    if not isinstance(value, dict):
        raise InvalidField("reasoning", 'must be an object, such as {"effort": "low"}.')
    if value.get("effort") is not None:
        return _level("reasoning.effort", value["effort"])
    if value.get("enabled") is not None:
        if not isinstance(value["enabled"], bool):
            raise InvalidField("reasoning.enabled", "must be true or false.")
        return value["enabled"]
    return True if value.get("max_tokens") else None


def _wish_of_thinking(value: Mapping[str, Any]) -> Wish:
    match value.get("type"):
        case "disabled":
            return False
        case "enabled" | "adaptive":
            return True
        case "auto" | None:
            return None
    raise InvalidField("thinking.type", 'must be "enabled", "adaptive" or "disabled".')


def _level(name: str, value: Any) -> Wish:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.lower()
        if word in UNDECIDED:
            return None
        if word in LEVELS:
            return False if word in OFF else word
    raise InvalidField(name, f"must be one of {', '.join(LEVELS)}.")


def with_wish(fields: Fields, reasoning: Reasoning | None, *, may_think: bool = True) -> Fields:
    """The request with its wish in the words of the model's own control; the fields that clients use are left out.

    The same object if the request has no wish. A model that always thinks, or never does (`reasoning` None), is not
    told anything. Without `may_think` only a wish not to think is passed on. Raises InvalidField."""
    if all(fields.get(name) is None for name in WISH_FIELDS):
        return fields
    wish = wish_of(fields)
    kwargs = fields.get(KWARGS) or {}
    if not isinstance(kwargs, dict):
        raise InvalidField(KWARGS, "must be an object.")
    told = {name: value for name, value in fields.items() if name not in WISH_FIELDS}
    if wish is None or reasoning is None or reasoning.control == "always" or (wish and not may_think):
        return told
    if wish is not False and (budget := _budget(fields)) and told.get(BUDGET) is None:
        told[BUDGET] = budget
    if not any(name in kwargs for name in EFFORTS) and (level := level_for(wish, reasoning)):
        told["reasoning_effort"] = level
    if reasoning.control in SWITCHES and not any(name in kwargs for name in SWITCHES):
        # The engine looks at `enable_thinking` too, whatever the template calls it.
        switches = dict.fromkeys(("enable_thinking", reasoning.control), wish is not False)
        told[KWARGS] = {**kwargs, **switches}
    return told


def _budget(fields: Mapping[str, Any]) -> int | None:
    """How many tokens the thoughts may have, if the client says it."""
    for name, key in (("thinking", "budget_tokens"), ("reasoning", "max_tokens")):
        value = fields.get(name)
        budget = value.get(key) if isinstance(value, dict) else None
        if isinstance(budget, int) and not isinstance(budget, bool) and budget > 0:
            return budget
    return None


def level_for(wish: bool | str, reasoning: Reasoning) -> str | None:
    """The level that says this to the model; None if its levels do not.

    Off is the lowest level and on is the highest, for a model that has nothing but levels. A level that the model does
    not have becomes the nearest one, and the lower one of two."""
    known = [level for level in LEVELS if level in (reasoning.levels or ())]
    if reasoning.control != "reasoning_effort":
        return _nearest(wish, known) if isinstance(wish, str) and known else None
    if reasoning.levels and not known:
        return None
    known = known or list(USUAL_LEVELS)
    if isinstance(wish, bool):
        return known[-1] if wish else known[0]
    return _nearest(wish, [level for level in known if level not in OFF] or known)


def _nearest(wanted: str, known: Sequence[str]) -> str:
    place = LEVELS.index(wanted)
    return min(known, key=lambda level: (abs(LEVELS.index(level) - place), LEVELS.index(level)))
