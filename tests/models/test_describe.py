from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf as writer
import pytest

from router.demo import write_tiny
from router.models.describe import describe
from router.models.folder import FoundModel
from router.models.spec import Info, Package
from router.models.template import Reasoning
from tests.audit import looked
from tests.models.rig import Build, put, write_header

THINKS = Reasoning("enable_thinking", default=False)


def test_info_comes_from_the_header(build: Build, models: Path) -> None:  # B-C2
    write_tiny(models / "tiny.gguf", context=777)
    info = describe(build(models_dir=models).models[0]).info
    assert (info.architecture, info.quantization, info.n_ctx_train) == ("llama", "F32", 777)
    assert info.n_params == 64 * 275 * 2 + 2 * (64 * 64 * 3 + 3 * 64 * 192 + 2 * 64) + 64
    assert (info.input_modalities, info.capabilities) == (("text",), ("completion",))
    assert describe(build("--embeddings", models_dir=models).models[0]).info.capabilities == ("embedding",)
    assert describe(build("--rerank", models_dir=models).models[0]).info.capabilities == ("rerank",)


def test_projector_pooling_and_template_decide_capabilities(build: Build, models: Path) -> None:
    (models / "v").mkdir()
    write_tiny(models / "v" / "v.gguf")
    write_header(
        models / "v" / "mmproj.gguf", "clip", {"clip.has_vision_encoder": True, "clip.has_audio_encoder": True}
    )
    write_header(models / "r.gguf", "qwen3", {}, pooling=writer.PoolingType.RANK)
    write_header(models / "e.gguf", "bert", {}, pooling=writer.PoolingType.CLS)
    chat = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}"
    write_header(models / "t.gguf", "qwen3", {}, template=chat)
    write_header(models / "p.gguf", "qwen3", {}, pooling=writer.PoolingType.LAST, template=chat)
    found = {spec.name: describe(spec).info for spec in build(models_dir=models).models}
    assert found["v"].input_modalities == ("text", "image", "audio")
    assert found["v"].capabilities == ("completion", "vision", "audio")
    assert (found["r"].capabilities, found["e"].capabilities) == (("rerank",), ("embedding",))
    assert (found["t"].capabilities, found["t"].reasoning) == (("completion", "tools", "thinking"), THINKS)
    assert (found["p"].capabilities, found["p"].reasoning) == (("embedding",), None)


def test_another_template_replaces_the_files_own(build: Build, models: Path, tmp_path: Path) -> None:
    write_header(models / "t.gguf", "qwen3", {}, template="{{ tools }}")
    (tmp_path / "other.jinja").write_text("{% if enable_thinking %}<think>{% endif %}")
    (spec,) = build(models_dir=models).models
    assert describe(spec).info.capabilities == ("completion", "tools")
    (other,) = build(f"--chat-template-file {tmp_path}/other.jinja", models_dir=models).models
    assert (describe(other).info.capabilities, describe(other).info.reasoning) == (
        ("completion", "thinking"),
        THINKS,
    )
    (later,) = build(f"--chat-template-file {tmp_path}/other.jinja --chat-template chatml", models_dir=models).models
    assert describe(later).info.capabilities == ("completion",)
    assert describe(replace(later, template="{{ tools }}")).info.capabilities == ("completion", "tools")


def test_broken_file_is_a_problem(build: Build, models: Path) -> None:
    put(models / "x.gguf")
    info = describe(build(models_dir=models).models[0]).info
    assert info == Info(problem=info.problem)
    assert "is not a GGUF file" in (info.problem or "")


def test_headers_are_read_once(build: Build, models: Path) -> None:  # B-C2
    tiny = write_tiny(models.parent / "tiny.gguf")
    for n in range(100):
        (models / f"m{n}.gguf").hardlink_to(tiny)
    listed = build(models_dir=models).models
    with looked(models) as paths:
        for spec in listed:
            describe(spec)
    assert len({*paths}) == 100
    with looked(models) as paths:
        assert len({describe(spec).info for spec in listed}) == 1
    assert paths == []


@pytest.mark.parametrize(
    ("architecture", "tensor", "reason"),
    [
        ("mllama", "t", "Ollama's own engine (mllama)"),
        ("gptoss", "t", "Ollama's own engine (gptoss)"),
        ("gemma3", "v.blk.0.attn_k.weight", "with the weights of its projector"),
        ("mistral3", "mm.linear_1.weight", "with the weights of its projector"),
        ("gemma3", "blk.0.attn_k.weight", None),
    ],
)
def test_what_only_ollamas_engine_loads_is_said_so(
    build: Build, models: Path, architecture: str, tensor: str, reason: str | None
) -> None:  # B-F3
    path = write_header(models / "x.gguf", architecture, tensor=tensor)
    found = FoundModel("ollama", path, package=Package("Ollama", "", 0.0, 0))
    (own,) = build(models_dir=models).models
    (stored,) = build(stored={"x:latest": found}).models
    assert describe(own).info.problem is None, "the engine decides"
    problem = describe(stored).info.problem
    assert (problem is None) if reason is None else reason in (problem or "")
    assert describe(own).info.problem is None


def test_a_stored_model_without_a_template_is_said_so(build: Build, models: Path) -> None:  # B-F3
    write_header(models / "plain.gguf", "qwen3", {})
    write_header(models / "e.gguf", "bert", {}, pooling=writer.PoolingType.CLS)
    write_header(models / "chat.gguf", "qwen3", {}, template="{{ messages }}")
    package = Package("Ollama", "", 0.0, 0)
    stored = {path.stem: FoundModel("ollama", path, package=package) for path in models.iterdir()}
    warnings = {spec.name: describe(spec).info.warning for spec in build(stored=stored).models}
    assert "ChatML" in (warnings.pop("plain") or "")
    assert warnings == {"e": None, "chat": None}
    (other,) = [spec for spec in build("--chat-template llama3", stored=stored).models if spec.name == "plain"]
    assert describe(other).info.warning is None
