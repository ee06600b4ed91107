from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf as writer
import numpy as np
import pytest

from router.demo import write_tiny
from router.engine.flags import default_table, parse, value_of
from router.errors import CatalogError, InvalidRequest, PresetError, UnknownModel
from router.hub import cache as hub
from router.models import catalog, presets
from router.models.catalog import Catalog, Info, ModelSpec
from router.models.template import Reasoning
from tests.audit import looked

THINKS = Reasoning("enable_thinking", default=False)
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Build = Callable[..., Catalog]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def build(tmp_path: Path, cache: Path) -> Build:
    """`build("--ctx-size 512", preset="[a]...", models_dir=...)`."""

    def make(
        flags: str = "",
        *,
        preset: str = "",
        models_dir: Path | None = None,
        default: str | None = None,
        offline: bool = False,
    ) -> Catalog:
        path = tmp_path / "presets.ini"
        path.write_text(preset)
        return catalog.build(
            presets.read(path, default_table()) if preset else catalog.NO_PRESETS,
            hub.Cache(cache).entries(),
            models_dir=models_dir,
            cache_root=cache,
            global_args=parse(flags.split(), default_table()),
            table=default_table(),
            default_name=default,
            offline=offline,
        )

    return make


def put(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def put_cached(cache: Path, repo: str, *files: str) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name in files:
        put(folder / "snapshots" / COMMIT / name)
    return folder / "snapshots" / COMMIT


def names(found: Catalog) -> list[str]:
    return [spec.name for spec in found.models]


# ---- folder


def test_models_dir(build: Build, models: Path) -> None:
    single = put(models / "b.gguf", 7)
    put(models / "README.md")
    put(models / "mmproj-b.gguf")
    put(models / "mtp-b.gguf")
    put(models / "._b.gguf")
    shards = [put(models / "vision" / f"v-{n:05d}-of-00002.gguf", 5) for n in (1, 2)]
    f16 = put(models / "vision" / "mmproj-F16.gguf")
    put(models / "vision" / "mmproj-BF16.gguf")
    draft = put(models / "vision" / "mtp-v.gguf")
    put(models / "empty" / "notes.txt")
    put(models / "deep" / "er" / "x.gguf")
    found = build(models_dir=models)
    assert names(found) == ["b", "vision"]
    b, vision = found.models
    assert (b.source, b.model_path, b.mmproj_path, b.size_bytes, b.problem) == ("models_dir", single, None, 7, None)
    assert b.argv == ("--model", str(single))
    assert (vision.model_path, vision.mmproj_path, vision.size_bytes) == (shards[0], f16, 10)
    assert vision.argv == ("--model", str(shards[0]), "--mmproj", str(f16), "--spec-draft-model", str(draft))


def test_shards_side_by_side_are_one_model(build: Build, models: Path) -> None:
    for n in (1, 2, 3):
        put(models / f"big-{n:05d}-of-00003.gguf")
    assert names(build(models_dir=models)) == ["big"]


def test_missing_shard_is_told(build: Build, models: Path) -> None:  # B-D4
    put(models / "big-00001-of-00002.gguf")
    (spec,) = build(models_dir=models).models
    assert spec.problem is not None
    assert "big-00002-of-00002.gguf" in spec.problem
    assert (spec.model_path, spec.size_bytes, spec.described().info.problem) == (None, 0, spec.problem)


def test_no_folder(build: Build, models: Path) -> None:
    with pytest.raises(CatalogError, match="nowhere: No such file"):
        build(models_dir=models / "nowhere")
    with pytest.raises(CatalogError, match="Not a directory"):
        build(models_dir=put(models / "file"))


def test_file_and_folder_of_one_name(build: Build, models: Path) -> None:
    put(models / "a.gguf")
    put(models / "a" / "x.gguf")
    with pytest.raises(CatalogError, match="both be the model 'a'"):
        build(models_dir=models)


def test_nothing_at_all_is_legal(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    found = build()
    assert len(found) == 0
    assert "no models" in caplog.text
    with pytest.raises(InvalidRequest):
        found.resolve(None)


# ---- cache


def test_cache(build: Build, cache: Path) -> None:
    snapshot = put_cached(cache, "user/repo", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-F16.gguf")
    found = build()
    assert names(found) == ["user/repo:Q4_K_M", "user/repo:Q8_0"]
    argv = ("--model", str(snapshot / "m-Q4_K_M.gguf"), "--mmproj", str(snapshot / "mmproj-F16.gguf"))
    assert (found.models[0].source, found.models[0].argv) == ("cache", argv)
    assert build("--no-mmproj").models[0].mmproj_path is None


def test_repository_of_a_preset(build: Build, cache: Path) -> None:
    snapshot = put_cached(cache, "user/repo", "m-Q8_0.gguf", "mmproj-F16.gguf")
    own = put(cache / "own.gguf")
    found = build(preset=f"[a]\nhf-repo = user/repo\nmmproj = {own}\n[b]\nhf-repo = user/repo\nhf-file = m-Q8_0.gguf")
    assert found.resolve("a").argv == ("--model", str(snapshot / "m-Q8_0.gguf"), "--mmproj", str(own))
    assert found.resolve("b").model_path == snapshot / "m-Q8_0.gguf"


def test_draft_model_of_a_repository(build: Build, cache: Path) -> None:  # B-H1
    snapshot = put_cached(cache, "user/repo", "m-Q8_0.gguf", "mtp-m-Q8_0.gguf", "mtp-m-Q4_0.gguf")
    own = put(cache / "own.gguf")
    drafts = "spec-type = ngram-mod,draft-mtp"
    preset = f"[user/repo:Q8_0]\n{drafts}\n[a]\nhf-repo = user/repo\n{drafts}\n[b]\nhf-repo = user/repo\n"
    preset += f"[c]\nhf-repo = user/repo\n{drafts}\nspec-draft-model = {own}\n"
    preset += "[d]\nhf-repo = user/repo\nspec-type = draft-eagle3\n"
    found = {spec.name: value_of(spec.args, "--spec-draft-model") for spec in build(preset=preset).models}
    mtp = str(snapshot / "mtp-m-Q8_0.gguf")
    assert found == {"user/repo:Q8_0": mtp, "a": mtp, "b": None, "c": str(own), "d": None}


def test_repository_that_is_not_here(build: Build) -> None:
    preset = "[a]\nhf-repo = user/repo:Q8_0\n[b]\nhf-repo = ../../etc"
    a, b = build(preset=preset).models
    assert (a.problem, a.model_path, a.argv) == (None, None, ("--hf-repo", "user/repo:Q8_0"))
    assert "no name of the form user/repo" in (b.problem or "")
    assert "--offline" in (build(preset=preset, offline=True).models[0].problem or "")


def test_dedup_hides_but_keeps(build: Build, cache: Path) -> None:
    put_cached(cache, "user/repo", "m-Q8_0.gguf", "m-Q4_K_M.gguf")
    put_cached(cache, "user/draft", "d-Q4_0.gguf")
    preset = "[a]\nhf-repo = user/repo\nspec-draft-hf = user/draft\n"
    hidden = {spec.name for spec in build(preset=preset + "dedup-cache-models = on").models if spec.unlisted}
    assert hidden == {"user/repo:Q4_K_M", "user/draft:Q4_0"}
    assert build(preset=preset + "dedup-cache-models = on").resolve("user/repo:Q4_K_M").source == "cache"
    assert not any(spec.unlisted for spec in build(preset=preset).models)


# ---- presets


def test_precedence(build: Build, models: Path) -> None:
    path = put(models / "a.gguf")
    put(models / "b.gguf")
    preset = "[*]\nctx-size = 1\nbatch-size = 1\nubatch-size = 1\n[a]\nbatch-size = 2\nubatch-size = 2"
    found = build("--ubatch-size 3", preset=preset, models_dir=models)
    a, b = found.resolve("a"), found.resolve("b")
    sizes = [[value_of(spec.args, flag) for flag in ("-c", "-b", "-ub")] for spec in (a, b)]
    assert sizes == [["1", "2", "3"], ["1", "1", "3"]]
    assert (a.source, a.model_path) == ("preset", path)
    assert b.source == "models_dir"


def test_section_with_its_own_model_replaces_the_found_one(build: Build, models: Path) -> None:
    put(models / "a" / "x.gguf")
    put(models / "a" / "mmproj-F16.gguf")
    other = put(models / "b.gguf")
    found = build(preset=f"[a]\nmodel = {other}", models_dir=models)
    assert found.resolve("a").argv == ("--model", str(other))


def test_preset_keys(build: Build, models: Path) -> None:
    path = put(models / "x.gguf")
    spec = build(
        preset=f"""
        [a]
        model = {path}
        alias = a, gpt
        tags = chat, fast
        load-on-startup = on
        stop-timeout = 3
        pin = on
        ttl = 60
        priority = 2
        device = CUDA1
        unlisted = on
        description = small one
        env.FOO = bar
        """
    ).resolve("gpt")
    assert (spec.name, spec.aliases, spec.tags) == ("a", ("gpt",), ("chat", "fast"))
    assert (spec.load_on_startup, spec.stop_timeout, spec.pin, spec.ttl, spec.priority) == (True, 3.0, True, 60.0, 2)
    assert (spec.unlisted, spec.description, spec.env) == (True, "small one", (("FOO", "bar"),))
    assert (spec.devices, value_of(spec.args, "--device"), spec.argv) == (("CUDA1",), "CUDA1", ("--model", str(path)))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("ctx-size = 5", "no model is named: add model = FILE"),
        ("model = gone.gguf", "gone.gguf is missing"),
        ("model = x.gguf\nmmproj = gone.gguf", "gone.gguf is missing"),
        (f"model = {'x' * 5000}", "is missing"),
    ],
)
def test_what_cannot_run_is_listed_with_its_problem(
    build: Build, models: Path, monkeypatch: pytest.MonkeyPatch, section: str, sentence: str
) -> None:
    put(models / "x.gguf")
    monkeypatch.chdir(models)
    (spec,) = build(preset=f"[a]\n{section}").models
    assert sentence in (spec.problem or "")
    assert spec.model_path is None


def test_bad_preset_file(build: Build) -> None:
    with pytest.raises(PresetError, match=r"presets\.ini:2:"):
        build(preset="[a]\nctx-sise = 5")


def test_alias_clash_names_both(build: Build, models: Path) -> None:
    path = put(models / "x.gguf")
    for preset in (
        f"[a]\nmodel = {path}\nalias = b\n[b]\nmodel = {path}",
        f"[b]\nmodel = {path}\n[a]\nmodel = {path}\nalias = b",
        f"[a]\nmodel = {path}\nalias = z\n[b]\nmodel = {path}\nalias = z",
    ):
        with pytest.raises(CatalogError, match=r"(?=.*'a')(?=.*'b')"):
            build(preset=preset)


# ---- command line


def test_a_model_on_the_command_line_is_the_only_one(build: Build, models: Path, cache: Path) -> None:
    path = put(models / "x.gguf")
    put_cached(cache, "user/repo", "m-Q8_0.gguf")
    found = build(f"-m {path} --alias gpt,x -c 512")
    (spec,) = found.models
    assert (spec.name, spec.source, spec.aliases) == ("x", "command_line", ("gpt",))
    assert spec.argv == ("--model", str(path), "--ctx-size", "512")
    assert found.resolve(None) is spec
    assert names(build("-hf user/repo")) == ["user/repo"]
    assert build("-hf user/repo").models[0].model_path is not None


def test_a_model_on_the_command_line_beside_others(build: Build, models: Path) -> None:
    path = put(models / "x.gguf")
    put(models / "y.gguf")
    found = build(f"-m {path} --mmproj {path} -c 512 --hf-token secret", models_dir=models)
    assert names(found) == ["x", "y"]
    assert found.resolve("x").source == "command_line"
    assert found.resolve("y").argv == ("--model", str(models / "y.gguf"), "--ctx-size", "512")
    assert found.resolve("y").secret_env == (("HF_TOKEN", "secret"),)


# ---- names


@pytest.fixture
def three(build: Build, models: Path, cache: Path) -> Catalog:
    put(models / "qwen.gguf")
    put(models / "llama.gguf")
    put_cached(cache, "user/repo", "m-Q2_K.gguf", "m-Q4_K_M.gguf")
    put_cached(cache, "user/other", "m-Q8_0.gguf", "m-Q2_K.gguf")
    return build(models_dir=models)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen", "qwen"),
        ("user/repo", "user/repo:Q4_K_M"),
        ("user/repo:q2_k", "user/repo:Q2_K"),
        ("user/other", "user/other:Q8_0"),
    ],
)
def test_resolve(three: Catalog, name: str, expected: str) -> None:
    assert three.resolve(name).name == expected


@pytest.mark.parametrize(
    "name", ["Qwen", "qwen ", "user/rep", "user/repo:Q9", "../qwen", "qwen.gguf", "\0", "a\nb", "ü" * 99]
)
def test_unknown(three: Catalog, name: str) -> None:  # B-C1
    with pytest.raises(UnknownModel) as caught:
        three.resolve(name)
    assert caught.value.status == 404
    assert caught.value.message.isprintable()


def test_unknown_names_the_nearest(three: Catalog) -> None:
    with pytest.raises(UnknownModel, match="did you mean qwen"):
        three.resolve("qwen3")


def test_a_name_of_10000_characters_is_not_repeated(three: Catalog) -> None:
    with pytest.raises(UnknownModel) as caught:
        three.resolve("a/" * 5000)
    assert len(caught.value.message) < 300


def test_a_long_name_is_compared_with_none() -> None:  # it would take seconds
    known = [ModelSpec(letter * length, "preset", ()) for letter, length in (("a", 100), ("b", 10_000))]
    catalog = Catalog(known)
    with pytest.raises(UnknownModel, match="did you mean aaa"):
        catalog.resolve("a" * 99)
    with pytest.raises(UnknownModel, match="lists what there is"):
        catalog.resolve("b" * 9_999)


def test_no_name(build: Build, three: Catalog, models: Path) -> None:  # B-C1
    for name in (None, ""):
        with pytest.raises(InvalidRequest, match='name a "model"'):
            three.resolve(name)
    assert build(models_dir=models, default="llama").resolve(None).name == "llama"
    with pytest.raises(CatalogError, match="--models-default: there is no model 'lama'; did you mean llama"):
        build(models_dir=models, default="lama")


# ---- details


def test_info(build: Build, models: Path) -> None:  # B-C2
    write_tiny(models / "tiny.gguf", context=777)
    info = build(models_dir=models).models[0].described().info
    assert (info.architecture, info.quantization, info.n_ctx_train) == ("llama", "F32", 777)
    assert info.n_params == 64 * 275 * 2 + 2 * (64 * 64 * 3 + 3 * 64 * 192 + 2 * 64) + 64
    assert (info.input_modalities, info.capabilities) == (("text",), ("completion",))
    assert build("--embeddings", models_dir=models).models[0].described().info.capabilities == ("embedding",)
    assert build("--rerank", models_dir=models).models[0].described().info.capabilities == ("rerank",)


def test_info_of_projector_and_pooling(build: Build, models: Path) -> None:
    (models / "v").mkdir()
    write_tiny(models / "v" / "v.gguf")
    fields(models / "v" / "mmproj.gguf", "clip", {"clip.has_vision_encoder": True, "clip.has_audio_encoder": True})
    fields(models / "r.gguf", "qwen3", {}, pooling=writer.PoolingType.RANK)
    fields(models / "e.gguf", "bert", {}, pooling=writer.PoolingType.CLS)
    chat = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}"
    fields(models / "t.gguf", "qwen3", {}, template=chat)
    fields(models / "p.gguf", "qwen3", {}, pooling=writer.PoolingType.LAST, template=chat)
    found = {spec.name: spec.described().info for spec in build(models_dir=models).models}
    assert found["v"].input_modalities == ("text", "image", "audio")
    assert found["v"].capabilities == ("completion", "vision", "audio")
    assert (found["r"].capabilities, found["e"].capabilities) == (("rerank",), ("embedding",))
    assert (found["t"].capabilities, found["t"].reasoning) == (("completion", "tools", "thinking"), THINKS)
    assert (found["p"].capabilities, found["p"].reasoning) == (("embedding",), None)


def test_info_of_another_template(build: Build, models: Path, tmp_path: Path) -> None:
    fields(models / "t.gguf", "qwen3", {}, template="{{ tools }}")
    (tmp_path / "other.jinja").write_text("{% if enable_thinking %}<think>{% endif %}")
    (spec,) = build(models_dir=models).models
    assert spec.described().info.capabilities == ("completion", "tools")
    (other,) = build(f"--chat-template-file {tmp_path}/other.jinja", models_dir=models).models
    assert (other.described().info.capabilities, other.described().info.reasoning) == (
        ("completion", "thinking"),
        THINKS,
    )
    (later,) = build(f"--chat-template-file {tmp_path}/other.jinja --chat-template chatml", models_dir=models).models
    assert later.described().info.capabilities == ("completion",)
    assert replace(later, template="{{ tools }}").described().info.capabilities == ("completion", "tools")


def fields(
    path: Path,
    arch: str,
    switches: dict[str, bool],
    pooling: writer.PoolingType | None = None,
    template: str | None = None,
) -> None:
    out = writer.GGUFWriter(path, arch)
    for key, value in switches.items():
        out.add_bool(key, value)
    if pooling is not None:
        out.add_pooling_type(pooling)
    if template:
        out.add_chat_template(template)
    out.add_tensor("t", np.zeros(32, dtype=np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def test_info_of_a_broken_file(build: Build, models: Path) -> None:
    put(models / "x.gguf")
    info = build(models_dir=models).models[0].described().info
    assert info == Info(problem=info.problem)
    assert "is not a GGUF file" in (info.problem or "")


def test_headers_are_read_once(build: Build, models: Path) -> None:  # B-C2
    tiny = write_tiny(models.parent / "tiny.gguf")
    for n in range(100):
        (models / f"m{n}.gguf").hardlink_to(tiny)
    listed = build(models_dir=models).models
    with looked(models) as paths:
        for spec in listed:
            spec.described()
    assert len({*paths}) == 100
    with looked(models) as paths:
        assert len({spec.described().info for spec in listed}) == 1
    assert paths == []
