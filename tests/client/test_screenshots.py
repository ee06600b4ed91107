"""Whole windows, letter by letter. B-O6"""

from __future__ import annotations

import re
from pathlib import Path

from tests.client.stub import DONE, Asked, Reply, chunk, error, stub
from tests.client.test_state import STATE
from tests.terminals import terminal
from tests.waiting import until

WIDE = """\
MODEL   STATE                   MEMORY                       CONTEXT  REQUESTS               TTL   PID  TOKENS/S
coder   loaded                  CUDA0 14.0 GiB, RAM 300 MiB    32768  3 running, 1 waiting  95 s  4711      41.3
vision  loading 45%, 3 s left   -                                  -  2 waiting                -     -         -
bad     failed, again in 8 s    -                                  -  -                        -     -         -
going   stopping                -                                  -  -                        -     -         -

big: 2 requests for 12 s: waits for coder to finish 3 requests
bad: no luck
CUDA0 8.0 GiB of 24.0 GiB free, RAM 60.0 GiB of 64.0 GiB free
4 running, 3 waiting, 61.2 tokens/s
ended with 0"""

NARROW = """\
MODEL   STATE                  REQUESTS
coder   loaded                 3 running, 1 waiting
vision  loading 45%, 3 s left  2 waiting
bad     failed, again in 8 s   -
going   stopping               -

big: 2 requests for 12 s: waits for coder to finish 3 reque…
bad: no luck
CUDA0 8.0 GiB of 24.0 GiB free, RAM 60.0 GiB of 64.0 GiB fr…
4 running, 3 waiting, 61.2 tokens/s
ended with 0"""

TALK = """\
>>> Why is the sky blue?
It must be the light.
The light of the sun is scattered.
\\x1b[2Jby the air
prompt 9 tokens; answer 12 tokens, 41.3 tokens/s; first after 0 s, all 0 s

>>> /set temprature 1
/set takes parameter, system, think, verbose or quiet; /? says more

>>> /set parameter temprature 1
there is no parameter 'temprature'; did you mean temperature?

>>> /bye
ended with 0"""


def squeezed(text: str) -> list[str]:
    """Blanks that only align columns count as one: how wide rich makes a column may change."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_ps_in_a_wide_and_in_a_narrow_window() -> None:  # B-O6
    with stub(lambda asked: Reply(STATE)) as server:
        for width, picture in ((120, WIDE), (60, NARROW)):
            with terminal("ps", "--url", server.url, width=width) as window:
                assert squeezed(window.shows("ended with")) == squeezed(picture)
                starts = [
                    line.index(word) for line, word in zip(window.lines, ("STATE", "loaded", "load"), strict=False)
                ]
                assert len(set(starts)) == 1, "columns are aligned"


def test_a_conversation(tmp_path: Path) -> None:  # B-O6
    def answer(asked: Asked) -> Reply:
        if asked.path.startswith("/v1/models/"):
            return Reply({"id": "sky"})
        if asked.path != "/v1/chat/completions":
            return error("not here", 404)
        timings = {"predicted_n": 12, "predicted_per_second": 41.3, "prompt_n": 9}
        texts = ("\n\nThe light of the sun", " is scattered.\n", "\x1b[2Jby the air")
        pieces = [chunk(thought="It must be the light."), *map(chunk, texts), chunk(finish="stop", timings=timings)]
        return Reply(pieces=lambda: iter([*pieces, DONE]))

    environ = {"XDG_STATE_HOME": str(tmp_path)}
    with stub(answer) as server, terminal("run", "sky", "--verbose", "--url", server.url, environ=environ) as window:
        window.shows(">>> Write")
        window.enter("Why is the sky blue?")
        window.shows("prompt 9 tokens", ">>> Write")
        window.enter("/set temprature 1")
        window.shows("/set takes", ">>> Write")
        window.enter("/set parameter temprature 1")
        window.shows("did you mean", ">>> Write")
        window.enter("/bye")
        text = window.shows("ended with 0")
        text = re.sub(r"\b\d+\.\d s", "0 s", text)
        assert [line.rstrip() for line in text.splitlines()] == TALK.splitlines()


def test_what_can_be_set_in_a_conversation(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path.startswith("/v1/models/"):
            return Reply({"id": "sky", "status": {"value": "loaded"}, "context": {"effective": 4096}})
        if asked.path != "/v1/chat/completions":
            return error("not here", 404)
        if "too much" in str(asked.json["messages"]):
            return error("the queue is full", 503)
        return Reply(pieces=lambda: iter([chunk("Well."), chunk(finish="length"), DONE]))

    environ = {"XDG_STATE_HOME": str(tmp_path)}
    with (
        stub(answer) as server,
        terminal("run", "sky", "--no-history", "--url", server.url, height=60, environ=environ) as window,
    ):
        window.shows(">>> Write")
        for line, shown in (
            ("/?", "/set parameter NAME VALUE"),
            ("/set think much", "think takes on, off"),
            ("/load", "name a model: /load MODEL"),
            ("/what", "there is no command /what"),
            ('/set system """Be', "..."),
            ('terse."""', ">>> Write"),
            ("/set think off", ">>> Write"),
            ("Hello", "(cut off: no more tokens"),
            ("too much", "the queue is full"),
            ("/show", "messages so far: 2"),
            ("/clear", "forgotten"),
            ("/set verbose", ">>> Write"),
            ("/set quiet", ">>> Write"),
        ):
            window.enter(line)
            window.shows(line, shown)
        window.enter("Again")
        until(lambda: window.text.count("Well.") == 2)
        window.enter("/bye")
        window.shows("ended with 0")
        chats = [asked.json for asked in server.asked if asked.method == "POST"]
    assert chats[-1]["messages"] == [
        {"role": "system", "content": "Be\nterse."},
        {"role": "user", "content": "Again"},
    ]
    assert chats[-1]["enable_thinking"] is False
    assert not list(tmp_path.iterdir()), "nothing was kept"
