"""The command line: `serve` (the default) and the other `COMMANDS`. `EXIT_CODES` tells the exit codes."""

from __future__ import annotations

import errno
import json
import logging
import os
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router import logs
from router.errors import ConfigError, FlagError, PresetError, RouterError, UnknownModel
from router.near import nearest
from router.redaction import without_credentials
from router.scheduling.snapshot import Snapshot
from router.units import size

if TYPE_CHECKING:
    import httpx

    from router.engine.flags import FlagTable
    from router.hub.names import Name
    from router.models.spec import ModelSpec
    from router.settings import Settings

EXIT_CODES = """\
Exit codes: 0 it went well, or a server was told to end; 1 the answer is no: a preset file with problems, no models,
a model that does not fit, is not on the hub or not in the cache, a demo without an answer; 2 what was asked for is
wrong, and nothing was started; 130 interrupted.
"""


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@dataclass(frozen=True, slots=True)
class Command:
    """`help` may go on with the options of serve."""

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
        _let_go_of_stdout()
        return 0
    except OSError as exc:
        if exc.filename is not None or exc.errno not in FULL:
            raise
        _let_go_of_stdout()
        return _fail(RouterError(f"stdout cannot be written ({exc.strerror})."), 1)
    finally:
        logs.flush()


def _run(words: list[str]) -> int:
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    command = COMMANDS.get(name or "serve")
    if command is None:
        near = nearest(name, COMMANDS)
        hint = f"did you mean {near[0]}?" if near else "llama-router --help tells what there is"
        raise FlagError(f"there is no command {name[:80]!r}; {hint}")
    if {"-h", "--help", "--usage"} & set(words):
        print(_help(command, "" if name else "\n".join(other.usage for other in COMMANDS.values())))
        return 0
    if "--version" in words:
        from router import __version__

        print(f"llama-router {__version__}")
        return 0
    return command.run(words)


def _let_go_of_stdout() -> None:
    """Else the interpreter would try to write the rest at its end, and complain."""
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


def _serve(argv: list[str]) -> int:
    from router import serve

    plan = serve.read(argv, os.environ)
    _log(plan.settings)
    serve.serve(plan)
    return 0


def _log(settings: Settings) -> None:
    """The router's own words at the level that was asked for; of the libraries only what is wrong."""
    try:
        handler = logs.to_file(Path(settings.log_file)) if settings.log_file else logs.to_stderr()
    except OSError as exc:
        raise ConfigError(f"--log-file {settings.log_file} cannot be written: {exc.strerror}.") from exc
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logs.catch()
    logging.getLogger("router").setLevel(settings.log_level.upper())


def _demo(argv: list[str]) -> int:
    from router import demo, serve

    once, argv = _switch("--once", argv)
    with tempfile.TemporaryDirectory(prefix="llama-router-demo-") as folder:
        models = demo.make_models(Path(folder))
        room = ["--models-dir", folder, "--models-max", "2", "--ctx-size", "2048"]
        plan = serve.read([*room, *(["--port", "0"] if once else []), *argv], os.environ)
        _log(plan.settings)
        names = [model.stem for model in models]
        failed: list[str] = []

        def show(urls: Sequence[str], end: Callable[[], None]) -> None:
            threading.Thread(target=ask, args=(urls[0], end), daemon=True).start()

        def ask(url: str, end: Callable[[], None]) -> None:
            try:
                if not once:
                    print(demo.instructions(url, names), flush=True)
                failed.extend(demo.converse(url, names, lambda line: print(logs.visible(line), flush=True)))
            except OSError:  # nobody reads it any more, or the disk is full
                end()
            if once:
                end()

        serve.serve(plan, show)
    return 1 if failed else 0


def _switch(name: str, argv: list[str]) -> tuple[bool, list[str]]:
    """Whether this word is there, and the other ones."""
    return name in argv, [word for word in argv if word != name]


def _list(argv: list[str]) -> int:
    from router import serve
    from router.models.describe import describe

    as_json, argv = _switch("--json", argv)
    catalog = serve.read(argv, os.environ, needs_engine=False).catalog()
    rows = [_row(describe(spec)) for spec in catalog.models]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows, ("name", "source", "size", "context", "quantization", "problem"))
    return 0 if rows else 1


def _row(spec: ModelSpec) -> dict[str, Any]:
    from router.engine import flags

    return {
        "name": spec.name,
        "aliases": spec.aliases,
        "tags": spec.tags,
        "source": spec.source,
        "size": spec.size_bytes,
        "context": spec.info.n_ctx_train,
        "quantization": spec.info.quantization,
        "architecture": spec.info.architecture,
        "args": flags.render(flags.shown(spec.args)),
        "problem": spec.info.problem,
    }


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    shown = [[_cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    for line in ([*columns], *shown):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    text = without_credentials(size(value) if column == "size" else str(value))
    return text if text.isprintable() else ascii(text)  # file names may hold anything


def _check(argv: list[str]) -> int:
    from router import serve, settings
    from router.engine import flags

    engine = next(option.flag for option in settings.OPTIONS if option.name == "--engine")
    takes = flags.FlagTable([engine, flags.Flag("--json", ("--json",), (), 0, None, repeatable=False)])
    files = [word for before, word in zip(["", *argv], argv, strict=False) if word[:1] != "-" and before != "--engine"]
    args = flags.parse([word for word in argv if word not in files], takes)
    if not files:
        raise FlagError("check needs a preset file: llama-router check FILE.ini")
    table = serve.known_flags(argv, os.environ)
    reports = [_report(Path(file), table) for file in files]
    if flags.switch_of(args, "--json"):
        print(json.dumps(reports, indent=2))
    else:
        for report in reports:
            for problem in report["problems"]:
                print(logs.visible(f"{report['file']}:{problem['line']}: {problem['message']}"))
            if not report["problems"]:
                print(logs.visible(f"{report['file']}: no problems; models: {', '.join(report['models']) or 'none'}"))
    return 1 if any(report["problems"] for report in reports) else 0


def _report(file: Path, table: FlagTable) -> dict[str, Any]:
    from router.models.check import check_file

    try:
        found, problems = check_file(file, table)
    except PresetError as exc:
        if not exc.line:
            raise
        told = [{"line": exc.line, "key": exc.key, "message": exc.reason, "nearest": None}]
        return {"file": str(file), "models": [], "problems": told}
    return {
        "file": str(file),
        "models": [preset.name for preset in found.presets],
        "problems": [{"line": p.line, "key": p.key, "message": p.message, "nearest": p.nearest} for p in problems],
    }


def _pull(argv: list[str]) -> int:
    import asyncio

    from router.engine import flags
    from router.hub.cache import cache_root
    from router.hub.pull import pull

    switches = ("--fallback", "--offline")
    table = flags.FlagTable([flags.Flag(name, (name,), (), 0, None, repeatable=False) for name in switches])
    args = flags.parse([word for word in argv if word[:1] == "-"], table)
    fallback, offline = (bool(flags.switch_of(args, name)) for name in switches)
    names = _names([word for word in argv if word[:1] != "-"], "pull")
    root, failed = cache_root(os.environ), 0
    for name in names:
        try:
            resolved = asyncio.run(pull(name, root, fallback=fallback, offline=offline))
        except RouterError as exc:
            failed += _fail(exc, 1)
        except KeyboardInterrupt:
            logs.say(
                f"llama-router: {name} is not all here; what has arrived is kept, and the same command goes on from "
                "there"
            )
            raise
        else:
            print(logs.visible(f"{resolved.name}: {size(resolved.bytes)} in {root}"), flush=True)
    return 1 if failed else 0


def _names(words: Sequence[str], command: str) -> list[Name]:
    """Models on the hub. Raises FlagError."""
    from router.hub.names import Name, without_host

    if not words:
        raise FlagError(f"name a model on the hub: llama-router {command} user/repo:QUANT")
    try:
        return [Name.parse(without_host(word)) for word in words]
    except RouterError as exc:
        raise FlagError(exc.message) from exc


def _remove(argv: list[str]) -> int:
    """By the router that runs with these options, if one has the model: it lets its last requests end."""
    from router import serve
    from router.hub.cache import cache_root

    count = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    names = _names(argv[:count], "rm")
    settings = serve.read(argv[count:], os.environ, needs_engine=False).settings
    root, failed = cache_root(os.environ), 0
    for name in names:
        try:
            print(logs.visible(f"{name}: removed, which freed {size(_removed(settings, root, name))}"), flush=True)
        except RouterError as exc:
            failed += _fail(exc, 1)
    return 1 if failed else 0


def _removed(settings: Settings, root: Path, name: Name) -> int:
    """Bytes that this freed."""
    from router.hub.removal import only_model, remove

    there = only_model(root, name)
    answer = _at_router(settings, "DELETE", "/models", str(there))
    if answer is None or answer.status_code == UnknownModel.status:
        return remove(root, there)
    if answer.is_success:
        return int(answer.json().get("freed", 0))
    raise RouterError(f"the router at port {settings.port} says: {answer.json()['error']['message']}")


def _estimate(argv: list[str]) -> int:
    """By the router that runs with these options, if one does: it knows who would have to go."""
    import asyncio

    from router import serve
    from router.memory import forecast

    as_json, argv = _switch("--json", argv)
    if not argv or argv[0].startswith("-"):
        raise FlagError("name a model or a file: llama-router estimate MODEL_OR_FILE.gguf [options]")
    named, argv = argv[0], argv[1:]
    is_file = named.endswith(".gguf") and Path(named).is_file()
    plan = serve.read([*argv, *(["--model", named] if is_file else [])], os.environ)
    told = None if is_file else _ask_router(plan.settings, named)
    if told is None:
        assert plan.engine is not None
        try:
            spec = plan.catalog().resolve(None if is_file else named)
        except UnknownModel as exc:
            if named.endswith(".gguf"):
                raise ConfigError(f"there is no file {named[-200:]}, and no model of that name") from exc
            raise
        if spec.problem:
            raise ConfigError(spec.problem)
        machine = serve.Machine.look(plan, plan.engine)
        now = Snapshot(asyncio.run(machine.devices.read()), margins=machine.limits.margins)
        told = forecast.forecast(machine.estimator, spec, now).as_json()
    shown = json.dumps(told, indent=2) if as_json else forecast.table(told)
    print("\n".join(map(logs.visible, shown.splitlines())))
    return 0 if told["fits"] else 1


def _ask_router(settings: Settings, model: str) -> dict[str, Any] | None:
    told = _at_router(settings, "GET", "/models/estimate", model)
    return told.json() if told and told.is_success and "verdict" in told.json() else None


def _at_router(settings: Settings, method: str, path: str, model: str) -> httpx.Response | None:
    """What the router that runs with these options says in JSON; None where none does."""
    import httpx

    host, certificate, key = settings.host[0], settings.ssl_cert_file, (*settings.admin_key, *settings.api_key, "")[0]
    uds, place = (host, "localhost") if host.endswith(".sock") else (None, f"[{host}]" if ":" in host else host)
    url = f"{'https' if certificate else 'http'}://{place}:{settings.port}{path}"
    try:
        transport = httpx.HTTPTransport(uds=uds, verify=_trusting(certificate) if certificate else False)
        with httpx.Client(transport=transport, headers={"x-api-key": key}, timeout=60) as client:
            answer = client.request(method, url, params={"model": model})
            return answer if isinstance(answer.json(), dict) else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
        return None


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Trusts the holder of this certificate, whoever signed it and under whatever name it is asked."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


COMMANDS: Mapping[str, Command] = {
    "serve": Command(
        _serve,
        "[serve] [options] [llama-server's options, for all models]",
        "Serves models on one port, each by a llama-server of its own that is started when a request names it.",
    ),
    "demo": Command(
        _demo,
        "demo [--once] [options]",
        "Makes three tiny models with random weights, serves them with room for two, and asks each a question.\n"
        "With --once it ends then; else it tells what to type, and serves on. It takes the options of serve.",
        takes_options=False,
    ),
    "list": Command(
        _list,
        "list [--json] [options]",
        "Tells the models that serve would have with the same options, and what is wrong with them.",
        takes_options=False,
    ),
    "pull": Command(
        _pull,
        "pull NAME [NAME ...] [--fallback] [--offline]",
        "Downloads models from the hub into the cache: user/repo, user/repo:QUANT or user/repo:QUANT@REVISION. What\n"
        "was cut goes on where it was. With --fallback a smaller quantization is taken where the disk is too small.",
        takes_options=False,
    ),
    "rm": Command(
        _remove,
        "rm NAME [NAME ...] [options]",
        "Removes models from the cache. Where a router runs with the same options and has the model, it is told to:\n"
        "the model's last requests end first.",
        takes_options=False,
    ),
    "estimate": Command(
        _estimate,
        "estimate MODEL_OR_FILE.gguf [--json] [options]",
        "Tells what a model would take on each device, whose figures these are, the longest context that fits, and,\n"
        "where a router runs with the same options, which models would be stopped for it now. Starts nothing.",
        takes_options=False,
    ),
    "check": Command(
        _check,
        "check FILE.ini [FILE.ini ...] [--json] [--engine PATH]",
        "Tells every mistake in preset files with its line: unknown keys and the nearest known one, wrong values,\n"
        "names that mean two models, files of models that are not there. It knows the keys of the engine that serve\n"
        "would use.",
        takes_options=False,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
