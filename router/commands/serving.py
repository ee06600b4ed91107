"""`serve` and `demo`: the commands that become a router."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from router.commands.command import switch
from router.errors import ConfigError
from router.logs import streams as logs
from router.logs.letters import visible

if TYPE_CHECKING:
    from router.settings import Settings


def run_server(argv: list[str]) -> int:
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
    try:
        logs.start(settings.log_level, settings.log_file, settings.log_format)
    except OSError as exc:
        raise ConfigError(f"--log-file {settings.log_file} cannot be written: {exc.strerror}.") from exc


def run_demo(argv: list[str]) -> int:
    from router import demo
    from router.plan import read_plan
    from router.serve import serve

    busy, argv = switch("--busy", argv)
    if busy:
        return _run_busy_demo(argv)
    once, argv = switch("--once", argv)
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
                failed.extend(demo.converse(url, names, lambda line: print(visible(line), flush=True)))
            except OSError:  # stdout is closed, or its disk is full
                end()
            if once:
                end()

        serve(plan, announce=announce)
    return 1 if failed else 0


def _run_busy_demo(argv: list[str]) -> int:
    """Serve until a signal, with people who ask all the time."""
    from router import crowd, demo
    from router.plan import read_plan
    from router.serve import serve

    with tempfile.TemporaryDirectory(prefix="llama-router-demo-") as folder:
        for seed, (name, size) in enumerate(crowd.MODELS.items()):
            path = Path(folder) / f"{name}.gguf"
            demo.write_tiny(path, seed=seed, layers=size.layers, width=size.width, context=size.context)
        plan = read_plan(["--models-dir", folder, *crowd.ROOM, *argv], os.environ)
        _start_logging(plan.settings)
        crowds: list[crowd.Crowd] = []

        def announce(urls: Sequence[str], end: Callable[[], None]) -> None:
            try:
                print(crowd.instructions(urls[0]), flush=True)
            except OSError:  # stdout is closed, or its disk is full
                end()
            crowds.append(crowd.Crowd(urls[0], key=next(iter(plan.settings.api_key), "")))
            crowds[0].start()

        try:
            serve(plan, announce=announce)
        finally:
            for each in crowds:
                each.stop()
    return 0
