"""From a name to files: what the hub lists, what the disk has room for, and what goes wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.errors import (
    Forbidden,
    HubUnavailable,
    InsufficientDisk,
    InvalidRequest,
    RouterError,
    UnknownModel,
    UpstreamFailed,
)
from router.hub.fetch import fetch
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.resolve import resolve
from tests.hub.downloads import DATA, SIZE, Serve, is_empty, one_model, pull
from tests.hub_server import Repo, RepoFile


@pytest.mark.parametrize("name", ["a/b/c", "https://example.com/user/m", "../x", "a" * 5000, "user/m\n", "user/../m"])
async def test_a_wrong_name_reaches_neither_disk_nor_network(serve: Serve, tmp_path: Path, name: str) -> None:  # B-H2
    server = serve(one_model())
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


@pytest.mark.parametrize(
    ("name", "token", "error", "message"),
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
async def test_names_without_files_are_errors(
    serve: Serve, tmp_path: Path, name: str, token: str | None, error: type[RouterError], message: str
) -> None:  # B-H4
    model = {"m-Q8_0.gguf": RepoFile(DATA)}
    locked = {"user/private": Repo(model, token="t0"), "user/gated": Repo(model, token="t0", gated=True)}
    serve({"user/m": Repo(model), "user/empty": Repo({"README.md": RepoFile(b"")}), **locked})
    with pytest.raises(error, match=message):
        await resolve(Name.parse(name), tmp_path, token=token)
    assert is_empty(tmp_path)


@pytest.mark.parametrize(("status", "retry_after", "expected"), [(429, "7", 7), (500, None, 10), (503, "120", 120)])
async def test_a_failing_hub_gives_a_retry_after(
    serve: Serve, tmp_path: Path, status: int, retry_after: str | None, expected: float
) -> None:  # B-H4
    repo = one_model()["user/m"]
    repo.failures, repo.retry_after = [status], retry_after
    serve({"user/m": repo})
    with pytest.raises(HubUnavailable) as failed:
        await resolve(Name.parse("user/m"), tmp_path)
    assert (failed.value.status, failed.value.retry_after) == (503, expected)


@pytest.mark.usefixtures("clean_environment")
async def test_an_unreachable_hub_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # B-H4
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubUnavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
        await resolve(Name.parse("user/m"), tmp_path)


async def test_a_listing_that_makes_no_sense_is_an_error(serve: Serve, tmp_path: Path) -> None:  # B-H4
    serve({"user/m": Repo({"m-Q8_0.gguf": RepoFile(DATA)}, commit="../../x")})
    with pytest.raises(UpstreamFailed, match="check HF_ENDPOINT"):
        await pull("user/m", tmp_path)


async def test_offline_is_total(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # B-H4
    server = serve(one_model())
    await pull("user/m", tmp_path)
    before = server.requests.total()
    for setting in ({"offline": True}, {}):
        if not setting:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        resolved = await resolve(Name.parse("user/m:q8_0"), tmp_path, offline=bool(setting))
        reports: list[DownloadProgress] = []
        await fetch(resolved, tmp_path, reports.append)
        assert (resolved.name, [(one.done, one.total) for one in reports]) == ("user/m:Q8_0", [(SIZE, SIZE)])
        for name in ("user/m:Q4_0", "user/other", "user/m@v1"):
            with pytest.raises(UnknownModel, match="cache"):
                await resolve(Name.parse(name), tmp_path, offline=bool(setting))
    assert server.requests.total() == before


async def test_models_that_do_not_fit_on_the_disk_are_refused(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # B-H3
    huge = {"m-Q8_0.gguf": RepoFile(b"", size=1 << 60), "m-Q4_0.gguf": RepoFile(DATA), "m-Q2_K.gguf": RepoFile(b"q")}
    server = serve({"user/m": Repo(huge)})
    with pytest.raises(InsufficientDisk, match=r"takes 1099511627776 MiB more.* MiB free.*Q2_K \(0 MiB\)") as refused:
        await resolve(Name.parse("user/m"), tmp_path / "not" / "there")
    assert refused.value.status == 507
    resolved = await resolve(Name.parse("user/m"), tmp_path, fallback=True)
    assert resolved.name == "user/m:Q2_K"
    assert re.search("user/m:Q8_0 would not fit on the disk.*: user/m:Q2_K is taken", caplog.text)
    assert not server.gets
