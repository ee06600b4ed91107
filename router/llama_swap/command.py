"""PURE: a command line of llama-swap, to the arguments of the llama-server that it would start.

The command is split as a shell would, without variables: comments and `\\` at the ends of lines are left out. Programs
that only start another one (`env`, `nice`, `taskset`, ...) are stepped over, and so are containers of llama.cpp's
images, whose folders are translated to those of the machine. Called by `model`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

SERVER = re.compile(r"llama-server(?:[-_.].*)?", re.IGNORECASE)
MAX_WORDS = 2000
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_WINDOWS_PATH = re.compile(r"(?:^|[\s\"'=])[A-Za-z]:\\|\.exe\b", re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Programs that start the one behind their options.
_WRAPPERS = _words("""
    env nice ionice taskset numactl nohup stdbuf setsid chrt timeout time exec sudo doas prlimit setpriv systemd-run
    systemd-inhibit caffeinate gamemoderun unbuffer start toolbox distrobox distrobox-enter
""")
_SHELLS = frozenset(["sh", "bash", "dash", "zsh", "ash", "ksh"])
# What a shell would do, and this module does not.
_SHELL_SYNTAX = re.compile(r"[;|&<>`\n]|\$\(|\$[A-Za-z_]")
_CONTAINERS = frozenset(["docker", "podman", "nerdctl"])
# Switches of `docker run`. Every other option of it takes a value.
_CONTAINER_SWITCHES = _words("""
    --rm --init --detach --interactive --tty --privileged --read-only -P --publish-all --no-healthcheck
    --oom-kill-disable --replace --quiet -q --sig-proxy --tls-verify --disable-content-trust --no-hosts --rmi
    --no-hostname
""")
_IMAGE = re.compile(r"llama[._-]?cpp|llama-server", re.IGNORECASE)


class NotLlamaServer(Exception):
    """The message is the end of a sentence that begins with `its command`."""


@dataclass(frozen=True, slots=True)
class Command:
    """`program` is the llama-server, `image` the container that it runs in.

    `argv` are its arguments, without the program.
    `env` are variables that the command sets.
    `mounts` are pairs: a folder as the container sees it, and the machine's folder.
    `left_out` are sentences about what the command does besides.
    """

    program: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    image: str | None = None
    mounts: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:  # arguments may be secrets
        return f"<Command {self.image or self.program}, {len(self.argv)} words>"

    def outside(self, path: str) -> str | None:
        """The path on the machine; None for one that only the container has."""
        if self.image is None:
            return path
        for inside, outside in sorted(self.mounts, key=lambda pair: -len(pair[0])):
            if path == inside or path.startswith(inside.rstrip("/") + "/"):
                return outside.rstrip("/") + path[len(inside.rstrip("/")) :]
        return None


def read(text: str) -> Command:
    """Raises NotLlamaServer."""
    return _read(split(text), (), (), 0)


def split(text: str) -> list[str]:
    """The words of a command. Raises NotLlamaServer for quotes that do not end."""
    joined = "\n".join(re.sub(r"\\\s*$", " ", line) for line in without_comments(text).splitlines())
    lexer = shlex.shlex(joined, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if _WINDOWS_PATH.search(joined):
        lexer.escape = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise NotLlamaServer(f"cannot be split into words ({str(error).lower()})") from error
    if len(words) > MAX_WORDS:
        raise NotLlamaServer(f"has more than {MAX_WORDS} words")
    return words


def without_comments(text: str) -> str:
    """The text without the lines that are comments."""
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))


def _read(words: Sequence[str], env: tuple[tuple[str, str], ...], left_out: tuple[str, ...], depth: int) -> Command:
    while words and (found := _ASSIGNMENT.fullmatch(words[0])):
        env, words = (*env, (found[1], found[2])), words[1:]
    if not words:
        raise NotLlamaServer("is empty")
    program, name = words[0], base_name(words[0])
    if SERVER.fullmatch(name) or (name in ("server", "server.exe") and "llama" in program.lower()):
        return Command(program, tuple(words[1:]), env, left_out=left_out)
    if name in _CONTAINERS:
        return _container(name, words[1:], env, left_out)
    if name in _SHELLS and depth < 3:
        return _read(_script(name, words[1:]), env, left_out, depth + 1)
    if name in _WRAPPERS and depth < 10:
        return _wrapped(words, env, left_out, depth)
    raise NotLlamaServer(f"runs {_shown(name)}, which is not llama-server")


def _wrapped(words: Sequence[str], env: tuple[tuple[str, str], ...], left_out: tuple[str, ...], depth: int) -> Command:
    """What stands behind the options of a wrapper: they end where a program begins that is known."""
    name = base_name(words[0])
    for index, word in enumerate(words[1:], 1):
        following = base_name(word)
        if SERVER.fullmatch(following) or following in _CONTAINERS | _SHELLS | _WRAPPERS:
            given = words[1:index]
            pairs = [found for option in given if (found := _ASSIGNMENT.fullmatch(option))]
            env = (*env, *((found[1], found[2]) for found in pairs))
            rest = [option for option in given if not _ASSIGNMENT.fullmatch(option)]
            if name != "env" or rest:
                said = " ".join((name, *rest))
                left_out = (*left_out, f"{_shown(said)}: the router starts llama-server itself")
            return _read(words[index:], env, left_out, depth + 1)
    raise NotLlamaServer(f"runs {_shown(name)} without llama-server behind it")


def _script(shell: str, words: Sequence[str]) -> list[str]:
    """The one command of `sh -c "..."`."""
    options = 0
    while options < len(words) and words[options].startswith("-"):
        options += 1
    if options == 0 or "c" not in words[options - 1] or options >= len(words):
        raise NotLlamaServer(f"runs a script of {shell}, which is not read")
    script = re.sub(r"\s*2>&1\s*$", "", words[options].strip())
    script = re.sub(r"\\\n", " ", script)
    if _SHELL_SYNTAX.search(re.sub(r"'[^']*'", "", script)):
        raise NotLlamaServer(f"needs a shell: {_shown(script)}")
    return split(script)


def _container(name: str, words: Sequence[str], env: tuple[tuple[str, str], ...], left_out: tuple[str, ...]) -> Command:
    if "run" not in words:
        raise NotLlamaServer(f"is no `{name} run`")
    words = words[words.index("run") + 1 :]
    mounts: list[tuple[str, str]] = []
    others: list[str] = []
    entrypoint, index = "", 0
    while index < len(words) and words[index].startswith("-"):
        option, equals, value = words[index].partition("=")
        index += 1
        if not equals and re.fullmatch(r"-[vepwu].+", option):  # -v/models:/models
            option, value = option[:2], option[2:]
        elif not equals and option not in _CONTAINER_SWITCHES and not re.fullmatch(r"-[dit]+", option):
            value, index = words[index] if index < len(words) else "", index + 1
        match option:
            case "-v" | "--volume":
                mounts += _volume(value)
            case "--mount":
                mounts += _mount(value)
            case "-e" | "--env" if found := _ASSIGNMENT.fullmatch(value):
                env = (*env, (found[1], found[2]))
            case "-e" | "--env" | "--env-file":
                left_out = (*left_out, f"{option} {_shown(value)}: set it in the router's environment")
            case "--entrypoint":
                entrypoint = value
            case _:
                others.append(option)
    if index >= len(words):
        raise NotLlamaServer(f"is a `{name} run` without an image")
    image, argv = words[index], list(words[index + 1 :])
    if (argv and SERVER.fullmatch(base_name(argv[0]))) or (argv and argv[0] in ("--server", "-s") and ":full" in image):
        argv = argv[1:]
    elif not SERVER.fullmatch(base_name(entrypoint)) and (entrypoint or not _IMAGE.search(image) or ":light" in image):
        raise NotLlamaServer(f"runs the container {_shown(entrypoint or image)}, which is not llama-server")
    said = f"the container {_shown(image)}: the router runs llama-server without one"
    if others:
        said += f" (left out: {' '.join(dict.fromkeys(others))})"
    return Command(base_name(image), tuple(argv), env, image, tuple(mounts), (*left_out, said))


def _volume(value: str) -> list[tuple[str, str]]:
    """`HOST:INSIDE[:ro]`. A volume with a name has no folder that can be known."""
    found = re.fullmatch(r"((?:[A-Za-z]:)?[^:]*):(/[^:]*)(?::.*)?", value)
    return [(found[2], found[1])] if found and re.search(r"[/\\~.]|^\ufdd0", found[1]) else []


def _mount(value: str) -> list[tuple[str, str]]:
    parts = dict(part.partition("=")[::2] for part in value.split(","))
    source, target = parts.get("source") or parts.get("src"), parts.get("target") or parts.get("dst")
    return [(target, source)] if parts.get("type", "bind") == "bind" and source and target else []


def base_name(word: str) -> str:
    return re.split(r"[/\\]", word)[-1].removesuffix(".EXE")


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
