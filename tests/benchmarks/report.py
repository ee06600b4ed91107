"""What was found: rows of one measure, whoever was measured side by side, and whether the target was reached."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

OURS, ENGINE, NGINX, LLAMA_CPP = "llama-router", "engine", "nginx", "llama.cpp"
LLAMA_SWAP, OLLAMA = "llama-swap", "Ollama"


@dataclass(frozen=True, slots=True)
class Target:
    """What is aimed at, in words, and whether this run got there."""

    text: str
    reached: bool

    def __str__(self) -> str:
        return f"{self.text}: {'reached' if self.reached else 'MISSED'}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one case, by who was measured."""

    part: str
    case: str
    measure: str
    unit: str
    values: Mapping[str, float]
    targets: tuple[Target, ...] = ()


@dataclass(slots=True)
class Report:
    """`missing` tells what was not measured, and why."""

    facts: Mapping[str, str]
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def json(self) -> dict[str, object]:
        rows = [{**asdict(row), "ratios": ratios(row.values), "machine": dict(self.facts)} for row in self.rows]
        return {"rows": rows, "missing": self.missing}

    def text(self) -> str:
        lines = [", ".join(f"{name} {value}" for name, value in self.facts.items())]
        for part in dict.fromkeys(row.part for row in self.rows):
            lines += ["", part]
            rows = [row for row in self.rows if row.part == part]
            widths = max(len(row.case) for row in rows), max(len(row.measure) for row in rows)
            lines += [_line(row, *widths) for row in rows]
        targets = [target for row in self.rows for target in row.targets]
        lines += ["", f"{sum(target.reached for target in targets)} of {len(targets)} targets reached in this run"]
        return "\n".join([*lines, *(f"not measured: {reason}" for reason in self.missing)])


def ratios(values: Mapping[str, float]) -> dict[str, float]:
    """Ours divided by each of the others."""
    ours = values.get(OURS)
    if ours is None:
        return {}
    return {name: ours / value for name, value in values.items() if name != OURS and value > 0}


def _line(row: Row, case: int, measure: int) -> str:
    beside = ratios(row.values)
    cells = [
        f"{name} {number(value)}" + (f" ({beside[name]:.2f}x)" if name in beside else "")
        for name, value in row.values.items()
    ]
    told = "".join(f"  [{target}]" for target in row.targets)
    return f"  {row.case:{case}}  {row.measure:{measure}}  {row.unit:4}  {', '.join(cells)}{told}"


def number(value: float) -> str:
    """As people read it."""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def facts(engine: str | None) -> dict[str, str]:
    """This machine and what runs on it; `engine` is the path of a llama-server."""
    found = {
        "CPU": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
    }
    for name in ("llama-router", "uvicorn", "starlette", "httptools", "uvloop"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # run from its folder, not installed
            found[name] = importlib.metadata.version(name)
    if nginx := shutil.which("nginx"):
        found["nginx"] = _said([nginx, "-v"], r"nginx/(\S+)")
    for name in ("llama-swap", "ollama"):
        if program := shutil.which(name):
            found[name] = _said([program, "--version"], r"version\S*(?: is)? (\S+)")
    if engine:
        found["llama-server"] = _said([engine, "--version"], r"version: (.+)")
    return found


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _said(command: Sequence[str], pattern: str) -> str:
    folder = str(Path(command[0]).parent)
    env = {**os.environ, "LD_LIBRARY_PATH": folder}
    answer = subprocess.run(command, capture_output=True, text=True, env=env, timeout=20, check=False)
    found = re.search(pattern, answer.stdout + answer.stderr)
    return found[1] if found else "unknown"
