"""Mirrors of the hub that tell less than the hub, proxies on the way to it, and other spellings of its names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from router.errors import RouterError
from router.hub import cache as hub
from router.hub.fetch import fetch
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.resolve import resolve
from tests.hub.downloads import DATA, MODEL, SIZE, Serve, content, one_model, pull
from tests.hub_server import Repo, RepoFile


def mirror(**changes: bool) -> dict[str, Repo]:
    return {"user/m": Repo({"m-Q8_0.gguf": RepoFile(DATA), "README.md": RepoFile(b"text")}, **changes)}  # type: ignore[arg-type]


async def test_a_mirror_that_lists_no_sizes_is_asked_for_each_file(serve: Serve, tmp_path: Path) -> None:  # B-H6
    server = serve(mirror(tells_sizes=False))
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    assert (resolved.bytes, len(resolved.files[0].oid)) == (SIZE, 64)
    await fetch(resolved, tmp_path, lambda progress: None)
    assert content(tmp_path) == DATA
    assert server.requests["user/m/resolve/main/README.md"] == 0


@pytest.mark.parametrize("cuts", [0, 1])
async def test_a_mirror_that_tells_no_size_at_all(serve: Serve, tmp_path: Path, cuts: int) -> None:  # B-H6
    repos = mirror(tells_sizes=False, tells_lengths=False)
    server = serve(repos)
    resolved = await resolve(Name.parse("user/m"), tmp_path)
    assert resolved.bytes == 0
    reports: list[DownloadProgress] = []
    await fetch(resolved, tmp_path, reports.append)
    assert content(tmp_path) == DATA
    assert (reports[0].total, reports[-1].done, reports[-1].total) == (0, SIZE, SIZE)
    gets = server.gets[MODEL]
    await fetch(await resolve(Name.parse("user/m"), tmp_path), tmp_path, reports.append)
    assert server.gets[MODEL] == gets, "it is here"


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "MODEL_ENDPOINT"])
async def test_an_endpoint_may_end_with_slashes(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:  # B-H6
    server = serve(one_model())
    monkeypatch.setenv("HF_ENDPOINT", "")
    monkeypatch.setenv(variable, f"{server.url}//")
    await pull("hf.co/user/m", tmp_path)
    assert content(tmp_path) == DATA


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_is_used(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:  # B-H6
    proxy = serve(one_model())
    monkeypatch.setenv(variable, proxy.url)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA


async def test_no_proxy_is_respected(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # B-H6
    serve(one_model())
    for variable in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    await pull("user/m", tmp_path)
    assert content(tmp_path) == DATA


async def test_a_socks_proxy_works_or_names_the_package(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # B-H6
    serve(one_model())
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    words = "cannot be reached" if importlib.util.find_spec("socksio") else r"llama-router\[socks\]"
    with pytest.raises(RouterError, match=words):
        await pull("user/m", tmp_path)


async def test_the_hubs_own_spelling_is_kept(serve: Serve, tmp_path: Path) -> None:  # B-H6
    """The hub takes names in any case, and the cache has one folder for a repository."""
    server = serve(one_model())
    server.any_case = True
    resolved = await resolve(Name.parse("USER/M:q8_0"), tmp_path)
    assert resolved.name == "user/m:Q8_0"
    await fetch(resolved, tmp_path, lambda progress: None)
    assert [entry.name for entry in hub.Cache(tmp_path).entries()] == ["user/m:Q8_0"]


async def test_what_the_cache_has_is_found_in_any_spelling(serve: Serve, tmp_path: Path) -> None:  # B-H6
    files = {"m-UD-Q4_K_XL.gguf": RepoFile(DATA), "m-Q4_K_XL.gguf": RepoFile(DATA[1:])}
    serve({"user/m": Repo(files)}).any_case = True
    await pull("user/m:Q4_K_XL", tmp_path)
    assert (await resolve(Name.parse("USER/M:ud-q4_k_xl"), tmp_path)).name == "user/m:UD-Q4_K_XL"
    assert (await resolve(Name.parse("USER/M:q4_k_xl"), tmp_path, offline=True)).name == "user/m:Q4_K_XL"


async def test_of_two_files_that_differ_in_a_prefix_each_has_its_name(serve: Serve, tmp_path: Path) -> None:  # B-H6
    files = {"m-UD-Q4_K_XL.gguf": RepoFile(DATA), "m-Q4_K_XL.gguf": RepoFile(DATA[1:])}
    serve({"user/m": Repo(files)})
    alone = await resolve(Name.parse("user/m:ud-q4_k_xl"), tmp_path)
    assert alone.name == "user/m:Q4_K_XL", "as llama.cpp lists it"
    await pull("user/m:Q4_K_XL", tmp_path)
    assert (await resolve(Name.parse("user/m:ud-q4_k_xl"), tmp_path)).name == "user/m:UD-Q4_K_XL"
    await pull("user/m:UD-Q4_K_XL", tmp_path)
    assert [entry.name for entry in hub.Cache(tmp_path).entries()] == ["user/m:Q4_K_XL", "user/m:UD-Q4_K_XL"]
    assert content(tmp_path, "user/m:UD-Q4_K_XL") == DATA
    assert content(tmp_path, "hf.co/user/m:q4_k_xl") == DATA[1:]
