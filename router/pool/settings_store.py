"""Which settings hold for each model: those that a load is trying, else those that a process has served with.

The settings of a load are pending until a process serves with them. Then `commit` keeps them. If the load fails, `end`
drops them, and the settings before them hold again: a failed load changes nothing. `settings_loads` writes here;
`Pool.effective` reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from router.engine.flags import FlagTable, diff
from router.memory.need import Need
from router.models.spec import ModelSpec
from router.pool.preset_changes import Change, PresetChanges
from router.pool.requested_settings import RequestedSettings

NOTHING = RequestedSettings()

# By flag: how it is written before and after; None where it is not given.
Differences = dict[str, tuple[str | None, str | None]]


@dataclass(slots=True)
class PendingLoad:
    """A load with settings that no process has served with yet.

    `base` is the model with its own settings.
    `spec` is the model with the requested ones, and `need` is what that takes.
    `before` is the model and its need if the load fails; None if that need could not be estimated.
    `ticket` is the number under which this load waits in the scheduler; 0 before it waits.
    """

    base: ModelSpec
    requested: RequestedSettings
    spec: ModelSpec
    need: Need
    before: tuple[ModelSpec, Need] | None
    ticket: int = 0


class SettingsStore:
    """Settings by model name. `table` holds the engine's flags; `changes` are those of the models' own settings."""

    # Models that have left the catalog, and whose settings are remembered in case they return.
    MAX_ABSENT = 1000

    def __init__(self, table: FlagTable) -> None:
        self.table = table
        self.changes = PresetChanges()
        # Each entry holds the identity of the model with it: the same name may come to mean another file.
        self._committed: dict[str, tuple[str, RequestedSettings]] = {}
        self._absent: dict[str, tuple[str, RequestedSettings]] = {}  # of models that are gone, the latest last
        self._pending: dict[str, PendingLoad] = {}
        self._effective: dict[str, tuple[ModelSpec, RequestedSettings, ModelSpec]] = {}
        self._described: dict[str, ModelSpec] = {}  # models with settings, and what their files say about them then

    def __repr__(self) -> str:
        return f"<SettingsStore {len(self._committed)} committed, {len(self._pending)} pending>"

    def pending(self, name: str, ticket: int | None = None) -> PendingLoad | None:
        """The pending load of this model. With a `ticket`, only the load that waits under this ticket."""
        pending = self._pending.get(name)
        return pending if pending and ticket in (None, pending.ticket) else None

    def pending_ticket(self, spec: ModelSpec) -> int | None:
        """The ticket of the pending load that started this process. None if there is no such load, or if the need of
        the settings before it is unknown."""
        pending = self._pending.get(spec.name)
        return pending.ticket if pending and pending.before and not differences(pending.spec, spec) else None

    def requested(self, base: ModelSpec) -> RequestedSettings:
        """The settings that a load is trying, else the committed ones."""
        pending = self._pending.get(base.name)
        return pending.requested if pending else self._committed_for(base)

    def effective(self, base: ModelSpec) -> ModelSpec:
        """The model with the requested settings. The same object is returned as long as nothing changes."""
        known = self._effective.get(base.name)
        if known is not None and known[0] is base and known[1] is NOTHING and not (self._pending or self._committed):
            return known[2]  # nobody has asked for settings of any model
        requested = self.requested(base)
        if known is None or known[0] is not base or known[1] is not requested:
            made = requested.apply_to(base, self.table)
            described = self._described.get(base.name)
            if made is not base and described and described.identity == made.identity:
                made = made if differences(described, made) else replace(made, info=described.info)
            made = self.changes.in_force(made)
            known = self._effective[base.name] = base, requested, made
        return known[2]

    def has_settings(self, base: ModelSpec) -> bool:
        """Whether the model runs with other settings than its own."""
        return self.requested(base) is not NOTHING

    def learn(self, spec: ModelSpec) -> None:
        """`spec` has the requested settings, and an `info` of what its files say about it with them."""
        self._described[spec.name] = spec
        known = self._effective.get(spec.name)
        if known and known[2].info != spec.info:
            del self._effective[spec.name]

    def committed_spec(self, base: ModelSpec) -> ModelSpec:
        """The model with the committed settings, whatever a load is trying."""
        return self._committed_for(base).apply_to(base, self.table)

    def begin(self, pending: PendingLoad) -> None:
        """From now on the model has the settings of this load."""
        self._pending[pending.base.name] = pending
        self._described[pending.base.name] = pending.spec
        self._effective[pending.base.name] = pending.base, pending.requested, pending.spec

    def end(self, pending: PendingLoad) -> bool:
        """The load is over, whatever its result. Returns False if it was over already."""
        if self._pending.get(pending.base.name) is not pending:
            return False
        del self._pending[pending.base.name]
        return True

    def commit(self, pending: PendingLoad, base: ModelSpec) -> None:
        """A process serves with these settings. `base` is the model as the catalog has it now."""
        self.end(pending)
        self.remember(base, pending.requested)

    def remember(self, base: ModelSpec, requested: RequestedSettings) -> None:
        """Keep these settings for the model."""
        if self._committed.get(base.name, (base.identity, NOTHING)) != (base.identity, requested):
            self._committed[base.name] = base.identity, requested

    def fail_change(self, name: str, reason: str) -> Change:
        """The change of the model's own settings that is tried cannot be loaded: those before it hold again."""
        self._effective.pop(name, None)
        return self.changes.fail(name, reason)

    def try_changes_anew(self, name: str) -> None:
        """The model's own settings have changed again."""
        self._effective.pop(name, None)
        self.changes.forget_failure(name)

    def forget(self, name: str) -> None:
        """The model has left the catalog, and no load of it is pending. Its settings are put aside."""
        self.changes.forget(name)
        self._effective.pop(name, None)
        self._described.pop(name, None)
        committed = self._committed.pop(name, None)
        if committed and committed[1] != NOTHING:
            self._absent[name] = committed
            while len(self._absent) > self.MAX_ABSENT:
                del self._absent[next(iter(self._absent))]

    def restore(self, name: str) -> None:
        """The model is in the catalog again."""
        if name in self._absent:
            self._committed[name] = self._absent.pop(name)

    def is_changed(self, before: ModelSpec, after: ModelSpec) -> bool:
        """Whether the model's own settings now lead to another process, with the committed settings or the pending
        ones."""
        pending = self._pending.get(before.name)
        if pending:
            requested = pending.requested
            if differences(requested.apply_to(before, self.table), requested.apply_to(after, self.table)):
                return True
        return bool(differences(self.committed_spec(before), self.committed_spec(after)))

    def _committed_for(self, base: ModelSpec) -> RequestedSettings:
        # `NOTHING` itself is returned, not an equal object: `effective` compares identities.
        identity, requested = self._committed.get(base.name, ("", NOTHING))
        return requested if requested is not NOTHING and identity == base.identity else NOTHING


def differences(before: ModelSpec, after: ModelSpec) -> Differences:
    """The settings for which the process of one spec cannot serve the other. Values of the environment are hidden:
    tokens are among them."""
    changes = diff(before.args, after.args)
    old, new = dict(before.env), dict(after.env)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changes |= {f"env.{name}": (old.get(name) and "***", new.get(name) and "***") for name in names}
    if before.engine != after.engine:
        changes["engine"] = before.engine or None, after.engine or None
    if before.template != after.template:
        changes["chat_template"] = _shown(before.template), _shown(after.template)
    return changes


def _shown(template: str | None) -> str | None:
    return template and f"a template of {len(template)} characters"
