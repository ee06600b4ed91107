"""A chat template under an assumption: what is left of it if some variables have known values.

This is partial evaluation. Where the known values decide an `if`, only the branch that is taken is left; where they
decide an expression, only its value is left. Everything else becomes an `Unknown`: a number that stands for "this
expression over these values". The same expression over the same values has the same number, so two reductions of one
template can be compared by one number each, their `result`.

Nothing is rendered and no loop is run, so a hostile template costs no more than its length. Three rules bound the work:

- Strings and lists are kept as values only while they are short.
- An expression is stored once, however often it is used: without that, `{% set a = a ~ a %}` would double each time.
- A macro is reduced once, when everything that it can see has been set.

Called by `template`, a dozen times for one text.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from jinja2 import nodes

SHORT = 32  # characters of a string, or elements of a list, up to which it is computed with


class Undefined(Enum):
    """The value of a variable that is not set."""

    UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that the assumption leaves open. Equal numbers mean the same expression over the same values."""

    number: int


UNDEFINED = Undefined.UNDEFINED
SOME_LEVEL = Unknown(-1)  # a level of effort: a string that is set, but not known
Value = bool | int | float | str | tuple[object, ...] | None | Undefined | Unknown
_Names = ChainMap[str, Value]  # what is set, by name, or by `namespace.attribute`


class Reduction:
    """One template with some `variables` given; all other variables are unknown.

    `result` is what the template comes to.
    `inputs` are the variables that it reads.
    `words` are the short strings that it sets or falls back to, in order.
    `compared` are the strings with which it compares SOME_LEVEL, in order.
    `expressions` holds the number of every expression so far; all reductions of one template share it.
    """

    def __init__(self, tree: nodes.Template, variables: Mapping[str, Value], expressions: dict[object, int]) -> None:
        self.inputs: set[str] = set()
        self.words: dict[str, None] = {}
        self.compared: dict[str, None] = {}
        self._variables, self._expressions = variables, expressions
        self._levels = {SOME_LEVEL}  # values that are a level, or made of one
        self._macros: list[tuple[nodes.Macro, _Names]] = []
        parts = self._body(tree.body, ChainMap({}))
        for macro, names in self._macros:  # the list grows while a macro's body holds other macros
            inner = names.new_child({arg.name: self._unknown("argument", arg.name) for arg in macro.args})
            parts += [macro.name, *self._body(macro.body, inner)]
        self.result = self._unknown("template", *parts)

    def __repr__(self) -> str:
        return f"<Reduction with {dict(self._variables)}: {self.result}, reads {sorted(self.inputs)}>"

    def _unknown(self, kind: str, *parts: Value) -> Unknown:
        """Stands for an expression of this kind over these parts."""
        # With the types, because True == 1 in Python.
        key = (kind, *((type(part).__name__, part) for part in parts))
        return Unknown(self._expressions.setdefault(key, len(self._expressions)))

    # ---- statements: each returns the parts that are left of it

    def _body(self, body: Iterable[nodes.Node], names: _Names) -> list[Value]:
        return [part for node in body for part in self._statement(node, names)]

    def _statement(self, node: nodes.Node, names: _Names) -> list[Value]:
        match node:
            case nodes.Output():
                return [self._value(each, names) for each in node.nodes]
            case nodes.If():
                branches = [(each.test, each.body) for each in (node, *node.elif_)]
                return self._branches(branches, node.else_, names)
            case nodes.Assign():
                self._assign(node.target, node.node, names)
                return []
            case nodes.AssignBlock(target=nodes.Name(name=name)):
                names[name] = self._unknown("block", *self._body(node.body, names.new_child()))
                return []
            case nodes.For():
                return [self._loop(node, names)]
            case nodes.Macro():
                self._macros.append((node, names))
                return []
            case _:
                return [self._any_node(node, names)]

    def _branches(
        self, branches: Sequence[tuple[nodes.Node, list[nodes.Node]]], otherwise: list[nodes.Node], names: _Names
    ) -> list[Value]:
        """An `if` with its `elif`s and `else`. With an unknown test both sides are reduced, and their names merged."""
        if not branches:
            return self._body(otherwise, names)
        (test, body), *more = branches
        truth = self._truth(test, names)
        if truth is True:
            return self._body(body, names)
        if truth is False:
            return self._branches(more, otherwise, names)
        yes, no = names.new_child(), names.new_child()
        then, other = self._body(body, yes), self._branches(more, otherwise, no)
        for name in {**yes.maps[0], **no.maps[0]}:
            one, two = self._lookup(name, yes), self._lookup(name, no)
            names[name] = one if _is_same(one, two) else self._derived("if", (one, two), truth)
        if _is_same(tuple(then), tuple(other)):
            return then
        return [self._unknown("if", truth, *then, "else", *other)]

    def _assign(self, target: nodes.Node, expression: nodes.Node, names: _Names) -> None:
        value = self._value(expression, names)
        match target:
            case nodes.Name():
                names[target.name] = self._word(value)
                # The attributes of a namespace are names too: `ns.on`.
                if isinstance(expression, nodes.Call) and getattr(expression.node, "name", "") == "namespace":
                    for each in expression.kwargs:
                        names[f"{target.name}.{each.key}"] = self._word(self._value(each.value, names))
            case nodes.NSRef():
                names[f"{target.name}.{target.attr}"] = self._word(value)
            case _:
                self._assign_items(target, value, names)

    def _assign_items(self, target: nodes.Node, items: Value, names: _Names) -> None:
        for name in (target,) if isinstance(target, nodes.Name) else target.find_all(nodes.Name):
            names[name.name] = self._unknown("item", name.name, items)

    def _loop(self, node: nodes.For, names: _Names) -> Unknown:
        """A loop, as one round over an unknown item."""
        items = self._value(node.iter, names)
        # What a loop sets in a namespace outlives the loop. It is unknown inside the loop and after it.
        for ref in node.find_all(nodes.NSRef):
            name = f"{ref.name}.{ref.attr}"
            names[name] = self._unknown("looped", name, self._lookup(name, names), items)
        inner = names.new_child({"loop": self._unknown("loop", items)})
        self._assign_items(node.target, items, inner)
        test = self._truth(node.test, inner) if node.test else None
        body = self._body(node.body, inner)
        return self._unknown("for", items, test, *body, "else", *self._body(node.else_, names.new_child()))

    # ---- expressions: each returns a value

    def _value(self, node: nodes.Node, names: _Names) -> Value:
        match node:
            case nodes.Const():
                return node.value if _is_short(node.value) else self._unknown("text", str(node.value))
            case nodes.TemplateData():
                return node.data
            case nodes.Name(ctx="load"):
                return self._lookup(node.name, names)
            case nodes.Getattr(node=nodes.Name(name=name)) if f"{name}.{node.attr}" in names:
                return names[f"{name}.{node.attr}"]
            case nodes.Not():
                truth = self._truth(node.node, names)
                return not truth if isinstance(truth, bool) else self._unknown("not", truth)
            case nodes.And() | nodes.Or():
                left, right = self._value(node.left, names), self._value(node.right, names)
                if isinstance(left, Unknown):
                    return self._derived(type(node).__name__, (left, right))
                return self._word(right if _is_true(left) is isinstance(node, nodes.And) else left)
            case nodes.CondExpr():
                test = self._truth(node.test, names)
                one = self._value(node.expr1, names)
                two = self._value(node.expr2, names) if node.expr2 else UNDEFINED
                if isinstance(test, Unknown):
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
                # A list in a list becomes an unknown: one that holds itself twice, again and again, has no end.
                if len(items) > SHORT or any(isinstance(each, Unknown | tuple) for each in items):
                    return self._unknown("list", *items)
                return tuple(items)
            case _:
                return self._any_node(node, names)

    def _truth(self, node: nodes.Node, names: _Names) -> bool | Unknown:
        """Whether the expression counts as true."""
        match node:
            case nodes.And() | nodes.Or():
                decisive = isinstance(node, nodes.Or)  # the value of one side that decides the whole
                left, right = self._truth(node.left, names), self._truth(node.right, names)
                if decisive in (left, right):
                    return decisive
                undecided = [each for each in (left, right) if isinstance(each, Unknown)]
                if len(undecided) == 2:
                    return self._unknown(type(node).__name__, *undecided)
                return undecided[0] if undecided else not decisive
            case _:
                value = self._value(node, names)
                return value if isinstance(value, Unknown) else _is_true(value)

    def _lookup(self, name: str, names: _Names) -> Value:
        if name in names:
            return names[name]
        self.inputs.add(name)
        return self._variables[name] if name in self._variables else self._unknown("input", name)

    def _filter(self, node: nodes.Filter, names: _Names) -> Value:
        assert node.node is not None
        value = self._value(node.node, names)
        args = [self._value(each, names) for each in (*node.args, *(each.value for each in node.kwargs))]
        match node.name, value:
            case "default" | "d", (Undefined() | None | bool() | str()) if value is not None or len(args) > 1:
                # With a second argument `true`, the default also replaces values that count as false.
                stays = value is not UNDEFINED and not (args[1:] == [True] and not _is_true(value))
                return value if stays else self._word(args[0] if args else "")
            case "lower" | "upper" | "trim", str():
                return {"lower": value.lower, "upper": value.upper, "trim": value.strip}[node.name]()
            case _:
                return self._derived(f"|{node.name}", (value,), *args)

    def _test(self, name: str, value: Value, args: Sequence[Value]) -> Value:
        if name in ("eq", "equalto", "==", "ne", "!=", "in", "sameas") and len(args) == 1:
            op = {"equalto": "eq", "==": "eq", "sameas": "eq", "!=": "ne"}.get(name, name)
            return self._compare(op, value, args[0])
        if value == SOME_LEVEL and name in ("defined", "undefined", "string", "none"):
            return name in ("defined", "string")
        if isinstance(value, Unknown) or name not in TESTS:
            return self._unknown(f"is {name}", value, *args)
        return TESTS[name](value)

    def _compare(self, op: str, left: Value, right: Value) -> Value:
        # A string that is compared with a level must be a level too.
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Unknown) and one in self._levels:
                others = other if isinstance(other, tuple) else (other,)
                self.compared |= {each: None for each in others if isinstance(each, str) and each}
        if not isinstance(left, Unknown) and not isinstance(right, Unknown):
            if op in ("eq", "ne"):
                return (left == right) is (op == "eq")
            if op in ("in", "notin") and isinstance(right, tuple):
                return (left in right) is (op == "in")
        return self._unknown(op, left, right)

    def _any_node(self, node: nodes.Node, names: _Names) -> Unknown:
        """A node without a rule of its own: its kind, and what its parts come to."""
        parts: list[Value] = []
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
        return self._unknown(type(node).__name__, *parts)

    def _derived(self, kind: str, values: Sequence[Value], *more: Value) -> Unknown:
        """An unknown made of these values. If one of them is a level, the result counts as a level too."""
        made = self._unknown(kind, *values, *more)
        if not self._levels.isdisjoint(value for value in values if isinstance(value, Unknown)):
            self._levels.add(made)
        return made

    def _word(self, value: Value) -> Value:
        """The value itself, remembered if it is a short string."""
        if isinstance(value, str) and value and len(value) <= SHORT:
            self.words[value] = None
        return value


# Jinja's tests that only look at their value, whatever kind of value is followed.
TESTS: Mapping[str, Callable[[object], bool]] = {
    "defined": lambda value: value is not UNDEFINED,
    "undefined": lambda value: value is UNDEFINED,
    "none": lambda value: value is None,
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
}


def _is_same(one: Value, two: Value) -> bool:
    return type(one) is type(two) and one == two


def _is_true(value: Value) -> bool:
    return value is not UNDEFINED and bool(value)


def _is_short(value: object) -> bool:
    return not isinstance(value, str) or len(value) <= SHORT
