"""The folder of children's sockets: private, and made anew when it has gone. B-P9"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.errors import ConfigError
from router.node.run_directory import MARK, RunDirectory
from tests.conftest import Starter
from tests.routers import Router, until


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
            with socket.socket(socket.AF_UNIX) as nobody:
                nobody.bind(str(path))


@pytest.mark.parametrize("what", ["sockets", "files", "folder", "root", "deaf"])
def test_a_socket_that_is_gone_means_a_new_child(  # B-P9
    routers: Starter, fake: str, tiny_models: Path, what: str
) -> None:
    router = start(routers, fake, tiny_models, FAKE_FIRST_SECONDS="0.3")
    assert router.chat("tiny-a").status_code == 200
    (before,) = router.children()
    vanish(router, what)
    # One request goes over the connection that is kept; of several at once, some need another one.
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


def test_a_child_starts_in_a_folder_made_anew(routers: Starter, fake: str, tiny_models: Path, tmp_path: Path) -> None:
    """Its chat template comes as a file there. B-P9"""
    preset = tmp_path / "p.ini"
    preset.write_text("[tiny-b]\nchat-template = {{ messages }} is all\n")
    router = start(routers, fake, tiny_models, "--models-preset", str(preset))
    vanish(router, "root")
    body: dict[str, Any] = {"model": "tiny-a", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    assert router.client.post("/models/load", json=body).status_code == 200
    until(lambda: router.status("tiny-a") == "loaded")
    assert router.chat("tiny-a").status_code == 200


def test_children_of_a_killed_router_are_found_after_its_folder_was_made_anew(  # B-P9
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


# Whose folder it is


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
def test_a_lock_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:  # B-P9
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
