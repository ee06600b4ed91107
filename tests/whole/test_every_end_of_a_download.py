"""Whatever happens while a model is downloaded, each client that waits for it gets one well-formed end.

As in `test_every_end`: clients of all APIs wait at once, with and without a stream, while a bystander's stream goes on.
In the end the model is served, from the bytes that are there already.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.processes import transfers
from tests.routers import FAKE, Router
from tests.waiting import PATIENCE_S, until
from tests.whole.test_every_end import WAYS, Stage

CUT = 1 << 18  # bytes that arrive before the hub hangs


class Hub:
    """With two repositories that hang: `user/model` and `user/blocker`, one file each."""

    def __init__(self, server: HubServer, data: bytes) -> None:
        self.server = server
        for name in ("model", "blocker"):
            file = RepoFile(data, cut_at=CUT, gate=threading.Event())
            server.repos[f"user/{name}"] = Repo({f"{name}-Q8_0.gguf": file})

    @property
    def repo(self) -> Repo:
        return self.server.repos["user/model"]

    @property
    def file(self) -> RepoFile:
        return self.repo.files["model-Q8_0.gguf"]

    def open(self) -> None:
        self.file.hangs = False
        for repo in self.server.repos.values():
            for gate in (repo.gate, *(file.gate for file in repo.files.values())):
                if gate:
                    gate.set()


class Scene(Stage):
    """A stage with a hub. `self.hub` is set by the test."""

    hub: Hub

    def transfer(self) -> psutil.Process:
        """The child that talks to the hub."""
        return until(lambda: transfers(self.router.process.pid))[0]

    # Moments

    def listing(self) -> None:
        """The hub does not say which files there are."""
        self.hub.repo.gate = threading.Event()
        self.ask("model", *WAYS)
        until(lambda: self.hub.server.requests["api/models/user/model/revision/main"])
        self.until_waiting("model", len(WAYS))

    def downloading(self) -> None:
        """A part of the file is here."""
        self.ask("model", *WAYS)
        self.hub.server.wait_for("user/model/model-Q8_0.gguf", CUT)
        self.until_waiting("model", len(WAYS))
        assert self.router.status("model") == "downloading"

    def queued(self) -> None:
        """Another download goes first."""
        self.ask("blocker", "chat")
        self.hub.server.wait_for("user/blocker/blocker-Q8_0.gguf", CUT)
        self.ask("model", *WAYS)
        self.until_waiting("model", len(WAYS))
        assert self.router.status("model") == "downloading"
        assert not self.hub.server.sent["user/model/model-Q8_0.gguf"]

    # What happens

    def kill_transfer(self) -> None:
        self.transfer().kill()

    def kill_other(self) -> None:
        self.kill_transfer()
        self.hub_answers()

    def hub_answers(self) -> None:
        self.hub.open()

    def hub_is_gone(self) -> None:
        """No later request gets a byte either."""
        self.hub.file.hangs = True

    def stop_router(self) -> None:
        self.router.process.send_signal(signal.SIGTERM)


@dataclass(frozen=True)
class Row:
    """At this moment this happens. Then the clients have all failed, or have all been served."""

    moment: Callable[[Scene], None]
    event: Callable[[Scene], None]
    fail: bool
    flags: tuple[str, ...] = ()
    patience: str = "600"  # the transfer's with the hub, in seconds


TIME, GRACE = ("--models-queue-timeout", "2"), ("--shutdown-grace", "1")
ROWS = {
    "listing, the hub answers": Row(Scene.listing, Scene.hub_answers, False),
    "listing, the hub hangs": Row(Scene.listing, Scene.nothing, True, patience="1"),
    "listing, killed": Row(Scene.listing, Scene.kill_transfer, True),
    "listing, unloaded": Row(Scene.listing, Scene.unload, True),
    "listing, the router ends": Row(Scene.listing, Scene.stop_router, True, GRACE),
    "downloading, the hub answers": Row(Scene.downloading, Scene.hub_answers, False),
    "downloading, the hub hangs": Row(Scene.downloading, Scene.nothing, False, patience="1"),
    "downloading, the hub is gone": Row(Scene.downloading, Scene.hub_is_gone, True, patience="1"),
    "downloading, killed": Row(Scene.downloading, Scene.kill_transfer, True),
    "downloading, unloaded": Row(Scene.downloading, Scene.unload, True),
    "downloading, the router ends": Row(Scene.downloading, Scene.stop_router, True, GRACE),
    "queued, the hub answers": Row(Scene.queued, Scene.hub_answers, False),
    "queued, the time is over": Row(Scene.queued, Scene.nothing, True, TIME),
    "queued, the other one is killed": Row(Scene.queued, Scene.kill_other, False),
    "queued, unloaded": Row(Scene.queued, Scene.unload, True),
    "queued, the router ends": Row(Scene.queued, Scene.stop_router, True, GRACE),
}

FLAGS = ("--no-models-preset-watch", "--hub-downloads", "1")


@pytest.fixture
def hub(tiny_models: Path) -> Iterator[Hub]:
    with HubServer({}) as server:
        hub = Hub(server, (tiny_models / "tiny-a.gguf").read_bytes())
        yield hub
        hub.open()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_each_client_of_a_download_gets_one_well_formed_end(
    routers: Starter, hub: Hub, tiny_models: Path, tmp_path: Path, row: Row
) -> None:  # B-H3 B-S2
    models = tmp_path / "models.ini"
    missing = "".join(f"[{name}]\nhf-repo = user/{name}:Q8_0\n" for name in ("model", "blocker"))
    models.write_text(f"{missing}[bystander]\nmodel = {tiny_models / 'tiny-a.gguf'}\nenv.FAKE_TOKENS = 100000\n")
    environ = {"HF_ENDPOINT": hub.server.url, "HF_HUB_DOWNLOAD_TIMEOUT": row.patience, "FAKE_CHUNK_SECONDS": "0.1"}
    flags = ("--engine", FAKE, "--models-preset", str(models), *FLAGS, *row.flags)
    router = routers(*flags, **environ)
    with ExitStack() as stack:
        bystander = stack.enter_context(router.stream("bystander", 100_000))
        next(bystander)
        scene = Scene(router, stack.enter_context(ThreadPoolExecutor(2 * len(WAYS))))
        scene.hub = hub
        stack.callback(router.kill)  # else a failure would wait for all answers
        row.moment(scene)
        row.event(scene)
        clients = [end.result(PATIENCE_S) for model, end in scene.ends if model == "model"]
        assert {client.way: client.has_failed for client in clients} == dict.fromkeys(WAYS, row.fail)
        if row.event is Scene.stop_router:
            assert router.process.wait(PATIENCE_S) == 0
        else:
            next(bystander)  # it never noticed
            hub.open()
            for model in ("model", "blocker"):
                assert until(partial(serves, router, model))
                assert [router.figure(f"requests_{kind}", model) for kind in ("active", "waiting")] == [0, 0]
        assert "defect" not in router.log


def serves(router: Router, model: str) -> bool:
    return router.chat(model).status_code == 200
