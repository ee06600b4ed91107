"""A preset from the hub sets only what is safe, and only for its own models."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.engine import flags
from router.errors import CatalogError
from router.models import presets
from router.models.build import build
from router.models.catalog import Catalog
from router.models.ini import Problem
from tests.security.test_load_args import DANGEROUS, TABLE


def foreign(text: str) -> list[Problem]:
    return list(presets.parse(text, TABLE, Path("preset.ini"), foreign=True)[1])


def test_foreign_preset_cannot_set_dangerous_flags() -> None:  # B-T2
    told = {"hf-repo", "hf-file", "spec-draft-hf", "alias", "tags"}
    for flag in DANGEROUS:
        names = [name.lstrip("-") for name in (*flag.spellings, *flag.negatives)]
        names += [flag.env, flag.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")] if flag.env else []
        for name in (
            *names,
            *(f"--{name}" for name in names),
            *(name.replace("-", "_") for name in names if "-" in name),
        ):
            found = TABLE.by_key(name)
            if name == "version" or (found and found[0].name.lstrip("-") in told):
                continue  # a number of the format; what else may be said of these, others show
            (problem,) = foreign(f"[a]\nhf-repo = user/m\n{name} = {'x' if flag.arity else 'on'}\n")
            assert (name, "is not taken from the hub" in problem.message) == (name, True)


@pytest.mark.parametrize(
    "text",
    [
        "[*]\nhf-repo = evil/m",
        "[*]\nhf-file = m.gguf",
        "[*]\nspec-draft-hf = evil/m",
        "[*]\nload-on-startup = on",
        "[ggml-org/gemma:Q4_K_M]\nhf-repo = evil/m:Q4_K_M",
        "[ggml-org/gemma]\nLLAMA_ARG_HF_REPO = evil/m",
        "[ggml-org/gemma:Q4_K_M]\nhf-repo = ggml-org/gemma:Q4_K_M@refs/pr/1",
        "[ggml-org/gemma:]\nhf-repo = evil/m",
        "[ggml-org/gemma:Q4 K]\nhf-repo = evil/m",
        "[ggml-org/gemma:Q4:x]\nhf-repo = evil/m",
        "[hf.co/ggml-org/gemma]\nhf-repo = evil/m",
        "[https://huggingface.co/ggml-org/gemma]\nhf-repo = evil/m",
        "[/ggml-org/gemma]\nhf-repo = evil/m",
        "[a]\nctx-size = 3000000x",
        "[a]\nn-cpu-moe = 2000000000",
        "[a]\nhf-repo = ../../etc",
        "[a]\nhf-repo = /etc/passwd",
        "[a]\nhf-repo = https://example.org/m",
        "[a]\nhf-file = ../../etc/passwd",
        "[a]\nhf-file = /etc/passwd",
        "[a]\nhf-file = .git/config",
        "[a]\nspec-draft-hf = /m",
        "[a]\nalias = ggml-org/gemma:Q4_K_M",
        "[a]\nstop-timeout = 86400",
        "[a]\nthreads = 100000",
        "[a]\nparallel = 1000000",
        "[a]\ncache-ram = -1",
        "[a]\nchat-template = /etc/passwd",
        '[a]\njson-schema = {"$ref": "http://x"}',
        "[a]\nenv.LD_PRELOAD = x",
        "[a]\npin = on",
        "[a]\npriority = 5",
        "[a]\ndevice = CUDA0",
        "[a]\nset-params = {}",
        "[a]\nstrip-params = a",
        "[a]\nsystem-prefix = x",
        "[a]\ndedup-cache-models = on",
        "[a]\nhf-token = x",
        "[a]\nbrand-new = x",
    ],
)
def test_foreign_preset_lines_are_refused(text: str) -> None:  # B-T2
    (problem,) = foreign(text)
    assert "from the hub" in problem.message


def test_foreign_preset_lines_are_accepted() -> None:
    assert not foreign(
        "[*]\nctx-size = 4096\nstop-timeout = 20\n[a]\nhf-repo = user/m:Q8_0\nalias = b, c:d\ntags = x\nthreads = 4\n"
        'load-on-startup = on\nchat-template = chatml\ndefault-params = {"temperature": 0.5}\njinja = on\n'
        "[user/m]\nhf-repo = user/m:Q8_0@main\nhf-file = sub/m-Q8_0.gguf\n[user/m:Q8_0]\nhf = user/m\nno-warmup = on\n"
        "[hf.co/user/m:Q2_K]\nhf-repo = user/m:Q2_K\n[user/m@v1]\nhf-repo = user/m@v1\ntemp = 0.7\n"
    )


def test_foreign_preset_changes_no_other_model(tiny_models: Path, tmp_path: Path) -> None:  # B-T2
    def built(text: str, *, is_foreign: bool) -> Catalog:
        file, problems = presets.parse(text, TABLE, Path("preset.ini"), foreign=is_foreign)
        assert not problems
        return build(
            file,
            (),
            models_dir=tiny_models,
            cache_root=tmp_path,
            global_args=(),
            table=TABLE,
            default_name=None,
            offline=True,
        )

    text = "[*]\nchat-template = chatml\nunlisted = on\n[x]\nhf-repo = user/m\n"
    for is_foreign in (True, False):
        spec = built(text, is_foreign=is_foreign).resolve("tiny-a")
        assert (flags.value_of(spec.args, "--chat-template"), spec.unlisted) == (
            (None, False) if is_foreign else ("chatml", True)
        )
    with pytest.raises(CatalogError, match="tiny-a"):
        built("[tiny-a]\nhf-repo = user/m\n", is_foreign=True)
    assert built("[tiny-a]\nhf-repo = user/m\n", is_foreign=False)
