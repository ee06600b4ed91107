"""Downloads into the cache: resumed, checked, shared by processes, and visible all at once."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir

from router.errors import Forbidden, HubUnavailable, InsufficientDisk, RouterError, UpstreamFailed
from router.hub import cache as hub
from router.hub.fetch import fetch
from router.hub.layout import blob_path, partial_path
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.removal import remove
from router.hub.resolve import resolve
from router.hub.snapshots import missing_bytes
from tests.hub.downloads import DATA, MODEL, SIZE, Serve, blobs, children, content, one_model, pull, stopped
from tests.hub_server import Repo, RepoFile
from tests.routers import ENGINES
from tests.waiting import eventually

# What another process runs to get a model: python -c SCRIPT NAME ROOT
SCRIPT = """
import asyncio, pathlib, sys
from router.hub.fetch import fetch
from router.hub.names import Name
from router.hub.resolve import resolve
async def main():
    root = pathlib.Path(sys.argv[2])
    await fetch(await resolve(Name.parse(sys.argv[1]), root), root, lambda progress: None)
asyncio.run(main())
"""
# What it runs to get a model by huggingface_hub itself: python -c CLIENT ROOT
CLIENT = "import sys, huggingface_hub as h; h.hf_hub_download('user/m', 'm-Q8_0.gguf', cache_dir=sys.argv[1])"


def bytes_in_blobs(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("models--*/blobs/*"))


async def python(*arguments: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", *map(str, arguments))


async def test_downloaded_models_are_found_by_all_tools(serve: Serve, tmp_path: Path) -> None:  # B-H1 B-H4
    shards = {f"Q8_0/big-Q8_0-{n:05d}-of-00002.gguf": RepoFile(DATA[n:]) for n in (1, 2)}
    others = {"mmproj-F16.gguf": RepoFile(b"projector", lfs=False), "big-Q2_K.gguf": RepoFile(b"small")}
    server = serve({"user/big": Repo({**others, **shards, "README.md": RepoFile(b"text", lfs=False)})})
    root = tmp_path / "cache"
    resolved = await resolve(Name.parse("user/big:q8_0"), root)
    assert (resolved.name, missing_bytes(root, resolved)) == ("user/big:Q8_0", 2 * SIZE - 3 + 9)
    reports: list[DownloadProgress] = []
    await fetch(resolved, root, reports.append)

    (entry,) = hub.Cache(root).entries()
    assert (entry.name, entry.bytes) == ("user/big:Q8_0", 2 * SIZE - 3)
    assert [file.read_bytes() for file in entry.files] == [DATA[1:], DATA[2:]]
    assert entry.mmproj
    assert entry.mmproj.read_bytes() == b"projector"
    for file in resolved.all_files:
        path = hf_hub_download("user/big", str(file.path), cache_dir=root, local_files_only=True)
        assert path == str(entry.files[0].parents[1] / file.path)
    (seen,) = scan_cache_dir(root).repos
    assert (seen.repo_id, seen.nb_files, list(seen.refs)) == ("user/big", 3, ["main"])

    assert set(server.gets.values()) == {1}
    assert "user/big/big-Q2_K.gguf" not in server.gets
    for file in resolved.all_files:
        of_file = [progress.done for progress in reports if (progress.oid, progress.path) == (file.oid, str(file.path))]
        assert of_file == sorted(of_file)
        assert (of_file[0], of_file[-1]) == (0, file.size)
    assert {progress.url for progress in reports} == {
        f"{server.url}/user/big/resolve/{resolved.listing.commit}/{file.path}" for file in resolved.all_files
    }


async def test_llama_server_shares_the_cache(serve: Serve, tmp_path: Path) -> None:  # B-H1
    serve(one_model())
    await pull("user/m", tmp_path)
    command = [ENGINES["llama-server"](), "--cache-list"]
    env = os.environ | {"LLAMA_CACHE": str(tmp_path)}
    listed = await asyncio.to_thread(subprocess.run, command, env=env, check=True, capture_output=True, text=True)
    assert "1. user/m:Q8_0\n" in listed.stdout


async def test_progress_is_reported_in_between_but_not_for_each_chunk(serve: Serve, tmp_path: Path) -> None:  # B-H4
    serve(one_model(seconds_a_chunk=0.02))
    reports = [progress.done for progress in await pull("user/m", tmp_path)]
    assert reports == sorted(reports)
    assert 3 < len(reports) < 40
    assert reports[-1] == SIZE


async def test_whole_files_are_not_requested_again(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one_model())
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    await fetch(resolved, tmp_path, lambda progress: None)
    before = server.requests.total()
    await fetch(resolved, tmp_path, lambda progress: None)
    assert server.requests.total() == before
    assert missing_bytes(tmp_path, resolved) == 0


async def test_the_token_goes_to_the_hub_alone(serve: Serve, tmp_path: Path) -> None:
    server = serve({"user/m": Repo({"m-Q8_0.gguf": RepoFile(DATA)}, token="t0", gated=True)})
    resolved = await resolve(Name.parse("user/m"), tmp_path, token="t0")
    with pytest.raises(Forbidden, match="licence"):
        await fetch(resolved, tmp_path, lambda progress: None)
    await fetch(resolved, tmp_path, lambda progress: None, token="t0")
    assert content(tmp_path) == DATA
    assert server.tokens["cdn"] == {None}
    assert "Bearer t0" in server.tokens["hub"]


async def test_a_revision_stands_beside_main(serve: Serve, tmp_path: Path) -> None:  # B-H1
    model = Repo({"m-Q8_0.gguf": RepoFile(DATA)}, revisions={"v1": "d" * 40, "refs/pr/1": "e" * 40})
    server = serve({"user/m": model})
    for name in ("user/m", "user/m@v1", "user/m:Q8_0@refs/pr/1", f"user/m@{'d' * 40}"):
        await pull(name, tmp_path)
        assert content(tmp_path, name) == DATA
    listed = [entry.name for entry in hub.Cache(tmp_path).entries()]
    assert listed == [
        "user/m:Q8_0",
        f"user/m:Q8_0@{'d' * 40}",
        "user/m:Q8_0@refs/pr/1",
        "user/m:Q8_0@v1",
    ]
    assert server.gets[MODEL] == 1


async def test_a_new_commit_keeps_unchanged_files_visible(serve: Serve, tmp_path: Path) -> None:
    files = {name: RepoFile(name.encode()) for name in ("m-Q2_K.gguf", "m-Q4_0.gguf", "m-Q8_0.gguf")}
    server = serve({"user/m": Repo(files)})
    for quant in ("Q2_K", "Q4_0"):
        await pull(f"user/m:{quant}", tmp_path)
    server.repos["user/m"] = Repo(files | {"m-Q2_K.gguf": RepoFile(b"changed")}, commit="d" * 40)
    await pull("user/m:Q8_0", tmp_path)
    assert [entry.name for entry in hub.Cache(tmp_path).entries()] == ["user/m:Q4_0", "user/m:Q8_0"]


async def test_partial_files_are_completed(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one_model())
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    (file,) = resolved.files
    part = partial_path(blob_path(tmp_path, "user/m", file.oid))
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1_000_000])
    assert missing_bytes(tmp_path, resolved) == SIZE - 1_000_000
    await fetch(resolved, tmp_path, lambda progress: None)
    assert content(tmp_path) == DATA
    assert server.sent[MODEL] == SIZE - 1_000_000


async def test_a_cancelled_download_leaves_a_part_and_no_process(serve: Serve, tmp_path: Path) -> None:  # B-H3
    async with stopped(serve, tmp_path, 2 << 20) as (server, task, resolved):
        await eventually(lambda: missing_bytes(tmp_path, resolved) < SIZE)
        (child,) = children()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not child.is_running()
        assert hub.Cache(tmp_path).entries() == ()
        assert blobs(tmp_path) == ["incomplete"]
        kept = SIZE - missing_bytes(tmp_path, resolved)
        server.repos["user/m"].files["m-Q8_0.gguf"].gate = None
        await fetch(resolved, tmp_path, lambda progress: None)
        assert content(tmp_path) == DATA
        assert blobs(tmp_path) == ["blob"]
        assert server.sent[MODEL] == (2 << 20) + SIZE - kept


async def test_a_part_that_a_killed_process_left_is_completed(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one_model(gate=threading.Event(), cut_at=2 << 20))
    process = await python(SCRIPT, "user/m", tmp_path)
    await asyncio.to_thread(server.wait_for, MODEL, 2 << 20)
    await eventually(lambda: bytes_in_blobs(tmp_path) > 0)
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    await process.wait()
    await eventually(lambda: not child.is_running())
    kept = bytes_in_blobs(tmp_path)
    server.repos["user/m"].files["m-Q8_0.gguf"].gate = None
    assert hub.Cache(tmp_path).entries() == ()
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert blobs(tmp_path) == ["blob"]
    assert (server.gets[MODEL], server.sent[MODEL]) == (2, (2 << 20) + SIZE - kept)


async def test_processes_share_one_transfer_of_a_file(serve: Serve, tmp_path: Path) -> None:  # B-H3
    gate = threading.Event()
    server = serve(one_model(gate=gate, cut_at=2 << 20))
    other = await python(SCRIPT, "user/m", tmp_path)
    await asyncio.to_thread(server.wait_for, MODEL, 2 << 20)
    client = await python(CLIENT, tmp_path)
    reports: list[DownloadProgress] = []
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    tasks = [asyncio.create_task(fetch(resolved, tmp_path, reports.append)) for _ in range(2)]
    # Both report how far the other process is. The client has sent its request, and waits for the lock.
    await eventually(lambda: sum(0 < one.done < SIZE for one in reports) >= 6)
    await eventually(lambda: server.requests["user/m/resolve/main/m-Q8_0.gguf"] > 0)
    gate.set()
    await asyncio.gather(*tasks)
    assert (await other.wait(), await client.wait()) == (0, 0)
    assert content(tmp_path) == DATA
    assert (server.gets[MODEL], server.sent[MODEL]) == (1, SIZE)


async def test_after_a_cut_connection_only_missing_bytes_are_sent(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one_model(cut_at=1 << 20, cuts=1))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert (server.gets[MODEL], server.sent[MODEL]) == (2, SIZE)


async def test_a_request_that_hangs_is_repeated(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # B-H3
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    server = serve(one_model(gate=threading.Event(), cut_at=2 << 20))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert server.gets[MODEL] == 2


async def test_a_server_without_ranges_sends_the_whole_file_again(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one_model(cut_at=2 << 20, cuts=1, knows_ranges=False))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert server.sent[MODEL] == SIZE + (2 << 20)


async def test_transient_failures_of_a_file_are_retried(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one_model(failures=[503, 500, 429]))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert server.gets[MODEL] == 1


async def test_a_long_retry_after_is_passed_on(serve: Serve, tmp_path: Path) -> None:  # B-H4
    repo = Repo({"m-Q8_0.gguf": RepoFile(DATA, failures=[429])}, retry_after="300")
    serve({"user/m": repo})
    with pytest.raises(HubUnavailable, match="answered 429") as failed:
        await pull("user/m", tmp_path)
    assert failed.value.retry_after == 300


@pytest.mark.parametrize("change", [{"oid": "a" * 64}, {"size": SIZE - 1}, {"size": SIZE + 1}])
async def test_a_damaged_file_is_thrown_away(serve: Serve, tmp_path: Path, change: dict[str, object]) -> None:  # B-H3
    serve(one_model(**change))
    with pytest.raises(UpstreamFailed, match="arrived damaged"):
        await pull("user/m", tmp_path)
    assert blobs(tmp_path) == []
    assert hub.Cache(tmp_path).entries() == ()


async def test_a_damaged_part_is_downloaded_again(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one_model())
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    part = partial_path(blob_path(tmp_path, "user/m", resolved.files[0].oid))
    part.parent.mkdir(parents=True)
    for content_of_part in (bytes(1000), bytes(SIZE), bytes(SIZE + 5)):
        part.write_bytes(content_of_part)
        await fetch(resolved, tmp_path, lambda progress: None)
        assert content(tmp_path) == DATA
        remove(tmp_path, Name("user/m", "Q8_0"))
        part.parent.mkdir(parents=True)
    assert server.sent[MODEL] == SIZE - 1000 + 3 * SIZE


async def test_a_full_disk_is_an_error_and_keeps_the_part(serve: Serve, tmp_path: Path) -> None:  # B-H3
    serve(one_model())
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(InsufficientDisk, match="disk is full"):
            await fetch(resolved, tmp_path, lambda progress: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert hub.Cache(tmp_path).entries() == ()
    assert blobs(tmp_path) == ["incomplete"]
    await fetch(resolved, tmp_path, lambda progress: None)
    assert content(tmp_path) == DATA


async def test_a_cache_that_cannot_be_written_is_an_error(serve: Serve, tmp_path: Path) -> None:
    serve(one_model())
    root = tmp_path / "file"
    root.write_text("no folder")
    with pytest.raises(RouterError, match="check the cache's folder"):
        await pull("user/m", root)


async def test_a_ref_that_cannot_be_written_is_an_error(serve: Serve, tmp_path: Path) -> None:
    serve(one_model())
    refs = tmp_path / "models--user--m" / "refs"
    refs.parent.mkdir()
    refs.write_text("no folder")
    with pytest.raises(RouterError, match="cannot be written"):
        await pull("user/m", tmp_path)
