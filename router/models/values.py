"""PURE: the values of a template on trial, and what Jinja's operators, tests, filters and methods make of them.

A value that is not known is UNKNOWN, and so is everything that is made of it. What has no rule here is UNKNOWN too, so
a rule that is missing costs knowledge and never makes a mistake. `trial` calls this.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from jinja2 import nodes

from router.models.reduction import TESTS, UNDEFINED, Undefined

MAX_SIZE = 256  # characters of a string, or elements of a list, up to which it is known
MAX_NUMBER = 10**9


class Open(Enum):
    UNKNOWN = "unknown"


UNKNOWN = Open.UNKNOWN


@dataclass(frozen=True, slots=True)
class Message:
    """The message number `index` of the conversation. It has a role and a short text, and no other fields."""

    index: int
    role: str


@dataclass(frozen=True, slots=True)
class Fields:
    """The variable `loop` of a loop."""

    values: Mapping[str, Value]


Value = bool | int | float | str | tuple["Value", ...] | None | Undefined | Open | Message | Fields


def truth(value: Value) -> bool | Open:
    if isinstance(value, Open):
        return value
    return value is not UNDEFINED and bool(value)


def merged(one: Value, other: Value) -> Value:
    return one if type(one) is type(other) and one == other else UNKNOWN


def bounded(value: Value) -> Value:
    if isinstance(value, str | tuple):
        return value if len(value) <= MAX_SIZE else UNKNOWN
    if isinstance(value, int | float):
        return value if abs(value) <= MAX_NUMBER else UNKNOWN
    return value


def targets(target: nodes.Node, value: Value) -> dict[str, Value]:
    """The names that an assignment sets. A tuple of names gets nothing that is known."""
    if isinstance(target, nodes.Name):
        return {target.name: value}
    return dict.fromkeys((each.name for each in target.find_all(nodes.Name)), UNKNOWN)


def loop_fields(items: tuple[Value, ...], index: int) -> Fields:
    count = len(items)
    values: dict[str, Value] = {"index": index + 1, "index0": index, "length": count}
    values |= {"first": index == 0, "last": index == count - 1, "revindex": count - index}
    values |= {"revindex0": count - index - 1, "previtem": items[index - 1] if index else UNDEFINED}
    return Fields({**values, "nextitem": items[index + 1] if index + 1 < count else UNDEFINED})


def filtered(name: str, value: Value, args: Sequence[Value]) -> Value:
    match name, value:
        case "default" | "d", _ if not isinstance(value, Open):
            stays = value is not UNDEFINED and not (args[1:] == [True] and truth(value) is False)
            return value if stays else args[0] if args else ""
        case "length" | "count", tuple() | str():
            return len(value)
        case "list", tuple():
            return value
        case "first" | "last", tuple():
            return (value[0] if name == "first" else value[-1]) if value else UNDEFINED
        case "reverse", tuple():
            return value[::-1]
        case "trim" | "lower" | "upper", str():
            return method({"trim": "strip"}.get(name, name), value, args)
        case "selectattr" | "rejectattr", tuple():
            return selected(value, args, name == "selectattr")
        case _:
            return UNKNOWN


def selected(items: tuple[Value, ...], args: Sequence[Value], selects: bool) -> Value:
    """The messages whose role passes a test, or does not."""
    if len(args) != 3 or args[0] != "role" or not isinstance(args[1], str):
        return UNKNOWN
    kept: list[Value] = []
    for item in items:
        passes = test(args[1], item.role, args[2:]) if isinstance(item, Message) else UNKNOWN
        if passes is UNKNOWN:
            return UNKNOWN
        kept += [item] if passes is selects else []
    return tuple(kept)


def method(name: str, value: Value, args: Sequence[Value]) -> Value:
    if isinstance(value, str) and all(isinstance(each, str) for each in args):
        match name, args:
            case "strip" | "lstrip" | "rstrip", [] | [_]:
                return str(getattr(value, name)(*args))
            case "lower" | "upper", []:
                return str(getattr(value, name)())
            case "startswith" | "endswith", [str()]:
                return bool(getattr(value, name)(*args))
    return UNKNOWN


_TESTS: Mapping[str, Callable[[Value], bool]] = {
    **TESTS,
    "number": lambda value: isinstance(value, int | float),
    "mapping": lambda value: isinstance(value, Message),
    "iterable": lambda value: isinstance(value, str | tuple | Message),
    "sequence": lambda value: isinstance(value, str | tuple | Message),
}
_SAME_TESTS = {"equalto": "eq", "==": "eq", "sameas": "eq", "!=": "ne"}


def test(name: str, value: Value, args: Sequence[Value]) -> bool | Open:
    name = _SAME_TESTS.get(name, name)
    if name in ("eq", "ne", "in") and len(args) == 1:
        return compare(name, value, args[0])
    if isinstance(value, Open):
        return UNKNOWN
    if name in ("odd", "even") and isinstance(value, int):
        return value % 2 == (name == "odd")
    return _TESTS[name](value) if name in _TESTS else UNKNOWN


_ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}


def compare(op: str, left: Value, right: Value) -> bool | Open:
    if isinstance(left, Open) or isinstance(right, Open):
        return UNKNOWN
    if op in ("eq", "ne"):
        return (left == right) is (op == "eq")
    if op in ("in", "notin"):
        if isinstance(right, str) and isinstance(left, str):
            return (left in right) is (op == "in")
        if isinstance(right, tuple) and UNKNOWN not in right:
            return (left in right) is (op == "in")
        if isinstance(right, Message):
            return (left in ("role", "content")) is (op == "in")
        return UNKNOWN
    if op in _ORDERS and isinstance(left, int | float) and isinstance(right, int | float):
        return _ORDERS[op](left, right)
    return UNKNOWN


def arithmetic(kind: type[nodes.BinExpr], left: Value, right: Value) -> Value:
    if isinstance(left, int) and isinstance(right, int):
        match kind:
            case nodes.Add:
                return left + right
            case nodes.Sub:
                return left - right
            case nodes.Mul:
                return left * right
            case nodes.Mod | nodes.FloorDiv if right:
                return left % right if kind is nodes.Mod else left // right
    if kind is nodes.Add and isinstance(left, str) and isinstance(right, str):
        return left + right
    if kind is nodes.Add and isinstance(left, tuple) and isinstance(right, tuple):
        return left + right
    return UNKNOWN
