"""The marker `quick`: tests that start no process and take little time. `pytest -m quick` runs them alone.

No test says it of itself. A test is quick unless it is of a folder of whole routers, computes for long, or reaches for
what starts processes: by its own code, by that of its fixtures, or by functions and classes of the tests that these
name. A quick test that starts a process all the same fails, so the marker stays true. A plugin of `conftest`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

WHOLE = ("benchmarks", "security", "whole")  # folders
LONG = "unmeasured"  # the fixture of tests that compute for seconds
STARTING = {  # modules that start processes
    "subprocess",
    "router.engine.discovery",
    "router.engine.engines",
    "router.engine.libraries",
    "router.hub.fetch",
    "router.hub.link_fetch",
    "router.hub.resolve",
    "router.hub.transfer_process",
    "router.node.local",
    "router.node.process",
    "router.node.unified_memory",
    "router.node.watchdog",
}
EVENTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system"}  # as sys.addaudithook tells of them


def is_quick(test: pytest.Function) -> bool:
    if any(f".{folder}." in test.module.__name__ for folder in WHOLE) or LONG in test.fixturenames:
        return False
    fixtures = [fixture for found in test._fixtureinfo.name2fixturedefs.values() for fixture in found]
    return not any(map(starts_processes, [test.function, *(fixture.func for fixture in fixtures)]))


@cache
def starts_processes(thing: Any) -> bool:
    """Whether a function or a class of the tests reaches for a module that does."""
    seen, left = set(), [thing]
    while left:
        if (thing := left.pop()) in seen:
            continue
        seen.add(thing)
        for named in names(thing):
            if origin(named) in STARTING:
                return True
            if (inspect.isfunction(named) or inspect.isclass(named)) and origin(named).startswith("tests."):
                left.append(named)
    return False


def origin(thing: Any) -> str:
    """The name of a module, or of the one where this was written."""
    return thing.__name__ if isinstance(thing, ModuleType) else str(getattr(thing, "__module__", ""))


def names(thing: Any) -> Iterator[Any]:
    """What the code of a function, or of a class with its bases, names: globals of its module, and what is taken from
    modules among them."""
    if inspect.isclass(thing):
        values = [value for kind in thing.__mro__ if origin(kind).startswith("tests.") for value in vars(kind).values()]
    else:
        values = [thing]
    functions = [getattr(value, "__func__", getattr(value, "fget", value)) for value in values]
    for function in map(inspect.unwrap, filter(inspect.isfunction, functions)):
        module = sys.modules.get(function.__module__)  # None for what `namedtuple` makes
        codes = [function.__code__]
        while codes:
            code = codes.pop()
            codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
            found = [getattr(module, name) for name in code.co_names if hasattr(module, name)]
            yield from found
            for inner in [one for one in found if isinstance(one, ModuleType) and origin(one).startswith("tests.")]:
                yield from (getattr(inner, name) for name in code.co_names if hasattr(inner, name))
            if "create_subprocess_exec" in code.co_names:
                yield sys.modules["subprocess"]


class Guard:
    """Remembers the first process that a quick test starts."""

    def __init__(self) -> None:
        self.is_on = False
        self.found = ""
        # Not under coverage: a hook in Python lets threads switch inside sys.settrace, and CPython 3.11 then refuses to
        # trace a thread that begins at that moment. The thread would never run.
        if sys.gettrace() is None:
            sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.is_on and event in EVENTS and not self.found:
            self.found = f"{event} {args[0]!s:.100}"


GUARD = Guard()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick` nothing is imported in vain."""
    is_whole = collection_path.parent == Path(__file__).parent and collection_path.name in WHOLE
    return True if is_whole and config.option.markexpr == "quick" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and is_quick(item):
            item.add_marker(pytest.mark.quick)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    GUARD.is_on, GUARD.found = item.get_closest_marker("quick") is not None, ""
    try:
        yield
        assert not GUARD.found, f"it is marked quick, and starts a process ({GUARD.found}): see tests/quick.py"
    finally:
        GUARD.is_on = False
