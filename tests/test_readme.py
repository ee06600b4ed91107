"""The README is true: its tables equal the code."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from starlette.routing import Route

from router import errors
from router.api.app import create_app
from router.errors import ConfigError, RouterError
from router.memory.estimate import Need
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.pool.pool import Pool
from router.proxy.gateway import Gateway
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.scheduling.states import State
from router.settings import OPTIONS
from router.wire.upstream import Upstream
from tests.fakes import FakeNode

README = Path(__file__).parents[1].joinpath("README.md").read_text()


def rows(header: str) -> list[list[str]]:
    """The cells of the table that begins with this header line."""
    table = README.split(header, 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_settings() -> None:
    told = [(quoted(flag), quoted(env)[0], quoted(default), text) for flag, env, default, text in rows("| flag |")]
    assert told == [([*o.spellings, *o.negatives], o.env, [o.default] if o.default else [], o.help) for o in OPTIONS]


def test_states() -> None:
    assert [quoted(row[0])[0] for row in rows("| state |")] == [state.value for state in State]


def test_errors() -> None:
    told = {(int(status), quoted(code)[0], bool(again)) for status, code, _, again in rows("| status |")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RouterError)]
    # Two more 500s than rows: the base and unreadable files share that of a failed load.
    assert told == {
        (kind.status, kind.code, issubclass(kind, errors.Unavailable))
        for kind in kinds
        if not issubclass(kind, ConfigError)
    }


def test_endpoints() -> None:
    told = {(method, path) for method, paths, _ in rows("| method |") for path in quoted(paths)}
    passed = quoted(README.split("<!-- passed through -->\n", 1)[1].split("\n\n", 1)[0])
    assert told | {("POST", path) for path in passed} == routes()


def routes() -> set[tuple[str, str]]:
    pool = Pool(Catalog(()), [FakeNode()], Limits(), lambda spec: Need(Demand()))
    app = create_app(Gateway(pool, Upstream()), reload=lambda: asyncio.sleep(0, Changes()), forecast=NotImplemented)
    found = [route for route in app.routes if isinstance(route, Route)]
    return {(method, route.path) for route in found for method in route.methods or () if method != "HEAD"}


def test_its_commands_are_those_of_ci() -> None:
    script = Path(__file__).parents[1].joinpath(".ci/run").read_text()
    assert "<!-- test -->" in script
    assert len(re.findall(r"<!-- (?:demo|test) -->\n```sh\n", README)) == 2
