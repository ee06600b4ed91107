"""Downloads by address: resumed, checked, and all at once; and nothing that a server can make of them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.errors import Forbidden, HubUnavailable, InsufficientDisk, RouterError, UnknownModel, UpstreamFailed
from router.hub import link_fetch, links
from router.hub.link_fetch import fetch_files, remote_files
from router.hub.links import Reference, docker_files
from router.hub.progress import DownloadProgress
from tests.file_server import FileServer, Served
from tests.hub.downloads import children
from tests.waiting import eventually

SIZE = 3 << 20
DATA = b"GGUF" + random.Random(1).randbytes(SIZE - 4)
GGUF, MMPROJ = "application/vnd.docker.ai.gguf.v3", "application/vnd.docker.ai.mmproj"


@pytest.fixture
def server(clean_environment: None) -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


async def get(
    url: str, root: Path, path: Path | None = None, *, token: str | None = None
) -> tuple[list[DownloadProgress], Path]:
    wanted = links.links(root, url, path)
    reports: list[DownloadProgress] = []
    found = await remote_files(wanted, None, root, token=token, offline=False)
    await fetch_files(found, reports.append, token=token)
    assert links.are_here(wanted)
    return reports, wanted[0].path


async def pull(text: str, root: Path) -> list[DownloadProgress]:
    reference, reports = Reference.parse(text), list[DownloadProgress]()
    assert reference
    found = await remote_files((), reference, root, token=None, offline=False)
    await fetch_files(found, reports.append, token=None)
    return reports


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"etag": '"v1"'},
        {"etag": 'W/"v1"'},
        {"knows_head": False},
        {"knows_ranges": False},
        {"tells_length": False},
        {"tells_length": False, "knows_head": False, "knows_ranges": False},
        {"failures": [503, 429]},
        {"stop_at": 1 << 20, "stops": 1, "etag": '"v1"'},
        {"stop_at": 1 << 20, "stops": 2, "etag": '"v1"', "tells_length": False},
        {"stop_at": 1 << 20, "stops": 1, "knows_ranges": False},
    ],
)
async def test_a_file_arrives_whatever_its_server_can_do(
    server: FileServer, tmp_path: Path, odd: dict[str, object]
) -> None:  # B-F6
    failures = odd.pop("failures", [])
    server.files["/m.gguf"] = Served(DATA, **odd)  # type: ignore[arg-type]
    wanted = links.links(tmp_path, f"{server.url}/m.gguf")
    found = await remote_files(wanted, None, tmp_path, token=None, offline=False)
    server.files["/m.gguf"].failures = list(failures)  # type: ignore[call-overload]
    reports: list[DownloadProgress] = []
    await fetch_files(found, reports.append, token=None)
    assert wanted[0].path.read_bytes() == DATA
    assert left(tmp_path) == ["m.gguf"]
    assert (reports[-1].done, reports[-1].total) == (SIZE, SIZE)
    assert {report.url for report in reports} == {f"{server.url}/m.gguf"}
    if odd.get("stops") == 1 and "etag" in odd:
        assert server.sent["/m.gguf"] < SIZE + (1 << 20)


async def test_a_download_goes_on_only_with_the_same_file(server: FileServer, tmp_path: Path) -> None:  # B-F6
    for change, sent in (("v1", SIZE), ("v2", SIZE + (1 << 20))):
        root = tmp_path / change
        file = server.files["/m.gguf"] = Served(DATA, etag='"v1"', stop_at=1 << 20, gate=threading.Event())
        server.sent.clear()
        task = asyncio.create_task(get(f"{server.url}/m.gguf", root))
        await eventually(lambda: server.sent["/m.gguf"] == 1 << 20)
        task.cancel()
        await asyncio.wait({task})
        assert not children()
        (part,) = left(root)
        assert part.endswith(".incomplete")
        kept = next(root.rglob("*.incomplete")).stat().st_size
        file.gate = None
        file.etag, file.data = f'"{change}"', DATA if change == "v1" else b"GGUF" + DATA[::-1][:-4]
        _, path = await get(f"{server.url}/m.gguf", root)
        assert path.read_bytes() == file.data
        assert left(root) == ["m.gguf"], "the part of the other version is gone"
        assert server.sent["/m.gguf"] == sent + ((1 << 20) - kept if change == "v1" else 0)


async def test_a_file_that_is_here_is_not_requested(server: FileServer, tmp_path: Path) -> None:  # B-F6
    server.files["/m.gguf"] = Served(DATA)
    mine = tmp_path / "mine" / "x.gguf"
    await get(f"{server.url}/m.gguf", tmp_path, mine)
    assert mine.read_bytes() == DATA
    wanted = links.links(tmp_path, f"{server.url}/m.gguf", mine)
    found = await remote_files(wanted, None, tmp_path, token=None, offline=False)
    gets = server.requests.count(("GET", "/m.gguf"))
    await fetch_files(found, lambda progress: None, token=None)
    assert server.requests.count(("GET", "/m.gguf")) == gets


async def test_all_shards_arrive_and_the_first_is_the_last_to_be_seen(server: FileServer, tmp_path: Path) -> None:
    # B-F6
    gate = threading.Event()
    for number in (1, 2):
        server.files[f"/m-0000{number}-of-00002.gguf"] = Served(DATA[: SIZE - number])
    server.files["/m-00002-of-00002.gguf"].gate = gate
    server.files["/m-00002-of-00002.gguf"].stop_at = 1000
    task = asyncio.create_task(get(f"{server.url}/m-00001-of-00002.gguf", tmp_path))
    await eventually(lambda: any(name.endswith("00001-of-00002.gguf.whole") for name in left(tmp_path)))
    assert not any(name.startswith("m-") for name in left(tmp_path))
    gate.set()
    await task
    assert left(tmp_path) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]


async def test_two_at_once_are_one_transfer(server: FileServer, tmp_path: Path) -> None:  # B-F6
    server.files["/m.gguf"] = Served(DATA, etag='"v1"')
    await asyncio.gather(*(get(f"{server.url}/m.gguf", tmp_path) for _ in range(3)))
    assert server.sent["/m.gguf"] == SIZE
    assert left(tmp_path) == ["m.gguf"]


@pytest.mark.parametrize(
    ("served", "error", "words"),
    [
        (None, UnknownModel, "is not there"),
        (Served(DATA, user="me:secret"), Forbidden, "user:password@"),
        (Served(DATA, failures=[403] * 3), Forbidden, "does not let you"),
        (Served(b"", failures=[500] * 20), HubUnavailable, "answered 500"),
        (Served(b"<!doctype html>" + bytes(100_000)), UpstreamFailed, "no GGUF file"),
        (Served(b""), UpstreamFailed, "damaged"),
        (Served(redirect="/m.gguf"), UpstreamFailed, "redirects"),
        (Served(redirect="file:///etc/passwd"), UpstreamFailed, "redirects to nowhere"),
        (Served(redirect="gopher://h/x"), UpstreamFailed, "redirects to nowhere"),
    ],
)
async def test_what_goes_wrong_is_said(
    server: FileServer, tmp_path: Path, served: Served | None, error: type[RouterError], words: str
) -> None:  # B-F6
    if served:
        served.failures = list(served.failures)
        server.files["/m.gguf"] = served
    with pytest.raises(error, match=words) as failed:
        await get(f"{server.url}/m.gguf?sig=secret", tmp_path)
    assert "secret" not in failed.value.message
    assert not any(name.endswith(".gguf") for name in left(tmp_path))


async def test_credentials_go_to_their_own_host_alone(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # B-F6 B-T7
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FileServer() as other:
        other.files["/cdn.gguf"] = Served(DATA)
        server.files["/m.gguf"] = Served(redirect=f"{other.url}/cdn.gguf", user="me:secret")
        url = f"{server.url.replace('://', '://me:secret@')}/m.gguf"
        reports, _ = await get(url, tmp_path)
        assert set(server.authorizations["/m.gguf"]) == {"Basic bWU6c2VjcmV0"}
        assert set(other.authorizations["/cdn.gguf"]) == {None}
        assert not any("secret" in report.url for report in reports)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.files["/hub.gguf"] = Served(redirect=f"{other.url}/cdn.gguf")
        await get(f"{server.url}/hub.gguf", tmp_path)
        assert set(server.authorizations["/hub.gguf"]) == {"Bearer hf_secret"}
        assert set(other.authorizations["/cdn.gguf"]) == {None}


async def test_a_disk_that_is_too_small_is_known_before(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # B-F6
    server.files["/m.gguf"] = Served(DATA)
    monkeypatch.setattr(link_fetch, "DISK_RESERVE_BYTES", 1 << 60)
    with pytest.raises(InsufficientDisk, match="make room"):
        await get(f"{server.url}/m.gguf", tmp_path)
    assert ("GET", "/m.gguf") not in server.requests


@pytest.mark.parametrize("variable", [None, "HF_HUB_OFFLINE"])
async def test_offline_is_total(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:  # B-F6
    if variable:
        monkeypatch.setenv(variable, "1")
    reference = Reference.parse(f"{server.host}/ai/tiny")
    for wanted, its in ((links.links(tmp_path, f"{server.url}/m.gguf"), None), ((), reference)):
        with pytest.raises(UnknownModel, match="--offline"):
            await remote_files(wanted, its, tmp_path, token=None, offline=variable is None)
    assert server.requests == []


async def test_a_model_of_a_registry(server: FileServer, tmp_path: Path) -> None:  # B-F6
    licence = ("application/vnd.docker.ai.license", b"free", "")
    text = server.publish("ai/tiny", "Q8_0", (MMPROJ, b"GGUF projector", ""), licence, (GGUF, DATA, ""))
    with FileServer() as cdn:
        for path in [path for path in server.files if path.startswith("/cdn/")]:
            cdn.files[path] = server.files.pop(path)
        for file in server.files.values():
            file.redirect = file.redirect and f"{cdn.url}{file.redirect}"
        reports = await pull(text, tmp_path)
    reference = Reference.parse(text)
    assert reference
    files = docker_files(tmp_path, reference)
    assert files
    assert files[0].read_bytes() == DATA
    assert files[1]
    assert files[1].read_bytes() == b"GGUF projector"
    assert (reports[-1].done, reports[-1].total) == (reports[-1].total, reports[-1].total)
    assert server.tokens >= 1
    assert len(cdn.authorizations) == 2
    assert all(set(found) == {None} for found in cdn.authorizations.values())
    assert docker_files(tmp_path, reference) == files


async def test_layers_are_checked(server: FileServer, tmp_path: Path) -> None:  # B-F6
    text = server.publish("ai/tiny", "latest", (GGUF, DATA, ""))
    blob = next(path for path in server.files if path.startswith("/cdn/"))
    server.files[blob] = Served(DATA[:-1] + b"x")
    with pytest.raises(UpstreamFailed, match="arrived damaged"):
        await pull(text, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "no model"),
        ([(MMPROJ, b"GGUF", "")], "no model"),
        ([(GGUF, b"GGUF1", ""), (GGUF, b"GGUF2", "")], "no model"),  # which is which?
        ([("application/vnd.oci.image.layer.v1.tar", b"x", "")], "no model"),
    ],
)
async def test_what_is_no_model_of_a_registry(
    server: FileServer, tmp_path: Path, layers: list[tuple[str, bytes, str]], words: str
) -> None:  # B-F6
    with pytest.raises(UnknownModel, match=words):
        await pull(server.publish("ai/tiny", "latest", *layers), tmp_path)


async def test_shards_of_a_registry_have_their_numbers(server: FileServer, tmp_path: Path) -> None:  # B-F6
    rows = [(GGUF, b"GGUF%d" % number, f"m-{number:05d}-of-00002.gguf") for number in (2, 1)]
    text = server.publish("ai/tiny", "latest", *rows)
    await pull(text, tmp_path)
    assert left(tmp_path) == ["tiny-latest-00001-of-00002.gguf", "tiny-latest-00002-of-00002.gguf"]


async def test_a_model_that_no_registry_has(server: FileServer, tmp_path: Path) -> None:  # B-F6
    with pytest.raises(UnknownModel, match="is not there"):
        await pull(f"{server.host}/ai/none", tmp_path)


@pytest.mark.parametrize("more", [b"", b"of a longer file"])
@pytest.mark.parametrize("odd", [{}, {"tells_length": False}, {"tells_length": False, "etag": '"v1"'}])
async def test_bytes_that_are_perhaps_of_another_file_do_not_count(
    server: FileServer, tmp_path: Path, odd: dict[str, Any], more: bytes
) -> None:  # B-F6
    server.files["/m.gguf"] = Served(DATA, **odd)
    wanted = links.links(tmp_path, f"{server.url}/m.gguf")
    found = await remote_files(wanted, None, tmp_path, token=None, offline=False)
    found[0].part.parent.mkdir(parents=True)
    found[0].part.write_bytes(b"GGUF" + DATA[::-1][: SIZE // 2] if not (more or odd.get("etag")) else DATA + more)
    await fetch_files(found, lambda progress: None, token=None)
    assert wanted[0].path.read_bytes() == DATA
    assert left(tmp_path) == ["m.gguf"]


async def test_a_file_that_ends_before_its_kind_is_clear_is_no_model(server: FileServer, tmp_path: Path) -> None:
    # B-F6
    server.files["/m.gguf"] = Served(b"GGU", tells_length=False)
    with pytest.raises(UpstreamFailed, match="no GGUF file"):
        await get(f"{server.url}/m.gguf", tmp_path)
    assert left(tmp_path) == []
