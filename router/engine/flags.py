"""llama-server's arguments as data: which flags there are, what they take, and who may set them.

The one idea: arguments are never handled as text. `parse` makes them `Arg`s of a `FlagTable`, `merge` lays layers of
them over each other (environment, command line, preset, load request), `render` makes the command line of a child.

The table of llama.cpp b11434 (`common/arg.cpp`) is in `flags.tsv`; `help` reads the table of another build. Called by
everything that reads or starts a model: settings, presets, the catalog, the memory estimate, the pool.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from router.engine import renamed
from router.errors import FlagError
from router.near import nearest
from router.redaction import without_credentials
from router.text import valid

# The end of an error about a flag that b11434 has, but this engine lacks: the embedded one, or another build.
OTHER_ENGINE_HINT = "; this engine lacks it, others have it (--engine PATH)"

_TRUE = frozenset({"on", "enabled", "true", "1", "yes"})
_FALSE = frozenset({"off", "disabled", "false", "0", "no"})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# These add up when they are given several times; of any other flag the last one counts. `--help` does not show it:
# read from the handlers in arg.cpp that append.
_REPEATABLE = _words("""
    --api-key --control-vector --control-vector-scaled --dry-sequence-breaker --logit-bias --lora --lora-scaled
    --models-dir --models-preset --override-kv --override-tensor --reverse-prompt --spec-draft-override-tensor
    --spec-type
""")

# Flags that the router owns and that people's preset files have nevertheless. They are ignored there. llama.cpp's
# router removes them from its children's arguments or sets them itself (server-models.cpp, `unset_reserved_args`,
# `update_args`), and a child's web UI is never shown.
DROPPED = _words("""
    --alias --api-key --api-key-file --host --port --ssl-cert-file --ssl-key-file
    --models-autoload --models-dir --models-max --models-preset
    --webui --webui-config --webui-config-file --webui-mcp-proxy
""")

# Flags that the router owns: only the router sets them for a child. Besides those above, they are flags that would move
# the child's routes, answer browsers in the router's place, or print something and end.
OWNED = DROPPED | _words("""
    --api-prefix --cors-credentials --cors-headers --cors-methods --cors-origins --reuse-port
    --cache-list --completion-bash --list-devices --usage --version
""")

# Keys of preset files that llama.cpp's later builds have, and that are the router's own: as with DROPPED, they are
# ignored there, whatever build the engine is.
DROPPED_KEYS = frozenset({"models-memory-margin", "LLAMA_ARG_MODELS_MEMORY_MARGIN"})

# Flags whose values only the child may know: keys, and text that may hold keys of other servers. Each with the
# variable that sets it too, which the help of some builds does not show.
SECRETS = {
    "--api-key": "LLAMA_API_KEY",
    "--hf-token": "HF_TOKEN",
    "--mcp-servers-json": "LLAMA_ARG_MCP_SERVERS_JSON",
}

# Flags that say which model it is. They belong in a preset or on the command line, not in a request for a known model.
MODEL_SOURCES = _words("""
    --docker-repo --hf-file --hf-repo --hf-token --model --model-url
    --embd-gemma-default --fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default --fim-qwen-7b-spec
    --fim-qwen-14b-spec --fim-qwen-30b-default --gpt-oss-20b-default --gpt-oss-120b-default
    --vision-gemma-4b-default --vision-gemma-12b-default
""")

# The flags that a setting of a load request stands for, in any spelling. A new value of the setting replaces every
# flag of its group that an earlier request set. `--draft...` are names of builds before the flags were called
# `--spec-...`.
GROUPS: Mapping[str, re.Pattern[str]] = {
    "ctx_size": re.compile(r"--ctx-size|--kv-unified-per-slot"),
    "cache_type_k": re.compile(r"--cache-type-k"),
    "cache_type_v": re.compile(r"--cache-type-v"),
    "speculative_type": re.compile(r"--spec-.*|--draft.*|--(model|hf-repo)-draft"),
    "chat_template": re.compile(r"--chat-template(-file)?|--jinja"),
    "n_parallel": re.compile(r"--parallel"),
}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of llama-server.

    `name` is the longest positive spelling.
    `negatives` are spellings such as `--no-jinja`, which switch it off.
    `arity` is the number of values; a switch has 0.
    `env` is the environment variable that sets the flag too.
    `repeatable` flags add up when they are given several times.
    A flag that may stand `alone` takes its value only if the next word is one. The engine has none such.
    """

    name: str
    spellings: tuple[str, ...]
    negatives: tuple[str, ...]
    arity: int
    env: str | None
    repeatable: bool
    alone: bool = False

    @classmethod
    def make(cls, spellings: Sequence[str], negatives: Sequence[str], arity: int, env: str | None) -> Flag:
        name = max(spellings, key=len)
        return cls(name, tuple(spellings), tuple(negatives), arity, env, name in _REPEATABLE)


@dataclass(frozen=True, slots=True)
class Arg:
    """One flag as it was given.

    A negated switch without a negative spelling renders to nothing; in `merge` it still replaces the positive one.
    """

    flag: Flag
    values: tuple[str, ...] = ()
    negated: bool = False


class FlagTable:
    """All flags of one build; immutable. `choices` are the words that the build's help names, by flag.

    ::

        table = default_table()
        table.find("-c").name  # "--ctx-size"
        parse(["-c", "4096", "--no-jinja"], table)
    """

    def __init__(self, flags: Iterable[Flag], choices: Mapping[str, frozenset[str]] | None = None) -> None:
        self.flags = tuple(flags)
        self.choices = choices or {}
        self._spellings: dict[str, tuple[Flag, bool]] = {}
        self._keys: dict[str, tuple[Flag, bool]] = {}
        for flag in self.flags:
            self._spellings |= dict.fromkeys(flag.spellings, (flag, False))
            self._spellings |= dict.fromkeys(flag.negatives, (flag, True))
            if flag.env:
                self._keys[flag.env] = flag, False
                if flag.negatives:
                    self._keys[flag.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")] = flag, True
        self._keys |= {spelling.lstrip("-"): found for spelling, found in self._spellings.items()}

    def __repr__(self) -> str:
        return f"<FlagTable of {len(self.flags)} flags>"

    def find(self, spelling: str) -> Flag | None:
        """By any spelling with its dashes, negative ones too. `--ctx_size` is `--ctx-size`, as in llama-server."""
        found = self.lookup(spelling)
        return found[0] if found else None

    def by_key(self, key: str) -> tuple[Flag, bool] | None:
        """By INI key: a spelling without dashes, or the environment variable. The bool is True for a negative form."""
        return self._keys.get(key)

    def nearest(self, word: str) -> str | None:
        """The known spelling (for a word with dashes) or INI key (without) that was probably meant."""
        known = self._spellings if word.startswith("-") else self._keys
        return next(iter(nearest(word, known)), None)

    def lookup(self, spelling: str) -> tuple[Flag, bool] | None:
        """As `find`; the bool is True for a negative spelling."""
        return self._spellings.get(spelling.replace("_", "-") if spelling.startswith("--") else spelling)


@lru_cache(maxsize=1)
def default_table() -> FlagTable:
    """The table of b11434, from `flags.tsv`: spellings, negative spellings, arity, environment variable."""
    lines = Path(__file__).with_name("flags.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return FlagTable(Flag.make(s.split(), n.split(), int(arity), env or None) for s, n, arity, env in rows)


def with_downloads(table: FlagTable) -> FlagTable:
    """The table with the flags that name a file by its address, which the router downloads for every engine."""
    known = (default_table().find(name) for name in ("--model-url", "--mmproj-url", "--docker-repo"))
    missing = [flag for flag in known if flag and not table.find(flag.name)]
    return FlagTable([*table.flags, *missing]) if missing else table


def boolean(word: str) -> bool | None:
    """`on`, `true`, `1`, ... and their opposites; None for any other word."""
    if word.lower() in _TRUE:
        return True
    return False if word.lower() in _FALSE else None


def from_environment(environ: Mapping[str, str], table: FlagTable) -> tuple[Arg, ...]:
    """The arguments that a llama-server reads from its environment. They rank below every argument of the command line.

    Words that are no booleans are ignored for switches, as llama-server does.
    """
    args: list[Arg] = []
    for name, word in environ.items():
        known = table.by_key(name) if name.startswith("LLAMA_") else None
        if known is None:
            continue
        flag, negative = known
        if flag.arity:
            args.append(Arg(flag, (word,)))
        elif (on := boolean(word)) is not None:
            args.append(Arg(flag, negated=on is negative))
    return tuple(args)


def parse(argv: Sequence[str], table: FlagTable) -> tuple[Arg, ...]:
    """Arguments as llama-server reads them, and in the form `--flag=value`. A switch may have on or off behind it.

    The word after a flag that takes a value is that value, `-1` too, unless it is itself a known flag. Raises FlagError
    for a flag that is not in the table (its message names the nearest), and for a flag without its value.
    """
    args: list[Arg] = []
    tokens = deque(argv)
    while tokens:
        token = tokens.popleft()
        name, equals, value = token.partition("=") if token.startswith("--") else (token, "", "")
        found = table.lookup(name)
        if found is None:
            raise FlagError(unknown_flag(name, table))
        flag, negated = found
        if flag.arity == 0 and not equals and tokens and tokens[0] in ("on", "off"):
            equals, value = "=", tokens.popleft()
        given = [value] if equals else []
        if flag.arity == 0 and equals:
            wanted = boolean(value)
            if wanted is None:
                raise FlagError(f"{name} is a switch: write {name} alone, or {name}=on or {name}=off")
            args.append(Arg(flag, negated=negated is wanted))
            continue
        while len(given) < flag.arity:
            if flag.alone and (not tokens or tokens[0].startswith("-")):
                break
            following = tokens.popleft() if tokens else None
            if following is None or table.find(following):
                raise FlagError(f"{name} needs a value" + (f", but {following} follows it" if following else ""))
            given.append(following)
        args.append(Arg(flag, tuple(given), negated))
    return tuple(args)


def parse_among_words(argv: Sequence[str], table: FlagTable) -> tuple[list[str], tuple[Arg, ...]]:
    """The words of a command that are no flags and no values of flags, such as files; and the arguments, as `parse`."""
    words: list[str] = []
    options: list[str] = []
    tokens = deque(argv)
    while tokens:
        token = tokens.popleft()
        if not token.startswith("-"):
            words.append(token)
            continue
        options.append(token)
        flag = table.find(token)
        if flag and flag.arity and tokens:
            options.append(tokens.popleft())
    return words, parse(options, table)


def unknown_flag(name: str, table: FlagTable) -> str:
    """The message for a word that is not a flag of the table."""
    name = name.partition("=")[0]  # the value may be a secret
    near = table.nearest(name)
    kind = "unknown flag" if name.startswith("-") else "unexpected argument"
    if default_table().find(name):
        return f"{kind} {name!r}{OTHER_ENGINE_HINT}"
    if kind == "unknown flag" and (now := renamed.now(name)):
        return f"{kind} {name!r}: {now.as_flag}"
    return f"{kind} {name[:80]!r}" + (f"; did you mean {near}?" if near and kind == "unknown flag" else "")


def render(args: Iterable[Arg]) -> list[str]:
    """The words of a command line: canonical names, each value as a word of its own."""
    argv: list[str] = []
    for arg in args:
        if not arg.negated:
            argv += (arg.flag.name, *arg.values)
        elif arg.flag.negatives:
            argv.append(max(arg.flag.negatives, key=len))
    return argv


def merge(*layers: Sequence[Arg]) -> tuple[Arg, ...]:
    """One layer of arguments; a later layer wins, flag by flag.

    All values of a repeatable flag in a later layer replace all of those in the earlier layers.
    """
    merged: dict[str, list[Arg]] = {}
    for layer in layers:
        own: dict[str, list[Arg]] = {}
        for arg in layer:
            earlier = own.get(arg.flag.name, []) if arg.flag.repeatable else []
            own[arg.flag.name] = [*earlier, arg]
        merged |= own
    return tuple(arg for group in merged.values() for arg in group)


def is_in_group(flag: Flag, group: str) -> bool:
    """Whether a flag belongs to one of GROUPS."""
    return any(map(GROUPS[group].fullmatch, flag.spellings))


def diff(before: Iterable[Arg], after: Iterable[Arg]) -> dict[str, tuple[str | None, str | None]]:
    """The flags that differ, by name: how each is written before and after; None where it is not given.

    The order of flags does not count, the order of a repeated flag's values does. Secrets are hidden.
    """
    old, new = _written(before), _written(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: (_redacted(name, old.get(name)), _redacted(name, new.get(name))) for name in names}


def _redacted(name: str, words: str | None) -> str | None:
    if not words:
        return words
    return f"{name} ***" if name in SECRETS else without_credentials(words)


def without_secrets(args: Iterable[Arg]) -> tuple[Arg, ...]:
    """The arguments without the secret ones, and without the credentials of URLs."""
    return tuple(
        replace(arg, values=tuple(map(without_credentials, arg.values))) for arg in args if arg.flag.name not in SECRETS
    )


def shown_words(args: Iterable[Arg]) -> list[str]:
    """The words of a command line as people may see them: without secrets, and as text that fits into JSON."""
    return [valid(word) for word in render(without_secrets(args))]


def secret_variable(arg: Arg) -> str | None:
    """The variable by which a child gets a secret argument, since all users of a machine can read command lines.

    None for an argument that may be seen, and for one that has no variable.
    """
    if arg.flag.name in SECRETS:
        return SECRETS[arg.flag.name]
    has_credentials = any(without_credentials(value) != value for value in arg.values)
    return arg.flag.env if has_credentials else None


def _written(args: Iterable[Arg]) -> dict[str, str]:
    """Each flag as it is written on a command line, by its name."""
    words: dict[str, list[str]] = {}
    for arg in args:
        earlier = words.get(arg.flag.name, []) if arg.flag.repeatable else []
        words[arg.flag.name] = [*earlier, *(render([arg]) or ["off"])]
    return {name: " ".join(written) for name, written in words.items()}


def value_of(args: Iterable[Arg], name: str) -> str | None:
    """The (first) value of the last flag with this spelling; None if the flag is not given."""
    return next(iter(values_of(args, name)[-1:]), None)


def values_of(args: Iterable[Arg], name: str) -> tuple[str, ...]:
    """All values of a repeatable flag."""
    return tuple(arg.values[0] for arg in args if name in arg.flag.spellings and arg.values)


def switch_of(args: Iterable[Arg], name: str) -> bool | None:
    """Whether the last such switch is on; None if it is not given, and the engine's default holds."""
    states = [not arg.negated for arg in args if name in arg.flag.spellings]
    return states[-1] if states else None
