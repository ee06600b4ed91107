"""The maps in the docstrings of `router` and of its packages equal the imports; arrows point one way; each foreign
library has one door; modules and classes stay small."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

import router

ROOT = Path(router.__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "__init__.py"
}
MODULES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}

# Packages inside packages. One whose docstring has a map is a single line in the map of the package around it; the
# modules of another one have a line each.
MAPPED = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in sorted(ROOT.glob("*/*/__init__.py"))
    if "->" in path.read_text()
]

# What every module may use: the map of `router` leaves it out of the arrows of all that stands above it.
GROUND = {"errors", "units", "files", "threads", "redaction", "near", "logs", "watch"}
ASSEMBLY = {"serve", "__main__"}  # they know everything

# Where else than through its door a library must not be imported: a package, or one module of it.
DOORS = {
    "huggingface_hub": {"hub.transfer"},
    "httpx2": {"hub.transfer"},
    "pynvml": {"node.nvidia"},
    "subprocess": {"node", "engine.programs", "hub.transfer_process"},
    "starlette": {"api", "proxy", "server"},
    "httptools": {"wire", "proxy", "server"},
    "msgspec": {"records", "proxy", "api"},
    "xllamacpp": {"engine.embedded"},
    "httpx": {"demo", "client.session"},
    "rich": {"client.screen", "client.ps"},
    "prompt_toolkit": {"client.talk.editor"},
    "uvicorn": {"server"},
    "psutil": {"node"},
    "gguf": {"demo"},
    "jinja2": {"models.template", "models.reduction", "models.trial", "models.values"},
    "rapidfuzz": {"near"},
    "cachetools": {"models", "memory"},
    "yaml": {"llama_swap.document"},
    "opentelemetry": {"telemetry.tracing"},
}

MAX_LINES = 500
MEDIAN_LINES = 200
MAX_METHODS = 35


def declared(docstring: str | None) -> dict[str, list[str]]:
    """Lines `    name  what it is  -> other names` of a map, from top to bottom."""
    assert docstring
    lines = [line.rsplit("->", 1) for line in docstring.splitlines() if "->" in line]
    return {left.split()[0]: [name for name in right.split() if name != "nothing"] for left, right in lines}


def docstring_of(package: str) -> str:
    return ast.get_docstring(ast.parse(ROOT.joinpath(*package.split("."), "__init__.py").read_text())) or ""


def imported(tree: ast.Module) -> set[str]:
    """Modules of `router` that a module imports, by their dotted name below it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "router":
            base = node.module.split(".")[1:]
            for alias in node.names:
                path = ".".join([*base, alias.name])
                names.add(path if path in MODULES else ".".join(base))
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("router.") for alias in node.names if alias.name.startswith("router.")}
    return names - {""}


def foreign(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names


def assert_downwards(graph: dict[str, list[str]]) -> None:
    names = list(graph)
    for name, others in graph.items():
        above = [other for other in others if names.index(other) >= names.index(name)]
        assert not above, f"{name} imports {above}, which the map lists below it"


def test_the_first_map_equals_the_imports_between_packages() -> None:
    heads = {name.split(".")[0] for name in MODULES}
    actual: dict[str, set[str]] = {head: set() for head in heads}
    for name, tree in MODULES.items():
        head = name.split(".")[0]
        actual[head] |= {other.split(".")[0] for other in imported(tree)} - {head}
    graph = declared(router.__doc__)
    for name in ASSEMBLY:
        assert graph[name] == ["everything"]
        graph[name], actual[name] = [], set()
    assert {name: set(others) for name, others in graph.items()} == {
        name: others if name in GROUND else others - GROUND for name, others in actual.items()
    }
    assert_downwards(graph)


@pytest.mark.parametrize("package", [*PACKAGES, *MAPPED])
def test_a_package_says_where_to_begin_and_maps_its_modules(package: str) -> None:
    prefix = f"{package}."

    def entry(name: str) -> str:
        """The line of a module in this map: its own, or that of the nested package with a map of its own."""
        nested = [other for other in MAPPED if other.startswith(prefix) and name.startswith(f"{other}.")]
        return (nested[0] if nested else name).removeprefix(prefix)

    actual: dict[str, set[str]] = {}
    for name, tree in MODULES.items():
        if name.startswith(prefix):
            others = {entry(other) for other in imported(tree) if other.startswith(prefix)}
            actual[entry(name)] = (actual.get(entry(name), set()) | others) - {entry(name)}
    docstring = docstring_of(package)
    graph = declared(docstring)
    assert {name: set(others) for name, others in graph.items()} == actual
    assert_downwards(graph)
    assert "Stands on" in docstring
    assert "Begin with" in docstring


def test_each_library_has_one_door() -> None:
    for library, doors in DOORS.items():
        users = {name for name, tree in MODULES.items() if library in foreign(tree)}
        assert users, f"nothing imports {library} any more"
        strangers = {name for name in users if not any(name == door or name.startswith(f"{door}.") for door in doors)}
        assert not strangers, f"{library} is imported by {strangers}"


def test_scheduling_and_access_are_pure() -> None:
    effects = {"asyncio", "time", "logging", "os", "socket", "subprocess", "threading", "random", "datetime"}
    for name, tree in MODULES.items():
        if name.startswith(("scheduling.", "access.")):
            assert not foreign(tree) & effects - ({"socket"} if name == "access.hosts" else set()), name  # inet_aton
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFunctionDef)], name


def test_modules_and_classes_stay_small() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}
    assert statistics.median(lines.values()) < MEDIAN_LINES
    methods = {
        f"{name}.{node.name}": sum(isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) for item in node.body)
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert not {name: count for name, count in methods.items() if count > MAX_METHODS}
