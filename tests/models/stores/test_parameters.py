"""Ollama's parameters, as somebody has written them into a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.ollama.options import OPTIONS as OF_REQUESTS
from router.engine.flags import default_table
from router.models.stores.parameters import LOAD, MAX_LOOK_BACK, MAX_STOPS, OPTIONS, translate


def test_parameters_get_the_engines_names_and_types() -> None:  # B-F3
    given: dict[str, Any] = dict.fromkeys(OPTIONS, 1) | {"temperature": 0, "stop": "###", "num_ctx": 4096.0}
    translated = translate(given)
    assert translated.defaults == {engine: kind(given[name]) for name, (engine, kind) in OPTIONS.items()} | {
        "stop": ["###"]
    }
    assert type(translated.defaults["temperature"]) is float
    assert translated.load == (("--ctx-size", "4096"),)
    assert translated.ignored == ()
    assert OPTIONS is OF_REQUESTS, "requests have the same"


def test_flags_of_loads_are_the_engines() -> None:
    names = {flag for flag, _, _ in LOAD.values()}
    assert names == {flag.name for flag in default_table().flags} & names


WRONG: dict[str, Sequence[Any]] = {
    "num_ctx": (0, -1, 1 << 25, 0.5, "4096", True, [4096]),
    "temperature": ("hot", True, float("nan"), float("inf"), 1e300, {}),
    "top_k": (1.5, "5"),
    "stop": ([], [1], 1, ["x"] * (MAX_STOPS + 1), "x" * 1001),
    "repeat_last_n": (MAX_LOOK_BACK + 1, 1 << 40),
    **dict.fromkeys(("model", "lora", "mmproj", "slot_save_path", "log_file", "grammar_file"), ("/etc/passwd",)),
    **dict.fromkeys(("numa", "use_mmap", "low_vram", "vocab_only"), (True,)),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
)
def test_what_means_nothing_here_is_named(name: str, value: Any) -> None:  # B-F3
    translated = translate({name: value, "seed": 5})
    assert (translated.ignored, translated.load, translated.defaults) == ((name,), (), {"seed": 5})


def test_no_limit_is_no_field() -> None:
    translated = translate({"num_predict": -1, "repeat_last_n": -1, "num_gpu": -1, "seed": None})
    assert translated.defaults == {}
    assert translated.shown == {"num_predict": -1, "repeat_last_n": -1}
    assert translated.ignored == ("num_gpu",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*OPTIONS, *LOAD, "stop", "lora"]) | st.text(max_size=5), JSON))
def test_anything_gives_only_known_names(fields: dict[str, Any]) -> None:
    translated = translate(fields)
    assert translated.defaults.keys() <= {"stop", *(name for name, _ in OPTIONS.values())}
    assert all(value.isdecimal() for _, value in translated.load)
    assert all(name.isprintable() for name in translated.ignored)
