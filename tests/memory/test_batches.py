"""How models embed: with which switch, in which batches, in how long a context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from router.engine import flags
from router.memory import batches
from router.models.spec import ModelSpec
from tests.embedders import write_bert
from tests.memory.rig import MIB, TABLE, Estimators, args, context_of, gpus, header


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "bert.gguf", context=4096)


def spec(path: Path, *argv: str) -> ModelSpec:
    return ModelSpec("bert", "models_dir", flags.parse(["--model", str(path), *argv], TABLE), model_path=path)


NO_CACHE = ("--cache-ram", "0")  # what embeds keeps no prompts


@pytest.mark.parametrize(
    ("pooling", "given", "words"),
    [
        (None, "", []),
        (0, "", []),
        (1, "", ["--embedding"]),
        (2, "", ["--embedding"]),
        (3, "", ["--embedding"]),
        (4, "", ["--rerank"]),
        (1, "--embedding", []),
        (1, "--rerank", []),
        (4, "--embedding", []),
    ],
)
def test_a_model_that_embeds_gets_its_switch(pooling: int | None, given: str, words: Sequence[str]) -> None:
    metadata = header(pooling_type=-1 if pooling is None else pooling)
    assert batches.task_words(args(given), metadata) == words


@pytest.mark.parametrize(
    ("arch", "pooling", "given", "follows"),
    [
        ("llama", None, "", False),
        ("llama", None, "--embedding", True),
        ("llama", None, "--rerank", True),
        ("llama", 1, "", True),
        ("llama", 3, "", False),
        ("llama", 3, "--pooling mean", True),
        ("llama", 1, "--pooling last", False),
        ("llama", 3, "--rerank", True),
        ("bert", 3, "", True),
        ("bert", 1, "--ubatch-size 512", False),
        ("bert", 1, "--batch-size 1024", True),
    ],
)
def test_a_batch_follows_where_an_input_cannot_be_split(
    arch: str, pooling: int | None, given: str, follows: bool
) -> None:
    metadata = header(arch, pooling_type=-1 if pooling is None else pooling)
    assert batches.follows_context(args(given), metadata) is follows


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", ["--embedding", "--batch-size", "4096", "--ubatch-size", "4096"]),
        ("--embedding", ["--batch-size", "4096", "--ubatch-size", "4096"]),
        ("--ctx-size 1024", ["--embedding", "--batch-size", "1024", "--ubatch-size", "1024"]),
        ("--ctx-size 2048 --parallel 2", ["--embedding", "--batch-size", "1024", "--ubatch-size", "1024"]),
        ("--ctx-size 9999", ["--embedding", "--batch-size", "4096", "--ubatch-size", "4096"]),
        ("--ctx-size 512", ["--embedding"]),
        ("--batch-size 1024", ["--embedding", "--ubatch-size", "1024"]),
        ("--ubatch-size 256", ["--embedding"]),
        ("--batch-size 600 --ubatch-size 600", ["--embedding"]),
    ],
)
def test_the_batch_is_as_long_as_the_context(
    estimator: Estimators, bert: Path, given: str, words: Sequence[str]
) -> None:  # B-C12
    assert list(estimator(gpus()).need(spec(bert, *given.split())).args) == [*words, *NO_CACHE]


def test_the_need_counts_the_batch(estimator: Estimators, bert: Path) -> None:  # B-C12
    """Of 4,096 tokens the buffers are more than four times those of 512."""
    long, short = (estimator(gpus()).need(spec(bert, *given)) for given in ((), ("--ubatch-size", "512")))
    assert long.estimate
    assert short.estimate
    assert long.estimate.compute > 4 * short.estimate.compute
    assert long.demand.total - short.demand.total >= long.estimate.compute - short.estimate.compute


def test_a_batch_that_does_not_fit_is_shorter(estimator: Estimators, bert: Path) -> None:
    whole = estimator(gpus(4000)).need(spec(bert)).estimate
    assert whole
    room = (whole.weights + whole.kv + whole.compute * 0.6) / MIB
    tight = estimator(gpus(room)).need(spec(bert, "--ctx-size", "4096"))
    assert tight.args == ("--embedding", "--batch-size", "2048", "--ubatch-size", "2048", *NO_CACHE)
    assert context_of(tight) == 4096


@pytest.mark.parametrize(("arch", "longest"), [("bert", 8192), ("llama", 2048), ("lfm2", 8192)])
def test_a_context_that_nobody_has_set_has_a_bound(arch: str, longest: int) -> None:
    metadata = header(arch, context_length=40960, pooling_type=1)
    assert batches.longest_automatic_context(args(), metadata) == longest
    assert batches.longest_automatic_context(args("--ubatch-size 512"), metadata) is None
    assert batches.longest_automatic_context(args(), header(arch, context_length=2048, pooling_type=1)) is None
