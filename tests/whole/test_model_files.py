"""Folders as people have them, served by a router: odd names and odd entries, layouts, files that come and go."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests import hang
from tests.conftest import Starter
from tests.models.rig import COMMIT, put, write_header
from tests.routers import Router, alias, chat
from tests.shell import Shell
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, LD_PRELOAD")

SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
ODD_NAMES = {
    "caf%E9": b"caf\xe9.gguf",
    "a%0Ab": b"a\nb.gguf",
    "%1B[31mred": b"\x1b[31mred.gguf",
    "d%FF": b"d\xff/x.gguf",
}


@pytest.fixture
def models(tmp_path: Path, tiny_models: Path) -> Path:
    """A folder with the model `good`."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(tiny_models / "tiny-a.gguf", folder / "good.gguf")
    return folder


def add(folder: Path, name: bytes | str) -> Path:
    """A model of this name."""
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "good.gguf", path)
    return path


def problems(router: Router) -> dict[str, str]:
    return {name: model["problem"] for name, model in router.listing().items() if "problem" in model}


def requests(name: str) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Every endpoint that takes the name of a model, or shows it."""
    query = f"?model={quote(name, safe='')}"
    path = quote(name, safe="")
    for url in (f"/v1/models/{path}", f"/models/{path}/settings", f"/models/estimate{query}", f"/slots{query}"):
        yield "GET", url, None
    for url in ("/models", "/v1/models", "/metrics", "/props", "/api/tags", "/api/ps", f"/props{query}"):
        yield "GET", url, None
    body = {
        "model": name,
        "prompt": "x",
        "stream": False,
        "max_tokens": 2,
        "n_predict": 2,
        "options": {"num_predict": 2},
    }
    messages = {**body, "messages": [{"role": "user", "content": "hi"}]}
    for url in ("/v1/completions", "/completion", "/api/generate"):
        yield "POST", url, body
    for url in ("/v1/chat/completions", "/api/chat", "/v1/messages"):
        yield "POST", url, messages
    yield "POST", "/v1/responses", {"model": name, "input": "hi", "max_output_tokens": 16}
    yield "POST", "/tokenize", {"model": name, "content": "hi"}
    yield "POST", "/api/show", {"model": name}
    yield "POST", "/api/copy", {"source": name, "destination": "copied"}
    yield "POST", "/models/load", {"model": name, "n_parallel": 1}
    yield "POST", "/models/unload", {"model": name}
    yield "POST", "/models/reload", {}


def test_a_name_of_any_bytes_is_served_by_every_endpoint(  # B-F1
    routers: Starter, engine: str, models: Path
) -> None:
    for file in ODD_NAMES.values():
        add(models, file)
    router = routers("--engine", engine, "--models-dir", str(models), "--ctx-size", "256")
    assert sorted(router.listing()) == sorted([*ODD_NAMES, "good"])
    for name in ODD_NAMES:
        assert router.chat(name).status_code == 200, router.log
        for method, url, body in requests(name):
            response = router.client.request(method, url, json=body)
            text = response.content.decode()
            assert response.status_code == 200, (name, method, url, text)
            assert not SURROGATE.search(text), (name, method, url)
    listing = router.client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert {model["id"] for model in listing.json()["data"]} >= set(ODD_NAMES)
    assert "Traceback" not in router.log
    assert "\x1b" not in router.log


def test_commands_show_names_of_any_bytes(tmp_path: Path, models: Path) -> None:  # B-F1
    for name in ODD_NAMES.values():
        add(models, name)
    shell = Shell(tmp_path)
    listed = shell("list", "--json", "--models-dir", str(models))
    assert sorted(row["name"] for row in json.loads(listed.out)) == sorted([*ODD_NAMES, "good"])
    assert not SURROGATE.search(listed.out)
    table = shell("list", "--models-dir", str(models))
    assert all(name in table.out for name in ODD_NAMES)
    for word in ("caf%E9", os.fsdecode(b"caf\xe9"), str(models / os.fsdecode(b"caf\xe9.gguf"))):
        estimate = shell("estimate", word, "--json", "--models-dir", str(models), "--engine", "embedded")
        assert estimate.code == 0, estimate.err
        assert json.loads(estimate.out)["fits"]


def test_odd_entries_are_listed_with_their_problem_and_told_once(  # B-F1
    routers: Starter, fake: str, models: Path
) -> None:
    (models / "loop.gguf").symlink_to("loop.gguf")
    (models / "gone.gguf").symlink_to("/nowhere")
    (models / "folder-loop").symlink_to("folder-loop")
    (models / "back").symlink_to(".")
    os.mkfifo(models / "pipe.gguf")
    (models / "empty.gguf").touch()
    (models / "cut.gguf").write_bytes((models / "good.gguf").read_bytes()[:2000])
    (models / "page.gguf").write_text("<html>404</html>")
    old = 1_600_000_000
    for name in ("empty", "cut"):
        os.utime(models / f"{name}.gguf", (old, old))
    router = routers("--engine", fake, "--models-dir", str(models))
    names = ("loop", "gone", "folder-loop", "pipe", "empty", "cut", "page")
    until(lambda: len(problems(router)) == len(names))
    found = problems(router)
    assert sorted(found) == sorted(names)
    for name, problem in found.items():
        assert str(models) in problem
        for url in ("/v1/chat/completions", "/api/chat", "/v1/messages"):
            response = router.client.post(url, json=chat(name))
            assert response.status_code == 500
            assert str(models) in str(response.json()["error"])
    assert router.chat("good").status_code == 200
    for _ in range(3):
        assert router.client.post("/models/reload").status_code == 200
    for name in names:
        assert len(re.findall(rf" W router\.serve: {name} cannot be served", router.log)) == 1
    assert len(re.findall("leads back to a folder that it lies in", router.log)) == 1


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_share_that_has_gone_costs_its_own_models(  # B-F1
    routers: Starter, fake: str, models: Path, tmp_path: Path, code: int
) -> None:
    add(models, "lost-share/x.gguf")
    add(models, "sub/lost-share/x.gguf")
    (models / "lost-link.gguf").symlink_to(models / "good.gguf")
    preset = tmp_path / "models.ini"
    preset.write_text(f"[own]\nmodel = {models}/lost-share/x.gguf\n[fine]\nmodel = {models}/good.gguf\n")
    given = ("--models-dir", str(models), "--models-preset", str(preset))
    router = routers("--engine", fake, *given, **hang.failing("/lost-", code))
    assert sorted(router.listing()) == ["fine", "good", "lost-link", "lost-share", "own", "sub/lost-share"]
    assert sorted(problems(router)) == ["lost-link", "lost-share", "own", "sub/lost-share"]
    assert all(os.strerror(code) in problem for problem in problems(router).values())
    assert [router.chat(name).status_code for name in ("good", "fine", "own")] == [200, 200, 500]


def test_a_share_that_goes_for_a_while_ends_no_model_that_runs(  # B-F1
    routers: Starter, fake: str, models: Path, tmp_path: Path
) -> None:
    add(models, "lost-share/one/x.gguf")
    gone = tmp_path / "gone"
    router = routers("--engine", fake, "--models-dir", str(models), **hang.failing("/lost-share", errno.ESTALE, gone))
    assert router.chat("lost-share/one").status_code == 200
    running = router.children()
    gone.touch()
    add(models, "new.gguf")
    until(lambda: "new" in router.listing())
    assert router.client.post("/models/reload").status_code == 200
    assert sorted(router.listing()) == ["good", "lost-share/one", "new"]
    assert router.children() == running
    gone.unlink()
    until(lambda: not problems(router))
    assert router.chat("lost-share/one").status_code == 200
    assert router.children() == running


def test_a_share_that_hangs_costs_its_own_models_until_it_is_back(  # B-F1
    routers: Starter, fake: str, models: Path, tmp_path: Path
) -> None:
    add(models, "hung-share/x.gguf")
    (models / "hung-link.gguf").symlink_to(models / "good.gguf")
    healed, preset = tmp_path / "healed", tmp_path / "models.ini"
    preset.write_text(f"[own]\nmodel = {models}/hung-share/x.gguf\n")
    given = ("--models-dir", str(models), "--models-preset", str(preset))
    router = routers("--engine", fake, *given, **hang.variables("/hung-", healed, looks=True))
    assert sorted(problems(router)) == ["hung-link", "hung-share", "own"]
    assert all("hangs" in problem for problem in problems(router).values())
    assert [router.chat(name).status_code for name in ("good", "own")] == [200, 500]
    healed.touch()
    until(lambda: not problems(router))
    assert [router.chat(name).status_code for name in ("hung-share", "hung-link", "own")] == [200, 200, 200]


def test_a_folder_of_models_that_hangs_does_not_stop_the_start(  # B-F1
    routers: Starter, fake: str, models: Path, tmp_path: Path
) -> None:
    share, healed, preset = tmp_path / "hung-share", tmp_path / "healed", tmp_path / "models.ini"
    share.mkdir()
    shutil.copy(models / "good.gguf", share / "late.gguf")
    preset.write_text(f"[own]\nmodel = {models}/good.gguf\n")
    given = ("--models-dir", str(share), "--models-preset", str(preset))
    router = routers("--engine", fake, *given, **hang.variables("/hung-", healed, looks=True))
    assert router.listing().keys() == {"own"}
    assert f"--models-dir {share} does not answer" in router.log
    healed.touch()
    until(lambda: "late" in router.listing())


def test_layouts_are_served(routers: Starter, fake: str, models: Path, tmp_path: Path) -> None:  # B-F2
    more = tmp_path / "more"
    for name in (
        "LOUD.GGUF",
        "publisher/one/one-Q4_K_M.gguf",
        "publisher/one/one-Q8_0.gguf",
        "twin.gguf",
        "twin/x.gguf",
    ):
        add(models, name)
    more.mkdir()
    shutil.copy(models / "good.gguf", more / "good.gguf")
    shutil.copy(models / "good.gguf", more / "other.gguf")
    router = routers("--engine", fake, "--models-dir", f"{models},{more}", "--models-max", "0")
    names = ["LOUD", "good", "more/good", "other", "publisher/one", "publisher/one:Q8_0", "twin", "twin/x"]
    assert sorted(router.listing()) == names
    for name in (*names, "publisher/one:q4_k_m"):
        assert router.chat(name).status_code == 200
    commands = {alias(child): child.cmdline() for child in router.children()}
    assert str(more / "good.gguf") in commands["more/good"]
    assert f"{more}/good.gguf is the model 'more/good'" in router.log
    again = routers("--engine", fake, "--models-dir", str(models), "--models-dir", str(more))
    assert sorted(again.listing()) == names


def test_new_files_are_seen_without_a_restart(routers: Starter, fake: str, models: Path) -> None:  # B-F2
    router = routers("--engine", fake, "--models-dir", str(models))
    router.chat("good")
    (process,) = router.children()
    add(models, "publisher/new/x.gguf")
    until(lambda: "publisher/new" in router.listing())
    add(models, "asked-for.gguf")
    until(lambda: router.chat("asked-for").status_code == 200)
    (models / "asked-for.gguf").unlink()
    until(lambda: "asked-for" not in router.listing())
    assert process in router.children(), "models that are the same go on"


def test_a_file_of_an_aliass_name_takes_another_one(  # B-F2
    routers: Starter, fake: str, models: Path, tmp_path: Path
) -> None:
    preset = tmp_path / "models.ini"
    preset.write_text(f"[own]\nmodel = {models}/good.gguf\nalias = mine\n")
    router = routers("--engine", fake, "--models-dir", str(models), "--models-preset", str(preset))
    add(models, "mine.gguf")
    add(models, "new.gguf")
    until(lambda: sorted(router.listing()) == ["good", "mine~2", "new", "own"])
    assert router.chat("mine~2").status_code == 200
    assert router.log.count("'mine' is an alias of another model") == 1


def test_a_file_that_is_being_copied_becomes_a_model(routers: Starter, fake: str, models: Path) -> None:  # B-F2
    router = routers("--engine", fake, "--models-dir", str(models))
    whole = (models / "good.gguf").read_bytes()
    with (models / "growing.gguf").open("wb") as file:
        for part in range(4):
            file.write(whole[part * 1000 : (part + 1) * 1000])
            file.flush()
            until(lambda: "is not complete yet" in problems(router).get("growing", ""))
        file.write(whole[4000:])
    until(lambda: "growing" in router.listing() and not problems(router))
    assert router.chat("growing").status_code == 200
    assert router.log.count("growing cannot be served") == 1


def test_shards_that_come_one_after_the_other(routers: Starter, fake: str, models: Path) -> None:  # B-F2
    router = routers("--engine", fake, "--models-dir", str(models))
    add(models, "big-00001-of-00002.gguf")
    until(lambda: "is missing" in problems(router).get("big", ""))
    add(models, "big-00002-of-00002.gguf")
    until(lambda: "big" in router.listing() and not problems(router))


def test_files_that_are_no_models_are_not_offered(  # B-F5
    routers: Starter, fake: str, models: Path, tmp_path: Path
) -> None:
    write_header(models / "style.gguf", "llama", kind="adapter")
    write_header(models / "eyes.gguf", "clip")
    write_header(models / "words.gguf", "llama", tensor="")
    write_header(models / "draw.gguf", "flux")
    write_header(models / "data-imatrix.gguf", None, kind="imatrix")
    (models / "old.gguf").write_bytes(b"tjgg" + bytes(100))
    preset = tmp_path / "models.ini"
    preset.write_text(f"[named]\nmodel = {models}/style.gguf\n")
    router = routers("--engine", fake, "--models-dir", str(models), "--models-preset", str(preset))
    others = {
        "style": "an adapter",
        "eyes": "a projector",
        "words": "a vocabulary",
        "draw": "for images",
        "data-imatrix": "an importance matrix",
        "old": "GGML",
    }
    assert until(lambda: sorted(router.listing()) == ["good", "named"])
    assert "an adapter" in problems(router)["named"]
    response = router.chat("named")
    assert (response.status_code, "an adapter" in response.text) == (500, True)
    tags = router.client.get("/api/tags").json()["models"]
    assert not set(others) & {model["name"].removesuffix(":latest") for model in tags}
    for name, words in others.items():
        response = router.chat(name)
        assert response.status_code == 404
        assert words in response.json()["error"]["message"]
    for _ in range(2):
        router.client.post("/models/reload")
    assert sorted(router.listing()) == ["good", "named"]
    for name in others:
        told = rf" W router\.\w+: {models}/{name}\.gguf is .*: it is not offered"
        assert len(re.findall(told, router.log)) == 1, router.log
    shell = Shell(tmp_path)
    shown = {row["name"]: row for row in json.loads(shell("list", "--json", "--models-dir", str(models)).out)}
    assert list(shown) == ["good"]
    every = json.loads(shell("list", "--all", "--json", "--models-dir", str(models)).out)
    assert {row["name"] for row in every} == {"good", *others}


def test_the_only_model_beside_other_files_is_the_default(routers: Starter, fake: str, models: Path) -> None:  # B-F5
    write_header(models / "style.gguf", "llama", kind="adapter")
    router = routers("--engine", fake, "--models-dir", str(models))
    until(lambda: list(router.listing()) == ["good"])
    assert router.client.post("/v1/chat/completions", json=chat(None)).status_code == 200


def test_odd_entries_of_the_cache_cost_themselves_alone(  # B-F1
    routers: Starter, fake: str, models: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "hub"

    def snapshot(repo: str) -> Path:
        folder = cache / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "snapshots" / COMMIT).mkdir(parents=True)
        return folder / "snapshots" / COMMIT

    shutil.copy(models / "good.gguf", snapshot("user/fine") / "m-Q8_0.gguf")
    (snapshot("user/loop") / "m-Q8_0.gguf").symlink_to("m-Q8_0.gguf")
    (snapshot("user/gone") / "m-Q8_0.gguf").symlink_to("../../blobs/gone")
    os.mkfifo(snapshot("user/pipe") / "m-Q8_0.gguf")
    odd = snapshot("user/bytes")
    shutil.copy(models / "good.gguf", odd / os.fsdecode(b"caf\xe9-Q8_0.gguf"))
    deep = snapshot("user/deep")
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    put(cache / os.fsdecode(b"models--user--b\xff") / "refs" / "main")
    (cache / "models--user--self").symlink_to("models--user--self")
    shutil.rmtree(cache / "models--user--gone" / "refs")
    (cache / "models--user--gone" / "refs").symlink_to("refs")
    router = routers("--engine", fake, "--models-dir", str(models), LLAMA_CACHE=str(cache))
    listed = router.listing()
    assert {"good", "user/fine:Q8_0", "user/bytes:Q8_0", "user/loop:Q8_0", "user/pipe:Q8_0"} <= set(listed)
    assert [router.chat(name).status_code for name in ("user/fine", "user/bytes", "user/loop")] == [200, 200, 500]
    assert sorted(problems(router)) == ["user/loop:Q8_0", "user/pipe:Q8_0"]
    assert "Traceback" not in router.log
