"""Settings that were asked for: tried, then remembered once a process has served with them, or forgotten."""

from __future__ import annotations

from dataclasses import dataclass

from router.engine.flags import FlagTable, diff
from router.memory.estimate import Need
from router.models.spec import ModelSpec
from router.pool.overrides import Overrides

NOTHING = Overrides()

# By flag: as it would be written, before and after; None where it is not given.
Differences = dict[str, tuple[str | None, str | None]]


@dataclass(slots=True)
class Trial:
    """A load with settings that have not proved themselves. `before` is what holds again if they do not, None if nobody
    knows what that would take. `ticket` is the load's own."""

    base: ModelSpec
    asked: Overrides
    spec: ModelSpec
    need: Need
    before: tuple[ModelSpec, Need] | None
    ticket: int = 0


class Trials:
    """`table` has the engine's flags."""

    # Models whose settings are remembered although they have left the catalog: they may come back.
    MOST_LEFT = 1000

    def __init__(self, table: FlagTable) -> None:
        self.table = table
        self._proven: dict[str, tuple[str, Overrides]] = {}  # with the origin of the model that they were asked for
        self._left: dict[str, tuple[str, Overrides]] = {}  # of those that are gone, the latest last
        self._trials: dict[str, Trial] = {}
        self._effective: dict[str, tuple[ModelSpec, Overrides, ModelSpec]] = {}

    def of(self, name: str, ticket: int | None = None) -> Trial | None:
        """What is being tried of this model; by this ticket, if one is given."""
        trial = self._trials.get(name)
        return trial if trial and ticket in (None, trial.ticket) else None

    def tried_by(self, spec: ModelSpec) -> int | None:
        """The ticket of the load that tries just this; None where nobody knows what would hold if it fails."""
        trial = self._trials.get(spec.name)
        return trial.ticket if trial and trial.before and not differences(trial.spec, spec) else None

    def asked(self, base: ModelSpec) -> Overrides:
        """What is being tried for this model, else what has proved itself."""
        trial = self._trials.get(base.name)
        return trial.asked if trial else self._remembered(base)

    def effective(self, base: ModelSpec) -> ModelSpec:
        """The model with what is asked for; the same object as long as nothing changes."""
        asked = self.asked(base)
        known = self._effective.get(base.name)
        if known is None or known[0] is not base or known[1] is not asked:
            known = self._effective[base.name] = base, asked, asked.over(base, self.table)
        return known[2]

    def proven(self, base: ModelSpec) -> ModelSpec:
        """The model with what has proved itself."""
        return self._remembered(base).over(base, self.table)

    def begin(self, trial: Trial) -> None:
        self._trials[trial.base.name] = trial
        self._effective[trial.base.name] = trial.base, trial.asked, trial.spec

    def end(self, trial: Trial) -> bool:
        """Whatever came of it; False if it was no longer going on."""
        if self._trials.get(trial.base.name) is not trial:
            return False
        del self._trials[trial.base.name]
        return True

    def prove(self, trial: Trial, base: ModelSpec) -> None:
        """A process of the model, as it is by now, serves with it."""
        self.end(trial)
        self.remember(base, trial.asked)

    def remember(self, base: ModelSpec, asked: Overrides) -> None:
        """What the last load of this model asked for, if that is news."""
        if self._proven.get(base.name, (base.identity, NOTHING)) != (base.identity, asked):
            self._proven[base.name] = base.identity, asked

    def forget(self, name: str) -> None:
        """The model has left the catalog, and nothing is tried of it."""
        self._effective.pop(name, None)
        proven = self._proven.pop(name, None)
        if proven and proven[1] != NOTHING:
            self._left[name] = proven
            while len(self._left) > self.MOST_LEFT:
                del self._left[next(iter(self._left))]

    def recall(self, name: str) -> None:
        """It is back."""
        if name in self._left:
            self._proven[name] = self._left.pop(name)

    def is_changed(self, before: ModelSpec, after: ModelSpec) -> bool:
        """Whether a model's own settings make another process of it now, as it is or as it is tried."""
        trial = self._trials.get(before.name)
        tried = trial and differences(*(trial.asked.over(base, self.table) for base in (before, after)))
        return bool(tried or differences(self.proven(before), self.proven(after)))

    def _remembered(self, base: ModelSpec) -> Overrides:
        origin, asked = self._proven.get(base.name, ("", NOTHING))
        return asked if asked is not NOTHING and origin == base.identity else NOTHING


def differences(before: ModelSpec, after: ModelSpec) -> Differences:
    """What makes another process of a model."""
    changes = diff(before.args, after.args)
    old, new = dict(before.env), dict(after.env)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changes |= {f"env.{name}": (old.get(name) and "***", new.get(name) and "***") for name in names}  # tokens are there
    if before.template != after.template:
        changes["chat_template"] = _told(before.template), _told(after.template)
    return changes


def _told(template: str | None) -> str | None:
    return template and f"a template of {len(template)} characters"
