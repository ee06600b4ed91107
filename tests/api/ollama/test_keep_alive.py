"""keep_alive: how long a model stays after a request."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ollama

from tests.api.ollama.asking import FEW, HI, client_of, loaded
from tests.conftest import Starter
from tests.routers import FAKE, Router
from tests.waiting import until


def test_a_model_goes_when_its_keep_alive_is_over(client: ollama.Client) -> None:  # B-C6
    client.chat("tiny-a", HI, options=FEW, keep_alive="1h")
    client.chat("tiny-a", HI, options=FEW)  # says nothing, so nothing changes
    left = loaded(client)["tiny-a"] - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=59) < left <= datetime.timedelta(hours=1)
    client.chat("tiny-a", HI, options=FEW, keep_alive=0.05)
    until(lambda: not loaded(client))


def test_a_keep_alive_of_zero_unloads_after_the_request(client: ollama.Client) -> None:  # B-C6
    assert client.chat("tiny-a", HI, options=FEW, keep_alive=0).done_reason == "length"
    until(lambda: not loaded(client))
    *_, last = client.chat("tiny-a", HI, stream=True, options=FEW, keep_alive="0s")
    assert last.done_reason == "length"
    until(lambda: not loaded(client))


def test_a_keep_alive_for_ever_locks_no_other_model_out(client: ollama.Client) -> None:  # B-C6
    client.chat("tiny-a", HI, options=FEW, keep_alive=-1)
    assert loaded(client)["tiny-a"].year == 2300
    assert client.chat("tiny-b", HI, options=FEW).done
    assert loaded(client).keys() == {"tiny-b"}
    assert client.chat("tiny-a", HI, options=FEW).done


def test_an_empty_request_refuses_nobody_who_waits(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:  # B-C6
    presets = tmp_path / "presets.ini"
    presets.write_text(
        f"[slow]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_LOAD_SECONDS = 0.5\n"
        f"[other]\nmodel = {tiny_models}/tiny-b.gguf\n"
    )
    router = routers("--engine", FAKE, "--models-preset", str(presets), "--models-max", "1")
    with client_of(router) as client, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(client.chat, "slow", HI)
        until(lambda: router.status("slow") == "loading")
        assert client.generate("slow", "", keep_alive=0).done_reason == "unload"
        assert waiting.result().done, "it was served"
        assert router.loads("slow") == 1
        assert client.generate("slow", "", keep_alive=0).done_reason == "unload"
        until(lambda: router.status("slow") == "unloaded")


def test_an_empty_request_loads_or_unloads(router: Router, client: ollama.Client) -> None:  # B-C6
    assert client.generate("tiny-a", "").done_reason == "load"
    assert loaded(client).keys() == {"tiny-a"}
    assert client.chat("tiny-a", [], keep_alive="1m").done_reason == "load"
    for _ in range(2):  # even when it is not there
        assert client.generate("tiny-a", "", keep_alive=0).done_reason == "unload"
        until(lambda: not loaded(client))
    streamed = list(client.chat("tiny-b", [], stream=True))
    assert [line.done_reason for line in streamed] == ["load"]
