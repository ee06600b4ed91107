"""Routers are found by what they left in their run folders, and only while they live. B-O6"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from router.node.run_directory import RunDirectory
from router.node.whereabouts import FILE, Whereabouts, birth_of, find_all
from tests.waiting import until

HERE = Whereabouts(("http://127.0.0.1:8080", "unix:/run/x.sock"), "/llm", ("127.0.0.1",), "/c.pem", ("/keys",))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "r"
    root.mkdir(mode=0o700)
    return root


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_router_says_where_it_listens_until_its_end(root: Path) -> None:
    run = RunDirectory.open(root)
    HERE.publish(run)
    file = run.folder / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [found] = find_all([root, root.parent / "gone"])
    assert (found.urls, found.prefix, found.certificate, found.key_files) == (HERE.urls, "/llm", "/c.pem", ("/keys",))
    assert found.pid == os.getpid()
    run.close()
    assert find_all([root]) == []


def test_it_is_there_again_when_the_folder_was_cleaned_up(root: Path) -> None:
    run = RunDirectory.open(root)
    HERE.publish(run)
    shutil.rmtree(run.folder)
    assert find_all([root]) == []
    run.renew()
    assert [found.urls for found in find_all([root])] == [HERE.urls]
    run.close()


def test_a_killed_router_is_told_from_a_living_one(root: Path) -> None:
    run = RunDirectory.open(root)
    HERE.publish(run)
    file = run.folder / FILE
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        change(file, pid=other.pid, birth=birth_of(other.pid))
        assert len(find_all([root])) == 1
        change(file, birth=birth_of(os.getpid()))  # another process has got its number
        assert find_all([root]) == []
        change(file, birth=birth_of(other.pid))
        assert other.stdin
        other.stdin.close()
        until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
        assert find_all([root]) == []  # it has ended, although its number is not free yet
    assert find_all([root]) == []
    assert birth_of(other.pid) == ""
    run.close()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"urls": 1}', '{"urls": []}', "[" * 100_000, "x" * 100_000, '{"pid": "a"}']
)
def test_what_no_router_wrote_is_left_alone(root: Path, text: str) -> None:
    run = RunDirectory.open(root)
    (run.folder / FILE).write_text(text)
    assert find_all([root]) == []
    run.close()


def test_only_what_this_user_alone_can_write_is_read(root: Path) -> None:
    run = RunDirectory.open(root)
    HERE.publish(run)
    file = run.folder / FILE
    file.chmod(0o666)
    assert find_all([root]) == []
    file.chmod(0o600)
    run.folder.chmod(0o755)
    assert find_all([root]) == []
    run.folder.chmod(0o700)
    root.chmod(0o777)
    assert find_all([root]) == []
    root.chmod(0o700)
    assert len(find_all([root])) == 1
    file.rename(root / "elsewhere")
    os.mkfifo(file)
    assert find_all([root]) == []  # and nothing waits for a writer
    run.close()


def test_a_full_disk_is_no_reason_not_to_start(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDirectory.open(root)
    (run.folder / f"{FILE}.new").mkdir()
    HERE.publish(run)
    assert "cannot be written" in caplog.text
    run.close()
