"""`llama-router` commands as processes of their own: what they print, their exit codes, and what they leave behind."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.routers import FAKE
from tests.waiting import until

Process = subprocess.Popen[str]
TRACE = "TEST_COMMAND_LINE"  # a variable that every process of a command inherits


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr."""
        assert self.err.startswith("llama-router: ")
        assert self.err.count("\n") == 1, self.err
        return self.err


class Shell:
    """Runs commands in a folder of their own. They see only models that they name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trace = secrets.token_hex(8)
        self.run_dir = folder / "run"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def start(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> Process:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "HF_"))}
        own = {"HF_HOME": str(self.folder / "hf"), "LLAMA_CACHE": str(self.folder / "cache"), TRACE: self.trace}
        own["PYTHONUNBUFFERED"] = ""
        return subprocess.Popen(
            [sys.executable, "-m", "router", *words],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd=self.folder,
            env={**keep, **own, "PYTHONPATH": str(Path(__file__).parents[1]), **environ},
        )

    def __call__(self, *words: str, **environ: str) -> Ended:
        with self.start(words, environ) as process:
            out, err = process.communicate(timeout=30)
        assert "Traceback" not in err
        return Ended(process.returncode, out, err)

    def refuses(self, *words: str, **environ: str) -> str:
        """`serve` with these words exits with 2 and leaves nothing behind; returns its sentence."""
        where = ("--port", str(self.port), "--run-dir", str(self.run_dir), "--engine", FAKE)
        ended = self(*where, *words, **environ)
        assert (ended.code, ended.out) == (2, "")
        socket.create_server(("127.0.0.1", self.port)).close()
        assert not [entry for entry in self.run_dir.glob("*") if entry.name != "lock"]
        assert not self.left()
        return ended.sentence

    def left(self) -> list[psutil.Process]:
        """Processes of this shell's commands that still run."""
        return [process for process in psutil.process_iter() if self._mark(process) == self.trace]

    @staticmethod
    def _mark(process: psutil.Process) -> str | None:
        try:
            return process.environ().get(TRACE)
        except (psutil.Error, OSError):
            return None


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    until(lambda: not shell.left(), 5)  # a process that was killed may take a moment to end


def write(path: Path, text: str, *, executable: bool = False) -> Path:
    path.write_text(text)
    path.chmod(0o755 if executable else 0o644)
    return path
