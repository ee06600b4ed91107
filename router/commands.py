"""The command line: `serve` (the default) and the other COMMANDS, one function each.

Modules that take long to import are imported by the commands that need them: `--help`, `--version` and mistakes in the
command line are then answered at once.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router import logs
from router.errors import ConfigError, FlagError, RouterError, UnknownModel
from router.near import nearest
from router.scheduling.snapshot import Snapshot
from router.units import size

if TYPE_CHECKING:
    from router.hub.names import Name
    from router.settings import Settings

EXIT_CODES = """\
Exit codes: 0 success, or a server that was ended by a signal; 1 the answer is no: a preset file with problems, no
models, a model that does not fit, is not on the hub or not in the cache, a demo without an answer; 2 the command line
or a setting is wrong, and nothing was started; 130 interrupted; 143 terminated.
"""

# What a full or failing disk raises when stdout is a file.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@dataclass(frozen=True, slots=True)
class Command:
    """With `takes_options`, its help ends with the options of serve."""

    run: Callable[[list[str]], int]
    usage: str
    help: str
    takes_options: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    logs.fill_standard_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except ConfigError as exc:
        return _fail(exc, exc.exit_code)
    except RouterError as exc:
        return _fail(exc, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `llama-router list | head`
        _discard_stdout()
        return 0
    except OSError as exc:
        if exc.filename is not None or exc.errno not in DISK_ERRORS:
            raise
        _discard_stdout()
        return _fail(RouterError(f"stdout cannot be written ({exc.strerror})."), 1)
    finally:
        logs.flush()


def _run(words: list[str]) -> int:
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    command = COMMANDS.get(name or "serve")
    if command is None:
        near = nearest(name, COMMANDS)
        hint = f"did you mean {near[0]}?" if near else "llama-router --help lists the commands"
        raise FlagError(f"there is no command {name[:80]!r}; {hint}")
    if {"-h", "--help", "--usage"} & set(words):
        print(_help(command, "" if name else "\n".join(other.usage for other in COMMANDS.values())))
        return 0
    if "--version" in words:
        from router import __version__

        print(f"llama-router {__version__}")
        return 0
    return command.run(words)


def _discard_stdout() -> None:
    """Otherwise the interpreter would try to write the rest when it exits, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(exc: RouterError, code: int) -> int:
    logs.say(f"llama-router: {exc}")
    return code


def _help(command: Command, overview: str) -> str:
    from router import settings

    usages = (overview or command.usage).splitlines()
    lines = [f"{lead}llama-router {usage}" for lead, usage in zip(("usage: ", *["       "] * 9), usages, strict=False)]
    options = settings.help_text() if command.takes_options else ""
    return "\n\n".join(part for part in ("\n".join(lines), command.help, options, EXIT_CODES.rstrip()) if part)


def _switch(name: str, argv: list[str]) -> tuple[bool, list[str]]:
    """Whether this switch is given, and the other words."""
    return name in argv, [word for word in argv if word != name]


# serve and demo


def _serve(argv: list[str]) -> int:
    # What is made until the router listens stays: a search for garbage would take a tenth of the start, in vain.
    gc.disable()
    try:
        from router.server.activation import Activation
        from router.server.supervisor import Supervisor

        # First of all, because reading the plan starts other processes.
        given = Activation.take(os.environ), Supervisor.take(os.environ)

        from router.plan import read_plan
        from router.serve import serve

        plan = read_plan(argv, os.environ)
        _start_logging(plan.settings)
        serve(plan, *given)
        return 0
    finally:
        gc.enable()


def _start_logging(settings: Settings) -> None:
    """The router logs at --log-level; libraries log warnings and errors only."""
    try:
        handler = logs.to_file(Path(settings.log_file)) if settings.log_file else logs.to_stderr()
    except OSError as exc:
        raise ConfigError(f"--log-file {settings.log_file} cannot be written: {exc.strerror}.") from exc
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logs.log_uncaught()
    logging.getLogger("router").setLevel(settings.log_level.upper())


def _demo(argv: list[str]) -> int:
    from router import demo
    from router.plan import read_plan
    from router.serve import serve

    once, argv = _switch("--once", argv)
    with tempfile.TemporaryDirectory(prefix="llama-router-demo-") as folder:
        models = demo.make_models(Path(folder))
        room = ["--models-dir", folder, "--models-max", "2", "--ctx-size", "2048"]
        plan = read_plan([*room, *(["--port", "0"] if once else []), *argv], os.environ)
        _start_logging(plan.settings)
        names = [model.stem for model in models]
        failed: list[str] = []

        def announce(urls: Sequence[str], end: Callable[[], None]) -> None:
            threading.Thread(target=converse, args=(urls[0], end), daemon=True).start()

        def converse(url: str, end: Callable[[], None]) -> None:
            try:
                if not once:
                    print(demo.instructions(url, names), flush=True)
                failed.extend(demo.converse(url, names, lambda line: print(logs.visible(line), flush=True)))
            except OSError:  # stdout is closed, or its disk is full
                end()
            if once:
                end()

        serve(plan, announce=announce)
    return 1 if failed else 0


# list


def _list(argv: list[str]) -> int:
    from router.models import inventory
    from router.plan import read_plan

    as_json, argv = _switch("--json", argv)
    shows_all, argv = _switch("--all", argv)
    rows = inventory.rows(read_plan(argv, os.environ, needs_engine=False).catalog(), shows_all=shows_all)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        for line in inventory.table(rows):
            print(line)
    return 0 if rows else 1


# check and import


def _check(argv: list[str]) -> int:
    from router import check

    return check.run(argv, os.environ)


def _import(argv: list[str]) -> int:
    from router import imports

    return imports.run(argv, os.environ)


# pull and rm


def _pull(argv: list[str]) -> int:
    import asyncio

    from router.engine import flags
    from router.hub.cache import cache_root
    from router.hub.pull import pull

    switches = ("--fallback", "--offline")
    table = flags.FlagTable([flags.Flag(name, (name,), (), 0, None, repeatable=False) for name in switches])
    words, args = flags.parse_among_words(argv, table)
    fallback, offline = (bool(flags.switch_of(args, name)) for name in switches)
    names = _hub_names(words, "pull")
    root, failed = cache_root(os.environ), 0
    for name in names:
        try:
            resolved = asyncio.run(pull(name, root, fallback=fallback, offline=offline))
        except RouterError as exc:
            failed += _fail(exc, 1)
        except (KeyboardInterrupt, SystemExit):
            logs.say(
                f"llama-router: {name} is not complete; the bytes so far are kept, and the same command continues from "
                "there"
            )
            raise
        else:
            print(logs.visible(f"{resolved.name}: {size(resolved.bytes)} in {root}"), flush=True)
    return 1 if failed else 0


def _hub_names(words: Sequence[str], command: str) -> list[Name]:
    """Names of models on the hub. Raises FlagError."""
    from router.hub.names import Name

    if not words:
        raise FlagError(f"name a model on the hub: llama-router {command} user/repo:QUANT")
    try:
        return [Name.parse(word) for word in words]
    except RouterError as exc:
        raise FlagError(exc.message) from exc


def _remove(argv: list[str]) -> int:
    from router.hub.cache import cache_root
    from router.plan import read_plan

    count = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    names = _hub_names(argv[:count], "rm")
    settings = read_plan(argv[count:], os.environ, needs_engine=False).settings
    root, failed = cache_root(os.environ), 0
    for name in names:
        try:
            freed = _remove_model(settings, root, name)
            print(logs.visible(f"{name}: removed, which freed {size(freed)}"), flush=True)
        except RouterError as exc:
            failed += _fail(exc, 1)
    return 1 if failed else 0


def _remove_model(settings: Settings, root: Path, name: Name) -> int:
    """Remove one model; returns the bytes that this freed.

    If a router runs with these options and has the model, that router removes it, after the model's last requests."""
    from router import running
    from router.hub.removal import only_model, remove

    model = only_model(root, name)
    answer = running.ask(settings, "DELETE", "/models", str(model))
    if answer is None or answer.status_code == UnknownModel.status:
        return remove(root, model)
    if answer.is_success:
        return int(answer.json().get("freed", 0))
    raise RouterError(f"the router at port {settings.port} says: {answer.json()['error']['message']}")


# estimate


def _estimate(argv: list[str]) -> int:
    """If a router runs with these options, it makes the estimate: it knows which models it would have to stop."""
    import asyncio

    from router.memory import forecast
    from router.plan import Machine, read_plan

    as_json, argv = _switch("--json", argv)
    if not argv or argv[0].startswith("-"):
        raise FlagError("name a model or a file: llama-router estimate MODEL_OR_FILE.gguf [options]")
    model, argv = argv[0], argv[1:]
    is_file = model.lower().endswith(".gguf") and Path(model).is_file()
    plan = read_plan([*argv, *(["--model", model] if is_file else [])], os.environ)
    estimate = None if is_file else _estimate_of_running_router(plan.settings, model)
    if estimate is None:
        assert plan.engine is not None
        try:
            catalog = plan.catalog()
            own = [spec for spec in catalog.models if is_file and spec.source == "command_line"]
            spec = own[0] if own else catalog.resolve(model)
        except UnknownModel as exc:
            if model.endswith(".gguf"):
                raise ConfigError(f"there is no file {model[-200:]}, and no model of that name") from exc
            raise
        if spec.problem:
            raise ConfigError(spec.problem)
        machine = Machine.of_plan(plan, plan.engine)
        now = Snapshot(asyncio.run(machine.devices.read()), margins=machine.limits.margins)
        estimate = forecast.forecast(machine.estimator, spec, now).as_json()
    text = json.dumps(estimate, indent=2) if as_json else forecast.table(estimate)
    print("\n".join(map(logs.visible, text.splitlines())))
    return 0 if estimate["fits"] else 1


def _estimate_of_running_router(settings: Settings, model: str) -> dict[str, Any] | None:
    from router import running

    answer = running.ask(settings, "GET", "/models/estimate", model)
    return answer.json() if answer and answer.is_success and "verdict" in answer.json() else None


COMMANDS: Mapping[str, Command] = {
    "serve": Command(
        _serve,
        "[serve] [options] [llama-server's options, for all models]",
        "Serves models on one port. Each model has a llama-server of its own, which a request for the model starts.",
    ),
    "demo": Command(
        _demo,
        "demo [--once] [options]",
        "Makes three tiny models with random weights, serves them with room for two, and asks each a question.\n"
        "With --once it then ends. Without, it prints commands to try, and goes on serving. It takes the options of\n"
        "serve.",
        takes_options=False,
    ),
    "list": Command(
        _list,
        "list [--all] [--json] [options]",
        "Lists the models that serve would have with the same options, and what is wrong with them. With --all also\n"
        "the files in folders of models that are no models, and what they are.",
        takes_options=False,
    ),
    "import": Command(
        _import,
        "import CONFIG.yaml [-o FILE.ini] [--force] [--engine PATH]",
        "Makes a preset file of the configuration of llama-swap, for --models-preset. What cannot be carried over is\n"
        "told line by line, with the reason. Without -o the preset file goes to stdout. A file that is there already\n"
        "is replaced with --force alone. Other formats are not understood.",
        takes_options=False,
    ),
    "pull": Command(
        _pull,
        "pull NAME [NAME ...] [--fallback] [--offline]",
        "Downloads models from the hub into the cache: user/repo, user/repo:QUANT or user/repo:QUANT@REVISION. An\n"
        "interrupted download continues where it stopped. With --fallback, a smaller quantization is downloaded if\n"
        "the disk is too small.",
        takes_options=False,
    ),
    "rm": Command(
        _remove,
        "rm NAME [NAME ...] [options]",
        "Removes models from the cache. If a router runs with the same options and has the model, that router removes\n"
        "it after the model's last requests.",
        takes_options=False,
    ),
    "estimate": Command(
        _estimate,
        "estimate MODEL_OR_FILE.gguf [--json] [options]",
        "Shows what a model would take on each device, where these figures come from, the longest context that fits,\n"
        "and, if a router runs with the same options, which models it would stop for this one now. Starts nothing.",
        takes_options=False,
    ),
    "check": Command(
        _check,
        "check [FILE.ini ...] [--config FILE.ini] [--models-dir PATH] [--json] [--engine PATH]",
        "Reports every mistake in preset files, or folders of them, and in a file of settings, with its line: unknown\n"
        "keys with the nearest known one, wrong values, sections without a model, names that mean two models, files\n"
        "that are missing. It knows the keys of the engine that serve would use. Variables of the environment that\n"
        "set nothing are reported too. The exit code is 1 for a mistake, 0 for warnings alone.",
        takes_options=False,
    ),
}
