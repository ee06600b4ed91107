"""People who ask all the time, at a real router with the fake engine."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import httpx

from router import crowd
from router.crowd import Crowd, Person
from tests.conftest import Starter
from tests.routers import FAKE
from tests.shell import Shell
from tests.waiting import until


def test_each_person_asks_and_goes_on(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-key", "k", "--api-prefix", "/llm")
    router.client.headers["x-api-key"] = "k"
    people = (
        Person("ana", ("tiny-a", "tiny-b"), tokens=(2, 5), pause=0.01),
        Person("ben", ("tiny-a", "nobody-has-this"), tokens=(50, 50), pause=0.01, given_up=10),
        Person("nightly", ("tiny-c",), tokens=(2, 5), pause=0.01, headers=(("X-Task", "nightly"),)),
    )
    there = Crowd(router.url, people, key="k")
    there.start()

    def records() -> list[dict[str, object]]:
        return list(router.client.get("/router/requests", params={"limit": 500}).json()["requests"])

    try:
        until(lambda: {record["agent"] for record in records()} >= {"ana", "ben", "nightly"} and len(records()) > 20)
        until(lambda: any(record["status"] == 404 for record in records()))
    finally:
        there.stop()
        there.wait(10)
    assert not [thread for thread in there._threads if thread.is_alive()]


def test_they_leave_with_the_router(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models))
    there = Crowd(router.url, (Person("ana", ("tiny-a",), tokens=(2, 5), pause=0.01),))
    there.start()
    until(lambda: router.loads("tiny-a"))
    router.kill()
    there.wait(10)
    assert not [thread for thread in there._threads if thread.is_alive()]


def test_every_model_is_asked_for_and_one_is_not_there() -> None:
    asked = {model for person in crowd.PEOPLE for model in person.models}
    assert asked - set(crowd.MODELS) == {"nobody-has-this"}
    assert set(crowd.MODELS) <= asked


def test_the_busy_demo_serves_until_a_signal(shell: Shell) -> None:
    shell.run_dir.mkdir()
    command = ("demo", "--busy", "--engine", FAKE, "--port", str(shell.port))
    with shell.start(command, {"TMPDIR": str(shell.folder)}) as process:
        assert process.stdout
        said = ""
        while "Ctrl-C" not in said:
            said += process.stdout.readline()
        urls = re.findall(r"http://\S+", said)
        assert urls == [f"http://127.0.0.1:{shell.port}/router", f"http://127.0.0.1:{shell.port}/"]
        for url in urls:
            assert httpx.get(url, headers={"accept": "text/html"}, timeout=30).status_code == 200
        busy = f"{urls[1]}router/requests"
        until(lambda: len(httpx.get(busy, timeout=30).json()["requests"]) > 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        process.communicate()
    assert not list(shell.folder.glob("llama-router-demo-*"))
