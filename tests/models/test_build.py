from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from router.engine.flags import value_of, values_of
from router.errors import CatalogError, InvalidRequest, PresetError
from router.models import build as builds
from router.models import presets
from router.models.folder import FoundModel
from router.models.spec import Filters, Package
from tests.models.rig import TABLE, Build, model_names, put, put_cached


def test_no_models_are_allowed(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    found = build()
    assert len(found) == 0
    assert "no models" in caplog.text
    with pytest.raises(InvalidRequest):
        found.resolve(None)


# ---- cache


def test_cached_models_are_listed(build: Build, cache: Path) -> None:
    snapshot = put_cached(cache, "user/repo", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-F16.gguf")
    found = build()
    assert model_names(found) == ["user/repo:Q4_K_M", "user/repo:Q8_0"]
    argv = ("--model", str(snapshot / "m-Q4_K_M.gguf"), "--mmproj", str(snapshot / "mmproj-F16.gguf"))
    assert (found.models[0].source, found.models[0].argv) == ("cache", argv)
    assert build("--no-mmproj").models[0].mmproj_path is None


def test_repository_in_a_preset_becomes_its_files(build: Build, cache: Path) -> None:
    snapshot = put_cached(cache, "user/repo", "m-Q8_0.gguf", "mmproj-F16.gguf")
    own = put(cache / "own.gguf")
    found = build(preset=f"[a]\nhf-repo = user/repo\nmmproj = {own}\n[b]\nhf-repo = user/repo\nhf-file = m-Q8_0.gguf")
    assert found.resolve("a").argv == ("--model", str(snapshot / "m-Q8_0.gguf"), "--mmproj", str(own))
    assert found.resolve("b").model_path == snapshot / "m-Q8_0.gguf"


def test_draft_model_is_found_in_the_repository(build: Build, cache: Path) -> None:  # B-H1
    snapshot = put_cached(cache, "user/repo", "m-Q8_0.gguf", "mtp-m-Q8_0.gguf", "mtp-m-Q4_0.gguf")
    own = put(cache / "own.gguf")
    drafts = "spec-type = ngram-mod,draft-mtp"
    preset = f"[user/repo:Q8_0]\n{drafts}\n[a]\nhf-repo = user/repo\n{drafts}\n[b]\nhf-repo = user/repo\n"
    preset += f"[c]\nhf-repo = user/repo\n{drafts}\nspec-draft-model = {own}\n"
    preset += "[d]\nhf-repo = user/repo\nspec-type = draft-eagle3\n"
    found = {spec.name: value_of(spec.args, "--spec-draft-model") for spec in build(preset=preset).models}
    mtp = str(snapshot / "mtp-m-Q8_0.gguf")
    assert found == {"user/repo:Q8_0": mtp, "a": mtp, "b": None, "c": str(own), "d": None}


def test_repository_outside_the_cache_is_downloaded_unless_offline(build: Build) -> None:
    preset = "[a]\nhf-repo = user/repo:Q8_0\n[b]\nhf-repo = ../../etc"
    a, b = build(preset=preset).models
    assert (a.problem, a.model_path, a.argv) == (None, None, ("--hf-repo", "user/repo:Q8_0"))
    assert "no name of the form user/repo" in (b.problem or "")
    assert "--offline" in (build(preset=preset, offline=True).models[0].problem or "")


def test_dedup_hides_cached_models_but_keeps_them(build: Build, cache: Path) -> None:
    put_cached(cache, "user/repo", "m-Q8_0.gguf", "m-Q4_K_M.gguf")
    put_cached(cache, "user/draft", "d-Q4_0.gguf")
    preset = "[a]\nhf-repo = user/repo\nspec-draft-hf = user/draft\n"
    hidden = {spec.name for spec in build(preset=preset + "dedup-cache-models = on").models if spec.unlisted}
    assert hidden == {"user/repo:Q4_K_M", "user/draft:Q4_0"}
    assert build(preset=preset + "dedup-cache-models = on").resolve("user/repo:Q4_K_M").source == "cache"
    assert not any(spec.unlisted for spec in build(preset=preset).models)


# ---- names of the hub


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("user/repo:UD-Q4_K_XL", "user/repo:Q4_K_XL"),
        ("user/repo:q4_k_xl", "user/repo:Q4_K_XL"),
        ("hf.co/user/repo:ud-q4_k_xl", "user/repo:Q4_K_XL"),
        ("https://huggingface.co/user/repo:Q4_K_XL", "user/repo:Q4_K_XL"),
        ("User/Repo:Q4_K_XL", "User/Repo:Q4_K_XL"),
        ("user/other:UD-q8_0", "user/other:Q8_0"),
    ],
)
def test_a_section_is_merged_over_the_cached_model_that_it_names(
    build: Build, cache: Path, section: str, name: str
) -> None:  # B-H6
    put_cached(cache, "user/repo", "m-UD-Q4_K_XL.gguf")
    put_cached(cache, "user/other", "m-Q8_0.gguf")
    found = build(preset=f"[{section}]\nctx-size = 128")
    assert len(found) == 2
    spec = found.resolve(name)
    assert (spec.name, spec.source, value_of(spec.args, "--ctx-size")) == (name, "preset", "128")
    assert spec.model_path is not None
    assert found.resolve(section) is spec


def test_a_prefix_tells_two_models_apart(build: Build, cache: Path) -> None:  # B-H6
    put_cached(cache, "user/both", "m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf")
    sections = "[user/both:UD-Q4_K_XL]\nctx-size = 128\n[user/both:Q4_K_XL]\nctx-size = 256"
    for preset in (sections, "[user/both:UD-Q4_K_XL]\nctx-size = 128"):
        found = build(preset=preset)
        assert sorted(model_names(found)) == ["user/both:Q4_K_XL", "user/both:UD-Q4_K_XL"]
        spec = found.resolve("user/both:ud-q4_k_xl")
        assert (spec.model_path and spec.model_path.name) == "m-UD-Q4_K_XL.gguf"
        assert value_of(spec.args, "--ctx-size") == "128"
        plain = found.resolve("hf.co/user/both:q4_k_xl").model_path
        assert plain is not None
        assert plain.name == "m-Q4_K_XL.gguf"
    missing = build(preset="[user/none:UD-Q8_0]\nhf-repo = hf.co/user/none:UD-Q8_0\n[user/none:Q8_0]\nctx-size = 1")
    assert missing.resolve("user/none:UD-Q8_0").repo_to_download == "user/none:UD-Q8_0"
    assert missing.resolve("user/none:Q8_0").problem


def test_a_repository_is_named_with_its_host(build: Build, cache: Path) -> None:  # B-H6
    put_cached(cache, "user/repo", "m-Q8_0.gguf")
    for line in ("hf-repo = hf.co/user/repo", "hf-repo = https://huggingface.co/USER/repo:q8_0"):
        assert build(preset=f"[a]\n{line}").resolve("a").model_path
    (spec,) = build("-hf hf.co/user/new").models
    assert (spec.name, spec.repo_to_download) == ("user/new", "user/new")


def test_a_wanted_name_is_no_second_entry(build: Build, cache: Path) -> None:  # B-H6
    put_cached(cache, "user/repo", "m-UD-Q4_K_XL.gguf")
    assert model_names(build(wanted=["user/repo:UD-Q4_K_XL", "user/repo:Q4_K_XL"])) == ["user/repo:Q4_K_XL"]
    put_cached(cache, "user/plain", "m-Q8_0.gguf")
    assert "user/plain:UD-Q8_0" in model_names(build(wanted=["user/plain:UD-Q8_0"]))


# ---- presets


def test_command_line_wins_over_section_over_defaults(build: Build, models: Path) -> None:
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


def test_preset_keys_reach_the_spec(build: Build, models: Path) -> None:
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


def test_bad_preset_file_is_an_error(build: Build) -> None:
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
    assert model_names(build("-hf user/repo")) == ["user/repo"]
    assert build("-hf user/repo").models[0].model_path is not None


def test_a_model_on_the_command_line_beside_others(build: Build, models: Path) -> None:
    path = put(models / "x.gguf")
    put(models / "y.gguf")
    found = build(f"-m {path} --mmproj {path} -c 512 --hf-token secret", models_dir=models)
    assert model_names(found) == ["x", "y"]
    assert found.resolve("x").source == "command_line"
    assert found.resolve("y").argv == ("--model", str(models / "y.gguf"), "--ctx-size", "512")
    assert found.resolve("y").secret_env == (("HF_TOKEN", "secret"),)


STORED = {
    "m:latest": FoundModel(
        "ollama",
        Path("/dev/null"),
        aliases=(),
        adapters=(Path("/a"), Path("/b")),
        package=Package(
            "Ollama",
            "d" * 64,
            5.0,
            9,
            system="Be brief.",
            defaults=(("top_k", "3"), ("min_p", "0.5")),
            messages=({"role": "user", "content": "hi"},),
            load=(("--ctx-size", "512"), ("--threads", "2")),
        ),
    )
}


def test_a_stores_settings_are_below_all_others(build: Build) -> None:  # B-F3
    (spec,) = build(stored=STORED).models
    assert (spec.source, spec.store) == ("ollama", "ollama")
    assert values_of(spec.args, "--lora") == ("/a", "/b")
    assert (value_of(spec.args, "--ctx-size"), value_of(spec.args, "--threads")) == ("512", "2")
    assert spec.filters == Filters(
        defaults=(("top_k", "3"), ("min_p", "0.5")),
        default_system="Be brief.",
        messages='[{"role": "user", "content": "hi"}]',
    )
    for preset in (
        '[m]\nctx-size = 9\ndefault-params = {"top_k": 7}',
        '[m:latest]\nc = 9\ndefault-params = {"top_k": 7}',
    ):
        (spec,) = build("--threads 1", preset=preset, stored=STORED).models
        assert (spec.name, value_of(spec.args, "--ctx-size"), value_of(spec.args, "--threads")) == (
            "m:latest",
            "9",
            "1",
        )
        assert spec.filters
        assert dict(spec.filters.defaults) == {"top_k": "7", "min_p": "0.5"}
        assert spec.package
        assert spec.package.operator_filters == Filters(defaults=(("top_k", "7"),))


def test_a_section_with_files_of_its_own_is_no_model_of_the_store(build: Build, models: Path) -> None:  # B-F3
    catalog = build(preset=f"[m]\nmodel = {put(models / 'x.gguf')}", stored=STORED)
    assert model_names(catalog) == ["m", "m:latest"]
    (spec,) = build(preset=f"[m:latest]\nmodel = {models / 'x.gguf'}", stored=STORED).models
    assert (spec.filters, spec.package, spec.model_path) == (None, None, models / "x.gguf")


def test_names_of_the_operator_win_over_those_of_a_store(build: Build, models: Path) -> None:  # B-F3
    put(models / "short.gguf")
    section = f"[other]\nmodel = {models / 'short.gguf'}\nalias = m:latest"
    assert model_names(build(preset=section, stored=STORED)) == ["other"]
    found = {"p/x": FoundModel("lmstudio", models / "short.gguf", aliases=("short", "p/x@q8_0"))}
    catalog = build(models_dir=models, stored=found)
    assert {spec.name: spec.aliases for spec in catalog.models} == {"short": (), "p/x": ("p/x@q8_0",)}
    assert catalog.resolve("short").source == "models_dir"
    (spec,) = build(preset="[p/x]\nctx-size = 9", stored=found).models
    assert spec.aliases == ("short", "p/x@q8_0")


def test_the_tag_latest_comes_before_quants(build: Build) -> None:  # B-F3
    model = STORED["m:latest"]
    found = {f"u/m:{tag}": replace(model, path=Path(f"/dev/{tag}")) for tag in ("Q4_K_M", "latest", "v1")}
    catalog = build(stored=found)
    assert catalog.resolve("u/m").name == "u/m:latest"
    assert catalog.resolve("u/m:V1").name == "u/m:v1"


def test_a_strangers_preset_changes_no_model_of_a_store(tmp_path: Path) -> None:
    path = tmp_path / "foreign.ini"
    path.write_text("[m]\nctx-size = 9\n")
    file = presets.read(path, TABLE, foreign=True)
    with pytest.raises(CatalogError, match="a model of --ollama-models"):
        builds.build(
            file,
            (),
            cache_root=tmp_path,
            global_args=(),
            table=TABLE,
            default_name=None,
            offline=True,
            stored=STORED,
        )
