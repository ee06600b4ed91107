"""llama-server's arguments as data: which flags there are, what they take, whose they are.

The facts are those of llama.cpp b11434 (`common/arg.cpp`), kept in `flags.tsv`; another build's own `--help` gives the
same table through `parse_help`. To renew the file, in `router/engine`:
`llama-server --help | python -m router.engine.flags > flags.tsv`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from router.errors import FlagError
from router.near import nearest
from router.redaction import without_credentials

# What a load request may set by `extra_args`: what is on the list for all that comes from outside (`allowlist`),
# whatever the router does not own, or nothing.
LoadArgs = Literal["safe", "any", "none"]

# What is said of flags that are right, but not for the engine at hand: the embedded one, or another build.
ELSEWHERE = "; this engine lacks it, others have it (--engine PATH)"

_TRUE = frozenset({"on", "enabled", "true", "1", "yes"})
_FALSE = frozenset({"off", "disabled", "false", "0", "no"})


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# These add up when they are given several times; of any other flag the last one counts. `--help` does not tell: read
# from the handlers in arg.cpp that append.
_REPEATABLE = _names("""
    --api-key --control-vector --control-vector-scaled --dry-sequence-breaker --logit-bias --lora --lora-scaled
    --override-kv --override-tensor --reverse-prompt --spec-draft-override-tensor --spec-type
""")

# llama.cpp's router takes these out of its children's arguments or sets them itself (server-models.cpp,
# `unset_reserved_args`, `update_args`), and a child's web UI is never shown: harmless in files that people have.
DROPPED = _names("""
    --alias --api-key --api-key-file --host --port --ssl-cert-file --ssl-key-file
    --models-autoload --models-dir --models-max --models-preset
    --webui --webui-config --webui-config-file --webui-mcp-proxy
""")

# What the router owns: no child gets it from anyone else. Besides the above, what would move the child's routes,
# answer browsers in the router's place, or print something and end.
OWNED = DROPPED | _names("""
    --api-prefix --cors-credentials --cors-headers --cors-methods --cors-origins --reuse-port
    --cache-list --completion-bash --list-devices --usage --version
""")

# Values of these are nobody's business but the child's: keys, and what may hold keys of other servers. With the
# variables that say the same, whatever a build's help tells of them.
SECRETS = {
    "--api-key": "LLAMA_API_KEY",
    "--hf-token": "HF_TOKEN",
    "--mcp-servers-json": "LLAMA_ARG_MCP_SERVERS_JSON",
}

# What says which model it is: right in a preset or on the command line, wrong in a request for a known model.
SOURCES = _names("""
    --docker-repo --hf-file --hf-repo --hf-token --model --model-url
    --embd-gemma-default --fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default --fim-qwen-7b-spec
    --fim-qwen-14b-spec --fim-qwen-30b-default --gpt-oss-20b-default --gpt-oss-120b-default
    --vision-gemma-4b-default --vision-gemma-12b-default
""")

# What a setting of a load request stands for, by any spelling. Asked for anew, it takes the place of every flag of its
# group that was asked for before. `--draft...` are names of builds before the flags were called `--spec-...`.
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
    """`name` is the longest positive spelling. `arity` counts values: a switch has 0. `env` may set it as well."""

    name: str
    spellings: tuple[str, ...]
    negatives: tuple[str, ...]
    arity: int
    env: str | None
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Arg:
    """One flag as given. A negated switch that has no negative spelling renders to nothing, and still overrides."""

    flag: Flag
    values: tuple[str, ...] = ()
    negated: bool = False


class FlagTable:
    """All flags of one build; immutable."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        self.flags = tuple(flags)
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

    def find(self, spelling: str) -> Flag | None:
        """By any spelling with its dashes, negative ones too; `--ctx_size` is `--ctx-size`, as in llama-server."""
        found = self._lookup(spelling)
        return found[0] if found else None

    def by_key(self, key: str) -> tuple[Flag, bool] | None:
        """By INI key: a spelling without dashes, or the environment variable. The bool tells a negative form."""
        return self._keys.get(key)

    def nearest(self, word: str) -> str | None:
        """The known spelling (for a word with dashes) or INI key (without) that was probably meant."""
        known = self._spellings if word.startswith("-") else self._keys
        return next(iter(nearest(word, known)), None)

    def _lookup(self, spelling: str) -> tuple[Flag, bool] | None:
        return self._spellings.get(spelling.replace("_", "-") if spelling.startswith("--") else spelling)


@lru_cache(maxsize=1)
def default_table() -> FlagTable:
    """The table of b11434, from `flags.tsv`: spellings, negative spellings, arity, environment variable."""
    lines = Path(__file__).with_name("flags.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return FlagTable(_flag(s.split(), n.split(), int(arity), env or None) for s, n, arity, env in rows)


def parse_help(text: str) -> FlagTable:
    """The table from what `llama-server --help` prints.

    A flag's line starts in the first column, its help in column 40 or on the next line (`common_arg::to_string`).
    """
    entries: list[list[str]] = []
    for line in text.splitlines():
        if re.match(r"--?[a-zA-Z]", line):
            entries.append([line])
        elif entries:
            entries[-1].append(line)
    return FlagTable(_help_entry(entry) for entry in entries)


def _help_entry(lines: Sequence[str]) -> Flag:
    # the help starts after two blanks at least; before it, only the padding after a short spelling's comma has two
    head = re.split(r"(?<![, ]) {2,}", lines[0], maxsplit=1)[0]
    spellings, hint = re.match(r"((?:-[\w.-]+,? *)+)(.*)", head).groups()  # type: ignore[union-attr]
    names = re.findall(r"-[\w.-]+", spellings)
    arity = 0 if not hint else 2 if re.fullmatch(r"[A-Z]+ [A-Z]+", hint) else 1
    # positive spellings come first and end with a long one: `-kvo, --kv-offload, -nkvo, --no-kv-offload`
    border = max((i for i, n in enumerate(names, 1) if n.startswith("--") and not n.startswith("--no-")), default=0)
    if arity or not any(name.startswith("--no-") for name in names[border:]):
        border = len(names)
    env = re.search(r"^ +\(env: (\w+)\)$", "\n".join(lines), re.MULTILINE)
    return _flag(names[: border or None], names[border:] if border else [], arity, env[1] if env else None)


def _flag(spellings: Sequence[str], negatives: Sequence[str], arity: int, env: str | None) -> Flag:
    name = max(spellings, key=len)
    return Flag(name, tuple(spellings), tuple(negatives), arity, env, name in _REPEATABLE)


def dump(table: FlagTable) -> str:
    """The text of `flags.tsv`."""
    rows = ("\t".join((" ".join(f.spellings), " ".join(f.negatives), str(f.arity), f.env or "")) for f in table.flags)
    return "\n".join(("# spellings\tnegative spellings\tarity\tenvironment", *rows, ""))


def boolean(word: str) -> bool | None:
    """`on`, `true`, `1`, ... and their opposites; None for any other word."""
    return True if word.lower() in _TRUE else False if word.lower() in _FALSE else None


def of_environment(environ: Mapping[str, str], table: FlagTable) -> tuple[Arg, ...]:
    """What a llama-server reads from its environment; it ranks below every argument. Words that mean nothing, it and we
    leave out."""
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
    """Arguments as llama-server reads them, and `--flag=value` besides.

    Raises FlagError for a flag that is not in the table (naming the nearest) and for one without its value. What
    stands after a flag that takes a value is that value, `-1` too, unless it is itself a known flag.
    """
    args: list[Arg] = []
    tokens = iter(argv)
    for token in tokens:
        name, equals, value = token.partition("=") if token.startswith("--") else (token, "", "")
        found = table._lookup(name)
        if found is None:
            raise FlagError(unknown(name, table))
        flag, negated = found
        given = [value] if equals else []
        if flag.arity == 0 and equals:
            wanted = boolean(value)
            if wanted is None:
                raise FlagError(f"{name} is a switch: write {name} alone, or {name}=on or {name}=off")
            args.append(Arg(flag, negated=negated is wanted))
            continue
        while len(given) < flag.arity:
            following = next(tokens, None)
            if following is None or table.find(following):
                raise FlagError(f"{name} needs a value" + (f", but {following} follows it" if following else ""))
            given.append(following)
        args.append(Arg(flag, tuple(given), negated))
    return tuple(args)


def unknown(name: str, table: FlagTable) -> str:
    """The sentence for a word that is no flag."""
    name = name.partition("=")[0]  # the value may be a secret
    near = table.nearest(name)
    kind = "unknown flag" if name.startswith("-") else "unexpected argument"
    if default_table().find(name):
        return f"{kind} {name!r}{ELSEWHERE}"
    return f"{kind} {name[:80]!r}" + (f"; did you mean {near}?" if near and kind == "unknown flag" else "")


def render(args: Iterable[Arg]) -> list[str]:
    """Arguments as llama-server takes them: canonical names, values as tokens of their own."""
    argv: list[str] = []
    for arg in args:
        if not arg.negated:
            argv += (arg.flag.name, *arg.values)
        elif arg.flag.negatives:
            argv.append(max(arg.flag.negatives, key=len))
    return argv


def merge(*layers: Sequence[Arg]) -> tuple[Arg, ...]:
    """A later layer wins flag by flag; what it repeats of a repeatable flag replaces all of the earlier layer's."""
    merged: dict[str, list[Arg]] = {}
    for layer in layers:
        own: dict[str, list[Arg]] = {}
        for arg in layer:
            earlier = own.get(arg.flag.name, []) if arg.flag.repeatable else []
            own[arg.flag.name] = [*earlier, arg]
        merged |= own
    return tuple(arg for group in merged.values() for arg in group)


def is_of(flag: Flag, group: str) -> bool:
    return any(map(GROUPS[group].fullmatch, flag.spellings))


def diff(before: Iterable[Arg], after: Iterable[Arg]) -> dict[str, tuple[str | None, str | None]]:
    """What differs, by flag: as it would be written, before and after; None where it is not given. The order of flags
    means nothing, that of a repeated flag's values does. Secrets are not told."""
    old, new = _written(before), _written(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: (_told(name, old.get(name)), _told(name, new.get(name))) for name in names}


def _told(name: str, words: str | None) -> str | None:
    return f"{name} ***" if words and name in SECRETS else words and without_credentials(words)


def shown(args: Iterable[Arg]) -> tuple[Arg, ...]:
    """The arguments without the secret ones, and without the credentials of URLs."""
    return tuple(
        replace(arg, values=tuple(map(without_credentials, arg.values))) for arg in args if arg.flag.name not in SECRETS
    )


def variable_of(arg: Arg) -> str | None:
    """The variable by which a child gets what a command line would show to everybody on the machine; None for what
    anybody may see, or what no variable says."""
    if arg.flag.name in SECRETS:
        return SECRETS[arg.flag.name]
    has_credentials = any(without_credentials(value) != value for value in arg.values)
    return arg.flag.env if has_credentials else None


def _written(args: Iterable[Arg]) -> dict[str, str]:
    words: dict[str, list[str]] = {}
    for arg in args:
        earlier = words.get(arg.flag.name, []) if arg.flag.repeatable else []
        words[arg.flag.name] = [*earlier, *(render([arg]) or ["off"])]
    return {name: " ".join(told) for name, told in words.items()}


def value_of(args: Iterable[Arg], name: str) -> str | None:
    """The (first) value of the last flag with this spelling, None when it is not there."""
    return next(iter(values_of(args, name)[-1:]), None)


def values_of(args: Iterable[Arg], name: str) -> tuple[str, ...]:
    """Every value that a repeatable flag was given."""
    return tuple(arg.values[0] for arg in args if name in arg.flag.spellings and arg.values)


def switch_of(args: Iterable[Arg], name: str) -> bool | None:
    """Whether the last such switch is on; None when it is not there, and the engine's default holds."""
    states = [not arg.negated for arg in args if name in arg.flag.spellings]
    return states[-1] if states else None


if __name__ == "__main__":
    sys.stdout.write(dump(parse_help(sys.stdin.read())))
