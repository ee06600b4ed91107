"""The folder of children's sockets is private, and is made again when it has gone. B-P9"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.errors import ConfigError
from router.node.run_directory import MARK, RunDirectory
from tests.conftest import Starter
from tests.node.rig import is_alive
from tests.routers import Router
from tests.waiting import until


def run_dir(router: Router) -> Path:
    words = psutil.Process(router.process.pid).cmdline()
    return Path(words[words.index("--run-dir") + 1])


def start(routers: Starter, fake: str, models: Path, *flags: str, **environ: str) -> Router:
    return routers("--engine", fake, "--models-dir", str(models), *flags, **environ)


def vanish(router: Router, what: str) -> None:
    root = run_dir(router)
    own = next(path for path in root.iterdir() if path.is_dir())
    if what == "sockets":
        for path in own.glob("*.sock"):
            path.unlink()
    elif what == "files":
        for path in own.iterdir():
            path.unlink()
    elif what == "folder":
        shutil.rmtree(own)
    elif what == "root":
        shutil.rmtree(root)
    elif what == "deaf":
        for path in own.glob("*.sock"):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as unused:
                unused.bind(str(path))


@pytest.mark.parametrize("what", ["sockets", "files", "folder", "root", "deaf"])
def test_a_lost_socket_means_a_new_child(  # B-P9
    routers: Starter, fake: str, tiny_models: Path, what: str
) -> None:
    router = start(routers, fake, tiny_models, FAKE_FIRST_SECONDS="0.3")
    assert router.chat("tiny-a").status_code == 200
    (before,) = router.children()
    vanish(router, what)
    # One request goes over the kept connection. Of several at once, some need another connection.
    codes: list[int] = []
    asking = [threading.Thread(target=lambda: codes.append(router.chat("tiny-a").status_code)) for _ in range(6)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert codes == [200] * 6
    until(lambda: not before.is_running() or before.status() == psutil.STATUS_ZOMBIE)
    (after,) = router.children()
    root = run_dir(router)
    own = next(path for path in root.iterdir() if path.is_dir())
    assert after.environ()[MARK] == str(own)
    assert [own.stat().st_mode & 0o777, (own / "lock").exists()] == [0o700, True]
    assert router.loads("tiny-a") == 2
    assert "its socket is gone" in router.log
    assert router.chat("tiny-b").status_code == 200
    assert router.stop() == 0
    assert not any(path.is_dir() for path in root.iterdir())


def test_a_child_starts_in_a_folder_that_was_made_again(
    routers: Starter, fake: str, tiny_models: Path, tmp_path: Path
) -> None:
    """Its chat template is a file in that folder. B-P9"""
    preset = tmp_path / "p.ini"
    preset.write_text("[tiny-b]\nchat-template = {{ messages }} is all\n")
    router = start(routers, fake, tiny_models, "--models-preset", str(preset))
    vanish(router, "root")
    body: dict[str, Any] = {"model": "tiny-a", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    assert router.client.post("/models/load", json=body).status_code == 200
    until(lambda: router.status("tiny-a") == "loaded")
    assert router.chat("tiny-a").status_code == 200


def test_children_of_a_killed_router_are_found_though_its_folder_was_made_again(  # B-P9
    routers: Starter, fake: str, tiny_models: Path
) -> None:
    router = start(routers, fake, tiny_models)
    vanish(router, "folder")
    assert router.chat("tiny-a").status_code == 200
    root = run_dir(router)
    (left,) = [path for path in root.iterdir() if path.is_dir()]
    router.kill()
    RunDirectory.open(root).close()
    assert not left.exists()


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:  # B-P9
    root = tmp_path / "root"
    run = RunDirectory.open(root)
    shutil.rmtree(run.folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    run.folder.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"made anew|yours alone"):
        run.renew()
    run.folder.unlink()
    run.folder.write_text("a file")
    with pytest.raises(ConfigError, match="made anew"):
        run.renew()
    run.folder.unlink()
    run.folder.mkdir()
    run.folder.chmod(0o755)
    with pytest.raises(ConfigError, match="yours alone"):
        run.renew()
    run.folder.rmdir()
    run.renew()
    run.renew()
    assert run.folder.stat().st_mode & 0o777 == 0o700
    run.close()
    assert not run.folder.exists()
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("kind", ["link", "writable", "file", "group"])
def test_a_root_of_others_is_refused(tmp_path: Path, kind: str) -> None:  # B-P9
    root, real = tmp_path / "root", tmp_path / "real"
    real.mkdir(mode=0o700)
    if kind == "link":
        root.symlink_to(real)
    elif kind == "file":
        root.write_text("")
    else:
        root.mkdir()
        root.chmod(0o777 if kind == "writable" else 0o770)
    with pytest.raises(ConfigError, match=r"must be yours alone|cannot be made"):
        RunDirectory.open(root)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give folders away")
def test_a_folder_that_is_given_away_is_refused(tmp_path: Path) -> None:  # B-P9
    root = tmp_path / "root"
    run = RunDirectory.open(root)
    os.chown(run.folder, 12345, 12345)
    with pytest.raises(ConfigError, match="yours alone"):
        run.renew()
    os.chown(run.folder, 0, 0)
    shutil.rmtree(root)
    root.mkdir(mode=0o700)
    os.chown(root, 12345, 12345)
    with pytest.raises(ConfigError, match="yours alone"):
        run.renew()
    with contextlib.suppress(OSError):
        run.close()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file_is_not_followed(tmp_path: Path, kind: str) -> None:  # B-P9
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir(mode=0o700)
    other.write_text("precious")
    {
        "link": lambda: (root / "lock").symlink_to(other),
        "pipe": lambda: os.mkfifo(root / "lock"),
        "folder": lambda: (root / "lock").mkdir(),
    }[kind]()
    with contextlib.suppress(ConfigError):
        RunDirectory.open(root).close()
    assert other.read_text() == "precious"


# B-P5
def test_leftovers_are_found_by_their_mark_alone(folder: Path) -> None:
    living = RunDirectory.open(folder)
    dead = folder / "dead"
    dead.mkdir()
    (dead / "lock").touch()
    marks = (str(dead), living.mark, None)
    sleepers = [subprocess.Popen(["sleep", "60"], env=os.environ | ({MARK: mark} if mark else {})) for mark in marks]
    try:
        RunDirectory.open(folder).close()
        assert [is_alive(sleeper.pid) for sleeper in sleepers] == [False, True, True]
        assert not dead.exists()
        assert living.folder.exists()
        assert living.folder.stat().st_mode & 0o777 == 0o700
    finally:
        living.close()
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


# B-P6
@pytest.mark.parametrize("flaw", ["open", "link", "long"])
def test_a_folder_that_others_could_use_is_refused(folder: Path, flaw: str) -> None:
    root = folder / "run"
    if flaw == "open":
        root.mkdir()
        root.chmod(0o777)
    elif flaw == "link":
        root.symlink_to(folder)
    else:
        root = folder / ("x" * 80)
    with pytest.raises(ConfigError, match="--run-dir"):
        RunDirectory.open(root)
