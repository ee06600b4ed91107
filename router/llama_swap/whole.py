"""What llama-swap's configuration says of all models: groups, preloading, times, keys and the rest of its settings.

Most of it is needless here: which models run together is decided by memory. What has a meaning for one model becomes a
key of its section; what is an option of the router is told as that option. Called by `convert`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.llama_swap.document import Table
from router.llama_swap.section import Note, Section

_MEMORY = "the router stops idle models by itself when memory is short"
# Settings that need no key here, each with the reason.
LEFT_OUT = {
    "startPort": "children get sockets of the router's own",
    "logLevel": "give the router --log-level LEVEL",
    "logRequests": "the router logs as --log-level says",
    "logToStdout": "the router logs to stderr, or to --log-file FILE",
    "logTimeFormat": "the router's log has the time in one format",
    "metricsMaxInMemory": "GET /metrics has the figures of the router",
    "captureBuffer": "the router keeps no requests",
    "store": "the router keeps no requests",
    "ui": "it is how the pages of llama-swap look",
    "performance": "GET /metrics has the figures of the router",
    "sendLoadingState": "give the router --stream-keepalive SECONDS for signs of life while a model loads",
    "includeAliasesInList": "the model list shows the aliases of each model",
    "upstream": "requests go to models by their name alone",
    "profiles": "clients ask for models by name; --claude-map PATTERN=MODEL maps names of Claude",
    "globalConcurrencyLimit": "requests wait; --models-queue-max N bounds how many",
    "tailcat": "the router has nothing for it",
}
_READ = frozenset(
    (
        *("models", "macros", "globalTTL", "unloadTimeout", "healthCheckTimeout"),
        *("groups", "matrix", "routing", "hooks", "apiKeys", "peers"),
    )
)


@dataclass(slots=True)
class Whole:
    """`keys` are lines for sections, by the name or alias of the model; `defaults` are those of `[*]`. `options` are
    what the router is to be started with."""

    keys: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)
    defaults: Section = field(default_factory=lambda: Section("*", 0))
    options: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Whole: {len(self.keys)} models with keys, {len(self.notes)} notes>"

    def note(self, message: str, line: int) -> None:
        self.notes.append(Note(line, "", message))

    def give(self, model: Any, key: str, value: str, line: int) -> None:
        self.keys.setdefault(str(model).strip(), []).append((key, value, line))


def read(root: Table) -> Whole:
    whole = Whole()
    for key, value in root.items():
        line = root.lines[key]
        if key in LEFT_OUT:
            if value not in (None, "", [], {}, False):
                whole.note(f"{key}: {LEFT_OUT[key]}", line)
        elif key not in _READ:
            whole.note(f"{key[:80]}: the router has nothing for it", line)
    for key in root.doubled:
        whole.note(f"{key} is written twice: the last one counts", root.lines[key])
    _times(root, whole)
    _groups(root.get("groups"), whole, root.lines.get("groups", 0))
    _matrix(root.get("matrix"), whole, root.lines.get("matrix", 0))
    _routing(root.get("routing"), whole, root.lines.get("routing", 0))
    _preload(root.get("hooks"), whole, root.lines.get("hooks", 0))
    if keys := root.get("apiKeys"):
        count = len(keys) if isinstance(keys, list) else 1
        whole.note(
            f"apiKeys: {count} {'key is' if count == 1 else 'keys are'} not written here: put them into a file, one a "
            "line, and give the router --api-key-file FILE",
            root.lines["apiKeys"],
        )
        whole.options.append("--api-key-file FILE")
    if isinstance(peers := root.get("peers"), Table):
        for name in peers:
            whole.note(f"peers.{name[:80]}: this router has only models of its own machine", peers.lines[name])
    return whole


def _times(root: Table, whole: Whole) -> None:
    for key, own_key in (("globalTTL", "ttl"), ("unloadTimeout", "stop-timeout")):
        value = root.get(key)
        if not value:
            continue
        if _is_seconds(value):
            whole.defaults.set(own_key, f"{value:g}", root.lines[key])
        else:
            whole.note(f"{key}: it is no number of seconds", root.lines[key])
    value = root.get("healthCheckTimeout")
    if value and _is_seconds(value):
        option = f"--models-load-timeout {max(value, 15):g}"
        whole.options.append(option)
        whole.note(f"healthCheckTimeout: give the router {option}", root.lines["healthCheckTimeout"])


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _groups(groups: Any, whole: Whole, line: int) -> None:
    """A group that others must not unload, and whose own members run together, is one of pinned models."""
    for name, group in groups.items() if isinstance(groups, Table) else ():
        where = groups.lines[name]
        if not isinstance(group, Table):
            whole.note(f"groups.{name[:80]}: it is no mapping", where)
            continue
        members = group.get("members")
        members = members if isinstance(members, list) else []
        is_swapped = group.get("swap") is not False and len(members) > 1
        if group.get("persistent") is True and not is_swapped:
            for member in members:
                whole.give(member, "pin", "on", where)
            whole.note(f"groups.{name[:80]}: its models are pinned; otherwise {_MEMORY}", where)
        elif group.get("persistent") is True:
            whole.note(f"groups.{name[:80]}: {_MEMORY}; to keep one of its models for good, write pin = on", where)
        else:
            whole.note(f"groups.{name[:80]}: {_MEMORY}; --models-max N bounds how many run", where)
    if groups is not None and not isinstance(groups, Table):
        whole.note("groups: it is no mapping", line)


def _matrix(matrix: Any, whole: Whole, line: int) -> None:
    if matrix is None:
        return
    costs = isinstance(matrix, Table) and matrix.get("evict_costs")
    more = "; min-loaded = SECONDS or pin = on keeps a model that is slow to load" if costs else ""
    whole.note(f"matrix: {_MEMORY}, and which run together is decided by what fits{more}", line)


def _routing(routing: Any, whole: Whole, line: int) -> None:
    def below(table: Any, *names: str) -> Any:
        for name in names:
            table = table.get(name) if isinstance(table, Mapping) else None
        return table

    _groups(below(routing, "router", "settings", "groups"), whole, line)
    _matrix(below(routing, "router", "settings", "matrix"), whole, line)
    priorities = below(routing, "scheduler", "settings", "fifo", "priority")
    for model, priority in priorities.items() if isinstance(priorities, Table) else ():
        if isinstance(priority, int) and not isinstance(priority, bool):
            whole.give(model, "priority", str(priority), priorities.lines[model])
        else:
            whole.note(f"routing: the priority of {model[:80]} is no whole number", priorities.lines[model])


def _preload(hooks: Any, whole: Whole, line: int) -> None:
    if not isinstance(hooks, Table):
        return
    start = hooks.get("on_startup")
    preload = start.get("preload") if isinstance(start, Table) else None
    for model in preload if isinstance(preload, list) else ():
        if str(model or "").strip():
            whole.give(model, "load-on-startup", "on", line)
    for name in hooks:
        if name != "on_startup":
            whole.note(f"hooks.{name[:80]}: the router has nothing for it", hooks.lines[name])
