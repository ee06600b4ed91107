"""Other systems: every module can be imported there, what works there works, and what cannot is said in a sentence.

The other system is made in a process of its own: the standard library and what the router stands on are imported as
they are here, then this takes away what the other system does not have, before the first module of the router is
imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from router.node.platforms import Facts, facts, obstacle
from tests.conftest import Starter
from tests.routers import FAKE

ROOT = Path(__file__).parents[2]

# Run by `site` at the start of each Python process whose path has its folder.
STUB = '''
import importlib, os, select, signal, socket, sys
for name in """asyncio asyncio.subprocess multiprocessing concurrent.futures subprocess tempfile shutil logging.handlers
    pwd platform ssl http.client psutil uvicorn uvicorn.protocols.http.httptools_impl starlette.applications httptools
    httpx pynvml jinja2 jinja2.sandbox huggingface_hub.file_download filelock cachetools httpx2 msgspec
    rapidfuzz.process tqdm starlette.routing starlette.responses""".split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass

LACKING = {
    "win32": {
        "modules": "fcntl resource pwd grp termios uvloop",
        os: "fork killpg getuid geteuid getpgid setsid pidfd_open O_NONBLOCK O_NOCTTY O_CLOEXEC O_NOFOLLOW",
        signal: "SIGHUP SIGKILL pthread_sigmask SIGUSR1 SIGUSR2 SIGALRM",
        socket: "AF_UNIX SO_REUSEPORT",
        select: "poll epoll kqueue",
    },
    "darwin": {
        "modules": "",
        os: "pidfd_open sched_getaffinity sched_setaffinity posix_fadvise memfd_create",
        signal: "",
        socket: "SOCK_CLOEXEC SO_PEERCRED",
        select: "epoll",
    },
}[os.environ["STUB_SYSTEM"]]


class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in LACKING["modules"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


for module, names in LACKING.items():
    if module == "modules":
        for name in names.split():
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, Lacking())
        continue
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
sys.platform = os.environ["STUB_SYSTEM"]
'''

IMPORT_ALL = """
import importlib, pkgutil, sys
import router
names = [module.name for module in pkgutil.walk_packages(router.__path__, "router.", onerror=lambda name: None)]
failed = []
for name in names:
    if name.endswith("__main__") and name != "router.__main__":
        continue  # programs of child processes
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name != "xllamacpp":
            failed.append((name, repr(exc)))
    except Exception as exc:
        failed.append((name, repr(exc)))
print(sys.platform, len(names), failed)
"""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(STUB)
    return folder


def on(system: str, stub: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(stub),
            "PYTHONPATH": f"{stub}{os.pathsep}{ROOT}",
            "STUB_SYSTEM": system,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_every_module_can_be_imported(system: str, stub: Path) -> None:
    told = on(system, stub, "-c", textwrap.dedent(IMPORT_ALL))
    name, count, failed = told.stdout.split(maxsplit=2)
    assert (name, failed.strip(), told.stderr) == (system, "[]", "")
    assert int(count) > 150


def test_windows_is_told_at_the_start_and_commands_that_look_work(stub: Path, tiny_models: Path) -> None:
    where = ("--models-dir", str(tiny_models))
    told = on("win32", stub, "-m", "router", "--engine", FAKE, "--port", "0", *where)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(
        "llama-router: llama-router cannot run models on Windows, which has no process groups"
    )
    assert told.stderr.count("\n") == 1
    told = on("win32", stub, "-m", "router", "list", *where)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.count("tiny-") == 3
    ini = stub / "a.ini"
    ini.write_text("[a]\nhf-repo = user/repo\n")
    assert on("win32", stub, "-m", "router", "check", str(ini)).stdout.endswith("no problems; models: a\n")
    assert on("win32", stub, "-m", "router", "--help").returncode == 0


def test_a_router_on_something_like_macos(routers: Starter, tiny_models: Path, stub: Path) -> None:
    path = f"{stub}{os.pathsep}{ROOT}"
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--models-max", "1")
    router = routers(*flags, PYTHONPATH=path, STUB_SYSTEM="darwin")
    for name in ("tiny-a", "tiny-b", "tiny-a"):
        assert router.chat(name).status_code == 200
    children = router.children()
    assert len(children) == 1
    assert router.stop() == 0
    assert not children[0].is_running()


WITHOUT_UVLOOP = """
import sys
sys.modules["uvloop"] = None
"""


def test_a_router_without_uvloop(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_UVLOOP)
    router = routers(*("--engine", FAKE, "--models-dir", str(tiny_models)), PYTHONPATH=f"{folder}{os.pathsep}{ROOT}")
    assert router.chat("tiny-a").status_code == 200
    with router.stream("tiny-a", 3) as events:
        assert len(events.json()) >= 3
    assert router.stop() == 0
    assert "Traceback" not in router.log


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts("linux", True, True), None),
        (Facts("darwin", True, True), None),
        (Facts("freebsd14", True, True), None),
        (Facts("win32", False, False), ["Windows", "process groups", "pipes", "WSL 2", "list, check, pull and rm"]),
        (Facts("win32", True, False), ["Windows", "no pipes", "WSL 2"]),
        (Facts("emscripten", False, True), ["a browser", "no process groups", "Linux or macOS"]),
    ],
)
def test_what_stands_in_the_way(facts: Facts, words: list[str] | None) -> None:
    sentence = obstacle(facts)
    assert (sentence is None) is (words is None)
    assert all(word in (sentence or "") for word in words or [])


def test_here_nothing_stands_in_the_way() -> None:
    assert obstacle(facts()) is None
