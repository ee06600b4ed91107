"""Where the page comes from: a child of a real engine, the shelf, or nowhere."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.engine import discovery
from router.engine.discovery import Engine
from router.node.devices import Devices
from router.node.local import LocalNode
from router.page import chat_page, names, source
from router.page.chat_page import ChatPage, Origin, origins
from router.page.shelf import Shelf
from tests.processes import command_of
from tests.routers import ENGINES
from tests.waiting import eventually

# A program that serves the files of a table on the socket that it is given, as llama-server does its page.
SERVER = """#!{python} -IS
import json, os, socketserver, sys, time
from http.server import BaseHTTPRequestHandler
argv = sys.argv[1:]
if "--version" in argv:
    print("version: 1 (abc)"); sys.exit()
plan = json.load(open({plan!r}))
variables = {{name: value for name, value in os.environ.items() if name.startswith("LLAMA")}}
open({started!r}, "a").write(json.dumps([argv, variables]) + "\\n")
if plan.get("dies"):
    sys.exit(3)
assert open(argv[argv.index("--model") + 1], "rb").read(4) == b"GGUF"
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def address_string(self): return ""
    def do_GET(self):
        if self.path == "/health" or self.path in plan["files"]:
            time.sleep(plan.get("hangs", 0) if self.path != "/health" else 0)
            kind, body, headers = plan["files"].get(self.path, ["text/plain", "", {{}}])
            body = bytes.fromhex(body); self.send_response(200)
        else:
            kind, body, headers = "application/json", b"{{}}", {{}}; self.send_response(404)
        for name, value in headers.items(): self.send_header(name, value)
        self.send_header("Content-Type", kind); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
server = Server(argv[argv.index("--host") + 1], Handler)
print('cmd_child_to_router:state:{{"state":"ready","payload":{{}}}}', flush=True)
server.serve_forever()
"""


class Builder:
    """Makes such engines, and pages of them. `starts` are the command lines and variables of their children."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program, self.plan, self._started = (folder / name for name in ("llama-server", "plan", "started"))
        text = SERVER.format(python=sys.executable, plan=str(self.plan), started=str(self._started))
        self.program.write_text(text)
        self.program.chmod(0o755)
        self._nodes: list[LocalNode] = []

    def engine(self) -> Engine:
        return discovery.find(str(self.program), os.environ)

    def serve(self, files: dict[str, tuple[str, bytes, dict[str, str]]], **plan: Any) -> None:
        table = {path: (kind, body.hex(), headers) for path, (kind, body, headers) in files.items()}
        self.plan.write_text(json.dumps({"files": table, **plan}))

    def page(self, engine: Engine | None = None, also: tuple[Origin, ...] = ()) -> ChatPage:
        engine = engine or self.engine()
        node = LocalNode(engine, Devices({}))
        self._nodes.append(node)
        return ChatPage(node, [Origin("", engine), *also], Shelf(self.folder / "shelf"))

    @property
    def starts(self) -> list[tuple[list[str], dict[str, str]]]:
        return [json.loads(line) for line in self._started.read_text().splitlines()] if self._started.exists() else []

    def close(self) -> None:
        for node in self._nodes:
            node.close()


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    made = Builder(tmp_path)
    yield made
    made.close()


HTML = "text/html; charset=utf-8"
INDEX = b'<script src="./_app/immutable/a.js"></script><img src="b.png">'
SMALL = {
    "/": (HTML, INDEX, {"Cross-Origin-Opener-Policy": "same-origin", "Set-Cookie": "a=b"}),
    "/_app/immutable/a.js": ("application/javascript", gzip.compress(b"1"), {"Content-Encoding": "gzip"}),
    "/b.png": ("image/png", b"png", {}),
    "/build.json": ("application/json", b"{}", {}),
}


def children() -> list[psutil.Process]:
    """Engines that run for this process; its watchdog does too."""
    return [child for child in psutil.Process().children() if "--alias" in command_of(child)]


def content(page: Any, name: str) -> bytes:
    return b"".join(page[name].unpacked())


async def test_the_page_of_a_real_engine_is_whole(tmp_path: Path) -> None:  # B-W1
    """Of the embedded engine. A llama-server that is built without one leads to the same page."""
    for kind in ("embedded", "llama-server"):
        engine = discovery.find(ENGINES[kind](), os.environ)
        node = LocalNode(engine, Devices({}))
        found = ChatPage(node, origins(engine), Shelf(tmp_path / "shelf"))
        page = await found.files()
        assert len(page) > 60
        named = [name for file in page.values() for name in source._named_in(file) if file.name.endswith(".html")]
        assert len(named) > 50
        assert set(named) <= set(page)
        assert page[names.INDEX].headers == {
            "cross-origin-embedder-policy": "require-corp",
            "cross-origin-opener-policy": "same-origin",
        }
        assert "llama" in json.loads(content(page, "manifest.webmanifest"))["name"]
        node.close()


async def test_it_is_taken_once_and_then_kept(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLAMA_ARG_UI", "LLAMA_ARG_SPEC_DRAFT_MODEL", "LLAMA_ARG_CTX_SIZE"):
        monkeypatch.setenv(name, "off")
    builder.serve(SMALL)
    first = builder.page()
    one, other = await asyncio.gather(first.files(), first.files())
    assert one is other
    assert {*one} == {"index.html", "_app/immutable/a.js", "b.png", "build.json"}
    assert content(one, "index.html") == INDEX
    assert content(one, "_app/immutable/a.js") == b"1"
    assert one["index.html"].headers == {"cross-origin-opener-policy": "same-origin"}
    assert await builder.page().files() == one
    [(argv, variables)] = builder.starts
    assert "--n-gpu-layers" in argv
    assert not [name for name in variables if name.startswith("LLAMA_ARG")]  # of settings that are meant for models
    assert not os.path.exists(argv[argv.index("--model") + 1])  # noqa: ASYNC240


async def test_another_build_has_another_page_and_old_ones_go(builder: Builder) -> None:
    builder.serve(SMALL)
    for number in range(5):
        builder.program.write_text(f"{builder.program.read_text()}# {number}\n")
        builder.serve({**SMALL, "/build.json": ("application/json", b"%d" % number, {})})
        assert content(await builder.page().files(), "build.json") == b"%d" % number
    assert len(builder.starts) == 5
    assert len([*(builder.folder / "shelf").iterdir()]) == 3


async def test_an_engine_that_is_replaced_shows_its_new_page(builder: Builder) -> None:
    builder.serve(SMALL)
    page = builder.page()
    before = await page.newest()
    assert await page.newest() is before
    builder.serve({**SMALL, "/build.json": ("application/json", b"2", {})})
    builder.program.write_text(f"{builder.program.read_text()}#\n")
    assert content(await page.newest(), "build.json") == b"2"
    builder.program.unlink()
    assert content(await page.newest(), "build.json") == b"2"  # what is there already stays
    assert len(builder.starts) == 2


async def test_an_engine_without_a_page_is_asked_once(builder: Builder) -> None:
    without: list[dict[str, Any]] = [{}, {"/": ("application/json", b"{}", {})}]
    for files in without:
        builder.program.write_text(f"{builder.program.read_text()}#\n")
        builder.serve(files)
        before = len(builder.starts)
        assert await builder.page().files() == {}
        assert await builder.page().files() == {}
        assert len(builder.starts) == before + 1


async def test_the_next_engine_is_asked(builder: Builder, tmp_path: Path) -> None:
    builder.serve({})
    (tmp_path / "other").mkdir()
    other = Builder(tmp_path / "other")
    other.serve(SMALL)
    page = builder.page(also=(Origin(str(other.program), other.engine()),))
    assert {*await page.files()} == {"index.html", "_app/immutable/a.js", "b.png", "build.json"}


@pytest.mark.parametrize("how", ["dies", "hangs", "drips", "bomb", "flood"])
async def test_a_child_that_does_not_do_it_costs_nothing(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No page, one warning, no process that is left, and no second try at once."""
    monkeypatch.setattr(chat_page, "PATIENCE_S", 1.0)
    monkeypatch.setattr(source, "SILENCE_S", 2.0)
    files = dict(SMALL)
    plan: dict[str, Any] = {}
    match how:
        case "dies":
            plan["dies"] = True
        case "hangs":
            plan["hangs"] = 60
        case "drips":  # each answer within the patience for one, and all of them not
            plan["hangs"] = 0.4
        case "bomb":
            bomb = gzip.compress(bytes(65 << 20), 1)
            files["/b.png"] = ("image/png", bomb, {"Content-Encoding": "gzip"})
        case "flood":
            many = [f"x{number}.png" for number in range(500)]
            files["/"] = (HTML, " ".join(f'"{name}"' for name in many).encode(), {})
            files |= {f"/{name}": ("image/png", b"x", {}) for name in many}
    builder.serve(files, **plan)
    page = builder.page()
    assert await page.files() == {}
    assert await page.files() == {}
    assert len(builder.starts) == 1
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    await eventually(lambda: not children())


async def test_a_search_is_ended_with_the_router(builder: Builder) -> None:
    builder.serve(SMALL, hangs=60)
    page = builder.page()
    visitor = asyncio.create_task(page.files())
    await eventually(lambda: builder.starts)
    await page.close()
    await asyncio.wait({visitor})
    assert visitor.cancelled()
    await eventually(lambda: not children())


async def test_a_cache_that_cannot_be_written_is_done_without(builder: Builder) -> None:
    builder.serve(SMALL)
    (builder.folder / "shelf").touch()
    page = builder.page()
    assert len(await page.files()) == 4
    assert await page.files() is await page.files()
