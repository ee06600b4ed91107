"""Names and models that Ollama's own client makes, on real engines, and in every API."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf as writer
import numpy as np
import ollama
import pytest
from ollama import Message, ResponseError

from tests.api.ollama.asking import FEW, HI, client_of
from tests.conftest import Starter
from tests.routers import Router, start

LAST = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def own(engine: str, tiny_models: Path, routers: Starter) -> Router:
    return routers("--engine", engine, "--models-dir", str(tiny_models), "--models-max", "1")


def said(router: Router, model: str, **more: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "seed": 1, "temperature": 0, **more}
    response = router.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_a_name_is_known_in_every_api_and_after_a_restart(engine: str, tiny_models: Path, tmp_path: Path) -> None:
    """B-C13"""
    flags = ("--engine", engine, "--models-dir", str(tiny_models), "--models-max", "1")
    data = {"XDG_DATA_HOME": str(tmp_path / "data")}
    first = start(tmp_path / "one", *flags, **data)
    try:
        with client_of(first) as client:
            client.create(
                "Brief",
                from_="TINY-A:latest",
                system="Be brief.",
                parameters={"num_predict": 4},
                messages=[Message(role="user", content="one"), Message(role="assistant", content="two")],
                license="MIT",
            )
    finally:
        first.stop()
    again = start(tmp_path / "two", *flags, **data)
    try:
        turns = [
            {"role": "system", "content": "Be brief."},
            *({"role": role, "content": text} for role, text in (("user", "one"), ("assistant", "two"))),
            {"role": "user", "content": "hi"},
        ]
        plain = said(again, "tiny-a", messages=turns, max_tokens=4)
        assert said(again, "brief:latest") == plain
        message = {"model": "BRIEF", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        assert again.client.post("/v1/messages", json=message).status_code == 200
        with client_of(again) as client:
            answer = client.chat("brief", HI, options={"seed": 1, "temperature": 0})
            assert (answer.message.content, answer.eval_count) == (plain, 4)
            assert again.listing()["tiny-a"]["aliases"] == ["Brief"]
            assert again.client.get("/v1/models/brief").json()["id"] == "tiny-a"
            shown = client.show("bRIEF")
            assert (shown.license, shown.details and shown.details.parent_model) == ("MIT", "tiny-a")
            assert "num_ctx" in (shown.parameters or "")
            client.delete("brief")
        assert again.listing()["tiny-a"]["aliases"] == []
        assert again.chat("brief").status_code == 404
    finally:
        again.stop()


def test_a_model_is_made_of_a_local_file(own: Router, tiny_models: Path) -> None:  # B-C13
    data = (tiny_models / "tiny-b.gguf").read_bytes()
    plain = said(own, "tiny-b", max_tokens=4)
    with client_of(own) as client:
        digest = client.create_blob(tiny_models / "tiny-b.gguf")
        assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert own.client.head(f"/api/blobs/{digest}").status_code == 200
        assert client.create("sent", files={"x.gguf": digest}, parameters={**FEW, "num_ctx": 256}).status == "success"
        assert said(own, "Sent", max_tokens=4) == plain
        (running,) = client.ps().models
        assert (running.model, running.context_length) == ("sent", 256)
        copied = client.copy("sent", "second")
        assert copied.status == "success"
        client.delete("sent")
        assert own.chat("sent").status_code == 404
        assert said(own, "second", max_tokens=4) == plain, "the copy outlives it"
        (blob,) = (own.folder / "data" / "llama-router" / "blobs").iterdir()
        assert blob.stat().st_mode & 0o077 == 0
        client.delete("second:latest")
        assert not blob.exists()
        assert [model.model for model in client.list().models] == ["tiny-a", "tiny-b", "tiny-c"]


def test_a_template_makes_a_model_of_its_own(own: Router) -> None:  # B-C13
    with client_of(own) as client:
        client.create("bare", from_="tiny-a", template=LAST, parameters={"num_predict": 4})
        assert client.show("bare").template == LAST
        answer = client.chat("bare", [Message(role="user", content="once upon")], options={"temperature": 0, "seed": 1})
        raw = client.generate("tiny-a", "once upon", raw=True, options={**FEW, "num_predict": 4})
        assert answer.message.content == raw.response
        client.create("narrow", from_="tiny-a", parameters={"num_ctx": 256})
        assert client.chat("narrow", HI, options=FEW).done
        assert [model.context_length for model in client.ps().models] == [256]
        client.create("wide", from_="tiny-a", parameters={"num_ctx": 10**9})
        assert "num_ctx                        2048" in (client.show("wide").parameters or ""), (
            "what it was trained for"
        )
        client.create("narrower", from_="narrow", system="Be brief.")
        assert client.chat("narrower", HI, options=FEW).done
        assert [model.model for model in client.ps().models] == ["narrow"], "they share a process"
        same = client.show("tiny-a").template
        client.create("same", from_="tiny-a", template=same)
        client.chat("tiny-a", HI, options=FEW)
        before = own.loads()
        client.chat("same", HI, options=FEW)
        assert own.loads() == before, "the same template needs no process of its own"


def adapter(path: Path) -> bytes:
    out = writer.GGUFWriter(path, "llama")
    out.add_type("adapter")
    out.add_tensor("t", np.zeros(32, dtype=np.float32))
    for step in (out.write_header_to_file, out.write_kv_data_to_file, out.write_tensors_to_file, out.close):
        step()
    return path.read_bytes()


def test_what_no_model_can_be_made_of_is_refused(router: Router, client: ollama.Client, tmp_path: Path) -> None:
    def send(data: bytes, digest: str = "") -> str:
        digest = digest or f"sha256:{hashlib.sha256(data).hexdigest()}"
        response = router.client.post(f"/api/blobs/{digest}", content=data)
        return digest if response.status_code == 201 else str(response.json()["error"])

    rubbish, lora = send(b"rubbish"), send(adapter(tmp_path / "lora.gguf"))
    assert "sha256:" in send(b"other", "sha256:" + "0" * 64)
    assert "hexadecimal" in send(b"x", "sha256:x")
    none: dict[str, Any] = {}
    for fields, status, word in (
        ({"files": {"a": rubbish}}, 400, "no model"),
        ({"files": {"a": lora}}, 501, "adapter"),
        ({"files": {"a": "sha256:" + "1" * 64}}, 400, "/api/blobs"),
        ({"files": {"a": rubbish, "b": lora, "c": lora}}, 400, "one projector"),
        ({"files": {"a": rubbish}, "from": "tiny-a"}, 400, "one of"),
        ({"from": "/etc/passwd"}, 400, "path"),
        ({"from": "./x.gguf"}, 400, "path"),
        ({"from": "tiny-a", "adapters": {"a": lora}}, 501, "lora"),
        ({"from": "tiny-a", "quantize": "q4_0"}, 501, "llama-quantize"),
        ({"from": "tiny-a", "template": "{{ .Prompt }}"}, 501, "Jinja"),
        ({"from": "tiny-a", "messages": [{"role": "king"}]}, 400, "role"),
        ({"from": "tiny-a", "license": [1]}, 400, "license"),
        ({"from": "tiny-a", "parameters": {"num_ctx": "many"}}, 400, "num_ctx"),
        ({"from": "tiny-a", "parameters": {"mmproj": "/x"}}, 400, "mmproj"),
        (none, 400, "from"),
    ):
        response = router.client.post("/api/create", json={"model": "new", **fields})
        assert (response.status_code, word in response.json()["error"]) == (status, True), (fields, response.text)
        assert str(router.folder) not in response.text, "where files lie is not told"
    assert {model.model for model in client.list().models} == {"tiny-a", "tiny-b", "tiny-c"}
    with pytest.raises(ResponseError) as caught:
        client.pull("llama3.2")
    assert caught.value.status_code == 400
    assert "hf.co/" in str(caught.value)
    assert client.pull("tiny-a").status == "success", "it is here"


def test_a_part_of_a_split_model_is_told_to_be_one(router: Router, tmp_path: Path) -> None:
    out = writer.GGUFWriter(tmp_path / "part.gguf", "llama")
    out.add_uint16("split.count", 3)
    out.add_uint16("split.no", 0)
    out.add_tensor("t", np.zeros(32, dtype=np.float32))
    for step in (out.write_header_to_file, out.write_kv_data_to_file, out.write_tensors_to_file, out.close):
        step()
    data = (tmp_path / "part.gguf").read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert router.client.post(f"/api/blobs/{digest}", content=data).status_code == 201
    response = router.client.post("/api/create", json={"model": "new", "files": {"x-00001-of-00003.gguf": digest}})
    assert response.status_code == 501
    assert "llama-gguf-split" in response.json()["error"]
    assert str(router.folder) not in response.text
