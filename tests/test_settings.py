import logging
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest

from router import settings
from router.engine import flags
from router.engine.flags import FlagTable, default_table, render
from router.errors import FlagError
from router.settings import OPTIONS, Settings

TABLE = default_table()


def ours(*argv: str, **environ: str) -> Settings:
    return settings.parse(argv, environ, TABLE)[0]


def passed(*argv: str) -> list[str]:
    return render(settings.parse(argv, {}, TABLE)[1])


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(FlagError) as caught:
        ours(*argv, **environ)
    return caught.value.message


def test_rows_and_fields_are_the_same() -> None:
    assert [option.field for option in OPTIONS] == [field.name for field in fields(Settings)]
    assert len({option.env for option in OPTIONS}) == len(OPTIONS)


def test_defaults_hold_when_nothing_is_set() -> None:
    s = ours()
    assert s == Settings()
    assert (s.host, s.port, s.models_max, s.models_autoload, s.offline) == (("127.0.0.1",), 8080, 4, True, False)
    assert (s.models_memory_margin, s.models_memory_limit, s.models_default) == ((1024,), None, None)
    assert (s.api_key, s.cors_origins, s.timeout, s.max_body_size) == ((), ("localhost",), 3600, 64)


def test_spellings_and_variables_are_those_of_llama_server() -> None:
    for option in OPTIONS:
        if flag := TABLE.find(option.name):
            known = (flag.spellings, flag.negatives, flag.env, flag.arity)
            assert known == (option.spellings, option.negatives, option.env, option.flag.arity)
        else:
            assert option.env.startswith("LLAMA_ROUTER_")


# B-L7
def test_owned_flags_reach_no_child() -> None:
    for name in sorted(flags.OWNED - {"--alias"}):
        flag = TABLE.find(name)
        assert flag
        with suppress(FlagError):
            assert passed(name, *["1"] * flag.arity) == []


def test_command_line_over_environment_over_default() -> None:
    assert ours("--port", "1", LLAMA_ARG_PORT="2").port == 1
    assert ours(LLAMA_ARG_PORT="2").port == 2
    assert ours(LLAMA_ARG_PORT="").port == 8080
    assert ours("--port", "1", "--port", "3").port == 3


def test_switches_have_negatives_and_variables() -> None:
    assert ours("--no-models-autoload").models_autoload is False
    assert ours("--models-autoload", LLAMA_ARG_MODELS_AUTOLOAD="0").models_autoload is True
    assert ours(LLAMA_ARG_NO_MODELS_AUTOLOAD="1").models_autoload is False
    assert ours(LLAMA_ARG_OFFLINE="true").offline is True
    assert ours("--no-models-finish-loads").models_finish_loads is False  # B-S16


def test_values_are_read_by_kind() -> None:
    s = ours(
        *("--host", "127.0.0.1, ::1", "--cors-origins=*", "--models-dir", "~/models", "--log-level", "DEBUG"),
        *("--models-memory-margin", "512,0,2048", "--models-memory-limit=0", "--models-ttl", "1.5"),
        *("--engine", "embedded", "--models-default", "x", "--stream-keepalive", "5", "-to", "60"),
    )
    assert (s.host, s.cors_origins, s.models_dir) == (("127.0.0.1", "::1"), ("*",), Path.home() / "models")
    assert (s.models_memory_margin, s.models_memory_limit, s.models_ttl) == ((512, 0, 2048), 0, 1.5)
    assert (s.engine, s.models_default, s.stream_keepalive, s.log_level) == ("embedded", "x", 5.0, "debug")
    assert s.timeout == 60


def test_a_prefix_has_no_slash_at_its_end() -> None:
    assert [ours("--api-prefix", word).api_prefix for word in ("/a", "/a/", "/a.b/c-d//", "/", "")] == [
        *("/a", "/a", "/a.b/c-d", "", "")
    ]
    assert ours(LLAMA_ARG_API_PREFIX="/a", LLAMA_ARG_REUSE_PORT="on") == ours("--api-prefix", "/a/", "--reuse-port")


def test_keys_come_from_flags_files_and_variables(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# a comment\n\nthree\n four \n")
    s = ours("--api-key", "one,two", "--api-key", "zero", "--api-key-file", str(path))
    assert s.api_key == ("one", "two", "zero", "three", "four")
    assert ours(LLAMA_API_KEY="k").api_key == ("k",)
    assert "three" not in repr(s)


def test_key_file_without_keys_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    assert str(path) in refusal("--api-key-file", str(path))
    path.write_text("# none yet\n")
    assert "holds no key" in refusal("--api-key-file", str(path))
    path.write_bytes(b"\xff\xfe")
    assert "cannot read" in refusal("--api-key-file", str(path))


def test_other_flags_go_to_the_children() -> None:
    mixed = ["--models-dir", "x", "-c", "4096", "--no-warmup", "--port", "1", "--timeout", "9", "--offline", "-n", "-1"]
    assert " ".join(passed(*mixed)) == "--ctx-size 4096 --no-warmup --timeout 9 --offline --n-predict -1"
    assert passed("--lora", "a", "--lora", "b") == ["--lora", "a", "--lora", "b"]
    assert " ".join(passed("-m", "x.gguf", "-a", "x", "--models-memory-margin", "0")) == "--model x.gguf --alias x"


def test_the_log_of_the_engine_and_that_of_the_router_have_flags_of_their_own() -> None:  # B-O5
    engines = ["--log-colors", "on", "--log-prefix", "--log-timestamps", "--log-jsonl", "-lv", "4"]
    own = [
        "--log-format",
        "json",
        "--log-requests",
        "all",
        "--log-engines",
        "warn",
        "--log-file",
        "x",
        "--log-level",
        "debug",
    ]
    assert passed(*engines, *own) == passed(*engines)
    assert [word for word in passed(*engines) if word.startswith("--log")]
    assert passed(*own) == []
    for name in ("--log-format", "--log-requests", "--log-engines", "--log-level", "--otel-endpoint"):
        assert TABLE.find(name) is None  # else llama-server would have it under another meaning
    s = ours(*engines, *own)
    assert (s.log_format, s.log_requests, s.log_engines, s.log_level) == ("json", "all", "warn", "debug")
    for argv, words in (
        (("--log-format", "xml"), "text or json"),
        (("--log-requests", "some"), "off, errors or all"),
        (("--log-engines", "loud"), "off, warn or all"),
        (("--otel-endpoint", "localhost:4318"), "a URL"),
        (("--otel-endpoint", "grpc://localhost:4317"), "a URL"),
    ):
        assert words in refusal(*argv)
    assert "secret" not in repr(ours("--otel-endpoint", "http://user:secret@host:4318"))


def test_flags_without_effect_cost_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "router.settings"):
        assert passed("--webui-config", "{}", "--cors-methods", "GET") == []
    assert [record.getMessage() for record in caplog.records] == [
        "--webui-config has no effect on a router",
        "--cors-methods has no effect on a router",
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--models-mox 3", ["--models-mox", "--models-max"]),
        ("--models-memory-morgin 3", ["--models-memory-margin"]),
        ("--ctx-sise 3", ["--ctx-size"]),
        ("--port http", ["--port", "0 to 65535", "http"]),
        ("--port 65536", ["--port", "65535"]),
        ("--models-max -1", ["--models-max", "0 or more", "-1"]),
        ("--models-max 1.5", ["--models-max", "whole number"]),
        ("--models-max", ["--models-max", "needs a value"]),
        ("--models-queue-timeout nan", ["--models-queue-timeout", "seconds"]),
        ("--models-ttl inf", ["--models-ttl", "seconds"]),
        ("--timeout 0", ["--timeout", "1 or more"]),
        ("--timeout 2147483648", ["--timeout", "at most 2147483647"]),  # the engine's type
        ("--timeout 1_000", ["--timeout", "1_000"]),  # 1 for the engine
        ("--timeout 7٧", ["--timeout", "7٧"]),  # 7 for the engine
        ("--models-ttl 1_0.5", ["--models-ttl", "1_0.5"]),
        ("--models-memory-margin 1,x", ["--models-memory-margin", "MiB", "1,x"]),
        ("--models-memory-margin=", ["--models-memory-margin", "MiB"]),
        ("--host=,", ["--host", "address"]),
        ("--api-key=", ["--api-key", "key"]),
        ("--models-dir=", ["--models-dir", "path"]),
        ("--models-default=", ["--models-default", "name"]),
        ("--log-level loud", ["--log-level", "warning", "loud"]),
        ("--models-autoload=maybe", ["--models-autoload", "on"]),
        ("--ssl-key-file x", ["--ssl-cert-file"]),
        ("--list-devices", ["--list-devices", "llama-server itself"]),
        ("--completion-bash", ["--completion-bash", "leave it out"]),
        ("--api-prefix llm", ["--api-prefix", "/llm"]),
        ("--api-prefix /a//b", ["--api-prefix", "a path"]),
        ("--api-prefix /a/../b", ["--api-prefix", "a path"]),
        ("--api-prefix /a?b", ["--api-prefix", "a path"]),
        ("--api-prefix /%2e", ["--api-prefix", "a path"]),
        ("model.gguf", ["model.gguf"]),
    ],
)
def test_mistakes_are_named(argv: str, words: list[str]) -> None:
    message = refusal(*argv.split(" "))
    assert all(word in message for word in words), message


def test_mistakes_in_the_environment_name_the_variable() -> None:
    assert "LLAMA_ARG_MODELS_MAX" in refusal(LLAMA_ARG_MODELS_MAX="many")
    assert "LLAMA_ARG_OFFLINE" in refusal(LLAMA_ARG_OFFLINE="perhaps")


def test_options_do_not_depend_on_the_engines_flags() -> None:
    older = FlagTable(flag for flag in TABLE.flags if not flag.name.startswith(("--models", "--cors", "--timeout")))
    s, args = settings.parse(["--models-max", "2", "-to", "5", "--no-models-autoload", "-c", "1"], {}, older)
    assert (s.models_max, s.timeout, s.models_autoload) == (2, 5, False)
    assert render(args) == ["--timeout", "5", "--ctx-size", "1"]


def test_help_lists_every_option() -> None:
    text = settings.help_text()
    for option in OPTIONS:
        assert all(word in text for word in (*option.spellings, *option.negatives, f"${option.env}"))
    assert max(map(len, text.splitlines())) <= 100
    assert "default: 8080" in text


def test_a_store_may_stand_without_its_folder(tmp_path: Path) -> None:  # B-F3
    assert ours().ollama_models is None
    for argv in (["--ollama-models"], ["--ollama-models", "--port", "1"], ["--ollama-models=auto"]):
        assert ours(*argv).ollama_models == "auto"
    assert ours("--ollama-models", "--lmstudio-models", "/x").lmstudio_models == "/x"
    assert ours("--ollama-models", "-c", "5").ollama_models == "auto"
    assert ours("--ollama-models", "~/x").ollama_models == str(Path.home() / "x")
    assert ours("--ollama-models", "off", LLAMA_ROUTER_OLLAMA_MODELS="auto").ollama_models is None
    for word, value in (("auto", "auto"), ("1", "auto"), ("on", "auto"), ("0", None), ("", None), ("/y", "/y")):
        assert ours(LLAMA_ROUTER_LMSTUDIO_MODELS=word).lmstudio_models == value
    file = tmp_path / "r.ini"
    file.write_text("ollama-models = auto\nlmstudio-models = /z\n")
    s = ours("--config", str(file))
    assert (s.ollama_models, s.lmstudio_models) == ("auto", "/z")
    assert "unknown flag '--modls-dir'" in refusal("--ollama-models", "--modls-dir")
    assert passed("--ollama-models", "--threads", "2") == ["--threads", "2"]
