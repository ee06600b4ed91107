"""Models from the hub, through real routers, the real client of a hub on loopback, and a real engine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from router import hub as cache
from router.repo import Name
from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.routers import Router, until

MIB = 2**20
PADDING = 8 * MIB  # so that a file does not come at once


@pytest.fixture
def hub(tiny_models: Path) -> Iterator[HubServer]:
    """Two models in one repository, and a damaged one."""
    small, large = ((tiny_models / f"tiny-{name}.gguf").read_bytes() for name in "ab")
    large += bytes(PADDING)
    repos = {
        "user/tiny": Repo(
            {
                "tiny-Q8_0.gguf": RepoFile(small),
                "tiny-Q4_K_M.gguf": RepoFile(large),
                "a.txt": RepoFile(b""),
            }
        ),
        "user/damaged": Repo({"damaged-Q8_0.gguf": RepoFile(small, oid="0" * 64)}),
    }
    with HubServer(repos) as server:
        yield server


def file_of(hub: HubServer, quant: str = "Q4_K_M") -> RepoFile:
    return hub.repos["user/tiny"].files[f"tiny-{quant}.gguf"]


@pytest.fixture
def launch(routers: Starter, hub: HubServer) -> Any:
    def launch(*flags: str, **environ: str) -> Router:
        return routers("--engine", "embedded", *flags, HF_ENDPOINT=hub.url, **environ)

    return launch


def root_of(router: Router) -> Path:
    return router.folder / "cache"


def parts(router: Router) -> list[Path]:
    return list(root_of(router).rglob("*.incomplete"))


def test_ten_requests_for_a_missing_model_are_one_download_and_one_load(launch: Any, hub: HubServer) -> None:  # B-H3
    router = launch("--hub-allow", "other/*,user/*")
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: router.chat("user/tiny"), range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert hub.gets["user/tiny/tiny-Q4_K_M.gguf"] == 1
    assert (hub.gets["user/tiny/tiny-Q8_0.gguf"], router.loads()) == (0, 1)
    assert router.listing()["user/tiny:Q4_K_M"]["can_remove"] is True
    assert router.chat("user/tiny:q8_0").status_code == 200


WRONG = ["../x", "a/b/c", "https://hub/user/tiny", "x" * 5000, "user/tiny:../../x", "user/.."]


def test_what_a_request_may_not_fetch_touches_no_hub(launch: Any, hub: HubServer) -> None:  # B-H2 B-C1
    router = launch("--hub-allow", "others/*")
    for name in ("user/tiny", "nobody/here", *WRONG):
        assert router.chat(name).status_code == 404, name
    assert not hub.requests
    assert not root_of(router).exists()


def test_what_is_no_name_is_told_so(launch: Any, hub: HubServer) -> None:  # B-H2
    router = launch()
    for name in (*WRONG, "tiny"):
        answer = router.client.post("/models", json={"model": name})
        assert (answer.status_code, "user/repo" in answer.json()["error"]["message"]) == (400, True), name
    assert not hub.requests


def test_a_download_is_told_while_it_goes_on(launch: Any, hub: HubServer) -> None:  # B-H4
    router = launch()
    file_of(hub).seconds_a_chunk = 0.005
    with router.client.stream("GET", "/models/sse") as news:
        lines = news.iter_lines()
        next(lines)
        answer = router.client.post("/models", json={"model": "user/tiny"}).json()
        assert answer == {"success": True, "model": "user/tiny:Q4_K_M", "status": "downloading"}
        told = []
        for line in lines:
            item = json.loads(line.removeprefix("data: ") or "{}") if line.startswith("data: ") else {}
            if item.get("model") == "user/tiny:Q4_K_M":
                told.append(item)
            if item.get("event") in ("download_finished", "download_failed"):
                break
    assert told[-1]["event"] == "download_finished"
    done = [next(iter(item["data"]["progress"].values())) for item in told if item["event"] == "download_progress"]
    assert len(done) > 2
    assert done == sorted(done, key=lambda part: part["done"])
    assert done[-1] == {"done": len(file_of(hub).data), "total": len(file_of(hub).data)}
    assert router.status("user/tiny:Q4_K_M") == "unloaded"
    assert router.chat("user/tiny:Q4_K_M").status_code == 200


def test_the_listing_shows_a_download(launch: Any, hub: HubServer) -> None:  # B-H4
    gate = file_of(hub).gate = threading.Event()
    router = launch()
    router.client.post("/models", json={"model": "user/tiny"})
    until(lambda: "progress" in router.listing()["user/tiny:Q4_K_M"]["status"])
    assert router.status("user/tiny:Q4_K_M") == "downloading"
    assert router.children() == []
    gate.set()
    until(lambda: router.status("user/tiny:Q4_K_M") == "unloaded")


def test_a_name_that_means_nothing_is_an_error_at_once(launch: Any) -> None:  # B-H4
    router = launch("--hub-allow", "*")
    assert router.client.post("/models", json={"model": "user/nowhere"}).status_code == 404
    assert router.client.post("/models", json={"model": "user/tiny:Q3_K"}).status_code == 404
    assert router.chat("user/nowhere").status_code == 404
    assert "user/nowhere" not in str(router.listing())


def test_a_damaged_file_is_a_failed_download(launch: Any) -> None:  # B-H3 B-H4
    router = launch("--hub-allow", "*")
    answer = router.chat("user/damaged")
    assert (answer.status_code, "damaged" in answer.json()["error"]["message"]) == (502, True)
    assert router.children() == []


def test_an_unload_cancels_a_download_and_the_next_one_goes_on(launch: Any, hub: HubServer) -> None:  # B-L10 B-H3
    file = file_of(hub)
    file.gate, file.cut_at = threading.Event(), 4 * MIB
    router = launch("--hub-allow", "*")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(router.chat, "user/tiny")
        until(lambda: sum(part.stat().st_size for part in parts(router)) >= 3 * MIB)
        assert router.client.post("/models/unload", json={"model": "user/tiny"}).status_code == 200
        assert waiting.result().status_code == 503
    assert parts(router)
    file.gate.set()
    file.cut_at = 0
    assert router.chat("user/tiny").status_code == 200
    assert hub.begins["user/tiny/tiny-Q4_K_M.gguf"][-1] >= 3 * MIB
    assert not parts(router)


def test_a_killed_router_leaves_what_the_next_goes_on_with(routers: Starter, hub: HubServer, tmp_path: Path) -> None:
    # B-H3
    file = file_of(hub)
    file.gate, file.cut_at = threading.Event(), 4 * MIB
    shared = {"HF_ENDPOINT": hub.url, "LLAMA_CACHE": str(tmp_path / "shared")}
    router = routers("--engine", "embedded", **shared)
    router.client.post("/models", json={"model": "user/tiny"})
    until(lambda: sum(part.stat().st_size for part in (tmp_path / "shared").rglob("*.incomplete")) >= 3 * MIB)
    router.kill()
    file.gate.set()
    file.cut_at = 0
    router = routers("--engine", "embedded", "--hub-allow", "*", **shared)
    assert router.chat("user/tiny").status_code == 200
    assert hub.begins["user/tiny/tiny-Q4_K_M.gguf"][-1] >= 3 * MIB


def test_a_preset_whose_repository_is_not_cached(launch: Any, hub: HubServer, tmp_path: Path) -> None:  # B-H1
    ini = tmp_path / "models.ini"
    ini.write_text(
        "[mine]\nhf-repo = user/tiny:Q8_0\nctx-size = 128\n[file]\nhf-repo = user/tiny\nhf-file = tiny-Q8_0.gguf\n"
    )
    router = launch("--models-preset", str(ini))
    assert router.status("mine") == "unloaded"
    assert router.chat("mine").status_code == 200
    assert router.client.get("/models/mine/settings").json()["effective"]["ctx_size"] == 256
    assert router.chat("file").status_code == 200
    assert hub.gets["user/tiny/tiny-Q8_0.gguf"] == 1


def test_what_cannot_fit_is_refused_before_all_of_it_is_here(launch: Any, hub: HubServer) -> None:  # B-S12
    gate = file_of(hub).gate = threading.Event()
    file_of(hub).cut_at = 4 * MIB
    router = launch("--hub-allow", "*", "--models-memory-limit", "20", "--models-memory-margin", "1")
    answer = router.chat("user/tiny")
    assert (answer.status_code, answer.json()["error"]["type"]) == (507, "insufficient_memory")
    assert not gate.is_set()
    assert parts(router)


def test_what_was_downloaded_can_be_removed(launch: Any, hub: HubServer) -> None:
    router = launch("--hub-allow", "*")
    assert router.chat("user/tiny:Q8_0").status_code == 200
    assert router.client.delete("/models", params={"model": "user/tiny:Q8_0"}).json()["freed"] > 0
    assert (router.listing(), router.children()) == ({}, [])
    assert cache.find(root_of(router), "user/tiny:Q8_0") is None
    assert router.client.delete("/models", params={"model": "user/tiny:Q8_0"}).status_code == 404


def test_only_what_was_downloaded_can_be_removed(launch: Any, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models))
    answer = router.client.delete("/models", params={"model": "tiny-a"})
    assert (answer.status_code, (tiny_models / "tiny-a.gguf").exists()) == (400, True)


def test_a_download_can_be_given_up(launch: Any, hub: HubServer) -> None:  # B-H3
    file_of(hub).gate = threading.Event()
    router = launch()
    router.client.post("/models", json={"model": "user/tiny"})
    assert router.client.delete("/models", params={"model": "user/tiny:Q4_K_M"}).status_code in (200, 404)
    assert router.listing() == {}


def test_what_another_program_downloads_is_seen(launch: Any, hub: HubServer, tiny_models: Path) -> None:  # B-H5
    router = launch("--models-dir", str(tiny_models))
    assert router.chat("user/tiny:Q8_0").status_code == 404
    _store(root_of(router), "user/tiny", tiny_models / "tiny-a.gguf")
    until(lambda: "user/tiny:Q8_0" in router.listing())
    assert router.chat("user/tiny:Q8_0").status_code == 200
    assert not hub.requests


def test_offline_is_total(launch: Any, hub: HubServer) -> None:  # B-H4
    router = launch("--offline", "--hub-allow", "*")
    assert router.chat("user/tiny").status_code == 404
    assert router.client.post("/models", json={"model": "user/tiny"}).status_code == 404
    assert not hub.requests


def test_a_bad_preset_does_not_lose_a_download(launch: Any, hub: HubServer, tmp_path: Path) -> None:
    ini = tmp_path / "models.ini"
    ini.write_text("[mine]\nhf-repo = user/tiny:Q8_0\n")
    router = launch("--models-preset", str(ini), "--no-models-preset-watch")
    ini.write_text("[mine\n")
    assert router.chat("mine").status_code == 200


def test_a_hub_that_is_busy_says_when_to_come_again(launch: Any, hub: HubServer) -> None:
    repo = hub.repos["user/tiny"]
    repo.failures, repo.retry_after = [429] * 9, "37"
    router = launch("--hub-allow", "*")
    for answer in (router.chat("user/tiny"), router.client.post("/models", json={"model": "user/tiny:Q8_0"})):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "37")
        assert answer.json()["error"]["type"] == "unavailable_error"
    asked = hub.requests.total()
    assert router.chat("user/tiny").status_code == 503
    assert hub.requests.total() == asked, "what it just said is not asked again"
    assert router.listing() == {}


def test_a_hub_that_hangs_holds_up_nobody_else_nor_the_end(launch: Any, hub: HubServer, tiny_models: Path) -> None:
    hub.repos["user/tiny"].gate = threading.Event()
    router = launch("--hub-allow", "*", "--models-dir", str(tiny_models))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(router.chat, f"user/tiny:{quant}") for quant in ("Q8_0", "Q4_K_M", "Q8_0", "Q3_K")]
        until(lambda: hub.requests.total())
        assert router.chat("tiny-a").status_code == 200
        router.process.send_signal(signal.SIGTERM)
        assert [wait.result().status_code for wait in waiting] == [503] * 4
    assert router.process.wait(30) == 0
    until(lambda: not _left(hub))


def test_a_disk_that_is_too_small(launch: Any, hub: HubServer) -> None:  # B-H3
    hub.repos["user/giant"] = Repo({"g-Q8_0.gguf": RepoFile(b"", size=2**60)})
    router = launch("--hub-allow", "*")
    for answer in (router.chat("user/giant"), router.client.post("/models", json={"model": "user/giant"})):
        assert (answer.status_code, answer.json()["error"]["type"]) == (507, "insufficient_storage")
    assert (hub.gets, router.listing()) == ({}, {})


def test_settings_for_a_model_that_is_not_here_yet(launch: Any, hub: HubServer, tmp_path: Path) -> None:  # B-L1
    ini = tmp_path / "models.ini"
    ini.write_text("[mine]\nhf-repo = user/tiny:Q8_0\n")
    router = launch("--models-preset", str(ini))
    answer = router.client.post("/models/load", json={"model": "mine", "ctx_size": 512})
    assert (answer.status_code, answer.json()["status"]) == (200, "loaded")
    assert router.client.get("/models/mine/settings").json()["effective"]["ctx_size"] == 512
    assert router.loads("mine") == 1


def test_a_draft_model_that_is_not_here_is_told_offline(launch: Any, tiny_models: Path, tmp_path: Path) -> None:
    ini = tmp_path / "models.ini"
    ini.write_text(f"[mine]\nmodel = {tiny_models / 'tiny-a.gguf'}\nspec-draft-hf = user/draft\n")
    router = launch("--models-preset", str(ini), "--offline")
    assert "draft model user/draft is not in the cache" in router.chat("mine").json()["error"]["message"]


def test_a_listing_of_two_thousand_models(launch: Any, tmp_path: Path, tiny_models: Path) -> None:  # B-H5 B-C2
    blob = tiny_models / "tiny-a.gguf"
    for number in range(2000):
        _store(tmp_path / "many", f"user/r{number}", blob)
    router = launch(LLAMA_CACHE=str(tmp_path / "many"))
    until(lambda: len(router.listing()) == 2000)
    _store(tmp_path / "many", "user/late", blob)
    until(lambda: "user/late:Q8_0" in router.listing())


def test_downloads_by_the_ollama_api(launch: Any, hub: HubServer) -> None:  # B-H4
    router = launch()
    lines = [
        json.loads(line)
        for line in router.client.post("/api/pull", json={"model": "hf.co/user/tiny"}).text.splitlines()
    ]
    assert (lines[0]["status"], lines[-1]["status"]) == ("pulling manifest", "success")
    assert any(line.get("completed") == line.get("total") == len(file_of(hub).data) for line in lines)
    assert router.client.post("/api/pull", json={"model": "user/nowhere", "stream": False}).status_code == 404
    assert router.client.request("DELETE", "/api/delete", json={"model": "user/tiny:Q4_K_M"}).status_code == 200
    assert router.listing() == {}


def _store(root: Path, repo: str, file: Path) -> None:
    """As another program does: the ref last."""
    folder = root / f"models--{Name.parse(repo).repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("d" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "tiny-Q8_0.gguf").symlink_to(file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("d" * 40)


def _left(hub: HubServer) -> list[int]:
    """Processes that speak to this hub."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HF_ENDPOINT") == hub.url:
                found.append(process.pid)
    return found
