"""What a command line and the environment set: one frozen `Settings`, and llama-server's arguments for all children.

The command line wins over the environment, which wins over the file of `--config`, which wins over the default. Each
option is one row, where its field stands in `Settings`; `OPTIONS` collects the rows for the parser, for `--help`, for
that file, and for the README, whose table a test compares. An option that llama-server has too has the same spellings
and the same variable. Called at the start.
"""

# ruff: noqa: RUF009 - the calls that give fields their defaults make immutable values

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from router import config, key_file, options
from router.config import Config
from router.engine import flags
from router.engine.allowlist import LoadArgs
from router.engine.flags import Arg, FlagTable
from router.errors import FlagError
from router.options import (
    COUNT,
    ENGINE,
    HEADER,
    HOSTS,
    KEYS,
    LEVEL,
    LOAD_ARGS,
    LOG_ENGINES,
    LOG_FORMAT,
    LOG_REQUESTS,
    MIB,
    MIBS,
    MODEL_MAP,
    NAMES,
    ORIGINS,
    PATH,
    PATHS,
    PATTERNS,
    PORT,
    PREFIX,
    SECONDS,
    SHOWN_CHARACTERS,
    STORE,
    SWITCH,
    TEXT,
    URL,
    WHOLE_SECONDS,
    Option,
    row,
)

logger = logging.getLogger("router.settings")


@dataclass(frozen=True, slots=True)
class Settings:
    """All options of the router.

    Memory is in MiB and time in seconds, as users type them. `api_key` and `admin_key` include the keys of their files.
    """

    config: Path | None = row(
        "--config",
        PATH,
        None,
        "INI file with settings of this table: a line is a flag without its dashes, = and its value; it is read at the "
        "start alone",
    )
    host: tuple[str, ...] = row(
        "--host", HOSTS, "127.0.0.1", "addresses to listen on; :: means all, of IPv4 too", env="LLAMA_ARG_HOST"
    )
    port: int = row("--port", PORT, "8080", "port to listen on; 0 takes a free one", env="LLAMA_ARG_PORT")
    reuse_port: bool = row(
        "--reuse-port", SWITCH, "off", "let other programs of this user share the port", env="LLAMA_ARG_REUSE_PORT"
    )
    api_prefix: str = row(
        "--api-prefix",
        PREFIX,
        None,
        "what stands before every path, such as /llm; no path is served without it",
        env="LLAMA_ARG_API_PREFIX",
        absent="",
    )
    api_key: tuple[str, ...] = row(
        "--api-key",
        KEYS,
        None,
        "keys of clients; without any, every client is served",
        env="LLAMA_API_KEY",
        secret=True,
        absent=(),
    )
    api_key_file: Path | None = row(
        "--api-key-file", PATH, None, "file with one key a line; # begins a comment", env="LLAMA_ARG_API_KEY_FILE"
    )
    admin_key: tuple[str, ...] = row(
        "--admin-key",
        KEYS,
        None,
        "keys that may also load, unload, reload, download and delete; without any, every client key may",
        secret=True,
        absent=(),
    )
    admin_key_file: Path | None = row(
        "--admin-key-file", PATH, None, "file with one admin key a line; # begins a comment"
    )
    ssl_key_file: Path | None = row(
        "--ssl-key-file", PATH, None, "private key for HTTPS, as PEM", env="LLAMA_ARG_SSL_KEY_FILE"
    )
    ssl_cert_file: Path | None = row(
        "--ssl-cert-file", PATH, None, "certificate for HTTPS, as PEM", env="LLAMA_ARG_SSL_CERT_FILE"
    )
    cors_origins: tuple[str, ...] = row(
        "--cors-origins",
        ORIGINS,
        "localhost",
        "origins whose pages may send requests, such as https://*.example.com; localhost means any port on loopback, "
        "* any page",
        env="LLAMA_ARG_CORS_ORIGINS",
    )
    allowed_hosts: tuple[str, ...] = row(
        "--allowed-hosts",
        NAMES,
        None,
        "host names, besides this machine's own, to which a router without a key answers, such as *.example.com; "
        "* means any name",
        absent=(),
    )
    ui: bool = row(
        "--ui --webui --no-ui --no-webui",
        SWITCH,
        "on",
        "show llama.cpp's chat page to browsers at /",
        env="LLAMA_ARG_UI",
        other_variables=("LLAMA_ARG_WEBUI",),  # its older name
    )
    timeout: int = row(
        "-to --timeout",
        WHOLE_SECONDS,
        "3600",
        "a request fails if its child sends nothing for this long",
        env="LLAMA_ARG_TIMEOUT",
        shared=True,
    )
    client_timeout: float = row(
        "--client-timeout",
        SECONDS,
        "60",
        "how long a client may take for the head of a request, and for a body slower than 1 KiB/s; 0 means any time",
    )
    max_connections: int = row(
        "--max-connections",
        COUNT,
        "0",
        "most connections of clients at once; then idle ones are closed for new ones; 0 means as many as the limit of "
        "open files allows",
    )
    max_body_size: int = row("--max-body-size", MIB, "64", "largest request body, in MiB")
    stream_keepalive: float = row(
        "--stream-keepalive", SECONDS, "0", "send SSE comments this often while a model loads; 0 turns them off"
    )
    max_generation_time: float = row(
        "--max-generation-time",
        SECONDS,
        "600",
        "longest generation for a request without a token limit; 0 means any time",
    )
    shutdown_delay: float = row(
        "--shutdown-delay",
        SECONDS,
        "0",
        "after SIGTERM, requests are served for this long while /readyz says 503, so that a load balancer notices",
    )
    shutdown_grace: float = row(
        "--shutdown-grace",
        SECONDS,
        "30",
        "how long running requests may take to finish when the router ends; a second signal ends them at once",
    )
    log_level: str = row("--log-level", LEVEL, "info", "the least severe messages that the router logs")
    log_file: Path | None = row(
        "--log-file", PATH, None, "file to which the router logs, instead of stderr", env="LLAMA_ARG_LOG_FILE"
    )
    log_format: str = row(
        "--log-format", LOG_FORMAT, "text", "lines of the log as text, or as JSON: one object a line, for programs"
    )
    log_requests: str = row(
        "--log-requests",
        LOG_REQUESTS,
        "off",
        "a line for each request that has ended: off, errors for those that failed, or all",
    )
    log_engines: str = row(
        "--log-engines",
        LOG_ENGINES,
        "off",
        "what the models' processes write goes to the log too: off, warn for warnings and errors, or all; "
        "GET /models/NAME/log has it in any case",
    )
    otel_endpoint: str | None = row(
        "--otel-endpoint",
        URL,
        None,
        "collector of OpenTelemetry that gets a trace of each request, such as http://localhost:4318; it needs "
        "the extra otel",
        secret=True,
    )
    engine: str | None = row(
        "--engine",
        ENGINE,
        None,
        "llama-server to run, or embedded; by default the first that is found: LLAMA_SERVER_PATH, PATH, embedded",
    )
    run_dir: Path | None = row(
        "--run-dir", PATH, None, "folder for the children's sockets; by default a private temporary one"
    )
    offline: bool = row("--offline", SWITCH, "off", "never use the network", env="LLAMA_ARG_OFFLINE", shared=True)
    hub_allow: tuple[str, ...] = row(
        "--hub-allow",
        PATTERNS,
        None,
        "repositories on the hub that a request may download by naming them, such as ggml-org/*; by default none",
        absent=(),
    )
    hub_fallback: bool = row(
        "--hub-fallback --no-hub-fallback", SWITCH, "off", "download a smaller quantization if the disk is too small"
    )
    hub_downloads: int = row("--hub-downloads", COUNT, "2", "how many models are downloaded at once")
    models_dir: Path | tuple[Path, ...] | None = row(
        "--models-dir",
        PATHS,
        None,
        "folder of models: x.gguf, x/ with its files, or publisher/x/; may be given several times",
        env="LLAMA_ARG_MODELS_DIR",
    )
    ollama_models: str | None = row(
        "--ollama-models",
        STORE,
        None,
        "serve the models of Ollama's store, which is only read; without DIR, or with auto, that of its usual places",
    )
    lmstudio_models: str | None = row(
        "--lmstudio-models",
        STORE,
        None,
        "serve the models of LM Studio's folder, which is only read; without DIR, or with auto, where it keeps them",
    )
    models_preset: Path | tuple[Path, ...] | None = row(
        "--models-preset",
        PATHS,
        None,
        "INI file that describes models, or a folder of them; may be given several times, and later files win",
        env="LLAMA_ARG_MODELS_PRESET",
    )
    models_preset_watch: bool = row(
        "--models-preset-watch --no-models-preset-watch",
        SWITCH,
        "on",
        "read the INI file again when it changes; SIGHUP and POST /models/reload do it too",
    )
    models_max: int = row(
        "--models-max", COUNT, "4", "how many models run at once; 0 means any number", env="LLAMA_ARG_MODELS_MAX"
    )
    models_autoload: bool = row(
        "--models-autoload --no-models-autoload",
        SWITCH,
        "on",
        "load the model that a request names",
        env="LLAMA_ARG_MODELS_AUTOLOAD",
    )
    models_default: str | None = row(
        "--models-default", TEXT, None, "model of requests that name none; a single model is the default anyway"
    )
    claude_map: tuple[tuple[str, str], ...] = row(
        "--claude-map",
        MODEL_MAP,
        None,
        "models for the names that Anthropic's clients use, such as claude-*=NAME; the first match counts",
        absent=(),
    )
    load_args: LoadArgs = row(
        "--load-args",
        LOAD_ARGS,
        "safe",
        "flags that extra_args of a load request may set: safe means those that only decide how a model computes and "
        "answers, any means all but the router's own, or none",
    )
    models_memory_margin: tuple[int, ...] = row(
        "--models-memory-margin",
        MIBS,
        "1024",
        "MiB that stay free: one number, or one for each GPU and then RAM; 0 turns memory checks off",
        other_variables=("LLAMA_ARG_MODELS_MEMORY_MARGIN",),  # llama.cpp's own name
    )
    models_memory_limit: int | None = row(
        "--models-memory-limit", MIB, None, "MiB of RAM that models may use; by default all that the machine has"
    )
    models_cache_ram: int | None = row(
        "--models-cache-ram",
        MIB,
        None,
        "most MiB of RAM for the prompt caches of all models together; by default each gets a quarter of what is left",
    )
    models_pressure: bool = row(
        "--models-pressure --no-models-pressure",
        SWITCH,
        "off",
        "stop idle models when other programs take the memory that is to stay free",
    )
    models_ttl: float = row("--models-ttl", SECONDS, "0", "unload a model idle for this long; 0 means never")
    models_queue_max: int = row(
        "--models-queue-max", COUNT, "256", "how many requests may wait for room for their models; with 0 none waits"
    )
    models_queue_bytes: int = row(
        "--models-queue-bytes", MIB, "1024", "MiB of request bodies that may be held at once; 0 means any amount"
    )
    models_queue_timeout: float = row(
        "--models-queue-timeout", SECONDS, "300", "how long a request may wait until its model is ready"
    )
    models_load_timeout: float = row(
        "--models-load-timeout", SECONDS, "600", "a load fails if its process shows no sign of life for this long"
    )
    models_drain_grace: float = row(
        "--models-drain-grace",
        SECONDS,
        "10",
        "a busy model still takes new requests for this long while another model waits for its memory",
    )
    models_drain_timeout: float = row(
        "--models-drain-timeout",
        SECONDS,
        "0",
        "the requests on a busy model are cut off when another model has waited this long for their end; 0 means never",
    )
    models_min_loaded: float = row(
        "--models-min-loaded",
        SECONDS,
        "0",
        "a model stays for this long after its load, unless nothing else can make room in time",
    )
    models_health_timeout: float = row(
        "--models-health-timeout",
        SECONDS,
        "30",
        "a model's process that shows no sign of life for this long while requests run on it is ended; 0 means never",
    )
    task_header: str = row(
        "--task-header",
        HEADER,
        "X-Task",
        "requests with this header are background tasks, which queue behind all others; empty turns this off",
    )
    task_grace: float = row(
        "--task-grace",
        SECONDS,
        "60",
        "a background task evicts no model that another request has used within this time; 0 turns this off",
    )
    models_finish_loads: bool = row(
        "--models-finish-loads --no-models-finish-loads",
        SWITCH,
        "on",
        "finish a load even if no request waits for it any more",
    )


OPTIONS: tuple[Option, ...] = tuple(f.metadata["option"] for f in fields(Settings))

_KEY_OPTIONS = frozenset({"--api-key", "--api-key-file", "--admin-key", "--admin-key-file"})

# Flags of llama-server that mean nothing here, but stand in command lines that people have. They cost a warning.
_WITHOUT_EFFECT = flags.DROPPED | {"--cors-credentials", "--cors-headers", "--cors-methods"}


def given_early(name: str, argv: Sequence[str]) -> str | None:
    """The value of a flag that decides how all others are read, before they are."""
    found = None
    for token, following in itertools.zip_longest(argv, argv[1:]):
        if token == name:
            found = following
        elif token.startswith(f"{name}="):
            found = token.partition("=")[2]
    return found


def config_path(argv: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    """The file of `--config`. Raises FlagError."""
    option = next(option for option in OPTIONS if option.name == config.OWN_FLAG)
    word, source = given_early(option.name, argv), option.name
    if word is None:
        word, source = environ.get(option.env) or None, option.env
    return None if word is None else _read(option, word, source)


def read_config(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """What the file of `--config` says; nothing without one. Raises FlagError."""
    path = config_path(argv, environ)
    return config.read(path, OPTIONS) if path else Config()


def parse(
    argv: Sequence[str], environ: Mapping[str, str], table: FlagTable, read: Config | None = None
) -> tuple[Settings, tuple[Arg, ...]]:
    """The router's settings, and llama-server's arguments for all children. Raises FlagError.

    `read` is the file of `--config`, if it has been read already. The arguments still include `--model`, `--hf-repo`
    and `--alias`, which serve a single model.
    """
    whole = FlagTable([*table.flags, *(option.flag for option in OPTIONS if not table.find(option.name))])
    args = flags.parse(argv, whole)
    file = read_config(argv, environ) if read is None else read
    values: dict[str, Any] = {}  # fields of Settings, each as its Kind read it
    shared: list[Arg] = []  # what the file says of options that children get too
    for option in OPTIONS:
        if found := _word_of(option, args, environ):
            values[option.field] = _read(option, *found)
        elif word := file.words.get(option.name):
            values[option.field] = _read(option, word.text, word.source)
            if option.shared:
                shared += _as_argument(option, word.text)
    for kind in ("api_key", "admin_key"):
        if path := values.get(f"{kind}_file"):
            flag = f"--{kind}_file".replace("_", "-")
            values[kind] = (*values.get(kind, ()), *key_file.read(path, flag))
    if ("ssl_key_file" in values) != ("ssl_cert_file" in values):
        raise FlagError("HTTPS needs both --ssl-key-file and --ssl-cert-file")
    return Settings(**values), (*shared, *(arg for arg in args if _is_for_children(arg)))


def _as_argument(option: Option, word: str) -> list[Arg]:
    """The option as children get it. A switch that is off is their default."""
    if option.kind is SWITCH:
        return [Arg(option.flag)] if flags.boolean(word) else []
    return [Arg(option.flag, (word,))]


def _word_of(option: Option, args: Sequence[Arg], environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The word that sets the option, and the flag or variable that it comes from; None if neither does.

    An empty variable counts as unset, except that of a key: it raises FlagError.
    """
    given = [arg for arg in args if option.name in arg.flag.spellings]
    if given and option.kind is SWITCH:
        return "off" if given[-1].negated else "on", option.name
    if given:
        words = flags.values_of(given, option.name) or (option.kind.implied,)
        return ",".join(words if given[-1].flag.repeatable else words[-1:]), option.name
    if option.opposite and option.opposite in environ:
        return "off", option.opposite
    word = environ.get(option.env)
    if word is not None and not word.strip(", \t\r\n") and option.name in _KEY_OPTIONS:
        # The user wanted to lock the router; taking the variable for unset would leave it open.
        raise FlagError(f"{option.env} is empty: give it {option.kind.takes}, or unset it to do without {option.name}")
    named = next((name for name in (option.env, *option.other_variables) if environ.get(name)), None)
    return (environ[named], named) if named else None


def _read(option: Option, word: str, source: str) -> Any:
    try:
        return option.kind.read(word)
    except ValueError:
        raise FlagError(f"{source} takes {option.kind.takes}, not {word[:SHOWN_CHARACTERS]!r}") from None


def _is_for_children(arg: Arg) -> bool:
    """Whether the argument is passed on to the children. Raises FlagError for one that no router can obey."""
    name = arg.flag.name
    option = next((option for option in OPTIONS if option.name in arg.flag.spellings), None)
    if option:
        return option.shared
    if name == "--alias" or name not in flags.OWNED:
        return True
    if name not in _WITHOUT_EFFECT:
        raise FlagError(f"{name} is not for a router: leave it out, or give it to llama-server itself")
    logger.warning("%s has no effect on a router", name)
    return False


def help_text() -> str:
    """The options, as `--help` prints them."""
    end = "Every other flag of llama-server goes to all models; llama-server --help lists them."
    return "\n".join((*options.help_lines(OPTIONS), "", end))
