from __future__ import annotations

import pytest

from router.models.presets import Preset
from tests.models.rig import one_mistake, one_preset, sound


def test_own_keys_fill_the_preset() -> None:
    preset = one_preset("""
alias = x, y ,
load-on-startup = 1
stop-timeout = 2.5
pin = yes
ttl = 90
priority = -3
dev = CUDA1, CUDA0
unlisted = on
description = it has a ; in it
env.HTTP_PROXY = http://x
dedup-cache-models = 1
""")
    assert preset == Preset(
        "a",
        aliases=("x", "y"),
        load_on_startup=True,
        stop_timeout=2.5,
        pin=True,
        ttl=90.0,
        priority=-3,
        device=("CUDA1", "CUDA0"),
        unlisted=True,
        description="it has a",
        env=(("HTTP_PROXY", "http://x"),),
        dedup_cache_models=True,
    )


# ---- filters of requests


def test_filter_keys_become_filters() -> None:
    preset = one_preset(
        'set-params = {"top_k": 20, "chat_template_kwargs": {"a": [1, null]}}\n'
        'default-params = {"temperature": 0.5}\nstrip-params = logprobs, user\nsystem-prefix = One.\\nTwo.'
    )
    assert preset.filters is not None
    assert preset.filters.forced == (("top_k", "20"), ("chat_template_kwargs", '{"a": [1, null]}'))
    assert preset.filters.defaults == (("temperature", "0.5"),)
    assert preset.filters.dropped == ("logprobs", "user")
    assert preset.filters.system == "One.\nTwo."
    assert preset.args == ()
    assert one_preset("ctx-size = 1").filters is None
    assert one_preset("set-params = {}\nstrip-params =").filters is None


def test_filters_of_all_models_are_inherited_key_by_key() -> None:
    text = '[*]\nset-params = {"seed": 1}\nsystem-prefix = All.\n[a]\nset-params = {"top_k": 2}\n[b]\nsystem-prefix ='
    a, b = sound(text)
    assert a.filters
    assert (a.filters.forced, a.filters.system) == ((("top_k", "2"),), "All.")
    assert b.filters
    assert (b.filters.forced, b.filters.system) == ((("seed", "1"),), "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("set-params = {", "no JSON"),
        ("set-params = [1]", "a JSON object"),
        ("default-params = 5", "a JSON object"),
        ('default-params = {"a": NaN}', "no JSON"),
        ('default-params = {"a": [1e999]}', "no JSON"),
        ('set-params = {"model": "b"}', "cannot change 'model'"),
        ("strip-params = user, stream", "cannot change 'stream'"),
        ("set-param = {}", "did you mean set-params?"),
    ],
)
def test_mistakes_in_filters_are_named(line: str, says: str) -> None:
    problem = one_mistake(f"[a]\nctx-size = 1\n{line}")
    assert (problem.line, problem.key) == (3, line.partition(" ")[0])
    assert says in problem.message
