"""Which files a process reads, and how it is seen that one has been replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from router.engine import flags
from router.models.stamps import files_of, replaced, stamp

TABLE = flags.default_table()
NAMES = (
    *("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "p.gguf", "d.gguf", "t.jinja", "g.gbnf", "s.json"),
    *("l1.gguf", "l2.gguf", "l3.gguf", "c.gguf", "c2.gguf"),
)
WORDS = (
    "--model {0}/m-00001-of-00002.gguf --mmproj {0}/p.gguf --spec-draft-model {0}/d.gguf --ctx-size 5 "
    "--chat-template-file {0}/t.jinja --grammar-file {0}/g.gbnf --json-schema-file {0}/s.json "
    "--lora {0}/l1.gguf,{0}/l2.gguf --lora-scaled {0}/l3.gguf:0.5 --control-vector {0}/c.gguf "
    "--control-vector-scaled {0}/c2.gguf:1e-3"
)


@pytest.fixture
def args(tmp_path: Path) -> tuple[flags.Arg, ...]:
    for name in NAMES:
        (tmp_path / name).write_text("old")
    return flags.parse(WORDS.format(tmp_path).split(), TABLE)


def test_all_files_of_a_process_are_known(args: tuple[flags.Arg, ...]) -> None:
    assert sorted(path.name for path in files_of(args)) == sorted(NAMES)


def rename(path: Path) -> None:
    """Another file with the same size and time takes its place."""
    other, times = path.with_name("other"), path.stat()
    other.write_text("new")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def write(path: Path) -> None:
    path.write_text("new and longer")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def link(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("new")
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [rename, write, touch, link])
def test_each_file_that_is_replaced_is_seen(  # B-L16
    name: str, how: Callable[[Path], None], args: tuple[flags.Arg, ...], tmp_path: Path
) -> None:
    before = stamp(args)
    assert replaced(before) is None
    how(tmp_path / name)
    assert replaced(before) == str(tmp_path / name)
    assert replaced(stamp(args)) is None


def test_a_file_that_is_gone_is_none_that_was_replaced(args: tuple[flags.Arg, ...], tmp_path: Path) -> None:
    before = stamp(args)
    (tmp_path / "l2.gguf").unlink()
    assert replaced(before) is None
    assert len(stamp(args)) == len(before) - 1
