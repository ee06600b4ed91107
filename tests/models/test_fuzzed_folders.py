"""Whatever lies in a folder of models, its good models are in the catalog, and it is said what is wrong with others."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.models.build import build
from router.models.describe import describe
from router.models.folders import ModelFolders
from router.models.presets import NO_PRESETS
from tests.models.rig import TABLE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and names")

GOOD = "the model itself"
NAMES = st.sampled_from(
    [
        *(b"x", b"x-Q4_K_M", b"x-Q8_0", b"X", b"x-00001-of-00002", b"x-00002-of-00002", b"x-00001-of-00001"),
        *(
            b"mmproj-x",
            b"mtp-x",
            b"lora",
            b"imatrix",
            b"Q4_K_M",
            b"publisher",
            b"caf\xe9",
            b"a\nb",
            b"\x1b[31m",
            b"a:b",
        ),
        *(b"user--repo", b"%E9", b"-rf", b"~", b"$HOME", b".hidden", b"x" * 200, "日本".encode(), b" ", b"..."),
    ]
) | st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & {0, 0x2F} and name not in (b".", b".."))
ENDINGS = st.sampled_from([b".gguf", b".gguf", b".gguf", b".GGUF", b"", b".txt", b".safetensors"])
CONTENTS = st.sampled_from([GOOD, GOOD, b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 60, b"lmgg", b"<html>"])
CONTENTS |= st.binary(max_size=64)
LINKS = st.sampled_from([b".", b"..", b"../..", b"x", b"x.gguf", b"/nowhere", b"/dev/zero", b"/proc/self/fd"])
LEAVES = st.one_of(
    st.tuples(st.just("file"), CONTENTS),
    st.tuples(st.just("link"), LINKS),
    st.tuples(st.just("pipe"), st.none()),
)
Tree = dict[bytes, Any]
TREES = st.recursive(
    st.dictionaries(st.tuples(NAMES, ENDINGS).map(b"".join), LEAVES, max_size=5),
    lambda below: st.dictionaries(
        st.tuples(NAMES, ENDINGS).map(b"".join), LEAVES | st.tuples(st.just("folder"), below), max_size=5
    ),
    max_leaves=12,
)


def plant(folder: bytes, tree: Tree, good: Path) -> None:
    for name, leaf in tree.items():
        assert isinstance(leaf, tuple)
        path, (kind, what) = folder + b"/" + name, leaf
        if kind == "folder":
            os.mkdir(path)
            plant(path, what, good)
        elif kind == "link":
            os.symlink(what, path)
        elif kind == "pipe":
            os.mkfifo(path)
        elif what == GOOD:
            shutil.copyfile(good, path)
        else:
            Path(os.fsdecode(path)).write_bytes(what)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(trees=st.lists(TREES, min_size=1, max_size=2))
def test_any_folder_becomes_a_catalog(  # B-F1 B-F2 B-F5
    tiny: Path, unmeasured: Callable[[], None], trees: list[Tree]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        # Far from other files: links lead two folders up.
        roots = [Path(place) / "a" / "b" / str(number) for number in range(len(trees))]
        for root, tree in zip(roots, trees, strict=True):
            root.mkdir(parents=True)
            plant(os.fsencode(root), tree, tiny)
        plainly_good = roots[0] / "plainly-good.gguf"
        shutil.copyfile(tiny, plainly_good)
        found = ModelFolders(roots).read()
        catalog = build(
            NO_PRESETS,
            (),
            models_dir=roots,
            in_folders=found,
            cache_root=Path(place) / "cache",
            global_args=(),
            table=TABLE,
            default_name=None,
            offline=True,
        )
        described = [describe(spec) for spec in catalog.models]
        assert catalog.resolve("plainly-good").model_path == plainly_good
        assert len({spec.name for spec in described}) == len(described)
        for spec in described:
            assert spec.name.isprintable() or not set(spec.name) & set("\0\n\r\x1b\u202e"), ascii(spec.name)
            for text in (spec.name, spec.info.problem or "", *spec.aliases):
                json.dumps(text, ensure_ascii=False).encode()
            assert catalog.resolve(spec.name).name == spec.name
            assert spec.info.problem or spec.model_path
        # Each good file that stands for itself is a model, or is said to be something else.
        named = {spec.model_path for spec in described}
        for root in roots:
            for file in root.glob("*.gguf"):
                if file.is_file() and file.stat().st_size == tiny.stat().st_size and "-of-" not in file.name:
                    assert (
                        file in named
                        or any(str(file) in kind for kind in found.left_out.values())
                        or (file.name.startswith("."))
                    ), file
