"""Downloads through real routers: the real client of a hub, a hub server on loopback, and a real engine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.hub import cache
from router.hub.names import Name
from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.routers import FAKE, Router
from tests.waiting import until

MIB = 2**20
PADDING = 8 * MIB  # so that the large file takes a while


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer({}) as server:
        yield server


@pytest.fixture(scope="module")
def shared(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router that may download every repository of `user`."""
    starter = Starter(tmp_path_factory.mktemp("shared"))
    yield starter("--engine", "embedded", "--hub-allow", "other/*,user/*", HF_ENDPOINT=hub.url)
    starter.close()


@dataclass
class OwnRepo:
    """A repository for one test, with two models: `NAME:Q8_0` is small, `NAME:Q4_K_M` takes a while."""

    name: str
    hub: HubServer

    @property
    def repo(self) -> Repo:
        return self.hub.repos[self.name]

    @property
    def file(self) -> RepoFile:
        """The large file."""
        return self.repo.files["tiny-Q4_K_M.gguf"]

    def gets(self, quant: str = "Q4_K_M") -> int:
        return self.hub.gets[f"{self.name}/tiny-{quant}.gguf"]

    def requests(self) -> int:
        return sum(count for path, count in self.hub.requests.items() if self.name in path)

    def parts(self, root: Path) -> list[Path]:
        return list((root / f"models--{self.name.replace('/', '--')}").rglob("*.incomplete"))

    def has(self, root: Path, size: int) -> bool:
        """Whether at least `size` bytes are on the disk; up to a MiB more is in a buffer."""
        return sum(part.stat().st_size for part in self.parts(root)) >= size


@pytest.fixture
def own(hub: HubServer, tiny_models: Path) -> Iterator[OwnRepo]:
    small, large = ((tiny_models / f"tiny-{name}.gguf").read_bytes() for name in "ab")
    name = f"user/tiny{len(hub.repos)}"
    files = {"tiny-Q8_0.gguf": RepoFile(small), "tiny-Q4_K_M.gguf": RepoFile(large + bytes(PADDING))}
    hub.repos[name] = Repo({**files, "a.txt": RepoFile(b"")})
    yield OwnRepo(name, hub)
    for gate in (hub.repos[name].gate, *(file.gate for file in files.values())):
        if gate:
            gate.set()


@pytest.fixture
def launch(routers: Starter, hub: HubServer) -> Any:
    def launch(*flags: str, **environ: str) -> Router:
        return routers("--engine", "embedded", *flags, HF_ENDPOINT=hub.url, **environ)

    return launch


def root_of(router: Router) -> Path:
    return router.folder / "cache"


def test_ten_requests_for_a_missing_model_are_one_download_and_one_load(shared: Router, own: OwnRepo) -> None:  # B-H3
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: shared.chat(own.name), range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert (own.gets(), own.gets("Q8_0"), shared.loads(f"{own.name}:Q4_K_M")) == (1, 0, 1)
    assert shared.listing()[f"{own.name}:Q4_K_M"]["can_remove"] is True
    assert shared.chat(f"{own.name}:q8_0").status_code == 200


WRONG = ["../x", "a/b/c", "https://hub/user/tiny", "x" * 5000, "user/tiny:../../x", "user/.."]


def test_a_name_that_is_not_allowed_never_reaches_the_hub(launch: Any, hub: HubServer) -> None:  # B-H2 B-C1
    router, requests = launch("--hub-allow", "others/*"), hub.requests.total()
    for name in ("user/tiny", "nobody/here", *WRONG):
        assert router.chat(name).status_code == 404, name
    assert hub.requests.total() == requests
    assert not root_of(router).exists()


def test_a_wrong_name_is_refused_without_the_hub(shared: Router, hub: HubServer) -> None:  # B-H2
    requests = hub.requests.total()
    for name in (*WRONG, "tiny"):
        answer = shared.client.post("/models", json={"model": name})
        assert (answer.status_code, "user/repo" in answer.json()["error"]["message"]) == (400, True), name
    assert hub.requests.total() == requests


def test_events_report_a_download_until_its_end(shared: Router, own: OwnRepo) -> None:  # B-H4
    own.file.seconds_a_chunk = 0.005
    model = f"{own.name}:Q4_K_M"
    with shared.client.stream("GET", "/models/sse") as news:
        lines = news.iter_lines()
        next(lines)
        answer = shared.client.post("/models", json={"model": own.name}).json()
        assert answer == {"success": True, "model": model, "status": "downloading"}
        events = []
        for line in lines:
            item = json.loads(line.removeprefix("data: ") or "{}") if line.startswith("data: ") else {}
            if item.get("model") == model:
                events.append(item)
            if item.get("event") in ("download_finished", "download_failed"):
                break
    assert events[-1]["event"] == "download_finished"
    done = [next(iter(item["data"]["progress"].values())) for item in events if item["event"] == "download_progress"]
    assert len(done) > 2
    assert done == sorted(done, key=lambda part: part["done"])
    assert done[-1] == {"done": len(own.file.data), "total": len(own.file.data)}
    assert shared.status(model) == "unloaded"
    assert shared.chat(model).status_code == 200


def test_the_listing_shows_a_download(shared: Router, own: OwnRepo) -> None:  # B-H4
    gate = own.file.gate = threading.Event()
    model = f"{own.name}:Q4_K_M"
    shared.client.post("/models", json={"model": own.name})
    until(lambda: "progress" in shared.listing()[model]["status"])
    assert shared.status(model) == "downloading"
    assert shared.loads(model) == 0
    gate.set()
    until(lambda: shared.status(model) == "unloaded")


def test_an_unknown_name_is_an_error_at_once(shared: Router, own: OwnRepo) -> None:  # B-H4
    assert shared.client.post("/models", json={"model": "user/nowhere"}).status_code == 404
    assert shared.client.post("/models", json={"model": f"{own.name}:Q3_K"}).status_code == 404
    assert shared.chat("user/nowhere").status_code == 404
    assert "user/nowhere" not in str(shared.listing())


def test_a_damaged_file_is_a_failed_download(shared: Router, own: OwnRepo) -> None:  # B-H3 B-H4
    own.repo.files["tiny-Q8_0.gguf"].oid = "0" * 64
    answer = shared.chat(f"{own.name}:Q8_0")
    assert (answer.status_code, "damaged" in answer.json()["error"]["message"]) == (502, True)
    assert shared.listing()[f"{own.name}:Q8_0"]["status"]["failed"] is True


def test_an_unload_cancels_a_download_and_the_next_one_continues_it(shared: Router, own: OwnRepo) -> None:  # B-L10 B-H3
    own.file.gate, own.file.cut_at = threading.Event(), 4 * MIB
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(shared.chat, own.name)
        until(lambda: own.has(root_of(shared), 3 * MIB))
        assert shared.client.post("/models/unload", json={"model": own.name}).status_code == 200
        assert waiting.result().status_code == 503
    assert own.parts(root_of(shared))
    own.file.gate.set()
    own.file.cut_at = 0
    assert shared.chat(own.name).status_code == 200
    assert own.hub.begins[f"{own.name}/tiny-Q4_K_M.gguf"][-1] >= 3 * MIB
    assert not own.parts(root_of(shared))


def test_a_new_router_continues_the_download_of_a_killed_one(routers: Starter, own: OwnRepo, tmp_path: Path) -> None:
    # B-H3
    own.file.gate, own.file.cut_at = threading.Event(), 4 * MIB
    shared = {"HF_ENDPOINT": own.hub.url, "LLAMA_CACHE": str(tmp_path / "shared")}
    router = routers("--engine", "embedded", **shared)
    router.client.post("/models", json={"model": own.name})
    until(lambda: own.has(tmp_path / "shared", 3 * MIB))
    transfers = psutil.Process(router.process.pid).children(recursive=True)
    router.kill()
    psutil.wait_procs(transfers, 10)  # one that still ran would go on when the gate opens
    own.file.gate.set()
    own.file.cut_at = 0
    router = routers("--engine", "embedded", "--hub-allow", "*", **shared)
    assert router.chat(own.name).status_code == 200
    assert own.hub.begins[f"{own.name}/tiny-Q4_K_M.gguf"][-1] >= 3 * MIB


def test_a_preset_downloads_its_repository(launch: Any, own: OwnRepo, tmp_path: Path) -> None:  # B-H1
    ini = tmp_path / "models.ini"
    ini.write_text(
        f"[mine]\nhf-repo = {own.name}:Q8_0\nctx-size = 128\n[file]\nhf-repo = {own.name}\nhf-file = tiny-Q8_0.gguf\n"
    )
    router = launch("--models-preset", str(ini))
    assert router.status("mine") == "unloaded"
    assert router.chat("mine").status_code == 200
    assert router.client.get("/models/mine/settings").json()["effective"]["ctx_size"] == 256
    assert router.chat("file").status_code == 200
    assert own.gets("Q8_0") == 1


def test_a_model_that_cannot_fit_is_refused_before_its_download_ends(launch: Any, own: OwnRepo) -> None:  # B-S12
    gate = own.file.gate = threading.Event()
    own.file.cut_at = 4 * MIB
    router = launch("--hub-allow", "*", "--models-memory-limit", "20", "--models-memory-margin", "1")
    answer = router.chat(own.name)
    assert (answer.status_code, answer.json()["error"]["type"]) == (507, "insufficient_memory")
    assert not gate.is_set()
    assert own.parts(root_of(router))


def test_a_downloaded_model_can_be_removed(shared: Router, own: OwnRepo) -> None:
    model = f"{own.name}:Q8_0"
    assert shared.chat(model).status_code == 200
    assert shared.client.delete("/models", params={"model": model}).json()["freed"] > 0
    assert model not in shared.listing()
    assert cache.find(root_of(shared), model) is None
    assert shared.client.delete("/models", params={"model": model}).status_code == 404


def test_only_downloaded_models_can_be_removed(launch: Any, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models))
    answer = router.client.delete("/models", params={"model": "tiny-a"})
    assert (answer.status_code, (tiny_models / "tiny-a.gguf").exists()) == (400, True)


def test_a_removal_cancels_a_download(shared: Router, own: OwnRepo) -> None:  # B-H3
    own.file.gate = threading.Event()
    shared.client.post("/models", json={"model": own.name})
    assert shared.client.delete("/models", params={"model": f"{own.name}:Q4_K_M"}).status_code in (200, 404)
    assert own.name not in str(shared.listing())


def test_a_download_of_another_program_is_listed(launch: Any, hub: HubServer, tiny_models: Path) -> None:  # B-H5
    requests = hub.requests.total()
    router = launch("--models-dir", str(tiny_models))
    assert router.chat("user/tiny:Q8_0").status_code == 404
    _store(root_of(router), "user/tiny", tiny_models / "tiny-a.gguf")
    until(lambda: "user/tiny:Q8_0" in router.listing())
    assert router.chat("user/tiny:Q8_0").status_code == 200
    assert hub.requests.total() == requests


def test_offline_is_total(launch: Any, own: OwnRepo) -> None:  # B-H4
    router = launch("--offline", "--hub-allow", "*")
    assert router.chat(own.name).status_code == 404
    assert router.client.post("/models", json={"model": own.name}).status_code == 404
    assert not own.requests()


def test_a_bad_preset_does_not_lose_a_download(launch: Any, own: OwnRepo, tmp_path: Path) -> None:
    ini = tmp_path / "models.ini"
    ini.write_text(f"[mine]\nhf-repo = {own.name}:Q8_0\n")
    router = launch("--models-preset", str(ini), "--no-models-preset-watch")
    ini.write_text("[mine\n")
    assert router.chat("mine").status_code == 200


def test_a_busy_hub_is_unavailable_with_its_retry_after(shared: Router, own: OwnRepo) -> None:
    own.repo.failures, own.repo.retry_after = [429] * 9, "37"
    for answer in (shared.chat(own.name), shared.client.post("/models", json={"model": f"{own.name}:Q8_0"})):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "37")
        assert answer.json()["error"]["type"] == "unavailable_error"
    requests = own.requests()
    assert shared.chat(own.name).status_code == 503
    assert own.requests() == requests, "the hub is not asked again so soon"
    assert own.name not in str(shared.listing())


def test_a_hanging_hub_delays_neither_other_models_nor_the_end(launch: Any, own: OwnRepo, tiny_models: Path) -> None:
    own.repo.gate = threading.Event()
    router = launch("--hub-allow", "*", "--models-dir", str(tiny_models))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(router.chat, f"{own.name}:{quant}") for quant in ("Q8_0", "Q4_K_M", "Q8_0", "Q3_K")]
        until(own.requests)
        assert router.chat("tiny-a").status_code == 200
        router.process.send_signal(signal.SIGTERM)
        assert [wait.result().status_code for wait in waiting] == [503] * 4
    assert router.process.wait(30) == 0
    until(lambda: not _hub_processes(own.hub, router))


def test_a_disk_that_is_too_small_is_an_error(shared: Router, own: OwnRepo) -> None:  # B-H3
    own.repo.files = {"g-Q8_0.gguf": RepoFile(b"", size=2**60)}
    for answer in (shared.chat(own.name), shared.client.post("/models", json={"model": own.name})):
        assert (answer.status_code, answer.json()["error"]["type"]) == (507, "insufficient_storage")
    assert own.name not in str(shared.listing())


def test_a_load_with_settings_downloads_its_model(launch: Any, own: OwnRepo, tmp_path: Path) -> None:  # B-L1
    ini = tmp_path / "models.ini"
    ini.write_text(f"[mine]\nhf-repo = {own.name}:Q8_0\n")
    router = launch("--models-preset", str(ini))
    answer = router.client.post("/models/load", json={"model": "mine", "ctx_size": 512})
    assert (answer.status_code, answer.json()["status"]) == (200, "loaded")
    assert router.client.get("/models/mine/settings").json()["effective"]["ctx_size"] == 512
    assert router.loads("mine") == 1


def test_a_draft_model_is_downloaded_too(
    routers: Starter, hub: HubServer, tiny_models: Path, tmp_path: Path
) -> None:  # B-H1
    data = (tiny_models / "tiny-a.gguf").read_bytes()
    names = ("m-Q8_0.gguf", "mtp-m-Q8_0.gguf", "mtp-m-Q4_0.gguf", "eagle3-m.gguf")
    hub.repos["user/drafted"] = Repo({name: RepoFile(data + bytes(n)) for n, name in enumerate(names)})
    ini = tmp_path / "models.ini"
    ini.write_text("[mine]\nhf-repo = user/drafted\nspec-type = draft-mtp\n")
    router = routers("--engine", FAKE, "--models-preset", str(ini), HF_ENDPOINT=hub.url)
    assert router.chat("mine").status_code == 200
    command = router.children()[0].cmdline()
    files = [Path(command[command.index(flag) + 1]).name for flag in ("--model", "--spec-draft-model")]
    assert files == ["m-Q8_0.gguf", "mtp-m-Q8_0.gguf"]
    assert [hub.gets[f"user/drafted/{name}"] for name in names] == [1, 1, 0, 0]


def test_offline_a_missing_draft_model_is_an_error(launch: Any, tiny_models: Path, tmp_path: Path) -> None:
    ini = tmp_path / "models.ini"
    ini.write_text(f"[mine]\nmodel = {tiny_models / 'tiny-a.gguf'}\nspec-draft-hf = user/draft\n")
    router = launch("--models-preset", str(ini), "--offline")
    assert "draft model user/draft is not in the cache" in router.chat("mine").json()["error"]["message"]


def test_a_listing_of_two_thousand_models(launch: Any, tmp_path: Path, tiny_models: Path) -> None:  # B-H5 B-C2
    blob = tiny_models / "tiny-a.gguf"
    for number in range(2000):
        _store(tmp_path / "many", f"user/r{number}", blob)
    router = launch(LLAMA_CACHE=str(tmp_path / "many"))
    assert len(router.listing()) == 2000
    _store(tmp_path / "many", "user/late", blob)
    until(lambda: "user/late:Q8_0" in router.client.get("/models").text)


def test_ollamas_api_downloads_and_removes(shared: Router, own: OwnRepo) -> None:  # B-H4
    pulled = shared.client.post("/api/pull", json={"model": f"hf.co/{own.name}"})
    lines = [json.loads(line) for line in pulled.text.splitlines()]
    assert (lines[0]["status"], lines[-1]["status"]) == ("pulling manifest", "success")
    assert any(line.get("completed") == line.get("total") == len(own.file.data) for line in lines)
    assert shared.client.post("/api/pull", json={"model": "user/nowhere", "stream": False}).status_code == 404
    assert shared.client.request("DELETE", "/api/delete", json={"model": f"{own.name}:Q4_K_M"}).status_code == 200
    assert own.name not in str(shared.listing())


def test_ollamas_pull_says_success_only_with_the_files(launch: Any, own: OwnRepo) -> None:  # B-H4
    gate = own.file.gate = threading.Event()
    own.file.cut_at = 2 * MIB
    router = launch("--shutdown-grace", "5")
    model = f"{own.name}:Q4_K_M"

    def pull(**more: Any) -> Any:
        return router.client.post("/api/pull", json={"model": own.name, **more})

    def last(answer: Any) -> dict[str, str]:
        return json.loads(answer.text.splitlines()[-1])  # type: ignore[no-any-return]

    def is_downloading() -> bool:
        return model in router.listing() and router.status(model) == "downloading"

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(pull), pool.submit(pull)]
        until(is_downloading)
        until(lambda: own.has(root_of(router), 1))
        router.client.post("/models/unload", json={"model": model})
        assert ["was cancelled" in last(each.result())["error"] for each in streams] == [True] * 2
        own.file.cut_at = 4 * MIB  # behind what is here, so that it stops again
        whole = pool.submit(pull, stream=False)
        until(is_downloading)
        router.client.post("/models/unload", json={"model": model})
        assert (whole.result().status_code, "was cancelled" in whole.result().json()["error"]) == (503, True)
        own.file.cut_at = 6 * MIB
        streams = [pool.submit(pull)]
        until(is_downloading)
        assert router.client.delete("/models", params={"model": model}).status_code == 200
        assert "was cancelled" in last(streams[0].result())["error"]
        assert last(router.client.post("/api/pull", json={"model": f"{own.name}:Q8_0"})) == {"status": "success"}
        requests = own.requests()
        for name in (f"hf.co/{own.name}:q8_0", f"{own.name}:Q8_0"):
            assert last(router.client.post("/api/pull", json={"model": name})) == {"status": "success"}
        assert own.requests() == requests, "it is here"
        refused = router.client.post("/api/pull", json={"model": "llama3.2"})
        assert (refused.status_code, "search=llama3.2" in refused.json()["error"]) == (400, True)
        own.file.cut_at = 8 * MIB
        streams = [pool.submit(pull), pool.submit(pull)]
        until(is_downloading)
        router.process.send_signal(signal.SIGTERM)
        assert ["shutting down" in last(each.result())["error"] for each in streams] == [True] * 2
    gate.set()


def _store(root: Path, repo: str, file: Path) -> None:
    """Store a model in the cache as another program does: the ref last."""
    folder = root / f"models--{Name.parse(repo).repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("d" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "tiny-Q8_0.gguf").symlink_to(file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("d" * 40)


def _hub_processes(hub: HubServer, router: Router) -> list[int]:
    """The processes of this router that talk to the hub."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            if (environ.get("HF_ENDPOINT"), environ.get("LLAMA_CACHE")) == (hub.url, str(root_of(router))):
                found.append(process.pid)
    return found
