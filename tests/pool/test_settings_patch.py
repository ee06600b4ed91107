"""The settings of one load request, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from router import errors
from router.engine import flags
from router.pool.settings_patch import read_patch
from tests.pool.bench import TABLE


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"ctxsize": 1}, "did you mean ctx_size"),
        ({"ctx_size": "big"}, "ctx_size is a whole number"),
        ({"ctx_size": True}, "ctx_size"),
        ({"n_parallel": -3}, "n_parallel"),
        ({"cache_type_k": "q9"}, "cache_type_k is one of f32, f16"),
        ({"speculative_type": "magic"}, "speculative_type is one of off, default"),
        ({"chat_template": 5}, "chat_template"),
        ({"chat_template": "a\0b"}, "chat_template"),
        ({"extra_args": "--top-k 20"}, "extra_args is a list"),
        ({"extra_args": ["\ud800"]}, "extra_args is a list"),
        ({"extra_args": ["--tpo-k", "20"]}, "did you mean --top-k"),
        ({"extra_args": ["--top-k"]}, "--top-k needs a value"),
        ({"extra_args": ["20"]}, "unexpected argument"),
        ({"extra_args": ["-c", "4096"], "ctx_size": 1}, "ctx_size and --ctx-size in extra_args set the same"),
    ],
)
def test_errors_name_the_bad_setting(body: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=words.replace("(", r"\(")):
        read_patch(body, TABLE)


OWNED = """
    --host=x --port=1 --api-key=k --api-key-file=f --ssl-key-file=f --ssl-cert-file=f --alias=a -a=a --models-dir=d
    --ui --webui --no-ui --no-webui --ui-config={} --webui-config={} --ui-config-file=f --webui-config-file=f
    --ui-mcp-proxy --no-ui-mcp-proxy --models-preset=f --models-max=1 --models-autoload --no-models-autoload
    --api-prefix=p --reuse-port --version --help -h --list-devices --models-ttl=5 --engine=e
    --model=f -m=f --hf-repo=u/r -hf=u/r --hf-file=f --hf-token=t --model-url=u -mu=u --docker-repo=r
"""


@pytest.mark.parametrize("word", OWNED.split())
def test_flags_that_the_router_owns_are_refused(word: str) -> None:  # B-L7
    name, _, value = word.partition("=")
    with pytest.raises(errors.InvalidRequest, match=rf"(^| |'){name}\b") as caught:
        read_patch({"extra_args": [name, value] if value else [name]}, TABLE)
    assert caught.value.status == 400


def test_a_switch_takes_no_value() -> None:  # B-L6
    words = ["--jinja", "--no-warmup", "--spec-default", "--temperature=-1", "--seed", "-1", "--no-jinja"]
    patch = read_patch({"extra_args": words}, TABLE)
    assert patch.extra_args is not None
    assert flags.render(patch.extra_args) == [
        "--no-jinja",
        "--no-warmup",
        "--spec-default",
        "--temperature",
        "-1",
        "--seed",
        "-1",
    ]
