"""Where run folders may be: in the first place that takes sockets and that nobody else can meddle with. B-P10"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.node.run_directory import MARK, RunDirectory
from router.node.run_roots import run_roots
from tests.node.rig import is_alive

USER = os.getuid()
NAME = f"llama-router-{USER}"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, for all others to write in, as /tmp."""
    path = Path(tempfile.mkdtemp(prefix="lr-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def deep(folder: Path, size: int, letter: str = "x") -> Path:
    """A folder in this one whose path has so many bytes."""
    left = size - len(os.fsencode(folder)) - 1
    path = folder / (letter * (left // len(letter.encode()) if left < 250 else 200))
    path.mkdir(parents=True)
    return path


def test_the_users_runtime_folder_comes_first_then_the_temporary_ones(short: Path) -> None:  # B-P10
    runtime = short / "run"
    runtime.mkdir(mode=0o700)
    roots = run_roots({"XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(short)})
    assert roots[:2] == [runtime / "llama-router", short / NAME]
    assert Path("/tmp") / NAME in roots
    assert len(roots) == len(set(roots))


@pytest.mark.parametrize("kind", ["missing", "relative", "a file", "for all to write", "another user's", "empty"])
def test_a_runtime_folder_that_is_not_the_users_alone_is_not_used(short: Path, kind: str) -> None:  # B-P10
    runtime = short / "run"
    if kind == "a file":
        runtime.write_text("")
    elif kind != "missing":
        runtime.mkdir()
        runtime.chmod(0o777 if kind == "for all to write" else 0o700)
    if kind == "another user's":
        if USER:
            pytest.skip("only root can give folders away")
        os.chown(runtime, 12345, 12345)
    word = {"relative": "run", "empty": ""}.get(kind, str(runtime))
    roots = run_roots({"XDG_RUNTIME_DIR": word, "TMPDIR": str(short)})
    assert roots[0] == short / NAME


@pytest.mark.parametrize("where", ["itself", "above"])
def test_a_folder_in_which_others_can_rename_ours_is_not_used(short: Path, where: str) -> None:  # B-P10
    above = short / "above"
    base = above / "tmp"
    base.mkdir(parents=True)
    (base if where == "itself" else above).chmod(0o777)
    assert not [root for root in run_roots({"TMPDIR": str(base)}) if short in root.parents]
    (base if where == "itself" else above).chmod(0o1777)
    assert run_roots({"TMPDIR": str(base)})[0] == base / NAME


@pytest.mark.parametrize("trick", ["link", "file", "for all to write", "another user's"])
def test_a_name_that_another_user_took_is_left_to_him(short: Path, trick: str) -> None:  # B-P10
    taken, elsewhere = short / NAME, short / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trick == "link":
        taken.symlink_to(elsewhere)
    elif trick == "file":
        taken.write_text("")
    else:
        taken.mkdir()
        taken.chmod(0o777)
        if trick == "another user's":
            if USER:
                pytest.skip("only root can give folders away")
            taken.chmod(0o700)
            os.chown(taken, 12345, 12345)
    root = run_roots({"TMPDIR": str(short)})[0]
    assert root != taken
    assert root.parent == short
    run = RunDirectory.open_any([root])
    assert (run.folder.parent, run.has_sockets) == (root, True)
    assert not list(elsewhere.iterdir())
    # The next router finds this place again, with what the first one has left.
    assert run_roots({"TMPDIR": str(short)})[0] == root
    run.close()


@pytest.mark.parametrize("letter", ["x", "é", "猫"])
def test_a_path_that_is_too_long_in_bytes_is_replaced(short: Path, tmp_path: Path, letter: str) -> None:  # B-P10
    """The kernel's limit, with the longest name of a socket, holds for every folder that is taken."""
    for size in range(60, 100):
        root = deep(short, size, letter) / "r"
        other = tmp_path / str(size)
        run = RunDirectory.open_any([root, short / "short"])
        longest = run.folder / "9999999.sock"
        assert len(os.fsencode(longest)) < 104  # with the zero at the end, what macOS takes
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(longest))
        assert (run.folder.parent == root) is (len(os.fsencode(root)) <= 81), other
        run.close()
        shutil.rmtree(root.parent)


def test_only_a_named_folder_that_is_too_long_is_an_error(short: Path) -> None:  # B-P10
    root = deep(short, 150) / "r"
    with pytest.raises(ConfigError, match=r"too long for the name of a unix socket\. Name a shorter --run-dir"):
        RunDirectory.open(root)
    run = RunDirectory.open_any([root])
    assert (run.folder.parent, run.has_sockets) == (root, False)
    run.close()


def test_places_that_cannot_be_written_are_passed_over(short: Path) -> None:  # B-P10
    (short / "file").write_text("")
    run = RunDirectory.open_any([short / "file" / "below", Path("/proc/llama-router"), short / "good"])
    assert run.folder.parent == short / "good"
    run.close()
    with pytest.raises(ConfigError, match="name one with --run-dir"):
        RunDirectory.open_any([short / "file" / "below", Path("/proc/llama-router")])
    with pytest.raises(ConfigError, match="name one with --run-dir"):
        RunDirectory.open_any([])


def test_leftovers_are_looked_for_in_every_place(short: Path) -> None:  # B-P5 B-P10
    """The router that was killed had another environment, or no place for sockets."""
    first, second, long = short / "first", short / "second", deep(short, 150) / "third"
    sleepers = []
    for root in (first, second, long):
        run = RunDirectory.open_any([root])
        sleepers.append(subprocess.Popen(["sleep", "60"], env=os.environ | {MARK: run.mark}))
        run._lock.close()  # as the kernel does when the router dies
    living = RunDirectory.open_any([second])
    sleepers.append(subprocess.Popen(["sleep", "60"], env=os.environ | {MARK: living.mark}))
    try:
        run = RunDirectory.open_any([first, second, long])
        assert [is_alive(sleeper.pid) for sleeper in sleepers] == [False, False, False, True]
        assert not [path for path in long.iterdir() if path.is_dir()]
        assert living.folder.exists()
        assert run.folder.parent == first
        run.close()
    finally:
        living.close()
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_a_name_that_is_no_text_is_passed_over(short: Path) -> None:  # B-P10
    """The embedded engine takes paths as UTF-8 alone."""
    root = Path(os.fsdecode(os.fsencode(short) + b"/\xff"))
    root.mkdir()
    with pytest.raises(ConfigError, match=r"no UTF-8 text.* Name another --run-dir"):
        RunDirectory.open(root)
    run = RunDirectory.open_any([root, short / "good"])
    assert (run.folder.parent, run.has_sockets) == (short / "good", True)
    run.close()


def test_links_in_a_circle_are_passed_over(short: Path) -> None:  # B-P10
    (short / "link").symlink_to(short / "link")
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        roots = run_roots({name: str(short / "link")})
        assert roots
        assert not [root for root in roots if short in root.parents]
