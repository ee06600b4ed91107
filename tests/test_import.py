"""`llama-router import`: a configuration of llama-swap becomes a preset file that serves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.routers import FAKE
from tests.shell import Shell, write


@pytest.fixture
def config(shell: Shell, tiny_models: Path) -> Path:
    text = f"""
apiKeys: [sk-hush]
macros:
  server: /opt/llama-server --port ${{PORT}} -c 512
models:
  first:
    cmd: |
      # as in the days before
      ${{server}} --no-mmap \\
        -m {tiny_models}/tiny-a.gguf
    aliases: [one]
    ttl: 60
    filters:
      setParamsByID:
        ${{MODEL_ID}}:short: {{max_tokens: 2}}
  second: {{cmd: "${{server}} -m {tiny_models}/tiny-b.gguf", unlisted: true}}
  other: {{cmd: vllm serve x}}
hooks: {{on_startup: {{preload: [one]}}}}
"""
    return write(shell.folder / "swap.yaml", text)


# B-F4
def test_an_imported_configuration_passes_check_and_tells_what_it_lacks(shell: Shell, config: Path) -> None:
    ended = shell("import", "swap.yaml", "-o", "models.ini")
    assert ended.code == 0
    assert ended.out == "models.ini: 2 models; llama-router --models-preset models.ini serves them\n"
    told = ended.err.splitlines()
    assert "swap.yaml:17: other: left out: its command runs vllm, which is not llama-server" in told
    assert all(line.startswith("swap.yaml:") for line in told)
    assert any("first: --no-mmap: written as load-mode = none" in line for line in told)
    text = (shell.folder / "models.ini").read_text()
    assert "sk-hush" not in text + ended.err
    assert "; other: left out: its command runs vllm, which is not llama-server\n" in text
    assert shell("check", "models.ini", "--engine", FAKE) == (
        *(0, "models.ini: no problems; models: first, second\n", ""),
    )
    to_stdout = shell("import", "swap.yaml", "--engine", FAKE)
    assert (to_stdout.code, to_stdout.out) == (0, text)


# B-F4
def test_an_imported_configuration_serves(routers: Starter, engine: str, shell: Shell, config: Path) -> None:
    assert shell("import", str(config), "-o", "models.ini", "--engine", engine).code == 0
    router = routers("--models-preset", str(shell.folder / "models.ini"), "--engine", engine)
    names = [model["id"] for model in router.client.get("/v1/models").json()["data"]]
    assert names == ["first"]
    for name in ("first", "one", "second"):
        assert router.chat(name, 4).json()["usage"]["completion_tokens"] == 4
    # By another name of the same model and the same process.
    short = router.chat("first:short", 9).json()
    assert short["usage"]["completion_tokens"] == 2
    assert router.loads("first") == 1
    assert router.client.post("/api/chat", json={"model": "FIRST:short", "stream": False, "messages": []}).status_code
    child = next(child for child in router.children() if "first" in child.cmdline())
    assert "--load-mode" in child.cmdline()


def test_a_file_is_never_overwritten_unasked(shell: Shell, config: Path) -> None:
    mine = write(shell.folder / "mine.ini", "[a]\n")
    ended = shell("import", "swap.yaml", "--output=mine.ini")
    assert (ended.code, ended.out) == (2, "")
    assert ended.sentence == "llama-router: mine.ini is there already: name another file, or replace it with --force\n"
    assert mine.read_text() == "[a]\n"
    (shell.folder / "link.ini").symlink_to("nowhere")
    assert shell("import", "swap.yaml", "-o", "link.ini").code == 2
    assert shell("import", "swap.yaml", "-o", "mine.ini", "--force").code == 0
    assert "[first]" in mine.read_text()
    assert (
        "llama-router: cannot write gone/mine.ini: No such" in shell("import", "swap.yaml", "-o", "gone/mine.ini").err
    )
    assert not list(shell.folder.glob(".mine.ini*"))
    assert sorted(path.name for path in shell.folder.glob("*.ini")) == ["link.ini", "mine.ini"]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 2, "cannot read swap.yaml: No such file"),
        (b"a: 1\n", 2, "swap.yaml: this is no configuration of llama-swap: it has no models"),
        (b"models:\n\t- a\n", 2, "swap.yaml:2: this is no YAML"),
        (b"models: \xff", 2, "swap.yaml:1: the file is not UTF-8"),
        (b"models: {a: {cmd: vllm}}", 1, "no model of swap.yaml runs llama-server"),
        (b"a: b\n" * 300_000, 2, "cannot read swap.yaml: it is larger than 1 MiB"),
        ("models: {a: {cmd: llama-server -m x}}".encode("utf-16"), 0, "a: "),
    ],
)
def test_what_cannot_be_imported(shell: Shell, content: bytes | None, code: int, words: str) -> None:
    path = shell.folder / "swap.yaml"
    if content is not None:
        path.write_bytes(content)
    ended = shell("import", "swap.yaml", "-o", "x.ini")
    assert ended.code == code, ended
    if code:
        assert words in ended.err
        assert not (shell.folder / "x.ini").exists()


def test_the_command_line_of_import(shell: Shell, config: Path) -> None:
    for words in ((), ("a.yaml", "b.yaml"), ("-o", "x.ini")):
        assert "import needs one file: llama-router import CONFIG.yaml" in shell("import", *words).sentence
    assert "did you mean --force?" in shell("import", "swap.yaml", "--forc").sentence
    assert "swap.yaml is there already" in shell("import", "swap.yaml", "-o", "swap.yaml").sentence
    os.mkfifo(shell.folder / "fifo")
    assert "it is a named pipe" in shell("import", "fifo").sentence
    assert "import CONFIG.yaml" in shell("--help").out
