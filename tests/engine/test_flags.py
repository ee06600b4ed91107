"""Arguments are read, merged and rendered by a table of flags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine import flags
from router.engine.flags import (
    Arg,
    FlagTable,
    default_table,
    merge,
    parse,
    parse_among_words,
    render,
    switch_of,
    value_of,
    values_of,
)
from router.errors import FlagError

TABLE = default_table()


def flag(spelling: str) -> flags.Flag:
    found = TABLE.find(spelling)
    assert found, spelling
    return found


def given_as(words: str) -> tuple[Arg, ...]:
    return parse(words.split(), TABLE)


def test_sets_name_flags_by_their_canonical_name() -> None:
    assert {f.name for f in TABLE.flags} >= flags.OWNED | flags.MODEL_SOURCES


def test_find_by_any_spelling() -> None:
    assert flag("-c") is flag("--ctx-size") is flag("--ctx_size")
    assert flag("--no-webui") is flag("--ui")
    assert TABLE.find("ctx-size") is None


def test_keys_are_spellings_without_dashes_and_variables() -> None:
    assert TABLE.by_key("c") == TABLE.by_key("LLAMA_ARG_CTX_SIZE") == (flag("-c"), False)
    assert TABLE.by_key("nkvo") == TABLE.by_key("LLAMA_ARG_NO_KV_OFFLOAD") == (flag("-kvo"), True)
    assert TABLE.by_key("no-host") == (flag("--no-host"), False)
    assert TABLE.by_key("--ctx-size") is None


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--ctx-sise", "--ctx-size"),
        ("ctx-sise", "ctx-size"),
        ("LLAMA_ARG_CTX_SIZ", "LLAMA_ARG_CTX_SIZE"),
        ("zzzzzz", None),
        ("--" + "x" * 10_000, None),
    ],
)
def test_the_nearest_spelling_or_key_is_found(word: str, near: str | None) -> None:
    assert TABLE.nearest(word) == near


# B-L6
def test_switches_eat_nothing_and_negative_numbers_are_values() -> None:
    args = parse(["--jinja", "-n", "-1", "--no-warmup", "--temp=-0.5", "-l", "15-1"], TABLE)
    assert args == (
        Arg(flag("--jinja")),
        Arg(flag("--predict"), ("-1",)),
        Arg(flag("--warmup"), negated=True),
        Arg(flag("--temp"), ("-0.5",)),
        Arg(flag("--logit-bias"), ("15-1",)),
    )
    assert " ".join(render(args)) == "--jinja --n-predict -1 --no-warmup --temperature -0.5 --logit-bias 15-1"


# B-L6
def test_equals_is_one_token() -> None:
    assert parse(["--grammar=a=b", "--jinja=off", "--no-jinja=off"], TABLE) == (
        Arg(flag("--grammar"), ("a=b",)),
        Arg(flag("--jinja"), negated=True),
        Arg(flag("--jinja")),
    )
    assert parse(["--control-vector-layer-range=1", "-2"], TABLE)[0].values == ("1", "-2")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--ctx-sise", "5"], ["--ctx-sise", "--ctx-size"]),
        (["--spec-defualt"], ["--spec-default"]),
        (["-c"], ["-c", "value"]),
        (["-c", "--jinja"], ["-c", "value", "--jinja"]),
        (["--jinja=maybe"], ["--jinja", "on"]),
        (["model.gguf"], ["unexpected argument", "model.gguf"]),
    ],
)
def test_mistakes_are_named(argv: list[str], words: list[str]) -> None:
    with pytest.raises(FlagError) as caught:
        parse(argv, TABLE)
    assert all(word in caught.value.message for word in words)


def test_words_among_arguments() -> None:
    words, args = parse_among_words(["x", "--ctx-size", "x", "--jinja", "y", "--model=x", "on", "-c", "-1"], TABLE)
    assert words == ["x", "y", "on"]
    assert flags.render(args) == ["--ctx-size", "x", "--jinja", "--model", "x", "--ctx-size", "-1"]
    with pytest.raises(FlagError, match="-c needs a value"):
        parse_among_words(["x", "-c"], TABLE)


def test_flags_of_other_engines_are_named_as_such() -> None:
    with pytest.raises(FlagError, match="unknown flag '--override-kv'; this engine lacks it"):
        parse(["--override-kv", "a=int:1"], FlagTable(flag for flag in TABLE.flags if flag.name != "--override-kv"))


def test_long_nonsense_is_not_echoed_whole() -> None:
    with pytest.raises(FlagError) as caught:
        parse(["--" + "y" * 10_000], TABLE)
    assert len(caught.value.message) < 200


def test_later_layer_wins_and_replaces_repeated_ones() -> None:
    below = given_as("-c 1 --lora a --lora b --jinja -ngl 9")
    above = given_as("-c 2 -c 3 --lora c --lora d --no-jinja")
    assert " ".join(render(merge(below, above))) == "--ctx-size 3 --lora c --lora d --no-jinja --n-gpu-layers 9"
    assert render(merge(below, ())) == render(below)


def test_switch_without_a_negative_spelling_can_still_be_overridden() -> None:
    args = merge(parse(["--metrics"], TABLE), [Arg(flag("--metrics"), negated=True)])
    assert render(args) == []
    assert switch_of(args, "--metrics") is False


def test_values_are_read_by_any_spelling() -> None:
    args = given_as("-c 1 --ctx-size 2 --lora a --lora b --jinja -nkvo")
    assert value_of(args, "--ctx-size") == value_of(args, "-c") == "2"
    assert values_of(args, "--lora") == ("a", "b")
    assert value_of(args, "--model") is None
    assert (switch_of(args, "--jinja"), switch_of(args, "--kv-offload"), switch_of(args, "--mmap")) == (
        True,
        False,
        None,
    )


def arguments(table: FlagTable) -> st.SearchStrategy[Arg]:
    values = st.text(max_size=8).filter(lambda value: table.find(value) is None)
    return st.sampled_from(table.flags).flatmap(
        lambda f: st.builds(
            Arg,
            st.just(f),
            st.tuples(*[values] * f.arity),
            st.booleans() if f.negatives else st.just(False),
        )
    )


@given(st.lists(arguments(TABLE), max_size=8))
def test_parse_undoes_render(args: list[Arg]) -> None:
    assert parse(render(args), TABLE) == tuple(args)


@given(st.lists(arguments(TABLE), max_size=8), st.lists(arguments(TABLE), max_size=8))
def test_merge_is_idempotent_and_keeps_the_whole_top_layer(below: list[Arg], above: list[Arg]) -> None:
    merged = merge(below, above)
    assert merge(merged, merged) == merged
    assert {arg.flag.name for arg in merged} == {arg.flag.name for arg in (*below, *above)}
    assert set(merge(above)) <= set(merged)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--jinja on", "--jinja"),
        ("--jinja off", "--no-jinja"),
        ("--no-jinja on", "--no-jinja"),
        ("--no-jinja off -c 5", "--jinja --ctx-size 5"),
        ("--jinja -c 5", "--jinja --ctx-size 5"),
        ("--flash-attn on --jinja", "--flash-attn on --jinja"),
        ("--jinja on --warmup off", "--jinja --no-warmup"),
    ],
)
def test_a_switch_may_have_on_or_off_behind_it(words: str, expected: str) -> None:
    assert " ".join(flags.render(flags.parse(words.split(), flags.default_table()))) == expected


@pytest.mark.parametrize("words", ["--jinja 5", "--jinja on off", "--jinja maybe", "on"])
def test_no_other_word_stands_behind_a_switch(words: str) -> None:
    with pytest.raises(FlagError, match="unexpected argument"):
        flags.parse(words.split(), flags.default_table())
