"""What a chat template can be told: of tools, and whether and how hard its model is to think.

Templates come from files of strangers, so none is rendered: it is parsed, and reduced as far as the variables at stake
decide it. Two values of a variable mean the same to a template that is reduced to the same rest by both; the default
that its author wants is the value that silence is the same as.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

Control = Literal["enable_thinking", "thinking", "reasoning_effort", "always"]

LONGEST = 64 << 10  # characters; the longest in llama.cpp's models/templates has 18,000
SHORT = 32  # characters of a string, or elements of a list, that are worth computing with
TRIED = 12  # levels that are compared; templates know three to six

SWITCHES: tuple[Control, ...] = ("enable_thinking", "thinking")
# Names under which llama.cpp passes on one value (common/jinja/caps.cpp).
EFFORTS = ("reasoning_effort", "reasoning_strength")
PRESERVES = frozenset(("preserve_thinking", "clear_thinking", "drop_thinking", "truncate_history_thinking"))
TAGS = re.compile(r"</?(?:\w+:)?think(?:ing)?>|\[/?THINK\]|<\|(?:START|END)_THINKING\|>|◁/?think▷")


@dataclass(frozen=True, slots=True)
class Reasoning:
    """`control` is the variable that turns it on or sets it, "always" where none has a say.

    `default` is what no word about it means: a bool, for `reasoning_effort` a level; None where the template does not
    tell. `levels` are the words that `reasoning_effort` may be, as far as the template names them. With `preserve` it
    can be told whether to keep the thoughts of earlier turns.
    """

    control: Control
    default: bool | str | None
    levels: tuple[str, ...] = ()
    preserve: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """What a template takes besides messages; `reasoning` is None where it knows of none."""

    tools: bool = False
    reasoning: Reasoning | None = None


def read(text: str) -> Template:
    """Of a template that is too long or that no parser understands, its words tell; then no default is known."""
    try:
        if len(text) <= LONGEST:
            return _Reading(Parser(_SYNTAX, text).parse()).template()
    except (TemplateSyntaxError, RecursionError, ValueError):  # ValueError: a number of thousands of digits
        pass
    return _by_words(text[:LONGEST])


class _Generation(Extension):
    """`{% generation %}` and its end tell what to train on; llama.cpp ignores them too."""

    tags = {"generation", "endgeneration"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return []


_SYNTAX = Environment(extensions=["jinja2.ext.loopcontrols", _Generation])


def _by_words(text: str) -> Template:
    words = frozenset(re.findall(r"\w+", text))
    control: Control | None = next((name for name in SWITCHES if name in words), None)
    if control is None and not words.isdisjoint(EFFORTS):
        control = "reasoning_effort"
    preserve = not words.isdisjoint(PRESERVES)
    if control is None and TAGS.search(text):
        return Template("tools" in words, Reasoning("always", True, preserve=preserve))
    return Template("tools" in words, Reasoning(control, None, preserve=preserve) if control else None)


class _Reading:
    """One template, under one assumption after the other."""

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        self._known: dict[object, int] = {}
        self._inputs = self._reduced({}).inputs
        strings = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        self._members = {*strings, *(node.attr for node in tree.find_all(nodes.Getattr))}
        self._strings = [*strings, *(node.data for node in tree.find_all(nodes.TemplateData))]

    def template(self) -> Template:
        return Template("tools" in self._inputs or "tool_calls" in self._members, self._reasoning())

    def _reasoning(self) -> Reasoning | None:
        preserve = not PRESERVES.isdisjoint(self._inputs)
        levels = self._levels()
        for name in SWITCHES:
            unsaid = dict.fromkeys((*SWITCHES, *EFFORTS), UNDEFINED)
            silent, on, off = (self._reduced({**unsaid, name: value}).rest for value in (UNDEFINED, True, False))
            if on != off:
                return Reasoning(name, {on: True, off: False}.get(silent), levels or (), preserve)
        if levels is not None:
            level = self._level(levels)
            named = dict.fromkeys((*levels, level)) if levels and level else levels
            return Reasoning("reasoning_effort", level, tuple(named), preserve)
        if any(TAGS.search(string) for string in self._strings):
            return Reasoning("always", True, (), preserve)
        return None

    def _levels(self) -> tuple[str, ...] | None:
        """What the effort is compared with; None where it changes nothing."""
        found = self._reduced(dict.fromkeys(EFFORTS, SOME_LEVEL))
        silent = self._reduced(dict.fromkeys(EFFORTS, UNDEFINED))
        return tuple(found.compared)[:TRIED] if found.rest != silent.rest else None

    def _level(self, levels: Sequence[str]) -> str | None:
        """The level that the template falls back to; else the only one that it treats as it does silence."""
        silent = self._reduced(dict.fromkeys(EFFORTS, UNDEFINED))
        tried = dict.fromkeys((*list(silent.words)[:TRIED], *levels))
        same = [word for word in tried if self._reduced(dict.fromkeys(EFFORTS, word)).rest == silent.rest]
        fallen = [word for word in same if word in silent.words]
        return fallen[0] if fallen else same[0] if len(same) == 1 else None

    def _reduced(self, given: Mapping[str, _Value]) -> _Reduction:
        return _Reduction(self._tree, given, self._known)


# ---- reduction


class _Nothing(Enum):
    UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A value that the assumption leaves open. The same number is the same expression over the same values."""

    number: int


UNDEFINED = _Nothing.UNDEFINED
SOME_LEVEL = _Unknown(-1)
_Value = bool | int | float | str | tuple[object, ...] | None | _Nothing | _Unknown
_Names = ChainMap[str, _Value]  # what is set, by name, or by `namespace.attribute`


class _Reduction:
    """`rest` is what the template comes to with `given` variables; whatever else it reads, `inputs`, is unknown.

    `words` are strings that it sets or falls back to, `compared` those that SOME_LEVEL is compared with: dicts for
    their order. `known` numbers all expressions, for all reductions of one template; without it, expressions that are
    used twice would grow exponentially.
    """

    def __init__(self, tree: nodes.Template, given: Mapping[str, _Value], known: dict[object, int]) -> None:
        self.inputs: set[str] = set()
        self.words: dict[str, None] = {}
        self.compared: dict[str, None] = {}
        self._given, self._known = given, known
        self._levels = {SOME_LEVEL}
        self._macros: list[tuple[nodes.Macro, _Names]] = []
        rest = self._body(tree.body, ChainMap({}))
        for macro, names in self._macros:  # they see what is set at last, and may hold others
            inner = names.new_child({arg.name: self._open("argument", arg.name) for arg in macro.args})
            rest += [macro.name, *self._body(macro.body, inner)]
        self.rest = self._open("template", *rest)

    def _open(self, kind: str, *parts: _Value) -> _Unknown:
        key = (kind, *((type(part).__name__, part) for part in parts))
        return _Unknown(self._known.setdefault(key, len(self._known)))

    # Statements give what is left of them.

    def _body(self, body: Iterable[nodes.Node], names: _Names) -> list[_Value]:
        return [part for node in body for part in self._statement(node, names)]

    def _statement(self, node: nodes.Node, names: _Names) -> list[_Value]:
        match node:
            case nodes.Output():
                return [self._value(each, names) for each in node.nodes]
            case nodes.If():
                arms = [(each.test, each.body) for each in (node, *node.elif_)]
                return self._arms(arms, node.else_, names)
            case nodes.Assign():
                self._assign(node.target, node.node, names)
                return []
            case nodes.AssignBlock(target=nodes.Name(name=name)):
                names[name] = self._open("block", *self._body(node.body, names.new_child()))
                return []
            case nodes.For():
                return [self._loop(node, names)]
            case nodes.Macro():
                self._macros.append((node, names))
                return []
            case _:
                return [self._rest_of(node, names)]

    def _arms(
        self, arms: Sequence[tuple[nodes.Node, list[nodes.Node]]], otherwise: list[nodes.Node], names: _Names
    ) -> list[_Value]:
        if not arms:
            return self._body(otherwise, names)
        (test, body), *more = arms
        is_so = self._truth(test, names)
        if is_so is True:
            return self._body(body, names)
        if is_so is False:
            return self._arms(more, otherwise, names)
        yes, no = names.new_child(), names.new_child()
        then, other = self._body(body, yes), self._arms(more, otherwise, no)
        for name in {**yes.maps[0], **no.maps[0]}:
            one, two = self._lookup(name, yes), self._lookup(name, no)
            names[name] = one if _same(one, two) else self._derived("if", (one, two), is_so)
        return then if _same(tuple(then), tuple(other)) else [self._open("if", is_so, *then, "else", *other)]

    def _assign(self, target: nodes.Node, expression: nodes.Node, names: _Names) -> None:
        value = self._value(expression, names)
        match target:
            case nodes.Name():
                names[target.name] = self._word(value)
                if isinstance(expression, nodes.Call) and getattr(expression.node, "name", "") == "namespace":
                    for each in expression.kwargs:
                        names[f"{target.name}.{each.key}"] = self._word(self._value(each.value, names))
            case nodes.NSRef():
                names[f"{target.name}.{target.attr}"] = self._word(value)
            case _:
                self._assign_items(target, value, names)

    def _assign_items(self, target: nodes.Node, items: _Value, names: _Names) -> None:
        for name in (target,) if isinstance(target, nodes.Name) else target.find_all(nodes.Name):
            names[name.name] = self._open("item", name.name, items)

    def _loop(self, node: nodes.For, names: _Names) -> _Unknown:
        items = self._value(node.iter, names)
        # What a loop sets in a namespace outlives it, and is known neither in it nor after it.
        for ref in node.find_all(nodes.NSRef):
            name = f"{ref.name}.{ref.attr}"
            names[name] = self._open("looped", name, self._lookup(name, names), items)
        inner = names.new_child({"loop": self._open("loop", items)})
        self._assign_items(node.target, items, inner)
        test = self._truth(node.test, inner) if node.test else None
        body = self._body(node.body, inner)
        return self._open("for", items, test, *body, "else", *self._body(node.else_, names.new_child()))

    # Expressions give a value.

    def _value(self, node: nodes.Node, names: _Names) -> _Value:
        match node:
            case nodes.Const():
                return node.value if _is_short(node.value) else self._open("text", str(node.value))
            case nodes.TemplateData():
                return node.data
            case nodes.Name(ctx="load"):
                return self._lookup(node.name, names)
            case nodes.Getattr(node=nodes.Name(name=name)) if f"{name}.{node.attr}" in names:
                return names[f"{name}.{node.attr}"]
            case nodes.Not():
                is_so = self._truth(node.node, names)
                return not is_so if isinstance(is_so, bool) else self._open("not", is_so)
            case nodes.And() | nodes.Or():
                left, right = self._value(node.left, names), self._value(node.right, names)
                if isinstance(left, _Unknown):
                    return self._derived(type(node).__name__, (left, right))
                return self._word(right if _is_true(left) is isinstance(node, nodes.And) else left)
            case nodes.CondExpr():
                test = self._truth(node.test, names)
                one = self._value(node.expr1, names)
                two = self._value(node.expr2, names) if node.expr2 else UNDEFINED
                if isinstance(test, _Unknown):
                    return self._derived("if", (one, two), test)
                return self._word(one if test else two)
            case nodes.Filter(node=nodes.Node()):
                return self._filter(node, names)
            case nodes.Test():
                args = [self._value(each, names) for each in node.args]
                return self._test(node.name, self._value(node.node, names), args)
            case nodes.Compare(ops=[only]):
                return self._compare(only.op, self._value(node.expr, names), self._value(only.expr, names))
            case nodes.List() | nodes.Tuple(ctx="load"):
                items = [self._value(each, names) for each in node.items]
                # Of a list in a list only the number is kept: one that holds itself twice, and so on, has no end.
                if len(items) > SHORT or any(isinstance(each, _Unknown | tuple) for each in items):
                    return self._open("list", *items)
                return tuple(items)
            case _:
                return self._rest_of(node, names)

    def _truth(self, node: nodes.Node, names: _Names) -> bool | _Unknown:
        match node:
            case nodes.And() | nodes.Or():
                decisive = isinstance(node, nodes.Or)
                left, right = self._truth(node.left, names), self._truth(node.right, names)
                if decisive in (left, right):
                    return decisive
                undecided = [each for each in (left, right) if isinstance(each, _Unknown)]
                if len(undecided) == 2:
                    return self._open(type(node).__name__, *undecided)
                return undecided[0] if undecided else not decisive
            case _:
                value = self._value(node, names)
                return value if isinstance(value, _Unknown) else _is_true(value)

    def _lookup(self, name: str, names: _Names) -> _Value:
        if name in names:
            return names[name]
        self.inputs.add(name)
        return self._given[name] if name in self._given else self._open("input", name)

    def _filter(self, node: nodes.Filter, names: _Names) -> _Value:
        assert node.node is not None
        value = self._value(node.node, names)
        args = [self._value(each, names) for each in (*node.args, *(each.value for each in node.kwargs))]
        match node.name, value:
            case "default" | "d", (_Nothing() | None | bool() | str()) if value is not None or len(args) > 1:
                is_left = value is not UNDEFINED and not (args[1:] == [True] and not _is_true(value))
                return value if is_left else self._word(args[0] if args else "")
            case "lower" | "upper" | "trim", str():
                return {"lower": value.lower, "upper": value.upper, "trim": value.strip}[node.name]()
            case _:
                return self._derived(f"|{node.name}", (value,), *args)

    def _test(self, name: str, value: _Value, args: Sequence[_Value]) -> _Value:
        if name in ("eq", "equalto", "==", "ne", "!=", "in", "sameas") and len(args) == 1:
            op = {"equalto": "eq", "==": "eq", "sameas": "eq", "!=": "ne"}.get(name, name)
            return self._compare(op, value, args[0])
        if value == SOME_LEVEL and name in ("defined", "undefined", "string", "none"):
            return name in ("defined", "string")
        if isinstance(value, _Unknown) or name not in _TESTS:
            return self._open(f"is {name}", value, *args)
        return _TESTS[name](value)

    def _compare(self, op: str, left: _Value, right: _Value) -> _Value:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, _Unknown) and one in self._levels:
                others = other if isinstance(other, tuple) else (other,)
                self.compared |= {each: None for each in others if isinstance(each, str) and each}
        if not isinstance(left, _Unknown) and not isinstance(right, _Unknown):
            if op in ("eq", "ne"):
                return (left == right) is (op == "eq")
            if op in ("in", "notin") and isinstance(right, tuple):
                return (left in right) is (op == "in")
        return self._open(op, left, right)

    def _rest_of(self, node: nodes.Node, names: _Names) -> _Unknown:
        """Any other node: its kind and what its parts come to."""
        parts: list[_Value] = []
        for name, field in node.iter_fields():
            parts.append(name)
            for each in field if isinstance(field, list | tuple) else (field,):
                match each:
                    case nodes.Stmt():
                        parts += self._statement(each, names)
                    case nodes.Node():
                        parts.append(self._value(each, names))
                    case _:
                        parts.append(str(each))
        return self._open(type(node).__name__, *parts)

    def _derived(self, kind: str, values: Sequence[_Value], *more: _Value) -> _Unknown:
        """Of a level comes a level."""
        made = self._open(kind, *values, *more)
        if not self._levels.isdisjoint(value for value in values if isinstance(value, _Unknown)):
            self._levels.add(made)
        return made

    def _word(self, value: _Value) -> _Value:
        if isinstance(value, str) and value and len(value) <= SHORT:
            self.words[value] = None
        return value


_TESTS = {
    "defined": lambda value: value is not UNDEFINED,
    "undefined": lambda value: value is UNDEFINED,
    "none": lambda value: value is None,
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
}


def _same(one: _Value, two: _Value) -> bool:
    return type(one) is type(two) and one == two


def _is_true(value: _Value) -> bool:
    return value is not UNDEFINED and bool(value)


def _is_short(value: object) -> bool:
    return not isinstance(value, str) or len(value) <= SHORT
