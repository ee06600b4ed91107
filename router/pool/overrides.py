"""What a load request asks for over a model's own settings: kept, taken back, replaced.

The first-class settings are fields, each with a group of flags that it stands for (`flags.GROUPS`); what has no field
is asked for by `extra_args`. What is compared is what was asked, not what the engine makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from router.engine import allowlist
from router.engine.allowlist import is_jinja
from router.engine.flags import (
    GROUPS,
    OWNED,
    SOURCES,
    Arg,
    FlagTable,
    LoadArgs,
    default_table,
    is_of,
    merge,
    parse,
    render,
    shown,
    unknown,
)
from router.errors import FlagError, InvalidRequest
from router.memory.kv import BYTES
from router.models.spec import ModelSpec
from router.near import nearest

OFF = "off"
# What the engine's own documentation and `--spec-default` advise for each kind (docs/speculative.md, common/arg.cpp).
SPECULATIVE: Mapping[str, str] = {
    OFF: "",
    "default": "--spec-default",
    "ngram-cache": "--spec-type ngram-cache",
    "ngram-simple": "--spec-type ngram-simple --spec-ngram-simple-size-n 12 --spec-ngram-simple-size-m 48",
    "ngram-map-k": "--spec-type ngram-map-k --spec-ngram-map-k-size-n 12 --spec-ngram-map-k-size-m 48",
    "ngram-map-k4v": "--spec-type ngram-map-k4v --spec-ngram-map-k4v-size-n 8 --spec-ngram-map-k4v-size-m 8 "
    "--spec-ngram-map-k4v-min-hits 2",
    "ngram-mod": "--spec-type ngram-mod --spec-ngram-mod-n-match 24 --spec-ngram-mod-n-min 48 "
    "--spec-ngram-mod-n-max 64",
    **{f"draft-{kind}": f"--spec-type draft-{kind}" for kind in ("simple", "mtp", "eagle3", "dflash", "dspark")},
}
CACHE_TYPES = tuple(name for name in BYTES if re.fullmatch(r"f32|f16|bf16|q[458]_[01]|iq4_nl", name))
LONGEST_TEMPLATE = 2**20  # characters
MOST_ARGS = 1000
LONGEST_ARGS = 2**20  # bytes, together; a process takes 2 MiB at most, its environment among them


@dataclass(frozen=True, slots=True)
class Overrides:
    """None means that nothing is asked for there, and the model's own settings hold. `ctx_size` is in tokens, 0 for
    automatic, and so is `n_parallel`; `chat_template` is Jinja text, the name of a built-in one, or empty for the
    file's own."""

    ctx_size: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    speculative_type: str | None = None
    chat_template: str | None = None
    n_parallel: int | None = None
    extra_args: tuple[Arg, ...] = ()

    def patched(self, wish: Wish) -> Overrides:
        """What is asked for now over what was asked for before. Of that, only what now has another value goes."""
        kept = {name: getattr(self, name) for name in GROUPS}
        extra = self.extra_args
        if wish.extra_args is None:
            extra = tuple(arg for arg in extra if not any(is_of(arg.flag, name) for name in wish.fields))
        else:
            extra = wish.extra_args
            kept = {name: None if any(is_of(arg.flag, name) for arg in extra) else kept[name] for name in kept}
        return Overrides(**{**kept, **wish.fields}, extra_args=extra)

    def over(self, spec: ModelSpec, table: FlagTable) -> ModelSpec:
        """The model with these settings over its own."""
        if self == Overrides():
            return spec
        asked = [name for name in GROUPS if getattr(self, name) is not None]
        own = [arg for arg in spec.args if not any(self._replaces(name, arg) for name in asked)]
        args = merge(own, parse([word for name in asked for word in self._argv(name)], table), self.extra_args)
        template = self.chat_template if self.chat_template and is_jinja(self.chat_template) else None
        found = spec.with_args(args, template)
        if found.mmproj_path and self.speculative_type not in (None, OFF):  # the engine drafts for text alone
            return replace(self, speculative_type=OFF).over(spec, table)
        return found

    def _replaces(self, name: str, arg: Arg) -> bool:
        if name == "speculative_type" and str(self.speculative_type).startswith("draft-"):
            return not {"--spec-type", "--spec-default"}.isdisjoint(arg.flag.spellings)  # the draft model is for it
        return is_of(arg.flag, name)

    def _argv(self, name: str) -> Sequence[str]:
        value = getattr(self, name)
        match name:
            case "ctx_size" | "n_parallel" if value > 0:
                return (f"--{name.replace('_', '-').removeprefix('n-')}", str(value))
            case "cache_type_k" | "cache_type_v":
                return (f"--{name.replace('_', '-')}", value)
            case "speculative_type":
                return SPECULATIVE[value].split()
            case "chat_template" if value and not is_jinja(value):
                return ("--chat-template", value)
        return ()

    def as_json(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in GROUPS}, "extra_args": render(shown(self.extra_args))}


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request says: the `fields` that it names, None in one to take it back, and `extra_args`, None to leave
    them as they are."""

    fields: Mapping[str, Any]
    extra_args: tuple[Arg, ...] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.fields and self.extra_args is None


def read(body: Mapping[str, Any], table: FlagTable, others: Sequence[str] = (), load_args: LoadArgs = "safe") -> Wish:
    """From the JSON object of a request, which may hold the keys `others` besides, and of whose settings `load_args`
    are taken. Raises InvalidRequest that names the field, or the flag."""
    known = [field.name for field in fields(Overrides)]
    for key in body:
        if key not in known and key not in others:
            near = nearest(key, [*known, *others])
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InvalidRequest(f"{key[:80]!r} is no setting of a load; {hint}")
    settings = {name: _READ[name](name, body[name]) for name in GROUPS if name in body}
    slots = settings.get("n_parallel")
    if slots and load_args != "any" and (wrong := allowlist.count_fault("--parallel", str(slots))):
        raise InvalidRequest(f"n_parallel {wrong} (more with --load-args any)")
    if template := settings.get("chat_template"):
        _check_template(template, load_args)
    extra = None if body.get("extra_args") is None else _extra_args(body["extra_args"], table, load_args)
    for name, value in settings.items():
        for arg in extra or ():
            if value is not None and is_of(arg.flag, name):
                raise InvalidRequest(f"{name} and {arg.flag.name} in extra_args set the same: send one of them")
    for word in SPECULATIVE[settings.get("speculative_type") or OFF].split():
        if word.startswith("--") and not table.find(word):
            raise InvalidRequest(f"speculative_type {settings['speculative_type']!r}: {unknown(word, table)}")
    return Wish(settings, extra)


def _count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise InvalidRequest(f"{name} is a whole number, 0 for automatic, not {_shown(value)}")
    return value


def _cache_type(name: str, value: object) -> str | None:
    return _one_of(name, value, CACHE_TYPES)


def _speculative_type(name: str, value: object) -> str | None:
    return _one_of(name, OFF if value in ("", "none") else value, tuple(SPECULATIVE))


def _one_of(name: str, value: object, choices: Sequence[str]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value.lower() not in choices:
        raise InvalidRequest(f"{name} is one of {', '.join(choices)}, not {_shown(value)}")
    return value.lower()


def _chat_template(name: str, value: object) -> str | None:
    if value is not None and (not _is_word(value) or not isinstance(value, str) or len(value) > LONGEST_TEMPLATE):
        raise InvalidRequest(f"{name} is a text of at most {LONGEST_TEMPLATE} characters: Jinja, or a built-in's name")
    return value


def _check_template(template: str, load_args: LoadArgs) -> None:
    """No engine reads a file here, whatever is allowed."""
    if is_jinja(template) or template in allowlist.TEMPLATES:
        return
    if allowlist.is_like_a_path(template):
        raise InvalidRequest(
            "chat_template is Jinja text or the name of a built-in template, no path: send the file's content, or set "
            "chat-template-file in the model's preset"
        )
    if load_args != "any":
        raise InvalidRequest(
            f"chat_template: {_shown(template)} is neither Jinja text nor the name of a built-in template; see "
            "llama-server --help for these (the names of another build are taken with --load-args any)"
        )


_READ: Mapping[str, Callable[[str, object], Any]] = {
    "ctx_size": _count,
    "cache_type_k": _cache_type,
    "cache_type_v": _cache_type,
    "speculative_type": _speculative_type,
    "chat_template": _chat_template,
    "n_parallel": _count,
}


def _extra_args(value: object, table: FlagTable, load_args: LoadArgs) -> tuple[Arg, ...]:
    if not isinstance(value, list) or len(value) > MOST_ARGS or not all(_is_word(word) for word in value):
        raise InvalidRequest('extra_args is a list of llama-server\'s arguments, such as ["--top-k", "20"]')
    if value and load_args == "none":
        raise InvalidRequest(
            "extra_args are not taken here (--load-args none): set the flags in the model's preset, or start the "
            "router with --load-args safe"
        )
    words = [str(word) for word in value]
    if sum(len(word.encode()) for word in words) > LONGEST_ARGS:
        raise InvalidRequest(f"extra_args are too long for a process; {LONGEST_ARGS} bytes are enough")
    known = FlagTable([*(flag for flag in default_table().flags if not table.find(flag.name)), *table.flags])
    try:
        args = parse(words, known)
    except FlagError as error:
        raise InvalidRequest(f"extra_args: {error.message}") from error
    for word, arg in zip(_spelled(words, known), args, strict=True):
        if not OWNED.isdisjoint(arg.flag.spellings):
            raise InvalidRequest(
                f"extra_args: {word} belongs to the router, not to a model; leave it out (no --load-args takes it)"
            )
        if not SOURCES.isdisjoint(arg.flag.spellings):
            raise InvalidRequest(
                f"extra_args: {word} would make it another model; leave it out, and name that model "
                "(no --load-args takes it)"
            )
        if not table.find(word):
            raise InvalidRequest(f"extra_args: {unknown(word, table)}")
        if load_args != "any":
            _check(word, arg)
    return merge(args)


def _check(word: str, arg: Arg) -> None:
    """Raises InvalidRequest for what is not on the list of what may be set from outside."""
    if not allowlist.is_safe(arg.flag):
        raise InvalidRequest(
            f"extra_args: {word} is not taken over HTTP, only what computes and answers is; set it in the model's "
            "preset, or start the router with --load-args any"
        )
    if wrong := allowlist.fault(arg):
        raise InvalidRequest(f"extra_args: {word} {wrong}; set more in the model's preset, or with --load-args any")


def _is_word(word: object) -> bool:
    """A process can be given it: no zero byte, no half of a surrogate pair."""
    if isinstance(word, str):
        return not re.search("[\0\ud800-\udfff]", word)
    return isinstance(word, int | float) and not isinstance(word, bool)


def _spelled(words: Sequence[str], table: FlagTable) -> Iterator[str]:
    """The flags among the words, as they are spelled there."""
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        flag = table.find(name)
        assert flag is not None, "these words were parsed"
        yield name
        for _ in range(flag.arity - bool(equals)):
            next(left)


def _shown(value: object) -> str:
    return repr(value)[:80]
