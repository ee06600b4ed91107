"""Against a hub on loopback, with the real client, real processes and real files."""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import uvloop
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, scan_cache_dir
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.hf_api import RepoFile as RepoFileInfo

from router.errors import (
    Forbidden,
    HubUnavailable,
    InsufficientDisk,
    InvalidRequest,
    RouterError,
    UnknownModel,
    UpstreamFailed,
)
from router.hub import cache as hub
from router.hub.fetch import fetch
from router.hub.layout import blob_path, partial_path
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.removal import remove
from router.hub.repo import Resolved
from router.hub.resolve import resolve
from router.hub.snapshots import missing_bytes
from tests.hub_server import HubServer, Repo, RepoFile
from tests.routers import ENGINES

SIZE = 3 << 20
DATA = random.Random(0).randbytes(SIZE)
MODEL = "user/m/m-Q8_0.gguf"
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
# And what it runs for huggingface_hub itself: python -c CLIENT ROOT
CLIENT = "import sys, huggingface_hub as h; h.hf_hub_download('user/m', 'm-Q8_0.gguf', cache_dir=sys.argv[1])"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the user's own, and a short patience."""
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "20")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Repo]], HubServer]]:
    servers: list[HubServer] = []

    def start(repos: dict[str, Repo]) -> HubServer:
        servers.append(HubServer(repos).__enter__())
        monkeypatch.setenv("HF_ENDPOINT", servers[-1].url)
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


Serve = Callable[[dict[str, Repo]], HubServer]


def one(**changes: object) -> dict[str, Repo]:
    return {"user/m": Repo({"m-Q8_0.gguf": RepoFile(DATA, **changes)})}  # type: ignore[arg-type]


async def pull(name: str, root: Path) -> list[DownloadProgress]:
    told: list[DownloadProgress] = []
    await fetch(await resolve(Name.parse(name), root), root, told.append)
    return told


def content(root: Path, name: str = "user/m:Q8_0") -> bytes:
    entry = hub.find(root, name)
    assert entry
    return b"".join(file.read_bytes() for file in entry.files)


def is_empty(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def blobs(root: Path) -> list[str]:
    return sorted(path.name.partition(".")[2] or "blob" for path in root.glob("models--*/blobs/*"))


def in_blobs(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("models--*/blobs/*"))


async def python(*arguments: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", *map(str, arguments))


@asynccontextmanager
async def stopped(serve: Serve, root: Path, at: int) -> AsyncIterator[tuple[HubServer, asyncio.Task[None], Resolved]]:
    """A transfer whose hub sends no more after so many bytes."""
    gate = threading.Event()
    server = serve(one(gate=gate, cut_at=at))
    resolved = await resolve(Name.parse("user/m"), root)
    task = asyncio.create_task(fetch(resolved, root, lambda progress: None))
    await asyncio.to_thread(server.wait_for, MODEL, at)
    yield server, task, resolved


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "router.hub.transfer" in command_of(child)]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


async def test_what_was_fetched_is_found_by_all_tools(serve: Serve, tmp_path: Path) -> None:  # B-H1 B-H4
    shards = {f"Q8_0/big-Q8_0-{n:05d}-of-00002.gguf": RepoFile(DATA[n:]) for n in (1, 2)}
    others = {"mmproj-F16.gguf": RepoFile(b"projector", lfs=False), "big-Q2_K.gguf": RepoFile(b"small")}
    server = serve({"user/big": Repo({**others, **shards, "README.md": RepoFile(b"text", lfs=False)})})
    root = tmp_path / "cache"
    resolved = await resolve(Name.parse("user/big:q8_0"), root)
    assert (resolved.name, missing_bytes(root, resolved)) == ("user/big:Q8_0", 2 * SIZE - 3 + 9)
    told: list[DownloadProgress] = []
    await fetch(resolved, root, told.append)

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
        of_file = [progress.done for progress in told if (progress.oid, progress.path) == (file.oid, str(file.path))]
        assert of_file == sorted(of_file)
        assert (of_file[0], of_file[-1]) == (0, file.size)
    assert {progress.url for progress in told} == {
        f"{server.url}/user/big/resolve/{resolved.listing.commit}/{file.path}" for file in resolved.all_files
    }


async def test_llama_server_shares_the_cache(serve: Serve, tmp_path: Path) -> None:  # B-H1
    serve(one())
    await pull("user/m", tmp_path)
    command = [ENGINES["llama-server"](), "--cache-list"]
    env = os.environ | {"LLAMA_CACHE": str(tmp_path)}
    listed = await asyncio.to_thread(subprocess.run, command, env=env, check=True, capture_output=True, text=True)
    assert "1. user/m:Q8_0\n" in listed.stdout


async def test_the_hub_of_these_tests_speaks_the_protocol(serve: Serve) -> None:
    server = serve(one() | {"user/gated": Repo({"m.gguf": RepoFile(DATA)}, token="t0", gated=True)})
    api = HfApi(endpoint=server.url)
    (entry,) = api.list_repo_tree("user/m", recursive=True)
    assert isinstance(entry, RepoFileInfo)
    assert (entry.path, entry.size, entry.lfs and entry.lfs.size) == ("m-Q8_0.gguf", SIZE, SIZE)
    assert [ref.name for ref in api.list_repo_refs("user/m").branches] == ["main"]
    metadata = get_hf_file_metadata(hf_hub_url("user/m", "m-Q8_0.gguf", endpoint=server.url))
    assert (metadata.etag, metadata.size) == (entry.lfs and entry.lfs.sha256, SIZE)
    assert metadata.commit_hash == api.model_info("user/m", securityStatus=True).sha
    api.auth_check("user/m")
    with pytest.raises(GatedRepoError):
        api.auth_check("user/gated")


async def test_progress_is_told_in_between_but_not_for_each_chunk(serve: Serve, tmp_path: Path) -> None:  # B-H4
    serve(one(seconds_a_chunk=0.02))
    told = [progress.done for progress in await pull("user/m", tmp_path)]
    assert told == sorted(told)
    assert 3 < len(told) < 40
    assert told[-1] == SIZE


def test_the_serving_process_never_imports_the_client() -> None:
    code = "import sys, router.serve, router.hub.fetch; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name", ["a/b/c", "https://huggingface.co/user/m", "../x", "a" * 5000, "user/m\n", "user/../m"]
)
async def test_a_wrong_name_reaches_neither_disk_nor_network(serve: Serve, tmp_path: Path, name: str) -> None:  # B-H2
    server = serve(one())
    with pytest.raises(InvalidRequest):
        await pull(name, tmp_path / "cache")
    assert not server.requests
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("path", ["../../x-Q8_0.gguf", "/tmp/x-Q8_0.gguf", "a/../../x-Q8_0.gguf", "a\\x-Q8_0.gguf"])
async def test_a_listing_cannot_lead_out_of_the_cache(serve: Serve, tmp_path: Path, path: str) -> None:  # B-H2
    serve({"user/m": Repo({path: RepoFile(DATA)}), "user/n": Repo({"n.gguf": RepoFile(DATA, oid="../../../x")})})
    for name in ("user/m", "user/n"):
        with pytest.raises(UnknownModel, match="no GGUF file"):
            await pull(name, tmp_path)
    assert is_empty(tmp_path)


async def test_offline_is_total(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # B-H4
    server = serve(one())
    await pull("user/m", tmp_path)
    before = server.requests.total()
    for setting in ({"offline": True}, {}):
        if not setting:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        resolved = await resolve(Name.parse("user/m:q8_0"), tmp_path, offline=bool(setting))
        told: list[DownloadProgress] = []
        await fetch(resolved, tmp_path, told.append)
        assert (resolved.name, [(one.done, one.total) for one in told]) == ("user/m:Q8_0", [(SIZE, SIZE)])
        for name in ("user/m:Q4_0", "user/other", "user/m@v1"):
            with pytest.raises(UnknownModel, match="cache"):
                await resolve(Name.parse(name), tmp_path, offline=bool(setting))
    assert server.requests.total() == before


async def test_what_is_complete_is_not_asked_for_again(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one())
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    await fetch(resolved, tmp_path, lambda progress: None)
    before = server.requests.total()
    await fetch(resolved, tmp_path, lambda progress: None)
    assert server.requests.total() == before
    assert missing_bytes(tmp_path, resolved) == 0


@pytest.mark.parametrize(
    ("name", "token", "error", "told"),
    [
        ("user/none", None, UnknownModel, "set HF_TOKEN"),
        ("user/none", "t", UnknownModel, "check the name"),
        ("user/private", None, UnknownModel, "private"),
        ("user/gated", None, Forbidden, "accept its licence at .*/user/gated, and set HF_TOKEN"),
        ("user/gated", "wrong", Forbidden, "accept its licence"),
        ("user/empty", None, UnknownModel, "no GGUF file"),
        ("user/m:Q2_K", None, UnknownModel, r"user/m:Q8_0 \(3 MiB\)"),
        ("user/m@v2", None, UnknownModel, "revision"),
    ],
)
async def test_a_failed_resolve_is_a_failure(
    serve: Serve, tmp_path: Path, name: str, token: str | None, error: type[RouterError], told: str
) -> None:  # B-H4
    model = {"m-Q8_0.gguf": RepoFile(DATA)}
    locked = {"user/private": Repo(model, token="t0"), "user/gated": Repo(model, token="t0", gated=True)}
    serve({"user/m": Repo(model), "user/empty": Repo({"README.md": RepoFile(b"")}), **locked})
    with pytest.raises(error, match=told):
        await resolve(Name.parse(name), tmp_path, token=token)
    assert is_empty(tmp_path)


@pytest.mark.parametrize(("status", "retry_after", "expected"), [(429, "7", 7), (500, None, 10), (503, "120", 120)])
async def test_a_hub_that_fails_says_when_to_come_again(
    serve: Serve, tmp_path: Path, status: int, retry_after: str | None, expected: float
) -> None:  # B-H4
    repo = one()["user/m"]
    repo.failures, repo.retry_after = [status], retry_after
    serve({"user/m": repo})
    with pytest.raises(HubUnavailable) as failed:
        await resolve(Name.parse("user/m"), tmp_path)
    assert (failed.value.status, failed.value.retry_after) == (503, expected)


async def test_a_hub_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # B-H4
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubUnavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
        await resolve(Name.parse("user/m"), tmp_path)


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


async def test_a_new_commit_hides_nothing_that_did_not_change(serve: Serve, tmp_path: Path) -> None:
    files = {name: RepoFile(name.encode()) for name in ("m-Q2_K.gguf", "m-Q4_0.gguf", "m-Q8_0.gguf")}
    server = serve({"user/m": Repo(files)})
    for quant in ("Q2_K", "Q4_0"):
        await pull(f"user/m:{quant}", tmp_path)
    server.repos["user/m"] = Repo(files | {"m-Q2_K.gguf": RepoFile(b"changed")}, commit="d" * 40)
    await pull("user/m:Q8_0", tmp_path)
    assert [entry.name for entry in hub.Cache(tmp_path).entries()] == ["user/m:Q4_0", "user/m:Q8_0"]


async def test_a_disk_that_is_too_small(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # B-H3
    huge = {"m-Q8_0.gguf": RepoFile(b"", size=1 << 60), "m-Q4_0.gguf": RepoFile(DATA), "m-Q2_K.gguf": RepoFile(b"q")}
    server = serve({"user/m": Repo(huge)})
    with pytest.raises(InsufficientDisk, match=r"takes 1099511627776 MiB more.* MiB free.*Q2_K \(0 MiB\)") as refused:
        await resolve(Name.parse("user/m"), tmp_path / "not" / "there")
    assert refused.value.status == 507
    resolved = await resolve(Name.parse("user/m"), tmp_path, fallback=True)
    assert resolved.name == "user/m:Q2_K"
    assert re.search("user/m:Q8_0 would not fit on the disk.*: user/m:Q2_K is taken", caplog.text)
    assert not server.gets


async def test_what_is_cached_counts(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one())
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    (file,) = resolved.files
    part = partial_path(blob_path(tmp_path, "user/m", file.oid))
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1_000_000])
    assert missing_bytes(tmp_path, resolved) == SIZE - 1_000_000
    await fetch(resolved, tmp_path, lambda progress: None)
    assert content(tmp_path) == DATA
    assert server.sent[MODEL] == SIZE - 1_000_000


async def test_cancelled_in_the_middle_of_a_file(serve: Serve, tmp_path: Path) -> None:  # B-H3
    async with stopped(serve, tmp_path, 2 << 20) as (server, task, resolved):
        await until(lambda: missing_bytes(tmp_path, resolved) < SIZE)
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


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_cancelled_at_any_moment(serve: Serve, tmp_path: Path, runner: Callable[..., None]) -> None:  # B-H3
    """Twice, even: no process is left, and no file descriptor."""
    serve(one())

    async def cancel_often() -> None:
        before = psutil.Process().num_fds()
        for delay in (0, 0.001, 0.01, 0.1):
            task = asyncio.create_task(pull("user/m", tmp_path))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: not children() and psutil.Process().num_fds() <= before)

    runner(cancel_often())


async def test_killed_in_the_middle_of_a_file(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one(gate=threading.Event(), cut_at=2 << 20))
    process = await python(SCRIPT, "user/m", tmp_path)
    await asyncio.to_thread(server.wait_for, MODEL, 2 << 20)
    await until(lambda: in_blobs(tmp_path) > 0)
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    await process.wait()
    await until(lambda: not child.is_running())
    kept = in_blobs(tmp_path)
    server.repos["user/m"].files["m-Q8_0.gguf"].gate = None
    assert hub.Cache(tmp_path).entries() == ()
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert blobs(tmp_path) == ["blob"]
    assert (server.gets[MODEL], server.sent[MODEL]) == (2, (2 << 20) + SIZE - kept)


async def test_one_transfer_however_many_ask(serve: Serve, tmp_path: Path) -> None:  # B-H3
    gate = threading.Event()
    server = serve(one(gate=gate, cut_at=2 << 20))
    other = await python(SCRIPT, "user/m", tmp_path)
    await asyncio.to_thread(server.wait_for, MODEL, 2 << 20)
    client = await python(CLIENT, tmp_path)
    told: list[DownloadProgress] = []
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    tasks = [asyncio.create_task(fetch(resolved, tmp_path, told.append)) for _ in range(2)]
    # They see how far the other one is; the client has asked and waits for the lock.
    await until(lambda: sum(0 < one.done < SIZE for one in told) >= 6)
    await until(lambda: server.requests["user/m/resolve/main/m-Q8_0.gguf"] > 0)
    gate.set()
    await asyncio.gather(*tasks)
    assert (await other.wait(), await client.wait()) == (0, 0)
    assert content(tmp_path) == DATA
    assert (server.gets[MODEL], server.sent[MODEL]) == (1, SIZE)


async def test_a_cut_connection_costs_only_what_is_missing(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one(cut_at=1 << 20, cuts=1))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert (server.gets[MODEL], server.sent[MODEL]) == (2, SIZE)


async def test_a_hub_that_hangs_is_asked_again(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # B-H3
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    server = serve(one(gate=threading.Event(), cut_at=2 << 20))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert server.gets[MODEL] == 2


async def test_a_server_without_ranges_begins_again(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one(cut_at=2 << 20, cuts=1, knows_ranges=False))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert server.sent[MODEL] == SIZE + (2 << 20)


async def test_transient_failures_of_a_file(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one(failures=[503, 500, 429]))
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA
    assert server.gets[MODEL] == 1


async def test_a_long_wait_is_handed_on(serve: Serve, tmp_path: Path) -> None:  # B-H4
    repo = Repo({"m-Q8_0.gguf": RepoFile(DATA, failures=[429])}, retry_after="300")
    serve({"user/m": repo})
    with pytest.raises(HubUnavailable, match="answered 429") as failed:
        await pull("user/m", tmp_path)
    assert failed.value.retry_after == 300


@pytest.mark.parametrize("change", [{"oid": "a" * 64}, {"size": SIZE - 1}, {"size": SIZE + 1}])
async def test_a_damaged_file_is_thrown_away(serve: Serve, tmp_path: Path, change: dict[str, object]) -> None:  # B-H3
    serve(one(**change))
    with pytest.raises(UpstreamFailed, match="arrived damaged"):
        await pull("user/m", tmp_path)
    assert blobs(tmp_path) == []
    assert hub.Cache(tmp_path).entries() == ()


async def test_a_damaged_part_is_fetched_again(serve: Serve, tmp_path: Path) -> None:  # B-H3
    server = serve(one())
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


async def test_a_disk_that_fills_up(serve: Serve, tmp_path: Path) -> None:  # B-H3
    serve(one())
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


async def test_a_cache_that_cannot_be_written(serve: Serve, tmp_path: Path) -> None:
    serve(one())
    root = tmp_path / "file"
    root.write_text("no folder")
    with pytest.raises(RouterError, match="check the cache's folder"):
        await pull("user/m", root)


async def test_a_cache_that_cannot_name_what_it_got(serve: Serve, tmp_path: Path) -> None:
    serve(one())
    refs = tmp_path / "models--user--m" / "refs"
    refs.parent.mkdir()
    refs.write_text("no folder")
    with pytest.raises(RouterError, match="cannot be written"):
        await pull("user/m", tmp_path)


async def test_a_hub_that_is_none(serve: Serve, tmp_path: Path) -> None:  # B-H4
    serve({"user/m": Repo({"m-Q8_0.gguf": RepoFile(DATA)}, commit="../../x")})
    with pytest.raises(UpstreamFailed, match="check HF_ENDPOINT"):
        await pull("user/m", tmp_path)


async def test_a_child_that_something_killed(serve: Serve, tmp_path: Path) -> None:
    async with stopped(serve, tmp_path, 1 << 20) as (_, task, _):
        (child,) = children()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(RouterError, match="ended by itself"):
            await task
