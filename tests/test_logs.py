"""The log and stderr: readable lines, for which the router never waits. B-P13, B-T7"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from router import __version__
from router.logs import formats
from router.logs import lines as log_lines
from router.logs.formats import FORMATS, JsonFormat, TextFormat
from router.logs.letters import UNSEEN, visible
from router.logs.lines import Lines
from router.logs.streams import Handler
from tests.waiting import until

FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
NASTY = "a\x1b[2J\r\nb\x00\x07\x7f\x85\x9b31m\u2028c\u2029\u202edlrow\u2066\udcff\ud800\tz\ufeff"


# What a line may hold


@pytest.mark.parametrize("character", NASTY)
def test_control_characters_are_escaped(character: str) -> None:  # B-T7
    shown = visible(f"<{character}>")
    assert shown.isprintable()
    assert shown.startswith("<")
    assert (shown == f"<{character}>") == character.isprintable()


def test_of_all_characters_those_are_escaped_that_nobody_sees() -> None:  # B-T7
    whole = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = visible(whole)
    assert not UNSEEN.search(shown)
    assert set(whole) - set(shown) == set(UNSEEN.findall(whole))
    assert shown == "".join(map(visible, whole))


def test_text_in_any_script_stays() -> None:
    for text in ("Grüße, мир, 世界, שלום, مرحبا, हिन्दी, 👩‍👩‍👧, é", 'C:\\models\\"a" b', ""):
        assert visible(text) == text


def record(message: str, *args: object, exc: BaseException | None = None) -> str:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    return TextFormat().format(logging.LogRecord("router.x", 30, "f", 1, message, args, info))


def test_a_record_is_one_line() -> None:  # B-T7
    text = record("model %s: %s", NASTY, "2026-01-01 00:00:00,000 I router.run: forged\n" + NASTY)
    assert not FORBIDDEN.search(text)
    assert text.count("\n") == 0
    assert len(record("%s", "x" * 10_000_000)) < 100_000
    assert "user:secret" not in record("%s", "http://user:secret@host/x and socks5h://a:b@c:1")


def test_only_a_traceback_has_lines_of_its_own() -> None:  # B-T7
    try:
        try:
            raise ValueError(f"one\n2026-01-01 00:00:00,000 I router.run: forged{NASTY}")
        except ValueError as exc:
            exc.add_note("a note\nwith lines")
            raise KeyError("http://user:secret@host\nforged too") from exc
    except KeyError as exc:
        text = record("it failed", exc=exc)
    assert not FORBIDDEN.search(text)
    assert [line for line in text.splitlines() if "forged" in line and not line.lstrip().startswith("raise ")] == [
        line for line in text.splitlines() if line.startswith(("ValueError: one\\n", "KeyError: "))
    ]
    assert text.count("Traceback (most recent call last):") == 2
    assert "\n  File " in text
    assert "secret@" not in text


# JSON


def as_json(message: str, *args: object, exc: BaseException | None = None, **given: object) -> dict[str, Any]:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    made = logging.LogRecord("router.x", 30, "f", 1, message, args, info)
    made.__dict__.update(given)
    line = JsonFormat().format(made)
    assert "\n" not in line
    assert not FORBIDDEN.search(line)
    line.encode()  # UTF-8 without half pairs
    found = json.loads(line)
    assert [*found][:4] == ["time", "level", "logger", "message"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("text", [*NASTY, NASTY, 'quote " and \\ backslash', "世界 👩‍👩‍👧", "x" * 1_000_000])
def test_a_json_line_is_an_object_without_control_characters(text: str) -> None:  # B-O5 B-T7
    found = as_json("<%s>", text, model=text, request_id=text, fields={"key": [text, {"deep": text}]})
    assert (found["level"], found["logger"]) == ("warning", "router.x")
    exact = re.sub("[\ud800-\udfff]", "\ufffd", text)[: formats.MAX_FIELD_CHARACTERS]
    assert (found["model"], found["request_id"], [*found.values()][-1]) == (exact, exact, [exact, {"deep": exact}])
    try:
        raise ValueError(text)
    except ValueError as exc:
        told = as_json("it failed", exc=exc)
    assert told["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert told["message"] == "it failed"


def test_fields_of_a_line_in_json() -> None:  # B-O5
    fields = {
        "seconds": 1.5,
        "missing": {"gpu0": 7},
        "none": None,
        "yes": True,
        "nan": math.nan,
        "inf": math.inf,
        "path": Path("/x"),
        "several": ("a", 1),
        "message": "forged",
        "time": "forged",
    }
    found = as_json("said", fields=fields, model="a")
    assert found["message"] == "said"
    assert found["model"] == "a"
    assert "request_id" not in found
    assert (found["seconds"], found["missing"], found["none"], found["yes"]) == (1.5, {"gpu0": 7}, None, True)
    assert (found["nan"], found["inf"], found["path"], found["several"]) == (None, None, "/x", ["a", 1])
    assert datetime.fromisoformat(found["time"]).tzinfo
    assert "T" in found["time"]
    assert "user:secret" not in json.dumps(as_json("%s", "http://user:secret@host/x", fields={"a": "x://b:c@d"}))
    assert as_json("said", fields="no mapping") == {**as_json("said"), "time": ANY}


def test_a_line_that_is_written_beside_the_log_has_its_format(capsys: pytest.CaptureFixture[str]) -> None:
    for name, lines_as in FORMATS.items():
        for line in (lines_as.say(NASTY), lines_as.note(NASTY)):
            assert not FORBIDDEN.search(line)
            assert (name == "json") == line.startswith('{"time":"')
    assert json.loads(FORMATS["json"].say("listening on x"))["message"] == "listening on x"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_times_have_their_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:  # B-O5
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        made = logging.LogRecord("router.x", 30, "f", 1, "x", (), None)
        text = TextFormat().format(made)
        shown = datetime.fromisoformat(text[: text.index(" W ")])
        in_json = datetime.fromisoformat(json.loads(JsonFormat().format(made))["time"])
        offset = {"UTC": 0.0, "Asia/Kolkata": 5.5, "America/St_Johns": -3.5}[zone]
        for found in (shown, in_json):
            assert abs(found.timestamp() - made.created) < 0.001
            assert found.utcoffset() in (timedelta(hours=offset), timedelta(hours=offset + (offset < 0)))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_log_call_that_does_not_fit_raises_nothing() -> None:
    read, write = os.pipe()
    lines = Lines(lambda: write, "test")
    logger = logging.Logger("x")
    logger.addHandler(Handler(lines, TextFormat()))
    logger.warning("%d", "no number")
    lines.flush()
    assert b"cannot be formatted" in os.read(read, 4096)
    os.close(read)
    os.close(write)


# Where lines go


def test_slow_readers_are_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:  # B-P13
    monkeypatch.setattr(log_lines, "MAX_QUEUED_BYTES", 1 << 20)
    read, write = os.pipe()
    lines = Lines(lambda: write, "test")
    line = "x" * 1023
    for _ in range(10_000):
        lines.put(line)
    lines.flush(0.05)  # which ends
    got = b""
    while got.count(b"\n") < 1000:
        got += os.read(read, 1 << 16)
    lines.put("the last")
    while not got.endswith(b"the last\n"):
        got += os.read(read, 1 << 16)
    losses = re.findall(rb" W router\.logs: (\d+) lines were lost: they were not read in time\n", got)
    assert losses
    assert sum(map(int, losses)) + got.count(b"\n") - len(losses) - 1 == 10_000
    os.close(read)
    os.close(write)


def test_lost_lines_are_reported_once_writing_works_again(tmp_path: Path) -> None:  # B-P13
    read, write = os.pipe()
    lines = Lines(lambda: write, "test")
    os.close(read)
    for number in range(5):
        lines.put(str(number))
        lines.flush()
    lines._open = lambda: os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    lines.reopen()
    lines.put("again")
    lines.flush()
    until(lambda: (tmp_path / "log").exists() and b"again" in (tmp_path / "log").read_bytes())
    assert re.fullmatch(
        rb".* W router\.logs: 5 lines were lost: Broken pipe\nagain\n", (tmp_path / "log").read_bytes(), re.DOTALL
    )


# Real routers


class Program:
    """A router whose stderr and stdout are what a test says."""

    def __init__(self, folder: Path, fake: str, models: Path) -> None:
        self.folder = folder
        self.words = ["--engine", fake, "--models-dir", str(models)]
        self.socket = Path(tempfile.mkdtemp(prefix="lr-")) / "r.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client()

    def start(self, redirections: str, *flags: str, **environ: str) -> None:
        """`redirections` are a shell's."""
        run_dir = tempfile.mkdtemp(prefix="lr-")
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "HF_"))}
        env = {**keep, "HF_HOME": str(self.folder), "LLAMA_CACHE": str(self.folder), "XDG_CACHE_HOME": str(self.folder)}
        env |= environ
        where = ["--host", str(self.socket), "--run-dir", run_dir, "--log-level", "debug"]
        command = [sys.executable, "-m", "router", *where, *self.words, *flags]
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command],
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=os.getcwd(),
        )
        until(lambda: self.socket.exists() or self.ended())
        assert not self.ended()
        self.client.close()
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://r", timeout=30)
        until(self.answers)

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get("/health").status_code == 200
        return False

    def works(self, rounds: int = 3) -> None:
        """The router loads, serves, refuses and unloads; all of it is in the log."""
        for _ in range(rounds):
            body = {"messages": [{"role": "user", "content": "x"}]}
            assert self.client.post("/v1/chat/completions", json={"model": "tiny-a", **body}).status_code == 200
            assert self.client.post("/models/unload", json={"model": "tiny-a"}).status_code == 200
            assert self.client.post("/v1/chat/completions", json={"model": "nobody", **body}).status_code == 404
            until(lambda: self.client.get("/models").json()["data"][0]["status"]["value"] == "unloaded")

    def end(self) -> int:
        assert self.process is not None
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()


@pytest.fixture
def program(tmp_path: Path, fake: str, tiny_models: Path) -> Iterator[Program]:
    program = Program(tmp_path, fake, tiny_models)
    yield program
    program.client.close()
    if program.process is not None and program.process.poll() is None:
        program.process.kill()
        program.process.wait()


EVERYTHING = ("--log-format", "json", "--log-engines", "all", "--log-requests", "all")


@pytest.mark.parametrize("flags", [(), EVERYTHING], ids=["text", "everything"])
@pytest.mark.parametrize(
    "redirections",
    ["2>&-", "2>/dev/full", "2>&- >&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-", "2>/dev/null >&-", "2</dev/null"],
)
def test_a_stderr_that_takes_nothing_stops_nothing(  # B-P13
    program: Program, redirections: str, flags: tuple[str, ...]
) -> None:
    program.start(redirections, *flags)
    program.works(1 if flags else 3)
    assert program.end() == 0


@pytest.mark.parametrize(("stream", "flags"), [("2", ()), ("1", ()), ("2", EVERYTHING)])
def test_a_full_pipe_stops_nothing(  # B-P13
    program: Program, tmp_path: Path, stream: str, flags: tuple[str, ...]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):  # full from the beginning
        while True:
            os.write(reader, b"x" * 4096)
    program.start(f"{stream}>{fifo}" + (" 2>&1" if stream == "1" else ""), *flags)
    program.works()
    begun = time.monotonic()
    assert program.end() == 0
    assert time.monotonic() - begun < 14
    os.close(reader)


def test_a_pipe_without_a_reader_stops_nothing(program: Program, tmp_path: Path) -> None:  # B-P13
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    program.start(f"2>{fifo}")
    program.works(1)
    os.close(reader)
    program.works()
    assert program.end() == 0


def test_lines_of_the_start_and_the_end_are_written(program: Program, tmp_path: Path) -> None:  # B-P13
    program.start(f"2>{tmp_path / 'err'}")
    program.works(1)
    assert program.end() == 0
    said = (tmp_path / "err").read_text()
    assert said.count("llama-router is listening on unix:") == 1
    first, *_, last = [line for line in said.splitlines() if " D router" not in line]
    assert re.search(rf" I router\.serve: llama-router {re.escape(__version__)} begins with ", first)
    for words in (
        "fake",
        "3 models;",
        "API keys: no, admin keys: no",
        "at most 4 models at once",
        f"unix:{program.socket}",
    ):
        assert words in first, words
    assert said.index(first) < said.index("listening on")
    assert re.search(r" I router\.serve: llama-router ended \(SIGTERM\): \d+ requests answered in [\d.]+ s; ", last)
    assert "tiny-a: stopped" in said


@pytest.mark.parametrize("target", ["", "/dev/full"])
def test_errors_of_commands_keep_their_code(tmp_path: Path, target: str) -> None:  # B-P13
    for redirection, code in ((f"2>{target or '&-'}", 2), (f">{target or '&-'} 2>{target or '&-'}", 2)):
        shell = f"exec {sys.executable} -m router --no-such-flag {redirection}"
        done = subprocess.run(["/bin/sh", "-c", shell], stdin=subprocess.DEVNULL, timeout=30, check=False)
        assert done.returncode == code
    shell = f"exec {sys.executable} -m router --help >/dev/full"
    done = subprocess.run(["/bin/sh", "-c", shell], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"llama-router: stdout cannot be written (No space left on device).\n")


# The log file


def test_a_log_file_is_reopened(program: Program, tmp_path: Path) -> None:  # B-P13
    folder = tmp_path / "logs"
    folder.mkdir()
    file, old = folder / "r.log", folder / "r.log.1"
    program.start(f"2>{tmp_path / 'err'}", "--log-file", str(file))
    until(lambda: "listening on" in (tmp_path / "err").read_text())
    program.works(1)
    assert program.process is not None
    file.rename(old)
    program.process.send_signal(signal.SIGHUP)
    until(file.exists)
    before = old.read_bytes()
    program.works(1)
    until(lambda: file.read_text().count("tiny-a: starting") == 1)
    assert old.read_bytes() == before
    assert b"tiny-a: starting" in before
    # If the folder is gone, lines go to the file that is open, until the folder is back.
    file.unlink()
    folder.rename(tmp_path / "away")
    program.process.send_signal(signal.SIGHUP)
    program.works(1)
    folder.mkdir()
    program.process.send_signal(signal.SIGHUP)
    until(file.exists)
    program.works(1)
    until(lambda: "tiny-a: starting" in file.read_text())
    assert program.end() == 0
    assert "tiny-a: stopped" in file.read_text()


@pytest.mark.parametrize("kind", ["no folder", "a folder", "a pipe", "a link to itself"])
def test_a_log_file_that_cannot_be_opened_ends_the_start(tmp_path: Path, fake: str, kind: str) -> None:  # B-P13
    file = tmp_path / "r.log"
    if kind == "no folder":
        file = tmp_path / "none" / "r.log"
    elif kind == "a folder":
        file.mkdir()
    elif kind == "a pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file)
    words = [sys.executable, "-m", "router", "--engine", fake, "--log-file", str(file)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"llama-router: --log-file .* cannot be written: .*\n", done.stderr)


def test_a_log_in_json_is_reopened_and_whole(program: Program, tmp_path: Path) -> None:  # B-P13 B-O5
    file, old = tmp_path / "r.log", tmp_path / "r.log.1"
    program.words += ["--log-file", str(file), *EVERYTHING]
    program.start(f"2>{tmp_path / 'err'}", FAKE_SAY="hello from the engine")
    program.works(1)
    assert program.process is not None
    file.rename(old)
    program.process.send_signal(signal.SIGHUP)
    until(file.exists)
    program.works(1)
    assert program.end() == 0
    assert "llama-router is listening on" in (tmp_path / "err").read_text()  # which is no log
    found = [json.loads(line) for path in (old, file) for line in path.read_text().splitlines()]
    first, *lines = [line for line in found if line["level"] != "debug"]
    assert first["message"].startswith("llama-router ")
    assert first["version"] == __version__
    assert (first["models"], first["api_keys"], first["urls"]) == (3, False, [f"unix:{program.socket}"])
    assert (lines[-1]["reason"], lines[-1]["logger"]) == ("SIGTERM", "router.serve")
    engine = [line for line in lines if line["logger"] == "router.engine"]
    assert [line["message"] for line in engine].count("tiny-a: hello from the engine") == 2
    assert {line["model"] for line in engine} == {"tiny-a"}
    for path in (old, file):
        assert "hello from the engine" in path.read_text()


def test_a_flood_of_an_engine_starves_nobody_and_fills_no_disk(program: Program, tmp_path: Path) -> None:  # B-P13 B-T5
    file = tmp_path / "r.log"
    program.words += ["--log-file", str(file), *EVERYTHING]
    program.start("2>/dev/null", FAKE_STDOUT_FLOOD="200000", FAKE_LOAD_SECONDS="0")  # 40 MB on two pipes
    program.works(1)
    assert program.end() == 0
    assert file.stat().st_size < 1 << 20
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert any("lines are left out here" in line["message"] for line in lines)


@pytest.mark.parametrize("name", FORMATS)
def test_lost_lines_are_told_in_the_format_of_the_log(name: str, tmp_path: Path) -> None:  # B-O5
    read, write = os.pipe()
    lines = Lines(lambda: write, "test")
    logger = logging.Logger("router.x")
    logger.addHandler(Handler(lines, FORMATS[name]))
    os.close(read)
    logger.warning("lost")
    lines.flush()
    lines._open = lambda: os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    lines.reopen()
    logger.warning("again")
    lines.flush()
    until(lambda: (tmp_path / "log").exists() and b"again" in (tmp_path / "log").read_bytes())
    told, again = (tmp_path / "log").read_text().splitlines()
    if name == "json":
        told, again = json.loads(told)["message"], json.loads(again)["message"]
    assert told.endswith("1 lines were lost: Broken pipe")
    assert again.endswith("again")


def test_stderr_has_one_format(program: Program, tmp_path: Path) -> None:  # B-O5
    program.start(f"2>{tmp_path / 'err'}", "--log-format", "json")
    program.works(1)
    assert program.end() == 0
    messages = [json.loads(line)["message"] for line in (tmp_path / "err").read_text().splitlines()]
    assert f"llama-router is listening on unix:{program.socket}" in messages
    assert messages[-1].startswith("llama-router ended (SIGTERM)")


# Names of files


def test_names_of_files_are_shown_escaped(tmp_path: Path, tiny_models: Path, fake: str) -> None:  # B-T7
    folder = tmp_path / "models"
    folder.mkdir()
    model = (tiny_models / "tiny-a.gguf").read_bytes()
    for name in ("a\x1b[2J\n2026 forged", "b\u202egnp", "c\udcff", "d\x9b31m", "e\u2028f"):
        (folder / f"{name}.gguf").write_bytes(model)
    preset = tmp_path / "p\x1b[31m\nq.ini"
    preset.write_text("[a\x1b[2J]\nno-such\x1b]0;key = 1\n[*]\n\u202eevil = 2\n")
    env = {**os.environ, "HF_HOME": str(tmp_path), "LLAMA_CACHE": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    for words in (
        ("list", "--models-dir", str(folder), "--engine", fake),
        ("check", str(preset)),
        ("check", str(tmp_path / "none\x1b[2J\r\n")),
        ("--models-preset", str(tmp_path / "none\x1b[2J\r\n"), "--engine", fake),
        ("no\x1b[2Jcommand\n",),
        ("--no\x1b[2Jflag\n",),
        ("pull", "user/na\x1b[2Jme"),
        ("estimate", str(folder / "none\x1b[2J\n.gguf"), "--engine", fake),
    ):
        command = [sys.executable, "-m", "router", *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=60, check=False)
        text = (done.stdout + done.stderr).decode(errors="surrogateescape")
        assert text
        assert not FORBIDDEN.search(text), (words, text)
        assert "\nforged" not in text
