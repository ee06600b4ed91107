"""PURE: the settings that one load request names, read from its JSON body and checked.

A patch changes only what it names: a field that is left out keeps its value, a field that is null gives it up. What may
be set over HTTP depends on `--load-args` (see `engine.allowlist`). `api.load` calls `read_patch`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.engine import allowlist
from router.engine.allowlist import LoadArgs, is_jinja
from router.engine.flags import (
    GROUPS,
    MODEL_SOURCES,
    OWNED,
    Arg,
    FlagTable,
    default_table,
    is_in_group,
    merge,
    parse,
    unknown_flag,
)
from router.errors import FlagError, InvalidRequest
from router.memory.kv import BYTES_PER_ELEMENT
from router.near import nearest

OFF = "off"
# Flags by `speculative_type`. The values are those that the engine's documentation and `--spec-default` recommend
# (docs/speculative.md, common/arg.cpp).
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
CACHE_TYPES = tuple(name for name in BYTES_PER_ELEMENT if re.fullmatch(r"f32|f16|bf16|q[458]_[01]|iq4_nl", name))
MAX_TEMPLATE_CHARS = 2**20
MAX_EXTRA_ARGS = 1000
MAX_EXTRA_ARGS_BYTES = 2**20  # together; a process takes 2 MiB at most, its environment included
MAX_SHOWN_CHARS = 80  # of a wrong key or value that its error repeats


@dataclass(frozen=True, slots=True)
class SettingsPatch:
    """The settings that one load request names.

    `fields` holds values by name of the setting; a value of None returns the setting to the model's own.
    `extra_args` replaces all earlier extra arguments; None keeps them.
    """

    fields: Mapping[str, Any]
    extra_args: tuple[Arg, ...] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.fields and self.extra_args is None


def read_patch(
    body: Mapping[str, Any], table: FlagTable, other_keys: Sequence[str] = (), load_args: LoadArgs = "safe"
) -> SettingsPatch:
    """Read the JSON object of a load request.

    `table` holds the engine's flags.
    `other_keys` are keys of the body that are no settings.
    `load_args` says which settings may be set over HTTP.
    Raises InvalidRequest that names the field or the flag.
    """
    known = [*GROUPS, "extra_args"]
    for key in body:
        if key not in known and key not in other_keys:
            near = nearest(key, [*known, *other_keys])
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InvalidRequest(f"{key[:MAX_SHOWN_CHARS]!r} is no setting of a load; {hint}")
    settings = {name: _READERS[name](name, body[name]) for name in GROUPS if name in body}
    slots = settings.get("n_parallel")
    if slots and load_args != "any" and (wrong := allowlist.whole_number_fault("--parallel", str(slots))):
        raise InvalidRequest(f"n_parallel {wrong} (more with --load-args any)")
    if template := settings.get("chat_template"):
        _check_template(template, load_args)
    extra = None if body.get("extra_args") is None else _extra_args(body["extra_args"], table, load_args)
    for name, value in settings.items():
        for arg in extra or ():
            if value is not None and is_in_group(arg.flag, name):
                raise InvalidRequest(f"{name} and {arg.flag.name} in extra_args set the same: send one of them")
    for word in SPECULATIVE[settings.get("speculative_type") or OFF].split():
        if word.startswith("--") and not table.find(word):
            raise InvalidRequest(f"speculative_type {settings['speculative_type']!r}: {unknown_flag(word, table)}")
    return SettingsPatch(settings, extra)


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
    if value is not None and (not _is_word(value) or not isinstance(value, str) or len(value) > MAX_TEMPLATE_CHARS):
        raise InvalidRequest(
            f"{name} is a text of at most {MAX_TEMPLATE_CHARS} characters: Jinja, or a built-in's name"
        )
    return value


def _check_template(template: str, load_args: LoadArgs) -> None:
    """Raises InvalidRequest for a template that is a path, or neither Jinja nor a known name. A path is refused even
    with `--load-args any`: the engine must not read a file that a request names."""
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
            "llama-server --help for these (names of another build are accepted with --load-args any)"
        )


# For each field, the function that checks its value. It returns the value, and raises InvalidRequest.
_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "ctx_size": _count,
    "cache_type_k": _cache_type,
    "cache_type_v": _cache_type,
    "speculative_type": _speculative_type,
    "chat_template": _chat_template,
    "n_parallel": _count,
}


def _extra_args(value: object, table: FlagTable, load_args: LoadArgs) -> tuple[Arg, ...]:
    if not isinstance(value, list) or len(value) > MAX_EXTRA_ARGS or not all(_is_word(word) for word in value):
        raise InvalidRequest('extra_args is a list of llama-server\'s arguments, such as ["--top-k", "20"]')
    if value and load_args == "none":
        raise InvalidRequest(
            "extra_args are not accepted here (--load-args none): set the flags in the model's preset, or start the "
            "router with --load-args safe"
        )
    words = [str(word) for word in value]
    if sum(len(word.encode()) for word in words) > MAX_EXTRA_ARGS_BYTES:
        raise InvalidRequest(f"extra_args are too long for a process; {MAX_EXTRA_ARGS_BYTES} bytes are enough")
    known = FlagTable([*(flag for flag in default_table().flags if not table.find(flag.name)), *table.flags])
    try:
        args = parse(words, known)
    except FlagError as error:
        raise InvalidRequest(f"extra_args: {error.message}") from error
    for word, arg in zip(_flags_as_written(words, known), args, strict=True):
        if not OWNED.isdisjoint(arg.flag.spellings):
            raise InvalidRequest(
                f"extra_args: {word} belongs to the router, not to a model; leave it out "
                "(no value of --load-args allows it)"
            )
        if not MODEL_SOURCES.isdisjoint(arg.flag.spellings):
            raise InvalidRequest(
                f"extra_args: {word} would load another model; leave it out, and request that model "
                "(no value of --load-args allows it)"
            )
        if not table.find(word):
            raise InvalidRequest(f"extra_args: {unknown_flag(word, table)}")
        if load_args != "any":
            _check_allowed(word, arg)
    return merge(args)


def _check_allowed(word: str, arg: Arg) -> None:
    """Raises InvalidRequest for an argument that may not be set over HTTP."""
    if not allowlist.is_safe(arg.flag):
        raise InvalidRequest(
            f"extra_args: {word} cannot be set over HTTP: only flags that affect computing and answers can; set it "
            "in the model's preset, or start the router with --load-args any"
        )
    if wrong := allowlist.fault(arg):
        raise InvalidRequest(f"extra_args: {word} {wrong}; set more in the model's preset, or with --load-args any")


def _is_word(word: object) -> bool:
    """Whether a process can be given this as an argument: no zero byte, no half of a surrogate pair."""
    if isinstance(word, str):
        return not re.search("[\0\ud800-\udfff]", word)
    return isinstance(word, int | float) and not isinstance(word, bool)


def _flags_as_written(words: Sequence[str], table: FlagTable) -> Iterator[str]:
    """The flags among the words, in the spelling of the request."""
    remaining = iter(words)
    for word in remaining:
        name, equals, _ = word.partition("=")
        flag = table.find(name)
        assert flag is not None, "these words were parsed"
        yield name
        for _ in range(flag.arity - bool(equals)):
            next(remaining)


def _shown(value: object) -> str:
    return repr(value)[:MAX_SHOWN_CHARS]
