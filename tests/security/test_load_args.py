"""Settings of a load over HTTP: which flags and values a client may give to a process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest

from router.engine import allowlist, flags
from router.engine.allowlist import SAFE, LoadArgs
from router.engine.flags import Flag, FlagTable
from router.errors import InvalidRequest
from router.models import foreign as foreign_presets
from router.pool.requested_settings import RequestedSettings
from router.pool.settings_patch import read_patch
from tests.security.reach import COUNT, NOTHING, REACH

TABLE = flags.default_table()


DANGEROUS = [flag for flag in TABLE.flags if REACH.get(flag.name) != NOTHING]


VALUE = "/etc/passwd"


# Flags that the router sets itself: no setting of the operator allows them.
NEVER = flags.OWNED | flags.MODEL_SOURCES


def spelled(flag: Flag) -> Iterator[list[str]]:
    """Every way to write the flag."""
    values = [VALUE] * flag.arity
    for name in (*flag.spellings, *flag.negatives):
        names = {name, "--" + name[2:].replace("-", "_")} if name.startswith("--") else {name}
        for each in sorted(names):
            yield [each, *values]
            if each.startswith("--") and flag.arity < 2:
                yield [f"{each}={VALUE if flag.arity else 'on'}"]


def refused(extra: Sequence[object], load_args: LoadArgs = "safe") -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_patch({"extra_args": list(extra)}, TABLE, load_args=load_args)
    return caught.value.message


def accepted(extra: Sequence[object], load_args: LoadArgs = "safe") -> list[str]:
    wish = read_patch({"extra_args": list(extra)}, TABLE, load_args=load_args)
    assert wish.extra_args is not None
    return flags.render(wish.extra_args)


def test_every_flag_is_classified() -> None:  # B-T2
    assert len(REACH) == COUNT, "a flag is in two places"
    assert REACH.keys() == {flag.name for flag in TABLE.flags}
    assert {name for name, reach in REACH.items() if reach == NOTHING} == SAFE


def test_safe_flags_have_no_suspicious_names() -> None:  # B-T2
    """A flag that was classified wrong shows by its name."""
    words = re.findall(
        r"\S+",
        """
        file path -dir url -hf hf- repo host port mcp tools hf-token key cert lora vector lookup rpc proxy agent log
        cors docker -default ssl webui
        """,
    )
    wrong = {name for name in SAFE for word in words if word in name}
    assert wrong == {"--logit-bias", "--spec-default"}


@pytest.mark.parametrize("flag", DANGEROUS, ids=lambda flag: flag.name)
def test_dangerous_flag_is_refused_in_every_spelling(flag: Flag) -> None:  # B-T2
    for extra in spelled(flag):
        for before in ([], ["--top-k", "20"], ["--grammar", "--x"]):
            message = refused([*before, *extra])
            assert f" {extra[0].partition('=')[0]} " in message
            assert "--load-args" in message
            assert VALUE not in message
        assert "--load-args none" in refused(extra, "none")
        if flag.name in NEVER:
            assert extra[0].partition("=")[0] in refused(extra, "any")
        elif not (flag.arity == 0 and "=" in extra[0]):
            assert accepted(extra, "any") in ([flag.name, *extra[1:]], [flag.name, VALUE], [*flag.negatives[-1:]])


def test_safe_flag_is_accepted_in_every_spelling() -> None:  # B-T2
    values = {"--chat-template": "chatml", "--chat-template-kwargs": "{}", "--json-schema": "{}"}
    for flag in TABLE.flags:
        if flag.name in SAFE:
            for name in (*flag.spellings, *flag.negatives):
                argv = accepted([name, *[values.get(flag.name, "1")] * flag.arity])
                assert argv, name
                assert argv[0] in (*flag.spellings, *flag.negatives)


def test_flags_of_another_build_are_refused() -> None:  # B-T2
    """Unknown flags, flags of which only one name is known, and flags that take more values than is known."""
    table = FlagTable(
        [
            Flag("--brand-new", ("--brand-new",), (), 1, None, False),
            Flag("--temp-file", ("--temp-file", "--temp"), ("--log-file",), 1, None, False),
            Flag("--jinja", ("--jinja",), ("--no-jinja",), 1, None, False),
            Flag("--top-tokens", ("--top-tokens", "--top-k"), (), 1, None, False),
        ]
    )
    for extra in (["--brand-new", "1"], ["--temp", "1"], ["--log-file", "x"], ["--jinja", "/etc/passwd"]):
        with pytest.raises(InvalidRequest, match="--load-args any"):
            read_patch({"extra_args": extra}, table)
    assert read_patch({"extra_args": ["--top-tokens", "5"]}, table).extra_args


@pytest.mark.parametrize(
    "extra",
    [
        ["--threads", "100000"],
        ["-t", 1e5],
        ["-tb", "99999999999999999999"],
        ["--threads", "0x10"],
        ["--spec-draft-threads", "100000"],
        ["--parallel", "1000000"],
        ["-np", "1", "-np", "257"],
        ["--cache-ram", "-1"],
        ["--cache-ram", "1000000"],
        ["--ctx-checkpoints", "100000"],
        ["--batch-size", "1000000000"],
        ["--ubatch-size", "0"],
        ["--image-max-tokens", "1000000"],
        ["--spec-draft-n-max", "1000000"],
        ["--spec-ngram-mod-n-max", "1000000"],
        ["--parallel", "٣"],
        ["--chat-template", "/etc/passwd"],
        ["--chat-template", "../secret.txt"],
        ["--chat-template", "secret"],
        ["--chat-template=file:///etc/passwd"],
        ["--chat-template-kwargs", "/etc/passwd"],
        ["--chat-template-kwargs", "[" * 100_000],
        ["--json-schema", '{"$ref": "https://example.org/x.json"}'],
        ["--json-schema", '{"properties": {"a": [{"$ref": "file:///etc/passwd"}]}}'],
        ["--json-schema", "/etc/passwd"],
        ["--grammar", "x" * 2**17],
        ["--grammar", "漢" * 2**15],  # 96 KiB
        ["--ctx-size", "3000000x"],  # which the engine reads as 3000000
        ["--ctx-size", "99999999999"],
        ["--ctx-size", 4096.5],
        ["--n-predict", "1e9"],
        ["--temp", "nan"],
        ["--temp", float("inf")],
        ["--top-p", "0.5x"],
        ["--n-cpu-moe", "2000000000"],  # which takes 160 bytes each
        ["-ncffn", "2000000000"],
        ["--spec-draft-n-cpu-moe", "2000000000"],
        ["--repeat-last-n", "2000000000"],  # four bytes each, for each slot
        ["--dry-penalty-last-n", "2000000000"],
    ],
)
def test_dangerous_values_are_refused(extra: list[object]) -> None:  # B-T2
    assert "--" in refused(extra)


@pytest.mark.parametrize(
    "extra",
    [
        ["--threads", "4"],
        ["-t", 2],
        ["--parallel", "-1"],
        ["--cache-ram", "0"],
        ["--temp", 0.5],
        ["--temp", "-1"],
        ["--top-p", 1],
        ["--min-p", ".05"],
        ["--frequency-penalty", 1e-05],
        ["--seed", 2**32 - 1],
        ["--n-predict", -2],
        ["--ctx-size", 2**20],
        ["--n-gpu-layers", "all"],
        ["--flash-attn", "auto"],
        ["--logit-bias", "15043-1"],
        ["--chat-template", "{{ messages }}"],
        ["--chat-template", "llama3"],
        ["--chat-template-kwargs", '{"enable_thinking": false}'],
        ["--json-schema", '{"properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/x"}}}'],
        ["--grammar", 'root ::= "/etc/passwd"'],
    ],
)
def test_safe_values_are_accepted(extra: list[object]) -> None:
    assert accepted(extra)


def test_arguments_too_long_for_a_process_are_refused() -> None:  # B-T2
    """Otherwise a running model would be stopped for a start that must fail."""
    for load_args in ("safe", "any"):
        assert "too long" in refused(["--reverse-prompt", "x" * 60_000] * 20, load_args)


def test_numbers_must_be_plain() -> None:  # B-T2
    """The engine reads `12x` as 12, and the memory plan would not see it."""
    for flag in TABLE.flags:
        if flag.name in SAFE - allowlist.TEXT_FLAGS and flag.arity:
            for value in ("1x", "x", "", " 1", "1 ", "1_0", "٣", "0x1", "inf", "1,1", VALUE, "1" * 40):
                assert flag.name in refused([flag.name, value])
            assert accepted([flag.name, "1"]) == [flag.name, "1"]
    assert allowlist.TEXT_FLAGS | allowlist.FRACTION_FLAGS | allowlist.VALUE_CHECKS.keys() <= SAFE


def test_number_of_slots_is_limited() -> None:  # B-T2
    with pytest.raises(InvalidRequest, match=r"n_parallel takes .* 256 .*--load-args any"):
        read_patch({"n_parallel": 1_000_000}, TABLE)
    for count, load_args in ((256, "safe"), (0, "none"), (None, "safe"), (1_000_000, "any")):
        assert read_patch({"n_parallel": count}, TABLE, load_args=load_args).fields == {"n_parallel": count}  # type: ignore[arg-type]


PATHS = (
    "/etc/passwd",
    "../x",
    "x/y.jinja",
    "secret.jinja",
    "a.txt",
    "C:\\x",
    "~/x",
    "file:///etc/passwd",
    "http://x",
    "@x",
)


@pytest.mark.parametrize("load_args", ["safe", "any", "none"])
def test_chat_template_must_not_be_a_path(load_args: LoadArgs) -> None:  # B-T2
    for template in PATHS:
        with pytest.raises(InvalidRequest, match="chat_template is Jinja text"):
            read_patch({"chat_template": template}, TABLE, load_args=load_args)
    for fine in ("", "chatml", "{{ messages }}", "{% if x %}/etc/passwd{% endif %}", None):
        assert read_patch({"chat_template": fine}, TABLE, load_args=load_args).fields == {"chat_template": fine}
    if load_args != "any":
        with pytest.raises(InvalidRequest, match="--load-args any"):
            read_patch({"chat_template": "passwd"}, TABLE, load_args=load_args)


def test_secrets_are_not_shown() -> None:  # B-T2
    args = flags.parse(["--mcp-servers-json", "SECRET", "--hf-token", "SECRET", "--top-k", "2"], TABLE)
    assert RequestedSettings(extra_args=args).as_json()["extra_args"] == ["--top-k", "2"]
    assert flags.render(flags.without_secrets(args)) == ["--top-k", "2"]
    assert "SECRET" not in str(flags.diff([], args))


def test_allowlists_agree() -> None:  # B-T2
    own = {"alias", "tags", "description", "unlisted", "default-params", "load-on-startup", "stop-timeout", "ttl"}
    own |= {"hf-repo", "hf-file", "spec-draft-hf"}
    assert foreign_presets.ALLOWED_KEYS - own == {name.lstrip("-") for name in SAFE}
    assert set(allowlist.BOUNDS) <= SAFE
    assert set(allowlist.VALUE_CHECKS) <= SAFE
