"""`llama-router pull` and `rm`, as processes, against a hub on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.engine.flags import default_table
from router.hub import cache
from router.hub.pull import duration, summary
from router.models import presets
from router.models.foreign import ALLOWED_KEYS
from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.routers import FAKE
from tests.shell import Ended, Shell
from tests.waiting import until

MIB = 2**20
SMALL, LARGE = bytes(MIB), bytes(3 * MIB)
GIANT = 2**60  # no disk has that


@pytest.fixture
def hub() -> Iterator[HubServer]:
    repos = {
        "user/m": Repo({"m-Q8_0.gguf": RepoFile(SMALL), "m-Q4_K_M.gguf": RepoFile(LARGE)}),
        "user/giant": Repo({"g-Q8_0.gguf": RepoFile(SMALL, size=GIANT), "g-Q2_K.gguf": RepoFile(SMALL)}),
    }
    with HubServer(repos) as server:
        yield server


class Line(Shell):
    """A command line whose hub is this one."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        super().__init__(folder)
        self.hub = hub
        self.root = folder / "cache"

    def run(self, *words: str, **environ: str) -> Ended:
        return self(*words, HF_ENDPOINT=self.hub.url, **environ)

    def holds(self, name: str) -> bool:
        return cache.find(self.root, name) is not None

    def parts(self) -> list[Path]:
        return list(self.root.rglob("*.incomplete"))


@pytest.fixture
def line(tmp_path: Path, hub: HubServer) -> Iterator[Line]:
    line = Line(tmp_path, hub)
    yield line
    assert not line.left()


def test_models_are_downloaded_once(line: Line, hub: HubServer) -> None:  # B-H1 B-H3
    ended = line.run("pull", "hf.co/user/m", "user/m:q8_0")
    expected = f"user/m:Q4_K_M: 3 MiB in {line.root}\nuser/m:Q8_0: 1 MiB in {line.root}\n"
    assert (ended.code, ended.out, ended.err) == (0, expected, "")
    assert line.run("pull", "user/m").code == 0
    assert hub.gets == {"user/m/m-Q4_K_M.gguf": 1, "user/m/m-Q8_0.gguf": 1}
    assert line.holds("user/m:Q4_K_M")


def test_a_missing_model_does_not_stop_the_others(line: Line) -> None:  # B-H4
    ended = line.run("pull", "user/nowhere", "user/m:Q3_K", "user/m:Q8_0")
    assert (ended.code, line.holds("user/m:Q8_0")) == (1, True)
    first, second = ended.err.splitlines()
    assert "no " in first
    assert "user/nowhere" in first
    assert "it has user/m:Q8_0 (1 MiB), user/m:Q4_K_M (3 MiB)" in second


@pytest.mark.parametrize("words", [[], ["../x"], ["user/m", "tiny"], ["user/m", "--fall"], ["--fallback"]])
def test_wrong_words_start_no_download(line: Line, hub: HubServer, words: list[str]) -> None:  # B-H2
    ended = line.run("pull", *words)
    assert (ended.code, ended.out, hub.requests) == (2, "", {})
    assert ended.sentence


def test_on_a_terminal_each_file_has_a_bar(line: Line) -> None:  # B-H4
    terminal, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 100))
    environ = {"HF_ENDPOINT": line.hub.url}
    with line.start(["pull", "user/m:Q8_0"], environ, stderr=its) as process:
        os.close(its)
        output = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(terminal, 4096):
                output += chunk
    os.close(terminal)
    assert process.returncode == 0
    assert b"m-Q8_0.gguf: 100%" in output
    assert b"1.00M/1.00M" in output


def test_an_interrupted_download_goes_on(line: Line, hub: HubServer) -> None:  # B-H3
    file = hub.repos["user/m"].files["m-Q4_K_M.gguf"]
    file.gate, file.cut_at = threading.Event(), 2 * MIB
    with line.start(["pull", "user/m"], {"HF_ENDPOINT": hub.url}) as process:
        until(lambda: sum(part.stat().st_size for part in line.parts()) >= MIB)  # the rest may be in a buffer
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1].endswith("the same command continues from there")
    until(lambda: not line.left())
    assert line.parts()
    file.gate.set()
    file.cut_at = 0
    assert line.run("pull", "user/m").code == 0
    assert hub.begins["user/m/m-Q4_K_M.gguf"][-1] >= MIB
    assert not line.parts()


def test_models_that_do_not_fit_on_the_disk_are_refused(line: Line, hub: HubServer) -> None:  # B-H3
    ended = line.run("pull", "user/giant:Q8_0")
    assert (ended.code, "make room" in ended.sentence, hub.gets) == (1, True, {})
    ended = line.run("pull", "user/giant:Q8_0", "--fallback")
    assert (ended.code, ended.out) == (0, f"user/giant:Q2_K: 1 MiB in {line.root}\n")
    assert "user/giant:Q2_K is taken instead" in ended.err


def test_downloaded_models_need_no_hub(line: Line, hub: HubServer) -> None:  # B-H4
    assert line.run("pull", "user/m:Q8_0").code == 0
    before = hub.requests.total()
    assert line.run("pull", "user/m:Q8_0", "--offline").code == 0
    ended = line.run("pull", "user/m:Q4_K_M", "--offline")
    assert (ended.code, "user/m:Q4_K_M" in ended.sentence) == (1, True)
    assert hub.requests.total() == before
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ended = line("pull", "user/m", HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert (ended.code, "cannot be reached" in ended.sentence) == (1, True)


def test_rm_removes_models(line: Line) -> None:
    assert line.run("pull", "user/m:Q8_0", "user/m:Q4_K_M").code == 0
    port = ("--port", str(line.port))
    ended = line.run("rm", "user/m", *port)
    assert (ended.code, "which one?" in ended.sentence) == (1, True)
    ended = line.run("rm", "hf.co/user/m:q8_0", "user/m:Q3_K", *port)
    assert (ended.code, ended.out) == (1, "user/m:q8_0: removed, which freed 1 MiB\n")
    assert "user/m:Q3_K is not in the cache" in ended.sentence
    assert (line.holds("user/m:Q8_0"), line.holds("user/m:Q4_K_M")) == (False, True)
    assert line.run("rm", "user/m", *port).out == "user/m: removed, which freed 3 MiB\n"
    assert line.run("rm", *port).code == 2


def test_a_router_that_has_the_model_removes_it(line: Line, routers: Starter, tiny_models: Path) -> None:
    line.hub.repos["user/m"].files["m-Q8_0.gguf"].data = (tiny_models / "tiny-a.gguf").read_bytes()
    assert line.run("pull", "user/m:Q8_0").code == 0
    router = routers("--engine", FAKE, "--api-key", "secret", LLAMA_CACHE=str(line.root))
    port = router.url.rpartition(":")[2]
    ended = line.run("rm", "user/m", "--port", port)
    assert (ended.code, line.holds("user/m:Q8_0")) == (1, True)
    assert "says: " in ended.sentence
    ended = line.run("rm", "user/m", "--port", port, "--api-key", "secret")
    assert (ended.code, ended.out.startswith("user/m: removed, which freed ")) == (0, True)
    assert not line.holds("user/m:Q8_0")
    assert "user/m:Q8_0: removed" in router.log


def test_pulled_models_are_listed(line: Line, tiny_models: Path) -> None:
    line.hub.repos["user/m"].files["m-Q8_0.gguf"].data = (tiny_models / "tiny-a.gguf").read_bytes()
    line.run("pull", "user/m:Q8_0")
    assert [row["name"] for row in json.loads(line.run("list", "--json").out)] == ["user/m:Q8_0"]


def test_lines_for_logs_have_bytes_rate_and_time() -> None:  # B-H4
    assert summary(100 * MIB, 200 * MIB, 600 * MIB, 10.0) == "200 MiB of 600 MiB, 10 MiB/s, 40 s left"
    assert summary(MIB, MIB, 2 * MIB, 10.0) == "1 MiB of 2 MiB, 0 MiB/s"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (100, "100 s"), (200, "3 min"), (7500, "2 h 5 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- a preset file in the place of a model


def preset(hub: HubServer, text: str) -> None:
    hub.repos["user/set"] = Repo({"preset.ini": RepoFile(text.encode(), lfs=False), "README.md": RepoFile(b"")})


def names(ended: Ended) -> list[str]:
    return [row["name"] for row in json.loads(ended.out)]


def test_a_preset_file_on_the_hub_names_the_models(line: Line, hub: HubServer) -> None:
    preset(hub, "[*]\nctx-size = 64\n[one]\nhf = user/m:Q8_0\ntemp = 0.5\n[two]\nhf-repo = user/m\n")
    ended = line.run("list", "--json", "-hf", "user/set")
    assert (ended.code, names(ended), "serve only presets that you trust" in ended.err) == (0, ["one", "two"], True)
    assert hub.gets["user/m/m-Q8_0.gguf"] == 0
    assert names(line.run("list", "--json", "-hf", "user/set", "--offline")) == ["one", "two"]
    preset(hub, "[three]\nhf = user/m:Q8_0\n")
    hub.repos["user/set"].commit = "d" * 40
    assert names(line.run("list", "--json", "-hf", "user/set")) == ["three"]
    hub.repos["user/set"].failures = [503] * 9
    assert names(line.run("list", "--json", "-hf", "user/set")) == ["three"]


@pytest.mark.parametrize(
    "text",
    [
        "model = /etc/passwd",
        "env.LD_PRELOAD = x",
        "tools = all",
        "chat-template-file = x",
        "mmproj = x",
        "lora = x",
        "model-url = http://x",
        "hf-token = x",
        "media-path = /",
        "slot-save-path = /",
        "rpc = x:1",
        "pin = true",
        "device = none",
        "set-params = {}",
        "priority = 9",
        "LLAMA_ARG_MODEL = x",
    ],
)
def test_foreign_presets_may_not_set_other_keys(text: str) -> None:
    path = Path("preset.ini")
    parsed, problems = presets.parse(f"[a]\nhf-repo = user/m\n{text}\n", default_table(), path, foreign=True)
    (problem,) = problems
    assert (problem.line, problem.key) == (3, text.partition(" =")[0])
    assert "is not taken from the hub" in problem.message
    assert [arg.flag.name for arg in parsed.presets[0].args] == ["--hf-repo"]


def test_mistakes_in_a_preset_file_on_the_hub_are_located(line: Line, hub: HubServer) -> None:
    preset(hub, "[one]\nhf = user/m:Q8_0\nmodel = /etc/passwd\n")
    ended = line.run("list", "-hf", "user/set")
    assert (ended.code, ended.out) == (2, "")
    assert "preset.ini:3: model is not taken from the hub" in ended.err


def test_keys_of_foreign_presets_are_known() -> None:
    own = {"alias", "tags", "description", "unlisted", "default-params", "load-on-startup", "stop-timeout", "ttl"}
    flags = {flag.name.lstrip("-") for flag in default_table().flags}
    assert own < ALLOWED_KEYS
    assert flags >= ALLOWED_KEYS - own
