"""The README is true: its tables equal the code."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from starlette.routing import Route

from router import errors
from router.api.app import create_app
from router.client.options import CONNECTION, FLAGS
from router.engine.flags import default_table
from router.errors import ConfigError, RouterError
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.pool.pool import Pool
from router.proxy.gateway import Gateway
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.scheduling.states import State
from router.settings import OPTIONS
from router.wire.upstream import Upstream
from tests.benchmarks.__main__ import PARTS
from tests.fakes import FakeNode

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text()


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
    script = ROOT.joinpath(".ci/run").read_text()
    assert "<!-- test -->" in script
    assert len(re.findall(r"<!-- (?:demo|test) -->\n```sh\n", README)) == 2


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_lead_somewhere() -> None:
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", README, re.M)}
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif "://" not in link:
            assert (ROOT / link).exists(), link


def test_flags_that_are_named_exist() -> None:
    """Ours, the engine's, those of our commands and benchmarks; others stand in a command of another program."""
    known = {name for option in OPTIONS for name in (*option.spellings, *option.negatives)}
    known |= {name for flag in default_table().flags for name in (*flag.spellings, *flag.negatives)}
    known |= {"--json", "--once", "--busy", "--fallback", "--help"}  # of commands
    known |= {own.name for flags in FLAGS.values() for own in flags} | {own.name for own in CONNECTION}
    known |= {"--only", "--seconds", "--markdown", "--chart"}  # of benchmarks and of the fuzzer
    prose = re.sub(r"<!-- test -->\n```sh\n.*?```", "", README, flags=re.S)  # pip's and npm's are theirs
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose))
    assert not named - known


def test_parts_of_the_benchmarks() -> None:
    assert [quoted(row[0])[0] for row in rows("| part (`--only`)")] == list(PARTS)


def test_what_contributors_are_sent_to_exists() -> None:
    table = README.split("| you want to add |", 1)[1].split("\n\n", 1)[0]
    places = [word for word in quoted(table) if "/" in word]
    assert len(places) >= 5
    for place in places:
        path = ROOT / ("" if place.startswith("tests/") else "router") / place
        assert path.exists() or path.with_suffix(".py").exists(), place
