"""PURE: Ollama's options and a Modelfile's parameters, in the engine's names and types.

Engine fields are those of tools/server/README.md and server-schema.cpp of llama.cpp. Options that say how a model is
loaded (num_ctx, num_gpu, num_thread and others) belong into the preset. Unknown options are ignored, as Ollama does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from router.api.ollama.fields import Fields
from router.engine.allowlist import is_safe
from router.engine.flags import default_table
from router.errors import InvalidRequest
from router.models.stores.parameters import OPTIONS as OPTIONS
from router.models.stores.parameters import UNLIMITED
from router.proxy.routing import LOOK_BACK_FIELDS, check_look_back

# Ollama's options that are named like flags of the engine, but have no effect here.
_NO_EFFECT = frozenset({"numa", "main_gpu", "stop"})


@dataclass(frozen=True, slots=True)
class AliasDefaults:
    """What a client's own name for a model adds to each request: a system prompt, parameters, and messages that come
    before the client's, in OpenAI's shape."""

    system: str = ""
    parameters: Fields = field(default_factory=dict)
    messages: Sequence[Fields] = ()

    def __repr__(self) -> str:  # a system prompt is not shown
        return f"<AliasDefaults {len(self.system)} characters of system prompt, {', '.join(self.parameters)}>"


def checked_options(value: Any) -> dict[str, Any]:
    """The options, each of its type. Those that the engine does not take per request stay as they are.

    Raises InvalidRequest."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("Options must be an object.")
    return {name: _checked(name, given) for name, given in value.items() if given is not None}


def engine_options(fields: Fields, defaults: AliasDefaults) -> dict[str, Any]:
    """The request's options over the alias's parameters, under the engine's names. Raises InvalidRequest."""
    options = {**defaults.parameters, **checked_options(fields.get("options"))}
    translated = {
        OPTIONS[name][0]: value for name, value in options.items() if name in OPTIONS and (name, value) not in UNLIMITED
    }
    if "stop" in options:
        translated["stop"] = options["stop"]
    return translated


def check_alias_parameters(parameters: Fields) -> None:
    """Raises InvalidRequest for a parameter that is a flag of the engine which no load request may set.

    Such a parameter would have no effect, and the client should know that."""
    for name in parameters.keys() - OPTIONS.keys() - _NO_EFFECT:
        flag = default_table().find("--" + name.lstrip("-").replace("_", "-"))
        if flag and not is_safe(flag):
            raise InvalidRequest(
                f"parameter {name[:80]!r} is a flag of llama-server ({flag.name}) that no request may set: set it in "
                "the model's preset, or load the model with it (POST /models/load, --load-args any)."
            )


def _checked(name: str, value: Any) -> Any:
    if name == "stop":
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise InvalidRequest('option "stop" must be a string or a list of strings.')
        return stops
    if name not in OPTIONS:
        return value
    if name in LOOK_BACK_FIELDS:
        check_look_back(name, value)
    kind = OPTIONS[name][1]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**53) < value < 2**53:
        raise InvalidRequest(f'option "{name}" must be {"an integer" if kind is int else "a number"}.')
    if kind is int and value != int(value):
        raise InvalidRequest(f'option "{name}" must be an integer.')
    return kind(value)
