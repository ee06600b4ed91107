"""PURE: the settings that load requests have set for one model, over the model's own.

The first-class settings are fields. Each field stands for a group of llama-server's flags (`flags.GROUPS`). Everything
else is requested through `extra_args`. Two loads are compared by what was requested, not by what the engine makes of
it. `settings_loads` applies a patch to what was requested before, and loads the model with the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from router.engine.allowlist import is_jinja
from router.engine.flags import GROUPS, Arg, FlagTable, is_in_group, merge, parse, shown_words
from router.models.spec import ModelSpec
from router.pool.settings_patch import OFF, SPECULATIVE, SettingsPatch


@dataclass(frozen=True, slots=True)
class RequestedSettings:
    """None in a field means that nothing is requested there: the model's own setting holds.

    `ctx_size` is in tokens; 0 lets the engine choose.
    `n_parallel` is a number of slots; 0 lets the engine choose.
    `chat_template` is Jinja text, the name of a built-in template, or empty for the template of the model file.
    """

    ctx_size: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    speculative_type: str | None = None
    chat_template: str | None = None
    n_parallel: int | None = None
    extra_args: tuple[Arg, ...] = ()

    def apply_patch(self, patch: SettingsPatch) -> RequestedSettings:
        """These settings with the patch over them. An earlier setting goes only if the patch sets the same flag."""
        kept = {name: getattr(self, name) for name in GROUPS}
        extra = self.extra_args
        if patch.extra_args is None:
            extra = tuple(arg for arg in extra if not any(is_in_group(arg.flag, name) for name in patch.fields))
        else:
            extra = patch.extra_args
            for name in GROUPS:
                if any(is_in_group(arg.flag, name) for arg in extra):
                    kept[name] = None
        return RequestedSettings(**{**kept, **patch.fields}, extra_args=extra)

    def apply_to(self, spec: ModelSpec, table: FlagTable) -> ModelSpec:
        """The model with these settings over its own. `table` holds the engine's flags."""
        if self == RequestedSettings():
            return spec
        requested = [name for name in GROUPS if getattr(self, name) is not None]
        own = [arg for arg in spec.args if not any(self._replaces(name, arg) for name in requested)]
        words = [word for name in requested for word in self._argv(name)]
        args = merge(own, parse(words, table), self.extra_args)
        template = self.chat_template if self.chat_template and is_jinja(self.chat_template) else None
        result = spec.with_args(args, template)
        if result.mmproj_path and self.speculative_type not in (None, OFF):
            # The engine drafts text only: a model with a projector runs without speculation.
            return replace(self, speculative_type=OFF).apply_to(spec, table)
        return result

    def _replaces(self, name: str, arg: Arg) -> bool:
        """Whether the setting `name` takes the place of this argument of the model's own."""
        if name == "speculative_type" and str(self.speculative_type).startswith("draft-"):
            # Only the type itself is replaced: the draft model that the preset names is needed for it.
            return not {"--spec-type", "--spec-default"}.isdisjoint(arg.flag.spellings)
        return is_in_group(arg.flag, name)

    def _argv(self, name: str) -> Sequence[str]:
        """llama-server's words for the setting `name`."""
        value = getattr(self, name)
        match name:
            case "ctx_size" | "n_parallel" if value > 0:
                return (f"--{name.replace('_', '-').removeprefix('n-')}", str(value))
            case "cache_type_k" | "cache_type_v":
                return (f"--{name.replace('_', '-')}", value)
            case "speculative_type":
                return SPECULATIVE[value].split()
            case "chat_template" if value and not is_jinja(value):
                return ("--chat-template", value)
        return ()

    def as_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in GROUPS},
            "extra_args": shown_words(self.extra_args),
        }
