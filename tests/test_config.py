"""The file of `--config`: what it sets, what wins over it, and each kind of mistake in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import config, settings
from router.engine.flags import default_table, render
from router.errors import FlagError
from router.options import SWITCH
from router.settings import OPTIONS, Settings
from tests.conftest import Starter
from tests.routers import FAKE
from tests.shell import Shell, write

TABLE = default_table()

# A word for each option, other than its default.
WORDS = {
    "--host": "127.0.0.2, ::1",
    "--port": "9000",
    "--api-prefix": "/llm",
    "--api-key": "one, two",
    "--admin-key": "three",
    "--cors-origins": "https://a.example, localhost",
    "--allowed-hosts": "a.example,*.b.example",
    "--log-level": "debug",
    "--log-format": "json",
    "--log-requests": "errors",
    "--log-engines": "warn",
    "--otel-endpoint": "http://localhost:4318",
    "--load-args": "none",
    "--claude-map": "claude-*=a, *=b",
    "--models-memory-margin": "1,2,3",
    "--task-header": "X-Batch",
    "--hub-allow": "ggml-org/*",
    "--engine": "embedded",
    "--models-default": "a",
}


def word_of(name: str) -> str:
    option = next(option for option in OPTIONS if option.name == name)
    if option.kind is SWITCH:
        return "off" if option.default == "on" else "on"
    return WORDS.get(name) or ("~/x" if option.kind.metavar == "PATH" else "7")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "router.ini"


def of(file: Path, text: str, *argv: str, **environ: str) -> Settings:
    file.write_text(text)
    file.chmod(0o600)
    return settings.parse(["--config", str(file), *argv], environ, TABLE)[0]


def mistakes(text: str) -> list[tuple[int, str]]:
    _, problems = config.parse(text, OPTIONS, Path("r.ini"))
    return [(problem.line, problem.message) for problem in problems]


FIELDS = [option.name for option in OPTIONS if option.name != "--config" and not option.name.endswith("key-file")]


@pytest.mark.parametrize("name", FIELDS)
def test_a_line_is_worth_as_much_as_its_flag(name: str, tmp_path: Path) -> None:
    option, word = next(option for option in OPTIONS if option.name == name), word_of(name)
    pair = ["--ssl-key-file=k"] if name == "--ssl-cert-file" else []
    by_flag, args = settings.parse([*pair, f"{name}={word}"], {}, TABLE)
    file = write(tmp_path / "router.ini", f"# mine\n{name.lstrip('-')} = {word}\n")
    by_file, same_args = settings.parse([*pair, "--config", str(file)], {}, TABLE)
    assert getattr(by_file, option.field) == getattr(by_flag, option.field) != getattr(Settings(), option.field)
    assert render(args) == render(same_args)


def test_flag_over_variable_over_file_over_default(file: Path) -> None:
    text = "models-max = 1\noffline = on\nno-models-autoload = on\n"
    assert of(file, text).models_max == 1
    assert of(file, text, LLAMA_ARG_MODELS_MAX="2").models_max == 2
    assert of(file, text, "--models-max", "3", LLAMA_ARG_MODELS_MAX="2").models_max == 3
    assert of(file, text).offline is True
    assert of(file, text, LLAMA_ARG_OFFLINE="0").offline is False
    assert of(file, text, "--offline=off").offline is False
    assert of(file, text).models_autoload is False
    assert of(file, text, "--models-autoload").models_autoload is True
    assert settings.parse([], {"LLAMA_ROUTER_CONFIG": str(file)}, TABLE)[0].models_max == 1
    assert settings.parse([], {"LLAMA_ROUTER_CONFIG": ""}, TABLE)[0].models_max == 4


def test_children_get_what_they_share(file: Path) -> None:
    def passed(*argv: str, **environ: str) -> str:
        return " ".join(render(settings.parse(["--config", str(file), *argv], environ, TABLE)[1]))

    file.write_text("timeout = 7\noffline = on\nport = 1\n")
    assert passed("-c", "5") == "--timeout 7 --offline --ctx-size 5"
    assert passed("-to", "9", "--offline=off") == "--timeout 9"
    assert passed(LLAMA_ARG_TIMEOUT="8") == "--offline"


def test_lists_quotes_and_spellings(file: Path) -> None:
    found = of(file, "host = 127.0.0.1\nhost=::1\nmodels_max = \"3\"\nmodels-dir = '~/m'\n--port = 5 ; mine\nto = 9\n")
    assert (found.host, found.models_max, found.models_dir) == (("127.0.0.1", "::1"), 3, Path.home() / "m")
    assert (found.port, found.timeout) == (5, 9)
    assert of(file, "LLAMA_ARG_PORT = 6\n").port == 6
    assert of(file, "task-header =\n").task_header == ""
    assert of(file, "").port == 8080


@pytest.mark.parametrize(
    "words",
    ["one, two", '"one, two"', "'one,two'", '"one","two"', "'one' , \"two\"", 'one, "two"', '"one", two ; "mine"'],
)
def test_quotes_are_around_all_or_around_each(words: str, file: Path) -> None:
    assert of(file, f"api-key = {words}").api_key == ("one", "two")


def test_letters_in_quotes_and_quotes_in_words(file: Path) -> None:
    assert of(file, 'api-key = "a \\#b"').api_key == ("a #b",)
    assert of(file, "api-key = it's, a\"b").api_key == ("it's", 'a"b')
    assert str(of(file, 'log-file = "it\'s, mine"').log_file) == "it's, mine"
    folder = file.with_name("it's, mine")  # of paths that may be several, one with a comma is one if it is there
    folder.mkdir()
    assert of(file, f'models-dir = "{folder}"').models_dir == folder


@pytest.mark.parametrize("words", ['"a #b"', "'a", '"', "\"a'", '"one","two', '"a" b', '"a"b"'])
def test_a_quote_that_does_not_end_is_a_mistake(words: str) -> None:
    for key in ("api-key", "models-default"):
        ((line, message),) = mistakes(f"{key} = {words}")
        assert (line, "begins the value, and must end it" in message) == (1, True)


def test_every_variable_is_a_key(file: Path) -> None:
    for option in OPTIONS:
        for name in option.variables if option.name != "--config" else ():
            _, problems = config.parse(f"{name} = {word_of(option.name)}", OPTIONS, Path("r.ini"))
            assert not problems, name
    assert of(file, "LLAMA_ARG_MODELS_MEMORY_MARGIN = 5,6").models_memory_margin == (5, 6)
    assert of(file, "LLAMA_ARG_NO_MODELS_AUTOLOAD = on").models_autoload is False


def test_keys_and_files_of_keys(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(file.with_name("keys"), "three\n")
    found = of(file, f"api-key = one, two\napi-key-file = {file.with_name('keys')}\n")
    assert found.api_key == ("one", "two", "three")
    assert not caplog.records
    file.chmod(0o644)
    assert settings.parse(["--config", str(file)], {}, TABLE)[0].api_key == found.api_key
    assert caplog.messages == [f"{file} holds keys, and other users can read it: chmod 600 {file}"]
    caplog.clear()
    write(file, "port = 1\n")
    settings.parse(["--config", str(file)], {}, TABLE)
    assert not caplog.records
    assert "one" not in repr(config.read(file, OPTIONS))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("port = http", 1, ["port takes a port", "'http'"]),
        ("\n\nmodels-max = -1", 3, ["models-max takes a whole number", "'-1'"]),
        ("models-mx = 3", 1, ["unknown key 'models-mx'", "did you mean models-max?"]),
        ("models_queue_mxa = 3", 1, ["did you mean models-queue-max?"]),
        ("ctx-size = 3", 1, ["ctx-size is a setting of models", "--models-preset", "--ctx-size"]),
        ("model = x.gguf", 1, ["model is a setting of models"]),
        ("[a]\nmodel = x.gguf", 1, ["[a] is for models", "--models-preset"]),
        ("[*]\nctx-size = 3", 1, ["[*] is for models"]),
        ("port = 1\nport = 2", 2, ["port is set already, at line 1"]),
        ("models-autoload = maybe", 1, ["models-autoload is a switch: write on or off"]),
        ("no-models-autoload = 5", 1, ["is a switch"]),
        ("config = other.ini", 1, ["cannot name another one"]),
        ("port 5", 1, ["expected key = value", "an = is missing behind port"]),
        ("api-key =", 1, ["api-key takes a key"]),
        ('cors-origins = ["https://a"]', 1, ["cors-origins takes origins", "with commas between"]),
        ("models-dir =", 1, ["models-dir takes a path"]),
        ("log-level = loud", 1, ["debug, info, warning or error"]),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, line: int, words: list[str]) -> None:
    (found, *_) = mistakes(text)
    assert found[0] == line
    assert all(word in found[1] for word in words), found


def test_all_mistakes_are_told_and_none_shows_a_secret() -> None:
    found = mistakes("api-kye = s3cret\ns3cret\nport = x\n")
    assert [line for line, _ in found] == [1, 2, 3]
    assert "s3cret" not in str(found)


def test_a_start_names_the_first_mistake(file: Path) -> None:
    with pytest.raises(FlagError) as caught:
        of(file, "port = x\nmodels-mx = 3\n")
    assert caught.value.message.startswith(f"{file}:1: port takes a port")
    assert f"(1 more: llama-router check --config {file} lists them)" in caught.value.message


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "huge", "binary", "nul"])
def test_a_file_that_is_none(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "router.ini"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as sparse:
            sparse.truncate(1 << 33)
    elif kind == "binary":
        path.write_bytes(b"port = 1\n\xff\xfe")
    word = f"{path}\0" if kind == "nul" else str(path)
    with pytest.raises(FlagError) as caught:
        settings.parse(["--config", word], {}, TABLE)
    assert (
        ":2: the file is not UTF-8" in caught.value.message if kind == "binary" else "--config" in caught.value.message
    )


@given(st.text(max_size=60))
def test_any_text_is_read_or_is_a_mistake(text: str) -> None:
    found, problems = config.parse(text, OPTIONS, Path("r.ini"))
    for option in OPTIONS:
        if word := found.words.get(option.name):
            option.kind.read(word.text)
    assert all(problem.line >= 0 and problem.message for problem in problems)


def test_a_router_of_a_file(routers: Starter, tiny_models: Path, file: Path) -> None:
    write(file, f"engine = {FAKE}\nmodels-dir = {tiny_models}\napi-key = k\nmodels-max = 1\n").chmod(0o600)
    router = routers("--config", str(file))
    assert router.client.get("/models").status_code == 401
    assert len(router.client.get("/models", headers={"x-api-key": "k"}).json()["data"]) == 3


def test_commands_take_the_file_and_a_wrong_one_starts_nothing(shell: Shell, tiny_models: Path) -> None:
    write(shell.folder / "r.ini", f"engine = {FAKE}\nmodels-dir = {tiny_models}\n")
    assert shell("list", "--config", "r.ini").out.count("tiny-") == 3
    assert shell("list", LLAMA_ROUTER_CONFIG="r.ini").out.count("tiny-") == 3
    write(shell.folder / "bad.ini", "models-mx = 3\n")
    assert "bad.ini:1: unknown key 'models-mx'; did you mean models-max?" in shell.refuses("--config", "bad.ini")
    assert "cannot read --config gone.ini: No such file" in shell.refuses("--config", "gone.ini")
    assert "--config needs a value" in shell.refuses("--config")


def test_check_reads_the_file(shell: Shell) -> None:
    write(
        shell.folder / "r.ini",
        "port = 5\nmodels-mx = 3\nmodels-dir = gone\nollama-models = auto\nlmstudio-models = lost\n",
    )
    ended = shell("check", "--config", "r.ini")
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines() == [
        "r.ini:2: unknown key 'models-mx'; did you mean models-max?",
        "r.ini:3: models-dir: gone is missing",
        "r.ini:5: lmstudio-models: lost is missing",
    ]
    (report,) = json.loads(shell("check", "--json", LLAMA_ROUTER_CONFIG="r.ini").out)
    assert [(p["line"], p["key"], p["nearest"]) for p in report["problems"]] == [
        (2, "models-mx", "models-max"),
        (3, "models-dir", None),
        (5, "lmstudio-models", None),
    ]
    write(shell.folder / "good.ini", "port = 5\n")
    write(shell.folder / "models.ini", "[a]\nhf-repo = user/repo\n")
    assert shell("check", "models.ini", "--config", "good.ini") == (
        *(0, "models.ini: no problems; models: a\ngood.ini: no problems\n", ""),
    )
    assert shell("check", "--config", "gone.ini").code == 2


def test_check_reports_variables_that_set_nothing(shell: Shell) -> None:
    write(shell.folder / "good.ini", "port = 5\n")
    ended = shell("check", "--config=good.ini", LLAMA_ROUTER_MODELS_TLL="5")
    assert ended.code == 1
    assert ended.out.splitlines() == [
        "good.ini: no problems",
        "environment: LLAMA_ROUTER_MODELS_TLL is no variable of this router or of its engine; did you mean "
        "LLAMA_ROUTER_MODELS_TTL?",
    ]
