"""YAML as plain data: mappings that know the lines of their keys, lists, and scalars of JSON's types.

The events of PyYAML's parser are read one by one, and nothing is made of tags: no objects, no dates. Depth and size
have bounds, and what an alias repeats counts each time, so that a small file cannot become a large one. Called by
`convert`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_DEPTH = 50
MAX_NODES = 100_000  # with aliases counted as what they stand for
MAX_SCALAR_BYTES = 2**16
_MERGE = "<<"
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_FRACTION = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")


class Unreadable(Exception):
    """`line` counts from 1; 0 means the whole file."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


class Table(dict[str, Any]):
    """A mapping, with the line of each key. `doubled` are keys that are written twice: the last one counts."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}
        self.doubled: list[str] = []

    def __repr__(self) -> str:  # some values are secrets
        return f"<Table of {', '.join(self)}>"


class Document:
    """`root` is the mapping at the top; `has_more`: other documents follow it, and are not read."""

    def __init__(self, text: str) -> None:
        self._anchors: dict[str | None, tuple[Any, int]] = {}
        self._nodes = 0
        self.has_more = False
        try:
            # The pure parser: the one in C recurses.
            events = iter(yaml.parse(text, Loader=yaml.SafeLoader))
            root = self._first(events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise Unreadable(mark.line + 1 if mark else 0, f"this is no YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise Unreadable(0, f"this is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(root, Table):
            raise Unreadable(0, "this is no configuration of llama-swap: it has no models")
        self.root = root

    def __repr__(self) -> str:
        return f"<Document of {self._nodes} nodes>"

    def _first(self, events: Iterator[yaml.Event]) -> Any:
        root: Any = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                root = self._node(next(events), events, 0)
            elif isinstance(event, yaml.DocumentEndEvent):
                self.has_more = isinstance(next(events), yaml.DocumentStartEvent)
                break
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
        line = _line(event)
        self._count(1, line)
        if depth > MAX_DEPTH:
            raise Unreadable(line, f"this is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise Unreadable(line, f"there is no anchor &{str(event.anchor)[:80]} before this")
            value, nodes = self._anchors[event.anchor]
            self._count(nodes, line)
            return value
        before = self._nodes
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(inner := next(events), yaml.SequenceEndEvent):
                value.append(self._node(inner, events, depth + 1))
        else:
            value = self._table(events, depth)
        if anchor := getattr(event, "anchor", None):
            self._anchors[anchor] = value, self._nodes - before + 1
        return value

    def _table(self, events: Iterator[yaml.Event], depth: int) -> Table:
        table, below = Table(), list[tuple[Any, int]]()
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise Unreadable(line, "a key is a word here, no list, no mapping and no alias")
            key = event.value
            value = self._node(next(events), events, depth + 1)
            if key == _MERGE and event.style is None:
                below += [(each, line) for each in (value if isinstance(value, list) else [value])]
                continue
            if key in table:
                table.doubled.append(key)
            table[key] = value
            table.lines[key] = line
        for merged, line in below:
            if not isinstance(merged, Table):
                raise Unreadable(line, "<< takes a mapping, or a list of mappings")
            for key, value in merged.items():
                if key not in table:
                    table[key], table.lines[key] = value, merged.lines[key]
        return table

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        text = str(event.value)
        if len(text) > MAX_SCALAR_BYTES:
            raise Unreadable(line, f"this is longer than {MAX_SCALAR_BYTES >> 10} KiB")
        if event.style is not None or event.tag == "tag:yaml.org,2002:str" or event.tag == "!":
            return text
        return plain_scalar(text)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise Unreadable(line, f"there is more in this file than {MAX_NODES} values, with what its aliases repeat")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def plain_scalar(text: str) -> Any:
    """The value of a word without quotes, as YAML 1.2 has it: `on` and `no` are words, and so are dates."""
    if text in _NULL:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    if _FRACTION.fullmatch(text):
        return float(text)
    return text
