"""What a chat template can do: take tools, control whether and how hard its model thinks, and which roles it refuses.

A template has variables, such as `enable_thinking`, that a request may set. Which ones it has, and what it does if a
request does not set them, no header says: only the template's text does. Templates come from strangers' files, so none
is rendered. It is parsed, and reduced (`reduction`) as far as the values of some variables decide it.

The one idea: if two values of a variable lead to the same reduced template, the template treats them alike. So the
default that its author wants is the value that leads to the same as no value at all. What a template refuses is found
by trials (`trial`): short conversations that clients send, and that some templates raise an error for.

Called by `describe`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from router.models.reduction import SOME_LEVEL, UNDEFINED, Reduction, Value
from router.models.trial import Trial

Control = Literal["enable_thinking", "thinking", "reasoning_effort", "always"]

MAX_CHARACTERS = 64 << 10  # of a template that is parsed; the longest in llama.cpp's models/templates has 18,000
MAX_LEVELS = 12  # that are tried; templates know three to six

# Variables that turn thinking on or off.
SWITCHES: tuple[Control, ...] = ("enable_thinking", "thinking")
# Names of the variable that says how hard to think. llama.cpp passes one value on by both (common/jinja/caps.cpp).
EFFORTS = ("reasoning_effort", "reasoning_strength")
# Variables that decide whether the thoughts of earlier turns are kept.
PRESERVES = frozenset(("preserve_thinking", "clear_thinking", "drop_thinking", "truncate_history_thinking"))
# Conversations that agents send, and that some templates refuse.
LATE_SYSTEM = (
    ("system", "system", "user"),
    ("system", "user", "system", "assistant", "user"),
    ("user", "system", "assistant", "user"),
)
REPEATS = (("user", "user"), ("user", "assistant", "assistant", "user"))
# What stands around thoughts in the text.
TAGS = re.compile(r"</?(?:\w+:)?think(?:ing)?>|\[/?THINK\]|<\|(?:START|END)_THINKING\|>|◁/?think▷")


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How a model's thinking is controlled.

    `control` is the variable that turns thinking on or sets its effort; "always" if no variable changes it.
    `default` is what holds if a request does not set the variable: a bool, or a level for `reasoning_effort`; None if
    the template does not show it.
    `levels` are the words that `reasoning_effort` may be, as far as the template names them.
    `preserve` is whether a request can say that the thoughts of earlier turns are kept.
    """

    control: Control
    default: bool | str | None
    levels: tuple[str, ...] = ()
    preserve: bool = False


@dataclass(frozen=True, slots=True)
class Roles:
    """Which orders of messages a template takes. Refused is what it raises an error for, and what it leaves out.

    `late_system`: system messages that are not the first one, or that follow it.
    `developer`: messages of this role, as the first.
    `repeats`: two messages of the user, or two of the assistant, in a row.
    """

    late_system: bool = True
    developer: bool = True
    repeats: bool = True


TAKES_ALL = Roles()


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """What a template takes. `reasoning` is None if the template knows no thinking."""

    tools: bool = False
    reasoning: Reasoning | None = None
    roles: Roles = TAKES_ALL


def analyse(text: str) -> TemplateFeatures:
    """The features of a template, in time that its length alone bounds.

    If the template is too long, or if no parser understands it, its words alone count; then no default is known.
    """
    try:
        if len(text) <= MAX_CHARACTERS:
            return _Analysis(Parser(_SYNTAX, text).parse()).features()
    except (TemplateSyntaxError, RecursionError, ValueError):  # ValueError: a number of thousands of digits
        pass
    return _features_by_words(text[:MAX_CHARACTERS])


def syntax_problem(text: str) -> str | None:
    """Why a text is no chat template of Jinja; None if it is one. A template that has no use for messages is none."""
    if len(text) > MAX_CHARACTERS:
        return f"it has more than {MAX_CHARACTERS} characters"
    try:
        Parser(_SYNTAX, text).parse()
    except (TemplateSyntaxError, RecursionError, ValueError) as exc:
        return str(exc) or type(exc).__name__
    return None if "messages" in text else "it does not say messages"


class _Generation(Extension):
    """`{% generation %}` and its end mark what a model is trained on. They are ignored, as in llama.cpp."""

    tags = {"generation", "endgeneration"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return []


_SYNTAX = Environment(extensions=["jinja2.ext.loopcontrols", _Generation])


def _features_by_words(text: str) -> TemplateFeatures:
    words = frozenset(re.findall(r"\w+", text))
    control: Control | None = next((name for name in SWITCHES if name in words), None)
    if control is None and not words.isdisjoint(EFFORTS):
        control = "reasoning_effort"
    preserve = not words.isdisjoint(PRESERVES)
    if control is None and TAGS.search(text):
        return TemplateFeatures("tools" in words, Reasoning("always", True, preserve=preserve))
    return TemplateFeatures("tools" in words, Reasoning(control, None, preserve=preserve) if control else None)


class _Analysis:
    """One template, reduced again and again with other values of the variables in question."""

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        self._expressions: dict[object, int] = {}  # shared by all reductions, so that their results can be compared
        self._inputs = self._reduce({}).inputs
        strings = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        self._members = {*strings, *(node.attr for node in tree.find_all(nodes.Getattr))}
        self._strings = [*strings, *(node.data for node in tree.find_all(nodes.TemplateData))]

    def __repr__(self) -> str:
        return f"<_Analysis of a template that reads {', '.join(sorted(self._inputs)) or 'nothing'}>"

    def features(self) -> TemplateFeatures:
        tools = "tools" in self._inputs or "tool_calls" in self._members
        return TemplateFeatures(tools, self._reasoning(), self._roles())

    def _roles(self) -> Roles:
        """All are taken if the template is not understood: it refuses an ordinary conversation, or is too long."""
        ordinary = ("user", "assistant", "user")
        if Trial(self._tree, ordinary).is_cut_short or not self._takes_all(ordinary):
            return TAKES_ALL
        # Of a template without system messages, the engine puts the first one before the user's text. No other one.
        return Roles(
            late_system=self._takes_all(("system", "user"), *LATE_SYSTEM),
            developer=self._takes_all(("developer", "user")),
            repeats=self._takes_all(*REPEATS),
        )

    def _takes_all(self, *conversations: tuple[str, ...]) -> bool:
        """Whether the template takes each of these, and reads every message of it."""
        trials = (Trial(self._tree, roles) for roles in conversations)
        return all(not trial.is_refused and len(trial.read) == len(trial.roles) for trial in trials)

    def _reasoning(self) -> Reasoning | None:
        preserve = not PRESERVES.isdisjoint(self._inputs)
        levels = self._levels()
        for name in SWITCHES:
            unset = dict.fromkeys((*SWITCHES, *EFFORTS), UNDEFINED)
            silent, on, off = (self._reduce({**unset, name: value}).result for value in (UNDEFINED, True, False))
            if on != off:
                return Reasoning(name, {on: True, off: False}.get(silent), levels or (), preserve)
        if levels is not None:
            default = self._default_level(levels)
            named = dict.fromkeys((*levels, default)) if levels and default else levels
            return Reasoning("reasoning_effort", default, tuple(named), preserve)
        if any(TAGS.search(string) for string in self._strings):
            return Reasoning("always", True, (), preserve)
        return None

    def _levels(self) -> tuple[str, ...] | None:
        """The words with which the template compares the effort; None if the effort changes nothing."""
        with_level = self._reduce(dict.fromkeys(EFFORTS, SOME_LEVEL))
        silent = self._reduce(dict.fromkeys(EFFORTS, UNDEFINED))
        return tuple(with_level.compared)[:MAX_LEVELS] if with_level.result != silent.result else None

    def _default_level(self, levels: Sequence[str]) -> str | None:
        """The level that means the same as none: one that the template falls back to, or the only one of that kind."""
        silent = self._reduce(dict.fromkeys(EFFORTS, UNDEFINED))
        candidates = dict.fromkeys((*list(silent.words)[:MAX_LEVELS], *levels))
        same = [word for word in candidates if self._reduce(dict.fromkeys(EFFORTS, word)).result == silent.result]
        fallbacks = [word for word in same if word in silent.words]
        if fallbacks:
            return fallbacks[0]
        return same[0] if len(same) == 1 else None

    def _reduce(self, variables: Mapping[str, Value]) -> Reduction:
        return Reduction(self._tree, variables, self._expressions)
