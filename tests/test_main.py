"""The command line, as a person and as a script see it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from router import __version__
from router.commands.table import COMMANDS
from tests.routers import FAKE
from tests.shell import Shell, write
from tests.waiting import PATIENCE_S, until


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_command_has_help(shell: Shell, name: str) -> None:
    words = [name] if name else []
    printed = shell(*words, "--help")
    assert printed == shell(*words, "-h")
    assert (printed.code, printed.err) == (0, "")
    assert printed.out.startswith("usage: llama-router ")
    assert "Exit codes: 0 " in printed.out
    assert ("--models-memory-margin" in printed.out) is (name in ("", "serve"))
    assert all((f"llama-router {other}" in printed.out) is (not name or other == name) for other in ("demo", "check"))


def test_every_command_prints_the_version(shell: Shell) -> None:
    assert shell("--version") == shell("list", "--version") == (0, f"llama-router {__version__}\n", "")


def test_unknown_command_names_the_nearest(shell: Shell) -> None:
    sentence = shell("chekc", "x.ini").sentence
    assert sentence == "llama-router: there is no command 'chekc'; did you mean check?\n"
    ended = shell("models")
    assert ended.code == 2
    assert "llama-router --help" in ended.sentence


def test_demo_answers_and_ends(shell: Shell) -> None:
    ended = shell("demo", "--once", "--engine", "embedded", "--run-dir", str(shell.run_dir), "--threads", "1")
    assert ended.code == 0, ended.err
    answers = dict(line.split(": ", 1) for line in ended.out.splitlines())
    assert list(answers) == ["tiny-a", "tiny-b", "tiny-c"]
    assert all(len(words.split()) > 3 for words in answers.values())
    assert "stopping (room for tiny-c)" in ended.err


def test_demo_serves_until_a_signal(shell: Shell) -> None:
    shell.run_dir.mkdir()
    with shell.start(("demo", "--engine", FAKE, "--port", str(shell.port)), {"TMPDIR": str(shell.folder)}) as process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith(f"curl http://127.0.0.1:{shell.port}/v1/chat/") for line in lines)
        assert any(line.startswith("tiny-c: ") for line in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        process.communicate()
    assert not list(shell.folder.glob("llama-router-demo-*"))


def test_demo_without_an_answer_fails(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", shell.port)):  # a demo that ends needs no certain port
        environ = {"LLAMA_ARG_PORT": str(shell.port), "TMPDIR": str(shell.folder), "FAKE_FAIL": "no luck"}
        ended = shell("demo", "--once", "--engine", FAKE, **environ)
    assert ended.code == 1
    assert ended.out.count("no answer") == 3


def test_list_prints_a_table_or_json(shell: Shell, tiny_models: Path) -> None:
    presets = write(
        shell.folder / "p.ini", f"[one]\nmodel = {tiny_models}/tiny-a.gguf\nhf-token = s3cret\nctx-size = 9\n"
    )
    write(shell.folder / "text.gguf", "no model")
    options = ("--models-preset", str(presets), "--models-dir", str(shell.folder), "--engine", FAKE)
    ended = shell("list", *options)
    assert (ended.code, ended.err) == (0, "")
    header, one, text = ended.out.splitlines()
    assert header.split() == ["name", "source", "size", "context", "quantization", "problem"]
    assert one.split() == ["one", "preset", "1", "MiB", "2048", "F32"]
    assert "is not a GGUF file" in text
    rows = {row["name"]: row for row in json.loads(shell("list", "--json", *options).out)}
    assert rows["one"]["architecture"] == "llama"
    assert rows["one"]["args"][-2:] == ["--ctx-size", "9"]
    assert "s3cret" not in json.dumps(rows)
    assert rows["text"]["problem"]


def test_the_environment_may_name_the_model(shell: Shell, tiny_models: Path) -> None:
    file = str(tiny_models / "tiny-a.gguf")
    (row,) = json.loads(shell("list", "--json", LLAMA_ARG_MODEL=file, LLAMA_ARG_ALIAS="small").out)
    assert (row["name"], row["source"], row["aliases"]) == ("tiny-a", "command_line", ["small"])
    assert shell("list", LLAMA_ARG_MODEL="").code == 1
    (row,) = json.loads(shell("list", "--json", "--model", file, LLAMA_ARG_HF_REPO="user/repo").out)
    assert row["name"] == "tiny-a"
    assert "--hf-repo" not in row["args"]


def test_list_without_models_fails(shell: Shell) -> None:
    ended = shell("list", "--json")
    assert (ended.code, ended.out) == (1, "[]\n")
    assert "--models-dir" in ended.err


def test_list_shows_no_control_characters(shell: Shell) -> None:
    for name in (b"\xff.gguf", b"a\x1b[2J\n.gguf"):
        Path(os.fsdecode(bytes(shell.folder) + b"/" + name)).touch()
    ended = shell("list", "--models-dir", ".")
    assert ended.code == 0
    assert ended.out.count("\n") == 3
    assert "\x1b" not in ended.out


def test_check_reports_every_mistake_with_its_line(shell: Shell, tiny_models: Path) -> None:
    bad = write(
        shell.folder / "bad.ini",
        f"""\
[*]
ctx-siz = 4096
mmproj = gone-mmproj.gguf
[a]
model = {tiny_models}/tiny-a.gguf
alias = b
[b]
model = gone.gguf
load-on-startup = maybe
[c]
model = big-00001-of-00002.gguf
[d]
hf-repo = user/repo
model = where-it-goes.gguf
""",
    )
    write(shell.folder / "big-00001-of-00002.gguf", "")
    ended = shell("check", "bad.ini")
    assert (ended.code, ended.err) == (1, "")
    lines = ended.out.splitlines()
    for line, (number, fragment) in zip(
        lines,
        [
            (2, "unknown key 'ctx-siz'; did you mean ctx-size?"),
            (3, "the file gone-mmproj.gguf is missing"),
            (6, "the alias 'b' of model 'a' is also a name of model 'b'"),
            (8, "the file gone.gguf is missing"),
            (9, "load-on-startup is a switch"),
            (11, "the shard big-00002-of-00002.gguf of 2 is missing"),
        ],
        strict=True,
    ):
        assert line.startswith(f"bad.ini:{number}: "), line
        assert fragment in line
    (report,) = json.loads(shell("check", "--json", str(bad)).out)
    assert report["models"] == ["a", "b", "c", "d"]
    assert report["problems"][0]["nearest"] == "ctx-size"
    assert [(p["line"], p["key"]) for p in report["problems"]][:3] == [(2, "ctx-siz"), (3, "mmproj"), (6, "alias")]


# B-F7
def test_check_tells_warnings_from_mistakes(shell: Shell, tiny_models: Path) -> None:
    write(shell.folder / "w.ini", f"[a]\nmodel = {tiny_models}/tiny-a.gguf\nport = 5\n")
    ended = shell("check", "w.ini")
    assert ended == (0, "w.ini:3: warning: port has no effect: the router sets it\n", "")
    (report,) = json.loads(shell("check", "--json", "w.ini").out)
    assert [(p["key"], p["severity"]) for p in report["problems"]] == [("port", "warning")]
    write(shell.folder / "w.ini", "[tiny-a]\nc = 8k\n")
    assert shell("check", "w.ini", "--models-dir", str(tiny_models)).out.splitlines() == [
        "w.ini:2: ctx-size takes a whole number, not '8k': write 8192"
    ]
    assert "w.ini:1: [tiny-a] names no model" in shell("check", "w.ini").out
    write(shell.folder / "r.ini", f"models-dir = {tiny_models}\n")
    assert "names no model" not in shell("check", "w.ini", "--config", "r.ini").out
    assert "names no model" not in shell("check", "w.ini", LLAMA_ARG_MODELS_DIR=str(tiny_models)).out
    assert "--models-dir w.ini: Not a directory" in shell("check", "w.ini", "--models-dir", "w.ini").sentence
    assert "--models-dir takes a path, or several" in shell("check", "w.ini", "--models-dir", ",").sentence
    # A folder, or several with commas, are read as one.
    (shell.folder / "d").mkdir()
    write(shell.folder / "d" / "1.ini", "[*]\nhf-repo = user/repo\n")
    write(shell.folder / "d" / "2.ini", "[b]\nfa = x\n")
    whole = "d/1.ini: no problems; models: none\nd/2.ini:2: flash-attn takes on, off or auto, not 'x'\n"
    assert shell("check", "d") == (1, whole, "")
    assert shell("check", "d/1.ini,d/2.ini") == (1, whole, "")
    assert "d/2.ini:1: [b] names no model" in shell("check", "d/1.ini", "d/2.ini").out


def test_check_passes_a_file_without_problems(shell: Shell) -> None:
    write(shell.folder / "good.ini", "[a]\nhf-repo = user/repo\n")
    write(shell.folder / "latin.ini", "")
    assert shell("check", "good.ini") == (0, "good.ini: no problems; models: a\n", "")
    (shell.folder / "latin.ini").write_bytes(b"[a]\n\xe4 = 1\n")
    ended = shell("check", "good.ini", "latin.ini")
    assert ended.code == 1
    assert "latin.ini:2: the file is not UTF-8" in ended.out


def test_check_needs_a_file_that_exists(shell: Shell) -> None:
    assert "FILE.ini" in shell("check").sentence
    assert "did you mean --json?" in shell("check", "x.ini", "--jsn").sentence
    assert "check takes a path, or several" in shell("check", "").sentence
    missing = shell("check", "gone.ini")
    assert missing.code == 2
    assert missing.sentence == "llama-router: gone.ini: cannot read the preset file: No such file or directory\n"


def test_check_knows_the_keys_of_the_engine(shell: Shell) -> None:
    script = """#!/bin/sh
[ "$1" = --version ] && echo "version: 99999 (new)" || printf -- '-m, --model FNAME   model\\n--frobnicate N    new\\n'
"""
    engine = write(shell.folder / "llama-server", script, executable=True)
    write(shell.folder / "new.ini", "[a]\nhf-repo = user/repo\nfrobnicate = 1\n")
    assert "unknown key 'hf-repo'" in shell("check", "new.ini", "--engine", str(engine)).out
    assert "unknown key 'frobnicate'" not in shell("check", "new.ini", LLAMA_ROUTER_ENGINE=str(engine)).out
    assert "unknown key 'frobnicate'" in shell("check", "new.ini", "--engine", FAKE).out
    # A broken one that was found by chance is no reason not to check; one that was named is.
    write(engine, "#!/bin/sh\nexit 1\n", executable=True)
    assert shell("check", "new.ini", PATH=f"{shell.folder}:/usr/bin:/bin").code == 1
    assert shell("check", "new.ini", "--engine", str(engine)).code == 2


def test_an_interrupt_during_the_start_exits_with_130(shell: Shell) -> None:
    # It waits before it says that it runs: an interrupt within `subprocess.Popen` would leave it to itself.
    engine = write(shell.folder / "slow", "#!/bin/sh\nsleep 0.5; touch started; exec sleep 60\n", executable=True)
    with shell.start(("--engine", str(engine), "--port", str(shell.port)), {}) as process:
        until((shell.folder / "started").exists)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
@pytest.mark.parametrize("module", ["router.commands", "dataclasses", "rapidfuzz", "router.settings", "router.plan"])
def test_a_signal_during_any_import_ends_without_a_traceback(  # B-P12
    module: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    script = f"""
import signal, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            signal.raise_signal({int(number)})
from router.__main__ import main
sys.modules.pop({module!r}, None)  # a measurement of coverage has imported some
sys.meta_path.insert(0, Finder())
sys.exit(main(["list", "--models-dir", {str(tmp_path)!r}]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, b"", b"")


@pytest.mark.parametrize("words", [("list", "--models-dir", "{}"), ("--help",), ("check", "/dev/null")])
def test_a_closed_pipe_is_no_error(shell: Shell, tiny_models: Path, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with shell.start([word.format(tiny_models) for word in words], {}, writer) as process:
        os.close(writer)
        _, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (0, "")
