"""Command lines as people write them, to llama-server's words."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.llama_swap.command import NotLlamaServer, read


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("llama-server -m x.gguf", "-m|x.gguf"),
        ("/opt/llama.cpp/build/bin/llama-server-b11434 -m 'a b.gguf'", "-m|a b.gguf"),
        ("# first\nllama-server \\\n  -m x \\  \n  # between\n -c 5", "-m|x|-c|5"),
        ('llama-server --json \'{"a": "#b"}\' --x="y z"', '--json|{"a": "#b"}|--x=y z'),
        ("C:\\llama\\llama-server.exe -m C:\\models\\x.gguf", "-m|C:\\models\\x.gguf"),
        ("/home/me/llama.cpp/server -m x", "-m|x"),
        ("nice -n 5 ionice -c 2 taskset -c 0-3 numactl --cpunodebind=0 llama-server -m x", "-m|x"),
        ("nohup /usr/bin/stdbuf -oL llama-server -m x", "-m|x"),
        ("sh -c 'exec llama-server -m x 2>&1'", "-m|x"),
        ("bash -lc \"llama-server -m 'a b'\"", "-m|a b"),
        ("LD_LIBRARY_PATH=/x llama-server -m x", "-m|x"),
        ("toolbox run -c llama-vulkan -- llama-server -m x", "-m|x"),
        ("distrobox enter llama -- /usr/bin/llama-server -m x", "-m|x"),
        ("distrobox-enter -n llama -- llama-server -m x", "-m|x"),
    ],
)
def test_words(text: str, argv: str) -> None:
    assert "|".join(read(text).argv) == argv


def test_variables_of_wrappers() -> None:
    found = read("env -u A B=1 nice C='x y' llama-server -m x")
    assert found.env == (("B", "1"), ("C", "x y"))
    assert len(found.left_out) == 2
    assert found.left_out[0].startswith("env -u A: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve x", "runs vllm"),
        ("python -m llama_cpp.server --model x", "runs python"),
        ("ssh host llama-server -m x", "runs ssh"),
        ("./start.sh --port 1", "runs start.sh"),
        ("nice whisper-server -m x", "runs nice without llama-server"),
        ("sh -c 'cd /x && llama-server -m x'", "needs a shell"),
        ("sh -c 'llama-server -m $MODEL'", "needs a shell"),
        ("sh start.sh", "script of sh"),
        ("docker compose up", "no `docker run`"),
        ("docker run --rm -p 1:2 vllm/vllm-openai --model x", "runs the container vllm/vllm-openai"),
        ("docker run --rm", "without an image"),
        ("docker run ghcr.io/ggml-org/llama.cpp:light -m x", "runs the container"),
        ("docker run --entrypoint /app/llama-cli ghcr.io/ggml-org/llama.cpp:full -m x", "runs the container"),
        ("llama-server -m 'x", "cannot be split"),
        ("", "is empty"),
        ("# only a comment", "is empty"),
        ("A=1", "is empty"),
        ("llama-server " + "x " * 3000, "more than 2000 words"),
        ('sh -c "sh -c \'sh -c \\"sh -c x\\"\'"', "sh"),
        ("nice " * 1500 + "llama-server -m x", "nice"),
    ],
)
def test_what_is_no_llama_server(text: str, words: str) -> None:
    with pytest.raises(NotLlamaServer) as caught:
        read(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize("program", ["docker", "/usr/bin/podman"])
def test_containers(program: str) -> None:
    found = read(
        f"{program} run --name m --init --rm -it -p 5800:8080 --gpus=all --shm-size 1g -v /mnt/models:/models:ro "
        "-v cache:/root/.cache --mount type=bind,source=/etc/llama,target=/conf -e A=1 -e B --volume=/srv:/models/more "
        "ghcr.io/ggml-org/llama.cpp:server-cuda -m /models/x.gguf --host 0.0.0.0"
    )
    assert found.argv == ("-m", "/models/x.gguf", "--host", "0.0.0.0")
    assert found.env == (("A", "1"),)
    assert found.outside("/models/x.gguf") == "/mnt/models/x.gguf"
    assert found.outside("/models/more/x.gguf") == "/srv/x.gguf"
    assert found.outside("/conf") == "/etc/llama"
    assert found.outside("/modelsx/y") is None
    assert found.outside("/root/.cache/y") is None  # a volume with a name
    assert any("-e B" in line for line in found.left_out)
    assert "(left out: --name --init --rm -it -p --gpus --shm-size)" in found.left_out[-1]


@pytest.mark.parametrize(
    "text",
    [
        "docker run --rm ghcr.io/ggml-org/llama.cpp:full --server -m x",
        "docker run --entrypoint /app/llama-server my/image -m x",
        "docker run my/image llama-server -m x",
        "docker container run -v/a:/b ghcr.io/ggerganov/llama.cpp:server -m x",
    ],
)
def test_images(text: str) -> None:
    assert read(text).argv == ("-m", "x")


@given(
    st.text(st.sampled_from("ab -'\"\\\n#=/;&$"), max_size=50),
    st.sampled_from(["", "llama-server ", "docker run ", "sh -c "]),
)
def test_any_text_is_read_or_refused(text: str, before: str) -> None:
    with contextlib.suppress(NotLlamaServer):
        assert read(before + text).program
