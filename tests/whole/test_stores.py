"""The models of Ollama's store and of LM Studio's folder, served where they lie."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import openai
import pytest
from ollama import ResponseError

from tests.api.ollama.asking import client_of
from tests.conftest import Starter
from tests.models.stores.laid import Laid
from tests.routers import FAKE, Router
from tests.shell import Shell
from tests.waiting import until

TEMPLATE = "{{ .Prompt }}"  # in Go's language


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(root.rglob("*"))}


@pytest.fixture
def laid(tmp_path: Path, tiny_models: Path) -> Laid:
    laid = Laid(tmp_path / "store")
    model, other = (laid.layer("model", tiny_models / f"tiny-{letter}.gguf") for letter in "ab")
    template, license = laid.layer("template", TEMPLATE), laid.layer("license", "Community License")
    params = laid.layer("params", {"num_predict": 3, "num_ctx": 512, "stop": ["<|eot|>"], "tfs_z": 1.0})
    laid.model("llama3.2:latest", [model, template, license, params, laid.layer("system", "Be brief.")])
    laid.manifest("llama3.2:3b").write_bytes(laid.manifest("llama3.2").read_bytes())
    laid.model("mario/plumber:v1", [other, template])
    laid.model("hf.co/user/repo:Q4_K_M", [other, laid.layer("params", {"top_k": 3})])
    return laid


@pytest.fixture
def own(laid: Laid, routers: Starter) -> Router:
    return routers("--engine", "embedded", "--ollama-models", str(laid.root))


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """What the fake engine gets, a line each."""
    return tmp_path / "sent"


@pytest.fixture
def faked(laid: Laid, routers: Starter, sent: Path) -> Router:
    return routers("--engine", FAKE, "--ollama-models", str(laid.root), FAKE_SENT=str(sent))


def test_what_ollama_list_showed_is_served(laid: Laid, own: Router) -> None:  # B-F3
    before = snapshot(laid.root)
    chat: Any = [{"role": "user", "content": "Hello"}]
    names = {"llama3.2:latest", "llama3.2:3b", "mario/plumber:v1", "hf.co/user/repo:Q4_K_M"}
    with client_of(own) as client:
        shown = {model.model: model for model in client.list().models}
        assert shown.keys() == names
        entry = shown["llama3.2:latest"]
        for name in ("llama3.2", "llama3.2:3b", "registry.ollama.ai/library/llama3.2:latest", "mario/plumber:v1"):
            answer = client.chat(name, messages=chat, options={"num_predict": 2})
            assert answer.message.content
            assert answer.model == name
        assert client.chat("llama3.2", messages=chat).eval_count == 3, "num_predict of the store"
    assert entry.digest == hashlib.sha256(laid.manifest("llama3.2").read_bytes()).hexdigest()
    manifest = json.loads(laid.manifest("llama3.2").read_text())
    assert entry.size == sum(layer["size"] for layer in (*manifest["layers"], manifest["config"]))
    assert entry.modified_at
    assert int(entry.modified_at.timestamp()) == int(laid.manifest("llama3.2").stat().st_mtime)
    assert entry.details
    assert (entry.details.parameter_size, entry.details.quantization_level) == ("3.2B", "Q4_K_M")
    listing = own.listing()
    assert listing["llama3.2:latest"]["context"]["effective"] == 512
    assert listing.keys() == names - {"llama3.2:3b"}
    assert listing["llama3.2:latest"]["aliases"] == ["llama3.2:3b"]
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key="none") as models:
        completion = models.chat.completions.create(model="hf.co/user/repo:Q4_K_M", messages=chat, max_tokens=4)
        assert completion.choices[0].message.content
    assert snapshot(laid.root) == before, "the store is only read"


def last(sent: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(sent.read_text().splitlines()[-1])
    return fields


def test_what_a_name_stands_for_is_a_default_for_every_client(faked: Router, sent: Path) -> None:  # B-F3
    user, mine = {"role": "user", "content": "hi"}, {"role": "system", "content": "Mine."}
    brief = {"role": "system", "content": "Be brief."}
    model = {"model": "llama3.2"}
    faked.client.post("/v1/chat/completions", json={**model, "messages": [user]})
    assert (last(sent)["messages"], last(sent)["stop"], last(sent)["max_tokens"]) == ([brief, user], ["<|eot|>"], 3)
    faked.client.post("/v1/chat/completions", json={**model, "messages": [mine, user], "max_tokens": 9, "stop": "x"})
    assert (last(sent)["messages"], last(sent)["stop"], last(sent)["max_tokens"]) == ([mine, user], "x", 9)
    faked.client.post("/v1/messages", json={**model, "messages": [user], "max_tokens": 7})
    assert (last(sent)["messages"][0], last(sent)["max_tokens"]) == (brief, 7)
    faked.client.post("/v1/responses", json={**model, "input": "hi", "instructions": "Mine."})
    assert last(sent)["messages"][0]["content"] == "Mine."
    faked.client.post("/api/chat", json={**model, "messages": [user], "stream": False})
    assert (last(sent)["messages"], last(sent)["n_predict"]) == ([brief, user], 3)
    faked.client.post("/api/chat", json={**model, "messages": [mine, user], "options": {"num_predict": -1}})
    assert last(sent)["messages"] == [mine, user]
    assert not {"n_predict", "max_tokens"} & last(sent).keys(), "the client wants no limit"
    faked.client.post("/api/generate", json={**model, "prompt": "hi", "system": "Mine.", "stream": False})
    assert last(sent)["messages"] == [mine, user]


def test_names_made_of_a_store_are_the_routers_own(laid: Laid, faked: Router, sent: Path) -> None:  # B-F3
    before = snapshot(laid.root)
    user = {"role": "user", "content": "hi"}
    with client_of(faked) as client:
        client.copy("llama3.2", "mine")
        client.create("short", from_="llama3.2", system="Be short.", parameters={"num_predict": 2})
        for name, system, limit in (("mine", "Be brief.", 3), ("short", "Be short.", 2)):
            for path in ("/api/chat", "/v1/chat/completions"):
                answer = faked.client.post(path, json={"model": name, "messages": [user], "stream": False})
                assert answer.status_code == 200
                fields = last(sent)
                assert fields["messages"] == [{"role": "system", "content": system}, user]
                assert fields.get("n_predict", fields.get("max_tokens")) == limit
        aliases = faked.listing()["llama3.2:latest"]["aliases"]
        assert aliases == ["llama3.2:3b", "mine", "short"], "they share its process"
        assert client.show("mine").license == "Community License"
        client.delete("mine")
        with pytest.raises(ResponseError, match="Ollama, whose files are only read"):
            client.delete("llama3.2")
        with pytest.raises(ResponseError, match="is a model of the catalog"):
            client.create("llama3.2", from_="mario/plumber:v1")
        assert client.pull("llama3.2").status == "success", "it is here"
    assert snapshot(laid.root) == before


def test_show_says_what_holds(laid: Laid, faked: Router) -> None:  # B-F3
    shown = faked.client.post("/api/show", json={"model": "llama3.2"}).json()
    assert (shown["system"], shown["license"]) == ("Be brief.", "Community License")
    assert "message.role" in shown["template"], "that of the model file"
    assert TEMPLATE not in shown["modelfile"]
    assert "Go's language" in shown["modelfile"]
    assert "tfs_z has no effect" in shown["modelfile"]
    lines = [line.split(maxsplit=1) for line in shown["parameters"].splitlines()]
    assert [name for name, _ in lines] == ["num_predict", "num_ctx", "stop"]
    assert shown["details"]["parameter_size"] == "3.2B"


def test_what_ollama_pulls_meanwhile_is_served(laid: Laid, faked: Router, tiny_models: Path) -> None:  # B-F3
    ask = {"messages": [{"role": "user", "content": "hi"}]}
    assert faked.client.post("/v1/chat/completions", json={"model": "new", **ask}).status_code == 404
    laid.model("new", [laid.layer("model", tiny_models / "tiny-c.gguf")])
    until(lambda: faked.client.post("/v1/chat/completions", json={"model": "new", **ask}).status_code == 200)
    laid.manifest("new").unlink()
    until(lambda: "new:latest" not in faked.listing())
    laid.model("newer", [laid.layer("model", tiny_models / "tiny-c.gguf")])
    until(lambda: any(entry["name"] == "newer:latest" for entry in faked.client.get("/api/tags").json()["models"]))


def test_a_spoilt_model_costs_itself_alone(laid: Laid, routers: Starter, tiny_models: Path) -> None:  # B-F3
    gguf = laid.layer("model", tiny_models / "tiny-c.gguf")
    outside = {**gguf, "digest": "sha256:../../../../etc/passwd"}
    laid.model("escape", [outside])
    laid.write("torn", '{"layers": [')
    laid.write("deep", "[" * 200_000)
    laid.model("cloud:120b-cloud", [], {"remote_host": "https://ollama.com:443", "remote_model": "gpt"})
    pipe = {**laid.layer("model", b"pipe"), "size": 0}
    path = laid.blob(b"pipe")
    path.unlink()
    os.mkfifo(path)
    laid.model("pipe", [pipe])
    router = routers("--engine", FAKE, "--ollama-models", str(laid.root))
    listing = router.listing()
    for name, reason in (
        ("escape:latest", "no SHA-256"),
        ("torn:latest", "no JSON"),
        ("deep:latest", "no JSON"),
        ("cloud:120b-cloud", "https://ollama.com:443"),
        ("pipe:latest", "not a regular file"),
    ):
        assert reason in listing[name]["status"]["error"]
        answer = router.client.post("/api/chat", json={"model": name, "messages": [{"role": "user", "content": "x"}]})
        assert answer.status_code in (400, 404, 500, 503), answer.text
        assert reason in answer.json()["error"]
    assert router.chat("llama3.2:3b").status_code == 200


def test_lm_studios_folder_is_served(tmp_path: Path, tiny_models: Path, routers: Starter) -> None:  # B-F3
    home = tmp_path / "home"
    root = tmp_path / "elsewhere"
    (home / ".lmstudio").mkdir(parents=True)
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(root)}))
    for model, quant in (("Llama-3.2-GGUF", "Q4_K_M"), ("Llama-3.2-GGUF", "Q8_0"), ("Qwen3-GGUF", "Q4_K_M")):
        folder = root / "lmstudio-community" / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{model}-{quant}.gguf").symlink_to(tiny_models / "tiny-a.gguf")
    router = routers("--engine", FAKE, "--lmstudio-models", HOME=str(home))
    assert router.listing().keys() == {
        "lmstudio-community/Llama-3.2-GGUF",
        "lmstudio-community/Llama-3.2-GGUF@q8_0",
        "lmstudio-community/Qwen3-GGUF",
    }
    for name in ("lmstudio-community/llama-3.2-gguf", "llama-3.2@q8_0", "qwen3", "lmstudio-community/qwen3-gguf"):
        assert router.chat(name).status_code == 200


def test_list_shows_stores_and_a_wrong_place_starts_nothing(laid: Laid, shell: Shell) -> None:  # B-F3
    rows = {row["name"]: row for row in json.loads(shell("list", "--json", "--ollama-models", str(laid.root)).out)}
    assert rows.keys() == {"llama3.2:latest", "mario/plumber:v1", "hf.co/user/repo:Q4_K_M"}
    assert rows["llama3.2:latest"]["aliases"] == ["llama3.2:3b"]
    assert (rows["llama3.2:latest"]["source"], rows["llama3.2:latest"]["problem"]) == ("ollama", None)
    assert shell("list", OLLAMA_MODELS=str(laid.root), LLAMA_ROUTER_OLLAMA_MODELS="auto").out.count("ollama") == 3
    assert "llama3.2" not in shell("list", OLLAMA_MODELS=str(laid.root)).out, "only if a flag asks for it"
    ended = shell("--ollama-models", "gone", "--engine", FAKE)
    assert (ended.code, "--ollama-models gone: it is no folder" in ended.sentence) == (2, True)
