"""What the router was told: command line, then environment, then default; one row an option.

A row stands where its field stands, in `Settings`; `OPTIONS` collects them for the parser, `--help` and the README. The
spellings and variables that llama-server has are llama-server's own.
"""

# ruff: noqa: RUF009 - the calls that give fields their defaults make immutable values

from __future__ import annotations

import logging
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from router import files
from router.access import hosts, origins
from router.engine import flags
from router.engine.flags import Arg, Flag, FlagTable, LoadArgs
from router.errors import FlagError

logger = logging.getLogger("router.settings")


@dataclass(frozen=True, slots=True)
class Kind:
    """`read` turns the word that was given into the value, or raises ValueError; `takes` is for the sentence then."""

    metavar: str
    takes: str
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Option:
    """`default` is written as one would type it. `shared` ones go to the children too."""

    name: str
    spellings: tuple[str, ...]
    negatives: tuple[str, ...]
    env: str
    default: str | None
    kind: Kind
    help: str
    shared: bool

    @property
    def field(self) -> str:
        return self.name.lstrip("-").replace("-", "_")

    @property
    def flag(self) -> Flag:
        arity = 0 if self.kind is SWITCH else 1
        return Flag(self.name, self.spellings, self.negatives, arity, self.env, repeatable=False)


def _number(convert: Callable[[str], float], low: float = 0, high: float = math.inf) -> Callable[[str], float]:
    def read(word: str) -> float:
        number = convert(word)
        if not low <= number <= high or number == math.inf:
            raise ValueError
        return number

    return read


def _words(word: str) -> tuple[str, ...]:
    return tuple(part for raw in word.split(",") if (part := raw.strip()))


def _some_words(word: str) -> tuple[str, ...]:
    if not (words := _words(word)):
        raise ValueError
    return words


def _hosts(word: str) -> tuple[str, ...]:
    return tuple(part if part == "*" else hosts.parse_host_pattern(part) for part in _words(word))


def _origins(word: str) -> tuple[str, ...]:
    for part in (words := _words(word)):
        if part not in ("*", "null", "localhost"):
            origins.origin_pattern(part)
    return words


def _pairs(word: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=")[::2] for part in _words(word)]
    if any(not pattern.strip() or not model.strip() for pattern, model in pairs):
        raise ValueError
    return tuple((pattern.strip(), model.strip()) for pattern, model in pairs)


def _switch(word: str) -> bool:
    if (on := flags.boolean(word)) is None:
        raise ValueError
    return on


def _text(word: str) -> str:
    if not word.strip():
        raise ValueError
    return word


def _header(word: str) -> str:
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]*", word, re.ASCII):
        raise ValueError
    return word


def _level(word: str) -> str:
    if word.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError
    return word.lower()


def _load_args(word: str) -> str:
    if word.lower() not in ("safe", "any", "none"):
        raise ValueError
    return word.lower()


SWITCH = Kind("", "on or off", _switch)
TEXT = Kind("NAME", "a name", _text)
PATH = Kind("PATH", "a path", lambda word: Path(_text(word)).expanduser())
PATTERNS = Kind("PATTERN,...", "patterns with commas between", _words)
ORIGINS = Kind("ORIGIN,...", "origins such as https://example.com, with commas between, localhost or *", _origins)
NAMES = Kind("NAME,...", "names of hosts with commas between, *.example.com or *", _hosts)
HOSTS = Kind("HOST,...", "an address, or several with commas between", _some_words)
KEYS = Kind("KEY,...", "a key, or several with commas between", _some_words)
LOAD_ARGS = Kind("WHICH", "safe, any or none", _load_args)
LEVEL = Kind("LEVEL", "debug, info, warning or error", _level)
PORT = Kind("PORT", "a port, 0 to 65535", _number(int, 0, 65535))
COUNT = Kind("N", "a whole number, 0 or more", _number(int))
SECONDS = Kind("SECONDS", "seconds, 0 or more", _number(float))
WHOLE_SECONDS = Kind("SECONDS", "a whole number of seconds, 1 or more", _number(int, 1))
MAP = Kind("PATTERN=MODEL,...", "PATTERN=MODEL, or several with commas between", _pairs)
MIB = Kind("MIB", "a whole number of MiB, 0 or more", COUNT.read)
MIBS = Kind("MIB,...", "MiB, one number or one for each device", lambda word: tuple(map(COUNT.read, word.split(","))))


def _option(
    spellings: str,
    kind: Kind,
    default: str | None,
    help: str,
    *,
    env: str = "",
    shared: bool = False,
    secret: bool = False,
    absent: Any = None,
) -> Any:
    words = spellings.split()
    positive = tuple(word for word in words if not word.startswith("--no-"))
    name = max(positive, key=len)
    env = env or name.replace("--", "LLAMA_ROUTER_").replace("-", "_").upper()
    option = Option(name, positive, tuple(words[len(positive) :]), env, default, kind, help, shared)
    value = absent if default is None else kind.read(default)
    return field(default=value, metadata={"option": option}, repr=not secret)


@dataclass(frozen=True, slots=True)
class Settings:
    """Memory is MiB and time seconds, as they are typed. `api_key` and `admin_key` hold the keys of their files too."""

    host: tuple[str, ...] = _option("--host", HOSTS, "127.0.0.1", "addresses to listen on", env="LLAMA_ARG_HOST")
    port: int = _option("--port", PORT, "8080", "port to listen on; 0 takes a free one", env="LLAMA_ARG_PORT")
    api_key: tuple[str, ...] = _option(
        "--api-key", KEYS, None, "keys of clients; with none, all may ask", env="LLAMA_API_KEY", secret=True, absent=()
    )
    api_key_file: Path | None = _option(
        "--api-key-file", PATH, None, "file with one key a line; # begins a comment", env="LLAMA_ARG_API_KEY_FILE"
    )
    admin_key: tuple[str, ...] = _option(
        "--admin-key",
        KEYS,
        None,
        "keys that also load, unload, reload, download and delete; with none, every key of a client does",
        secret=True,
        absent=(),
    )
    admin_key_file: Path | None = _option(
        "--admin-key-file", PATH, None, "file with one admin key a line; # begins a comment"
    )
    ssl_key_file: Path | None = _option(
        "--ssl-key-file", PATH, None, "private key for HTTPS, PEM", env="LLAMA_ARG_SSL_KEY_FILE"
    )
    ssl_cert_file: Path | None = _option(
        "--ssl-cert-file", PATH, None, "certificate for HTTPS, PEM", env="LLAMA_ARG_SSL_CERT_FILE"
    )
    cors_origins: tuple[str, ...] = _option(
        "--cors-origins",
        ORIGINS,
        "localhost",
        "origins whose pages may ask, such as https://*.example.com; localhost is any port on loopback, * is any page",
        env="LLAMA_ARG_CORS_ORIGINS",
    )
    allowed_hosts: tuple[str, ...] = _option(
        "--allowed-hosts",
        NAMES,
        None,
        "names beside this machine's own that a router without a key answers to, such as *.example.com; * is any name",
        absent=(),
    )
    timeout: int = _option(
        "-to --timeout",
        WHOLE_SECONDS,
        "3600",
        "a child silent for that long has failed the request",
        env="LLAMA_ARG_TIMEOUT",
        shared=True,
    )
    client_timeout: float = _option(
        "--client-timeout",
        SECONDS,
        "60",
        "a client has so long for the head of a request, and for a body that comes at less than 1 KiB/s; 0 is any time",
    )
    max_connections: int = _option(
        "--max-connections",
        COUNT,
        "0",
        "clients' connections at once; then idle ones are closed for new ones; 0 is what the open files allow for",
    )
    max_body_size: int = _option("--max-body-size", MIB, "64", "greatest request body")
    stream_keepalive: float = _option(
        "--stream-keepalive", SECONDS, "0", "send SSE comments this often while a model loads; 0 is off"
    )
    max_generation_time: float = _option(
        "--max-generation-time",
        SECONDS,
        "600",
        "a request without a token limit may generate for that long; 0 is off",
    )
    log_level: str = _option("--log-level", LEVEL, "info", "what the router logs of itself")
    log_file: Path | None = _option(
        "--log-file", PATH, None, "where the router logs, instead of stderr", env="LLAMA_ARG_LOG_FILE"
    )
    engine: str | None = _option(
        "--engine",
        Kind("PATH", "a path, or embedded", _text),
        None,
        "llama-server to run, or embedded; else the one that is found: LLAMA_SERVER_PATH, PATH, embedded",
    )
    run_dir: Path | None = _option(
        "--run-dir", PATH, None, "folder for the children's sockets; else a private temporary one"
    )
    offline: bool = _option("--offline", SWITCH, "off", "never use the network", env="LLAMA_ARG_OFFLINE", shared=True)
    hub_allow: tuple[str, ...] = _option(
        "--hub-allow",
        PATTERNS,
        None,
        "repositories on the hub that a request may have downloaded by naming them, such as ggml-org/*; else none",
        absent=(),
    )
    hub_fallback: bool = _option(
        "--hub-fallback --no-hub-fallback", SWITCH, "off", "take a smaller quantization if the disk is too small"
    )
    hub_downloads: int = _option("--hub-downloads", COUNT, "2", "how many models are downloaded at once")
    models_dir: Path | None = _option(
        "--models-dir", PATH, None, "folder of models: x.gguf, or a folder each", env="LLAMA_ARG_MODELS_DIR"
    )
    models_preset: Path | None = _option(
        "--models-preset", PATH, None, "INI file that describes models", env="LLAMA_ARG_MODELS_PRESET"
    )
    models_preset_watch: bool = _option(
        "--models-preset-watch --no-models-preset-watch",
        SWITCH,
        "on",
        "whether the INI file is read again when it was written; SIGHUP and POST /models/reload do it too",
    )
    models_max: int = _option(
        "--models-max", COUNT, "4", "how many models run at once; 0 is any number", env="LLAMA_ARG_MODELS_MAX"
    )
    models_autoload: bool = _option(
        "--models-autoload --no-models-autoload",
        SWITCH,
        "on",
        "whether a request loads its model",
        env="LLAMA_ARG_MODELS_AUTOLOAD",
    )
    models_default: str | None = _option(
        "--models-default", TEXT, None, "model of requests that name none; a single model needs no such default"
    )
    claude_map: tuple[tuple[str, str], ...] = _option(
        "--claude-map",
        MAP,
        None,
        "models for names that Anthropic's clients ask for, as claude-*=NAME; the first pattern that fits counts",
        absent=(),
    )
    load_args: LoadArgs = _option(
        "--load-args",
        LOAD_ARGS,
        "safe",
        "what a load request may set by extra_args: safe is what computes and answers, any is all but the router's "
        "own, or none",
    )
    models_memory_margin: tuple[int, ...] = _option(
        "--models-memory-margin",
        MIBS,
        "1024",
        "MiB that stay free: one number, or one for each GPU and then RAM; 0 checks no memory",
    )
    models_memory_limit: int | None = _option(
        "--models-memory-limit", MIB, None, "MiB of RAM that models may take; else what the machine has"
    )
    models_ttl: float = _option("--models-ttl", SECONDS, "0", "end a model that was idle for that long; 0 is never")
    models_queue_max: int = _option(
        "--models-queue-max", COUNT, "256", "requests that may wait for a model; 0 lets none wait for another model"
    )
    models_queue_bytes: int = _option(
        "--models-queue-bytes", MIB, "1024", "MiB of request bodies that may be held at once; 0 is no bound"
    )
    models_queue_timeout: float = _option(
        "--models-queue-timeout", SECONDS, "300", "longest wait of a request until its model is ready"
    )
    models_load_timeout: float = _option(
        "--models-load-timeout", SECONDS, "600", "a load without a sign of life for that long has failed"
    )
    models_drain_grace: float = _option(
        "--models-drain-grace",
        SECONDS,
        "10",
        "a busy model takes new requests for that long while another one waits for its room",
    )
    task_header: str = _option(
        "--task-header",
        Kind("NAME", "the name of a header, or nothing", _header),
        "X-Task",
        "requests with this header are background tasks: they come after all others; empty turns it off",
    )
    task_grace: float = _option(
        "--task-grace",
        SECONDS,
        "60",
        "no model goes for a background task that another request used within that time; 0 is off",
    )
    models_finish_loads: bool = _option(
        "--models-finish-loads --no-models-finish-loads",
        SWITCH,
        "on",
        "whether a load goes on when nobody waits for it any more",
    )


OPTIONS: tuple[Option, ...] = tuple(f.metadata["option"] for f in fields(Settings))

_KEY_OPTIONS = frozenset({"--api-key", "--api-key-file", "--admin-key", "--admin-key-file"})

# llama-server's flags that mean nothing here, in command lines that people have.
_WITHOUT_EFFECT = flags.DROPPED | {"--cors-credentials", "--cors-headers", "--cors-methods"}


def parse(argv: Sequence[str], environ: Mapping[str, str], table: FlagTable) -> tuple[Settings, tuple[Arg, ...]]:
    """Our settings, and llama-server's arguments for all children.

    These still hold `--model`, `--hf-repo` and `--alias`, with which one serves a single model. Raises FlagError.
    """
    whole = FlagTable([*table.flags, *(option.flag for option in OPTIONS if not table.find(option.name))])
    args = flags.parse(argv, whole)
    values: dict[str, Any] = {}  # fields of Settings, each as its Kind read it
    for option in OPTIONS:
        if said := _said(option, args, environ):
            values[option.field] = _read(option, *said)
    for kind in ("api_key", "admin_key"):
        if path := values.get(f"{kind}_file"):
            values[kind] = (*values.get(kind, ()), *_keys(path, f"--{kind}_file".replace("_", "-")))
    if ("ssl_key_file" in values) != ("ssl_cert_file" in values):
        raise FlagError("HTTPS needs both --ssl-key-file and --ssl-cert-file")
    return Settings(**values), tuple(arg for arg in args if _is_for_children(arg))


def _said(option: Option, args: Sequence[Arg], environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The word and where it was said; None leaves the default. An empty variable says nothing, but for a key's."""
    given = [arg for arg in args if option.name in arg.flag.spellings]
    if given and option.kind is SWITCH:
        return "off" if given[-1].negated else "on", option.name
    if given:
        words = flags.values_of(given, option.name)
        return ",".join(words if given[-1].flag.repeatable else words[-1:]), option.name
    opposite = option.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")
    if option.negatives and opposite != option.env and opposite in environ:
        return "off", opposite
    word = environ.get(option.env)
    if word is not None and not word.strip(", \t\r\n") and option.name in _KEY_OPTIONS:
        # Whoever set it meant to lock the door, and it would stand open.
        raise FlagError(f"{option.env} is empty: give it {option.kind.takes}, or unset it to do without {option.name}")
    return (word, option.env) if word else None


def _read(option: Option, word: str, source: str) -> Any:
    try:
        return option.kind.read(word)
    except ValueError:
        raise FlagError(f"{source} takes {option.kind.takes}, not {word[:80]!r}") from None


LARGEST_KEYS = 1 << 20  # bytes of a file of keys


def _keys(path: Path, flag: str) -> tuple[str, ...]:
    try:
        lines = files.secret(path, LARGEST_KEYS).decode().splitlines()
    except OSError as error:
        raise FlagError(f"cannot read {flag} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FlagError(f"cannot read {flag} {path}: it is no text; write one key a line") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise FlagError(f"{flag} {path} holds no key: write one a line, or leave the flag out")
    return keys


def _is_for_children(arg: Arg) -> bool:
    name = arg.flag.name
    option = next((option for option in OPTIONS if option.name in arg.flag.spellings), None)
    if option:
        return option.shared
    if name == "--alias" or name not in flags.OWNED:
        return True
    if name not in _WITHOUT_EFFECT:
        raise FlagError(f"{name} is not for a router: leave it out, or ask llama-server itself")
    logger.warning("%s has no effect on a router", name)
    return False


def help_text() -> str:
    """The options, as `--help` tells them."""
    lines: list[str] = []
    for option in OPTIONS:
        left = f"{', '.join((*option.spellings, *option.negatives))} {option.kind.metavar}".rstrip()
        default = f"default: {option.default}, " if option.default else ""
        right = textwrap.wrap(f"{option.help} ({default}${option.env})", 68)
        if len(left) > 30:
            lines.append(left)
            left = ""
        lines += (f"{word:<32}{text}" for word, text in zip((left, *[""] * len(right)), right, strict=False))
    lines += ("", "Every other flag of llama-server goes to all models; llama-server --help tells them.")
    return "\n".join(lines)
