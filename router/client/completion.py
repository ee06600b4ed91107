"""`completion`: scripts for shells, and the words that they ask for.

The scripts know nothing: with every press of the key they run this program, which knows its commands, flags and, from
the running router, the names of models. What has been typed so far may hold a key, so it goes there by a variable and
not on a command line, which everybody on the machine can read. A router that does not answer at once costs only the
names. Names that cannot be typed are left out; the scripts quote what a shell would obey.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from router.client import options
from router.client.options import Own
from router.engine import flags
from router.errors import FlagError, RouterError
from router.logs.letters import visible

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_LLAMA_ROUTER_WORDS"
SEPARATOR = "\x1f"
FILES = "\x1ffiles"  # instead of words: the shell completes the names of files
TIMEOUT_S = 0.5
WITH_MODELS = {"load": 1, "unload": 0, "logs": 1, "run": 1}  # how many of a command's words are models; 0: all


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    words = options.read("completion", argv, most=1)
    if words.words == ("words",) and VARIABLE in environ:
        print("\n".join(suggestions(environ[VARIABLE].split(SEPARATOR), environ)))
        return 0
    if not words.words or words.words[0] not in SHELLS:
        raise FlagError(f"name a shell: llama-router completion {'|'.join(SHELLS)}")
    script = Path(__file__).with_name("scripts") / f"completion.{words.words[0]}"
    sys.stdout.write(script.read_text(encoding="utf-8"))
    return 0


def suggestions(line: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """What may stand at the end of the line in place of its last word, which is not finished."""
    *before, word = line[1:] or [""]
    command = before[0] if before and not before[0].startswith("-") else ""
    if not before and not word.startswith("-"):
        return _starting(word, sorted((*options.FLAGS, *options.OTHERS)))
    if command == "completion":
        return _starting(word, SHELLS)
    known = options.flags_of(command) if command in options.FLAGS else _others(command)
    last = before[-1] if before else ""
    if own := next((own for own in known if own.takes and last and last in (own.short, own.name)), None):
        return _values(own, word)
    if word.startswith("-"):
        engine = (flag.name for flag in options.table_of(command).flags) if command == "load" else ()
        return _starting(word, sorted({own.name for own in known}.union(engine, ("--help",))))
    if command in WITH_MODELS and "--" not in before:
        given = _words(before[1:], known)
        if not WITH_MODELS[command] or len(given) < WITH_MODELS[command]:
            return _starting(word, (name for name in _models(command, before, environ) if name not in given))
    return [] if command in options.FLAGS else [FILES]


def _starting(word: str, known: Sequence[str] | Iterator[str] | Mapping[str, object]) -> list[str]:
    return [each for each in known if each.startswith(word)]


def _others(command: str) -> tuple[Own, ...]:
    """The options of the router, which most other commands take too."""
    from router.settings import OPTIONS

    paths = ("PATH", "PATH,...", "[DIR]")
    own = [
        Own(spelling, option.kind.metavar, option.help, completes="file" if option.kind.metavar in paths else "")
        for option in OPTIONS
        for spelling in (*option.spellings, *option.negatives)
        if spelling.startswith("--")
    ]
    engine = [
        Own(flag.name, "N" if flag.arity else "", "")
        for flag in flags.default_table().flags
        if not command or command == "serve"
    ]
    return (*{each.name: each for each in (*engine, *own)}.values(), options.JSON, Own("--help", "", ""))


def _values(own: Own, word: str) -> list[str]:
    if own.completes == "file":
        return [FILES]
    if own.name.startswith("--cache-type"):
        return _starting(word, ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"))
    if own.name == "--think":
        return _starting(word, ("on", "off", "low", "medium", "high"))
    return []


def _words(before: Sequence[str], known: Sequence[Own]) -> list[str]:
    """Those that are no flags and no values of flags."""
    valued = {spelling for own in known if own.takes for spelling in (own.short, own.name) if spelling}
    return [
        word
        for previous, word in zip(["", *before], before, strict=False)
        if not word.startswith("-") and previous not in valued
    ]


def _models(command: str, before: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The names of models from the router that this line means; none if it does not answer at once."""
    from router.client import target
    from router.client.session import Session

    try:
        words = options.read(command, [word for word in before[1:] if word != "--"])
        with Session(target.find(words, environ), TIMEOUT_S) as session:
            found = session.json("GET", "/models").get("data")
    except RouterError:
        return []
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    if command in ("unload", "logs"):
        running = [entry for entry in entries if _state(entry) != "unloaded"]
        entries = running or (entries if command == "logs" else [])
    names = [str(name) for entry in entries for name in (entry.get("id"), *(entry.get("aliases") or ())) if name]
    # What begins as a flag would be one: no model's name may say where the key goes.
    return [name for name in names if visible(name) == name and not name.startswith("-")]


def _state(entry: Mapping[str, object]) -> str:
    status = entry.get("status")
    return str(status.get("value")) if isinstance(status, dict) else "unloaded"
