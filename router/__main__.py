"""The command line: `llama-router [serve]`, `demo`, `list`, `check`.

Exit codes: 0 well; 1 the answer is no (a preset file with problems, a catalog that is empty); 2 what was asked for is
wrong and nothing was started; 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.errors import ConfigError, RouterError
from router.policy import size

if TYPE_CHECKING:
    from router.catalog import ModelSpec
    from router.settings import Settings

COMMANDS = ("serve", "demo", "list", "check")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in COMMANDS else "serve"
    run: Mapping[str, Callable[[list[str]], int]] = {"serve": _serve, "demo": _demo, "list": _list, "check": _check}
    try:
        return run[command](words)
    except ConfigError as exc:
        return _fail(exc, exc.exit_code)
    except RouterError as exc:
        return _fail(exc, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `llama-router list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(exc: RouterError, code: int) -> int:
    print(f"llama-router: {exc}", file=sys.stderr)
    return code


def _serve(argv: list[str]) -> int:
    from router import serve, settings

    if {"-h", "--help"} & set(argv):
        print(settings.help_text())
        return 0
    if "--version" in argv:
        from router import __version__

        print(f"llama-router {__version__}")
        return 0
    plan = serve.read(argv, os.environ)
    _log(plan.settings)
    serve.serve(plan)
    return 0


def _log(settings: Settings) -> None:
    try:
        handler = logging.FileHandler(settings.log_file) if settings.log_file else logging.StreamHandler()
    except OSError as exc:
        raise ConfigError(f"--log-file {settings.log_file} cannot be written: {exc.strerror}.") from exc
    logging.basicConfig(
        level=settings.log_level.upper(),
        handlers=[handler],
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    for chatty in ("httpx", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _demo(argv: list[str]) -> int:
    """Three tiny models with room for two. With `--once`: ask each a question, then end."""
    from router import demo, serve

    once = "--once" in argv
    argv = [word for word in argv if word != "--once"]
    with tempfile.TemporaryDirectory(prefix="llama-router-demo-") as folder:
        models = demo.make_models(Path(folder))
        plan = serve.read(["--models-dir", folder, "--models-max", "2", "--ctx-size", "2048", *argv], os.environ)
        _log(plan.settings)
        names = [model.stem for model in models]
        failed: list[str] = []

        def show(urls: Sequence[str], end: Callable[[], None]) -> None:
            print(demo.instructions(urls[0], names), flush=True)
            threading.Thread(target=ask, args=(urls[0], end), daemon=True).start()

        def ask(url: str, end: Callable[[], None]) -> None:
            failed.extend(demo.converse(url, names, lambda line: print(line, flush=True)))
            if once:
                end()

        serve.serve(plan, show)
    return 1 if failed else 0


def _list(argv: list[str]) -> int:
    """The catalog, as `serve` with the same flags would have it."""
    from router import serve

    as_json = "--json" in argv
    catalog = serve.read([word for word in argv if word != "--json"], os.environ, with_engine=False).catalog()
    rows = [_row(spec) for spec in catalog.models]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows, ("name", "source", "size", "context", "quantization", "problem"))
    else:
        print("No models. Give --models-dir, --models-preset or a Hugging Face cache.", file=sys.stderr)
    return 0 if rows else 1


def _row(spec: ModelSpec) -> dict[str, Any]:
    info = spec.described().info
    return {
        "name": spec.name,
        "aliases": spec.aliases,
        "tags": spec.tags,
        "source": spec.source,
        "size": spec.size_bytes,
        "context": info.n_ctx_train,
        "quantization": info.quantization,
        "architecture": info.architecture,
        "args": spec.argv,
        "problem": spec.problem,
    }


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    shown = [[_cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    for line in ([*columns], *shown):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    return size(value) if column == "size" else str(value)


def _check(argv: list[str]) -> int:
    """Every mistake of a preset file, with line, key and the nearest name that exists."""
    from router import flags, presets

    as_json = "--json" in argv
    files = [Path(word) for word in argv if word != "--json"]
    if not files or any(str(file).startswith("-") for file in files):
        raise ConfigError("usage: llama-router check FILE.ini [FILE.ini ...] [--json]")
    reports: list[dict[str, Any]] = []
    for file in files:
        found, problems = presets.examine(file, flags.default_table())
        if not as_json:
            for problem in problems:
                print(f"{file}:{problem.line}: {problem.message}")
            if not problems:
                print(f"{file}: {len(found.presets)} models, no problems")
        reports.append(
            {
                "file": str(file),
                "models": [preset.name for preset in found.presets],
                "problems": [
                    {"line": p.line, "key": p.key, "message": p.message, "nearest": p.nearest} for p in problems
                ],
            }
        )
    if as_json:
        print(json.dumps(reports, indent=2))
    return 1 if any(report["problems"] for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
