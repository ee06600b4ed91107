"""PURE: which changes of a model's own settings are being tried, and which have failed.

A model served, and then its preset was changed. If its process cannot be loaded with the change, the model goes on as
it served before, as after a load with settings that fails. The change is tried anew when the preset is changed again,
or when a client loads the model explicitly.

`catalog_exchange` begins, `processes` reports how it went, and `settings_store` asks what holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from router.engine.flags import diff
from router.memory.need import Need
from router.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Change:
    """`spec` is the model as it is to be from now on, and `before` is as it served last, which takes `need`."""

    spec: ModelSpec
    before: ModelSpec
    need: Need


class PresetChanges:
    """At most one change of each model is tried, and at most one has failed."""

    def __init__(self) -> None:
        self._tried: dict[str, Change] = {}
        self._failed: dict[str, tuple[Change, str]] = {}  # with the reason

    def __repr__(self) -> str:
        return f"<PresetChanges {len(self._tried)} tried, {len(self._failed)} failed>"

    def begin(self, spec: ModelSpec, before: ModelSpec | None, need: Need | None) -> None:
        """This is tried from now on. `before` is what the model serves with; None if it serves with nothing, or only
        until the last change is tried."""
        last = self._tried.pop(spec.name, None)
        if before is not None and need is not None:
            last = Change(spec, before, need)
        if last and not is_same_process(last.before, spec):
            self._tried[spec.name] = replace(last, spec=spec)

    def is_tried(self, spec: ModelSpec) -> bool:
        """Whether a process of this spec is the first one with a change."""
        change = self._tried.get(spec.name)
        return change is not None and is_same_process(change.spec, spec)

    def serves(self, spec: ModelSpec) -> None:
        """A process serves with this: no change is tried any more, and this one has not failed."""
        self._tried.pop(spec.name, None)
        failed = self._failed.get(spec.name)
        if failed and is_same_process(failed[0].spec, spec):
            del self._failed[spec.name]

    def fail(self, name: str, reason: str) -> Change:
        """The change that is tried cannot be loaded. Returns it; its `before` holds again."""
        change = self._tried.pop(name)
        self._failed[name] = change, reason
        return change

    def forget_failure(self, name: str) -> None:
        """What has failed is tried anew."""
        self._failed.pop(name, None)

    def forget(self, name: str) -> None:
        self._tried.pop(name, None)
        self._failed.pop(name, None)

    def failure(self, name: str) -> str:
        """Why the model does not run with its own settings as they are now; empty if it does."""
        return self._failed[name][1] if name in self._failed else ""

    def in_force(self, spec: ModelSpec) -> ModelSpec:
        """What holds for this model: itself, or what it served with before, if just this change has failed."""
        failed = self._failed.get(spec.name)
        if failed is None or not is_same_process(failed[0].spec, spec):
            return spec
        before = failed[0].before
        again = spec.with_args(before.args, before.template)
        return replace(again, env=before.env, model_path=before.model_path, info=before.info)


def is_same_process(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether the process of one can serve the other."""
    return one.env == other.env and one.template == other.template and not diff(one.args, other.args)
