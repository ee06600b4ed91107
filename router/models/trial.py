"""A chat template on trial: whether it refuses a conversation with these roles, and which messages it leaves out.

Templates raise errors of their own: on a system message that is not the first, on two user messages in a row. Which
ones is written nowhere but in their text. So the text is followed, statement by statement, over a short conversation
whose roles are known. It is not rendered: whatever is not plain data of that conversation is UNKNOWN, and no function
of the template's is called.

The one idea: an `if` that hangs on something UNKNOWN is followed on both sides, and what the sides leave different is
UNKNOWN after it. So an error counts only if every way leads to it, and a message counts as read if any way reads it.

A trial ends after MAX_STEPS, whatever the template; then nothing counts as refused. Called by `template`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from jinja2 import nodes

from router.models.reduction import UNDEFINED, Undefined
from router.models.values import (
    MAX_SIZE,
    UNKNOWN,
    Fields,
    Message,
    Open,
    Value,
    arithmetic,
    bounded,
    compare,
    filtered,
    loop_fields,
    merged,
    method,
    targets,
    test,
    truth,
)

MAX_STEPS = 10_000
NAMES_PER_STEP = 8  # that are copied where two ways are followed
MAX_DEPTH = 60  # of nodes within nodes; deeper ones are UNKNOWN

# What a conversation has besides messages. Everything else that a template asks for is undefined, as it is for most
# requests; a switch for thinking may have any value.
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
OPEN_NAMES = frozenset(("enable_thinking", "thinking", "reasoning_effort", "reasoning_strength", "date_string"))


_Names = list[dict[str, Value]]  # what is set, the innermost scope last; attributes of a namespace as `name.attribute`


class _Flow(Enum):
    """How a body ends."""

    ON = "goes on"
    BREAK = "leaves the loop"
    CONTINUE = "begins the next round"


class _Refused(Exception):
    """The template raises an error here."""


class _TooLong(Exception):
    """The trial has taken MAX_STEPS."""


class Trial:
    """One template on one conversation. `roles` are those of its messages, in order.

    `is_refused` says that the template raises an error, whatever is unknown.
    `read` are the indexes of the messages whose text it reads, or may read.
    `is_cut_short` says that it took MAX_STEPS: then nothing counts as refused, and all as read.

    ::

        Trial(tree, ("system", "user", "system")).is_refused
    """

    def __init__(self, tree: nodes.Template, roles: Sequence[str]) -> None:
        self.is_refused = self.is_cut_short = False
        self.read: set[int] = set()
        self.roles = tuple(roles)
        self._steps = self._depth = 0
        messages = tuple(Message(index, role) for index, role in enumerate(roles))
        names: dict[str, Value] = {"messages": messages, "add_generation_prompt": True, **dict.fromkeys(TOKENS, "<s>")}
        try:
            self._body(tree.body, [{**names, **dict.fromkeys(OPEN_NAMES, UNKNOWN)}, {}])
        except _Refused:
            self.is_refused = True
        except (_TooLong, RecursionError):
            self.is_cut_short = True
            self.read.update(range(len(roles)))

    def __repr__(self) -> str:
        state = "refused" if self.is_refused else "taken"
        return f"<Trial of {', '.join(self.roles)}: {state}, reads {sorted(self.read)}>"

    # ---- statements

    def _body(self, body: Sequence[nodes.Node], names: _Names) -> _Flow:
        for node in body:
            flow = self._statement(node, names)
            if flow is not _Flow.ON:
                return flow
        return _Flow.ON

    def _statement(self, node: nodes.Node, names: _Names) -> _Flow:
        self._count_step()
        match node:
            case nodes.Output():
                for each in node.nodes:
                    self._mark_read(self._value(each, names))
            case nodes.If():
                return self._branches([(each.test, each.body) for each in (node, *node.elif_)], node.else_, names)
            case nodes.For():
                self._loop(node, names)
            case nodes.Assign():
                self._assign(node.target, node.node, names)
            case nodes.AssignBlock(target=nodes.Name(name=name)):
                self._body(node.body, [*names, {}])
                names[-1][name] = UNKNOWN
            case nodes.Break():
                return _Flow.BREAK
            case nodes.Continue():
                return _Flow.CONTINUE
            case nodes.Macro():
                names[-1][node.name] = UNKNOWN
            case _:
                self._unknown(node, names)
        return _Flow.ON

    def _branches(
        self, branches: Sequence[tuple[nodes.Node, list[nodes.Node]]], otherwise: list[nodes.Node], names: _Names
    ) -> _Flow:
        if not branches:
            return self._body(otherwise, names)
        (test, body), *more = branches
        is_true = truth(self._value(test, names))
        if is_true is True:
            return self._body(body, names)
        if is_true is False:
            return self._branches(more, otherwise, names)
        return self._either(lambda own: self._body(body, own), lambda own: self._branches(more, otherwise, own), names)

    def _either(self, one: Callable[[_Names], _Flow], other: Callable[[_Names], _Flow], names: _Names) -> _Flow:
        """Follows both ways. A way that ends in an error is not the one that was taken, unless both do."""
        self._steps += sum(map(len, names)) // NAMES_PER_STEP
        ends: list[tuple[_Flow, _Names]] = []
        for way in (one, other):
            own = [dict(scope) for scope in names]
            try:
                ends.append((way(own), own))
            except _Refused:
                continue
        if not ends:
            raise _Refused
        (flow, kept), (other_flow, others) = ends[0], ends[-1]
        for scope, first, second in zip(names, kept, others, strict=True):
            both = {**first, **second}
            scope.clear()
            scope |= {name: merged(first.get(name, UNDEFINED), second.get(name, UNDEFINED)) for name in both}
        if flow is other_flow:
            return flow
        return _Flow.ON  # one of them may leave the loop: going on reads no less

    def _loop(self, node: nodes.For, names: _Names) -> None:
        items = self._value(node.iter, names)
        if not isinstance(items, tuple):
            self._either(lambda own: self._unknown_round(node, own), lambda own: _Flow.ON, names)
            return
        if node.test is not None:
            kept = []
            for item in items:
                is_true = truth(self._value(node.test, [*names, targets(node.target, item)]))
                if is_true is UNKNOWN:
                    self._either(lambda own: self._unknown_round(node, own), lambda own: _Flow.ON, names)
                    return
                kept += [item] if is_true else []
            items = tuple(kept)
        for index, item in enumerate(items):
            inner = {**targets(node.target, item), "loop": loop_fields(items, index)}
            if self._body(node.body, [*names, inner]) is _Flow.BREAK:
                return
        if not items:
            self._body(node.else_, [*names, {}])

    def _unknown_round(self, node: nodes.For, names: _Names) -> _Flow:
        """A round of a loop over unknown items. What it sets in a namespace is unknown, in this round and after."""
        changed = [f"{ref.name}.{ref.attr}" for ref in node.find_all(nodes.NSRef)]
        for scope in names:
            scope |= {name: UNKNOWN for name in changed if name in scope}
        self._body(node.body, [*names, {**targets(node.target, UNKNOWN), "loop": UNKNOWN}])
        return _Flow.ON

    def _assign(self, target: nodes.Node, expression: nodes.Node, names: _Names) -> None:
        value = self._value(expression, names)
        match target:
            case nodes.Name():
                names[-1][target.name] = value
                if isinstance(expression, nodes.Call) and getattr(expression.node, "name", "") == "namespace":
                    for each in expression.kwargs:
                        names[-1][f"{target.name}.{each.key}"] = self._value(each.value, names)
            case nodes.NSRef():
                name = f"{target.name}.{target.attr}"
                # Where the namespace itself was set, which may be outside of this loop.
                scope = next((each for each in reversed(names) if target.name in each), names[-1])
                scope[name] = value
            case _:
                names[-1].update(targets(target, value))

    # ---- expressions

    def _value(self, node: nodes.Node, names: _Names) -> Value:
        self._count_step()
        self._depth += 1
        try:
            return bounded(self._any_value(node, names)) if self._depth < MAX_DEPTH else UNKNOWN
        finally:
            self._depth -= 1

    def _any_value(self, node: nodes.Node, names: _Names) -> Value:
        match node:
            case nodes.Const():
                return node.value if isinstance(node.value, bool | int | float | str | None) else UNKNOWN
            case nodes.TemplateData():
                return node.data
            case nodes.Name(ctx="load"):
                return next((scope[node.name] for scope in reversed(names) if node.name in scope), UNDEFINED)
            case nodes.Getattr():
                return self._attribute(node, names)
            case nodes.Getitem():
                return self._item(node, names)
            case nodes.Not():
                is_true = truth(self._value(node.node, names))
                return is_true if is_true is UNKNOWN else not is_true
            case nodes.Neg():
                value = self._value(node.node, names)
                return -value if isinstance(value, int) else UNKNOWN
            case nodes.And() | nodes.Or():
                return self._logic(node, names)
            case nodes.CondExpr():
                return self._choice(node, names)
            case nodes.Compare():
                return self._comparison(node, names)
            case nodes.Test():
                args = [self._value(each, names) for each in node.args]
                return test(node.name, self._value(node.node, names), args)
            case nodes.Filter(node=nodes.Node()):
                assert node.node is not None
                value = self._value(node.node, names)
                args = [self._value(each, names) for each in (*node.args, *(each.value for each in node.kwargs))]
                return self._read(filtered(node.name, value, args), value, *args)
            case nodes.Call():
                return self._call(node, names)
            case nodes.BinExpr():
                left, right = self._value(node.left, names), self._value(node.right, names)
                return arithmetic(type(node), left, right)
            case nodes.Concat():
                parts = [self._value(each, names) for each in node.nodes]
                known = [str(each) for each in parts if isinstance(each, str | int) and not isinstance(each, bool)]
                return "".join(known) if len(known) == len(parts) else UNKNOWN
            case nodes.List() | nodes.Tuple(ctx="load"):
                items = tuple(self._value(each, names) for each in node.items)
                # A list that holds itself twice, and so on, would have no end. So no list holds another one.
                is_nested = any(isinstance(each, tuple | Fields) for each in items)
                return self._read(UNKNOWN, *items) if is_nested else items
            case _:
                return self._unknown(node, names)

    def _attribute(self, node: nodes.Getattr, names: _Names) -> Value:
        if isinstance(node.node, nodes.Name):
            name = f"{node.node.name}.{node.attr}"
            for scope in reversed(names):
                if name in scope:
                    return scope[name]
        return self._member(self._value(node.node, names), node.attr)

    def _item(self, node: nodes.Getitem, names: _Names) -> Value:
        value = self._value(node.node, names)
        if isinstance(node.arg, nodes.Slice):
            bounds = [self._bound(each, names) for each in (node.arg.start, node.arg.stop, node.arg.step)]
            if isinstance(value, tuple | str) and UNKNOWN not in bounds and bounds[2] != 0:
                return value[slice(*bounds)]  # type: ignore[arg-type]
            return self._read(UNKNOWN, value)
        return self._member(value, self._value(node.arg, names))

    def _bound(self, node: nodes.Node | None, names: _Names) -> int | Open | None:
        """A number of a slice."""
        value = None if node is None else self._value(node, names)
        return value if value is None or (isinstance(value, int) and not isinstance(value, bool)) else UNKNOWN

    def _member(self, value: Value, key: Value) -> Value:
        match value, key:
            case Message(), "role":
                return value.role
            case Message(), "content":
                self.read.add(value.index)
                return "text"
            case Message(), str():
                return UNDEFINED
            case Fields(), str():
                return value.values.get(key, UNKNOWN)
            case tuple(), int() if not isinstance(key, bool):
                return value[key] if -len(value) <= key < len(value) else UNDEFINED
            case Undefined(), _:
                return UNDEFINED  # an error in Jinja, but llama.cpp's engine goes on
            case _:
                return self._read(UNKNOWN, value, key)

    def _logic(self, node: nodes.And | nodes.Or, names: _Names) -> Value:
        decisive = isinstance(node, nodes.Or)  # the truth of one side that decides the whole
        left = self._value(node.left, names)
        is_true = truth(left)
        if is_true is decisive:
            return left
        if is_true is not UNKNOWN:
            return self._value(node.right, names)
        try:
            right = self._value(node.right, names)
        except _Refused:
            return UNKNOWN
        return decisive if truth(right) is decisive else UNKNOWN

    def _choice(self, node: nodes.CondExpr, names: _Names) -> Value:
        is_true = truth(self._value(node.test, names))
        ways = [node.expr1] if is_true is True else [node.expr2] if is_true is False else [node.expr1, node.expr2]
        values: list[Value] = []
        for way in ways:
            try:
                values.append(UNDEFINED if way is None else self._value(way, names))
            except _Refused:
                continue
        if not values:
            raise _Refused
        return merged(values[0], values[-1])

    def _comparison(self, node: nodes.Compare, names: _Names) -> Value:
        left, result = self._value(node.expr, names), True
        for each in node.ops:
            right = self._value(each.expr, names)
            found = compare(each.op, left, right)
            if found is False:
                return False
            result = result and found is True
            left = right
        return result or UNKNOWN

    def _call(self, node: nodes.Call, names: _Names) -> Value:
        name = getattr(node.node, "name", "")
        if name == "raise_exception":
            raise _Refused
        args = [self._value(each, names) for each in (*node.args, *(each.value for each in node.kwargs))]
        if name == "range" and args and all(isinstance(each, int) and abs(each) <= MAX_SIZE for each in args):
            return tuple(range(*args)) if len(args) < 3 or args[2] else UNKNOWN  # type: ignore[arg-type]
        if not isinstance(node.node, nodes.Getattr):
            return self._read(UNKNOWN, *args)
        value = self._value(node.node.node, names)
        if node.node.attr == "get" and isinstance(value, Message) and args:
            found = self._member(value, args[0])
            return found if found is not UNDEFINED else args[1] if len(args) > 1 else None
        return self._read(method(node.node.attr, value, args), value, *args)

    def _unknown(self, node: nodes.Node, names: _Names) -> Open:
        """A node without a rule of its own: its parts are followed, and nothing is known of it."""
        inner: _Names = [*names, {}]
        for each in node.iter_child_nodes():
            if isinstance(each, nodes.Stmt):
                self._statement(each, inner)
            elif isinstance(each, nodes.Expr):
                self._mark_read(self._value(each, inner))
        return UNKNOWN

    # ---- what is read, and what it costs

    def _read(self, result: Value, *values: Value) -> Value:
        """`result`. If it is unknown, whoever made it may have read the messages among `values`."""
        if result is UNKNOWN:
            for value in values:
                self._mark_read(value)
        return result

    def _mark_read(self, value: Value) -> None:
        if isinstance(value, Message):
            self.read.add(value.index)
        elif isinstance(value, tuple):
            for each in value:
                self._mark_read(each)

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise _TooLong
