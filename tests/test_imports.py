"""The import map in `router/__init__.py` equals the imports; each foreign library has one door."""

from __future__ import annotations

import ast
from pathlib import Path

import router

ROOT = Path(router.__file__).parent
MODULES = {
    str(path.relative_to(ROOT).with_suffix("")): ast.parse(path.read_text())
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "__init__.py"
}

# Where else than through its door a library must not be named. Types of starlette cross from app into api.
DOORS = {
    "huggingface_hub": {"transfer"},
    "httpx2": {"transfer"},
    "pynvml": {"devices"},
    "subprocess": {"process", "orphans", "engine", "fetch"},
    "starlette": {"app", "api", "framing"},
    "httptools": {"upstream", "api", "framing"},
    "msgspec": {"api"},
    "xllamacpp": {"embedded"},
    "httpx": {"demo", "__main__"},
    "uvicorn": {"connection", "framing", "serve", "tls"},
    "psutil": {"devices", "orphans", "readahead"},
    "gguf": {"demo"},
    "jinja2": {"template"},
    "cachetools": {"gguf", "estimate", "catalog"},
}


def declared() -> dict[str, set[str]]:
    """Lines `name  what it is  -> other modules` of the map."""
    assert router.__doc__
    lines = [line.split("->") for line in router.__doc__.splitlines() if "->" in line]
    return {left.split()[0]: set(right.split()) - {"nothing"} for left, right in lines}


def imported(tree: ast.Module) -> set[str]:
    """Modules of this package that a module imports, by their path below it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "router":
            base = node.module.split(".")[1:]
            for alias in node.names:
                path = "/".join([*base, alias.name])
                names.add(path if path in MODULES else "/".join(base))
        elif isinstance(node, ast.Import):
            names |= {alias.name.replace(".", "/")[7:] for alias in node.names if alias.name.startswith("router.")}
    return names - {""}


def foreign(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names


def test_the_map_equals_the_imports() -> None:
    assert declared() == {name: imported(tree) for name, tree in MODULES.items()}


def test_each_library_has_one_door() -> None:
    for library, doors in DOORS.items():
        users = {name for name, tree in MODULES.items() if library in foreign(tree)}
        strangers = {name for name in users if name not in doors and name.split("/")[0] not in doors}
        assert not strangers, f"{library} is imported by {strangers}"


def test_policy_and_scheduler_are_pure() -> None:
    effects = {"asyncio", "time", "logging", "os", "socket", "subprocess", "threading", "random", "datetime"}
    for name in ("policy", "scheduler"):
        assert not foreign(MODULES[name]) & effects
        assert not [node for node in ast.walk(MODULES[name]) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
