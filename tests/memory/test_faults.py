"""What the engine refuses is found in the header, and nothing else: each case is tried with the engines themselves."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from router import demo
from router.engine import discovery
from router.errors import SettingsRefused
from router.memory.faults import fault
from router.models import gguf
from tests.memory.rig import Estimators, Specs, args, gpus, header
from tests.waiting import until

# Words, the width of a head, and what is wrong.
CASES = [
    ("", 16, None),
    ("--cache-type-k q8_0", 32, None),
    ("--cache-type-k q8_0 --cache-type-v q4_0", 32, None),
    ("--cache-type-k q8_0", 16, "a K cache of type q8_0 has blocks of 32 elements"),
    ("--cache-type-k iq4_nl --flash-attn on", 48, "heads of 48"),
    ("--cache-type-k q4_1 --flash-attn off", 16, None),
    ("--cache-type-v q5_1", 16, "a V cache of type q5_1 has blocks"),
    ("--cache-type-v q8_0 --flash-attn off", 32, "needs flash attention"),
    ("--cache-type-v bf16 --flash-attn off", 16, None),
    ("--parallel 257", 16, "at most 256 slots"),
    ("--parallel 256 --ctx-size 256", 16, None),
    ("--parallel 8 --ctx-size 4", 16, None),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("heads")
    return {size: demo.write_tiny(folder / f"{size}.gguf", width=4 * size) for size in (16, 32, 48)}


def starts(engine: str, model: Path, words: str) -> bool:
    """Whether a llama-server of this engine serves the model with these words."""
    found = discovery.find(engine, os.environ)
    with tempfile.TemporaryDirectory(prefix="lr-") as folder:
        socket, log = Path(folder) / "s.sock", Path(folder) / "log"
        argv = [*found.command, "--model", str(model), *words.split(), "--host", str(socket), "--threads", "1"]
        environ = {**os.environ, **found.env, "LLAMA_SERVER_ROUTER_PORT": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environ)
        try:
            until(lambda: b'"state":"ready"' in log.read_bytes() or process.poll() is not None)
            return b'"state":"ready"' in log.read_bytes()
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(("words", "size", "wrong"), CASES, ids=[f"{words} {size}" for words, size, _ in CASES])
def test_a_fault_is_what_the_engine_refuses(  # B-L15
    words: str, size: int, wrong: str | None, engine: str, models: dict[int, Path]
) -> None:
    found = fault(args(words), gguf.read_model(models[size]))
    assert (found is None) == (wrong is None)
    assert (wrong or "") in (found or "")
    assert starts(engine, models[size], words) == (wrong is None)


def test_only_layers_with_a_cache_count() -> None:
    words = args("--cache-type-k q8_0 --cache-type-v q8_0 --flash-attn off")
    assert fault(words, header("mamba", attention__head_count=0)) is None
    assert fault(words, header("bert")) is None
    assert fault(words, header("llama")) is not None


def test_an_architecture_for_which_flash_attention_is_off() -> None:
    assert "needs flash attention" in (fault(args("--cache-type-v q8_0"), header("grok")) or "")


def test_a_fault_is_found_before_the_engine_is_asked(estimator: Estimators, spec: Specs) -> None:  # B-L15
    one = estimator(gpus(200), LLAMA_ARG_CACHE_TYPE_K="q8_0")
    with pytest.raises(SettingsRefused, match=r"'long' cannot be loaded: a K cache of type q8_0"):
        one.need(spec())
    one.need(spec("--cache-type-k", "f16"))
