"""keep_alive: how long a model stays after a request."""

from __future__ import annotations

import datetime

import ollama

from tests.api.ollama.asking import FEW, HI, loaded
from tests.routers import Router
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


def test_a_keep_alive_for_ever_pins_the_model(router: Router, client: ollama.Client) -> None:  # B-C6
    client.chat("tiny-a", HI, options=FEW, keep_alive=-1)
    assert loaded(client)["tiny-a"].year == 2300
    with router.leave("tiny-b"):  # waits in vain
        until(lambda: router.client.get("/metrics").text.count('waiting{model="tiny-b"} 1'))
    assert loaded(client).keys() == {"tiny-a"}
    client.chat("tiny-a", HI, options=FEW, keep_alive="5m")  # says otherwise
    assert client.chat("tiny-b", HI, options=FEW).done
    assert loaded(client).keys() == {"tiny-b"}


def test_an_empty_request_loads_or_unloads(router: Router, client: ollama.Client) -> None:  # B-C6
    assert client.generate("tiny-a", "").done_reason == "load"
    assert loaded(client).keys() == {"tiny-a"}
    assert client.chat("tiny-a", [], keep_alive="1m").done_reason == "load"
    for _ in range(2):  # even when it is not there
        assert client.generate("tiny-a", "", keep_alive=0).done_reason == "unload"
        until(lambda: not loaded(client))
    streamed = list(client.chat("tiny-b", [], stream=True))
    assert [line.done_reason for line in streamed] == ["load"]
