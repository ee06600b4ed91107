"""`run` in scripts: the answer alone goes to stdout, as the model wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.client.stub import DONE, Asked, Reply, chunk, error, stub
from tests.waiting import until

RAW = "\x1b[31mred\x1b[0m\r\nend"


def answer(asked: Asked) -> Reply:
    return Reply(pieces=lambda: iter([chunk(thought="hm"), chunk("\n"), chunk(RAW), chunk(finish="stop"), DONE]))


def run(url: str, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    command = [sys.executable, "-m", "router", "run", "--url", url, "m", *words]
    if stdin is None:
        return subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    return subprocess.run(command, env=environ, input=stdin, capture_output=True, timeout=60)


def test_stdin_is_the_question_or_follows_it() -> None:
    with stub(answer) as server:
        ended = run(server.url, stdin="größe\n".encode())
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout == RAW.encode() + b"\n", "nothing of it is changed, and no thoughts"
        assert run(server.url, "Explain", "this", stdin=b"int main;\n").returncode == 0
        assert run(server.url, "--", "--why", "not").returncode == 0
        assert run(server.url, stdin=b"\xff\xfe").returncode == 0
        sent = [asked.json["messages"][-1]["content"] for asked in server.asked]
    assert sent == ["größe", "Explain this\n\nint main;", "--why not", "\ufffd\ufffd"]


def test_without_a_question_there_is_no_answer() -> None:
    with stub(answer) as server:
        ended = run(server.url)
        assert (ended.returncode, b"no question" in ended.stderr, ended.stdout) == (2, True, b"")
        assert run(server.url, stdin=b"x" * ((16 << 20) + 1)).returncode == 2
        assert server.asked == []


def test_an_answer_that_is_cut_off_is_a_failure(tmp_path: Path) -> None:
    with stub(lambda asked: Reply(pieces=lambda: iter([chunk("begun")]))) as server:
        ended = run(server.url, "hello")
    assert (ended.returncode, ended.stdout) == (3, b"begun\n")
    assert b"cut off" in ended.stderr


def test_system_thinking_and_pictures_are_flags(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    words = ("what?", "--system", "Be terse.", "--think", "off", "--set", "seed=7", "--image", str(tmp_path / "a.gif"))
    with stub(answer) as server:
        ended = run(server.url, *words, "--json")
        body = server.asked[0].json
    assert json.loads(ended.stdout)["reasoning_content"] == "hm"
    assert body["messages"][0] == {"role": "system", "content": "Be terse."}
    assert (body["enable_thinking"], body["seed"]) == (False, 7)
    assert body["messages"][1]["content"][0]["type"] == "image_url"
    with stub(answer) as server:
        assert run(server.url, f"what is {tmp_path}/a.gif?").returncode == 0
        sent = server.asked[0].json["messages"][0]["content"]
    assert isinstance(sent, str), "text may come from anywhere: only --image reads a file"


def test_a_state_that_is_watched_is_a_line_each() -> None:
    """For programs too: each change once, and what goes wrong on stderr."""
    states: list[dict[str, object]] = [{"seq": 1, "models": []}]

    def state(asked: Asked) -> Reply:
        tag = f'"{states[-1]["seq"]}"'
        if asked.headers.get("if-none-match") == tag:
            return Reply(b"", 304, {"etag": tag})
        return Reply(states[-1], 200, {"etag": tag}) if states[-1]["seq"] else error("it ends", 503)

    for words, first, second in (
        (["--json"], '{"seq": 1, "models": []}\n', '{"seq": 2, "models": [{"id": "a", "state": "loaded"}]}\n'),
        ([], "no model runs\n", "MODEL  STATE   MEMORY  CONTEXT  REQUESTS  TTL  PID  TOKENS/S\n"),
    ):
        del states[1:]
        with stub(state) as server:
            command = [sys.executable, "-m", "router", "ps", "--watch", *words, "--url", server.url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                assert process.stdout
                assert process.stderr
                lines = iter(process.stdout.readline, "")
                assert next(lines) == first
                until(lambda: any(asked.headers.get("if-none-match") for asked in server.asked))
                states.append({"seq": 2, "models": [{"id": "a", "state": "loaded"}]})
                assert second in lines
                states.append({"seq": 0})
                assert "it ends" in process.stderr.readline()
                process.terminate()
                process.communicate()
