"""Configurations of llama-swap, and the preset files that they become."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine.flags import default_table, render
from router.llama_swap.convert import Conversion, convert
from router.llama_swap.document import Unreadable
from router.models.presets import Preset, PresetFile, parse

TABLE = default_table()
ENVIRON = {"HOME": "/home/me", "API_KEY_1": "s3cret", "MODELS": "/data", "TTL": "90", "SPACED": "a b"}


def made(text: str) -> Conversion:
    return convert(textwrap.dedent(text), "config.yaml", TABLE, ENVIRON)


def presets(found: Conversion) -> PresetFile:
    """The presets that the router reads. Nothing in them is a mistake."""
    file, problems = parse(found.text, TABLE, environ=ENVIRON)
    assert not problems, (problems, found.text)
    assert tuple(preset.name for preset in file.presets) == found.models
    return file


def one(entry: str, before: str = "") -> tuple[Preset, str]:
    """The preset of one model, and all notes as text."""
    found = made(f"{textwrap.dedent(before)}\nmodels:\n  a:\n{textwrap.indent(textwrap.dedent(entry), '    ')}")
    (preset,) = presets(found).presets
    return preset, "\n".join(f"{note.line}: {note}" for note in found.notes)


def argv(command: str) -> str:
    return " ".join(render(one(f"cmd: {json.dumps(command)}")[0].args))


def notes(command: str) -> str:
    return one(f"cmd: {json.dumps(command)}")[1]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("llama-server --port ${PORT} -m x.gguf -ngl 99", "--model x.gguf --n-gpu-layers 99"),
        ("llama-server -m x -c 4096 -c 8192 --jinja --no-warmup", "--model x --ctx-size 8192 --jinja --no-warmup"),
        (
            "llama-server -hf ggml-org/x:Q8_0 -fa on -ctk q8_0",
            "--hf-repo ggml-org/x:Q8_0 --flash-attn on --cache-type-k q8_0",
        ),
        ("llama-server -m=x --model=y --ctx_size 5", "--model y --ctx-size 5"),
        ("llama-server -m x --lora a --lora b", "--model x --lora a --lora b"),
        ("llama-server -m x --no-mmap", "--model x --load-mode none"),
        ("llama-server -m x --mlock --draft-max 5", "--model x --load-mode mlock --spec-draft-n-max 5"),
        ("llama-server -m x -fa -c 5", "--model x --flash-attn on --ctx-size 5"),
        ("llama-server -m x -s -1 --temp 0", "--model x --seed -1 --temperature 0"),
        ("llama-server -m x -r '### a; b #c'", "--model x --reverse-prompt ### a; b #c"),
        (
            "llama-server -m 'x y.gguf' -ot '([0-9]+).ffn_.*_exps.=CPU'",
            "--model x y.gguf --override-tensor ([0-9]+).ffn_.*_exps.=CPU",
        ),
        ("env LLAMA_ARG_CTX_SIZE=7 LLAMA_ARG_JINJA=1 llama-server -m x", "--ctx-size 7 --jinja --model x"),
        ("env LLAMA_ARG_CTX_SIZE=7 llama-server -m x -c 8", "--ctx-size 8 --model x"),
        ("llama-server -m ${env.MODELS}/x.gguf", "--model /data/x.gguf"),
        ("llama-server -m ~/x.gguf", "--model {home}/x.gguf"),
        ("llama-server -m 'a${env.SPACED}'", "--model aa b"),
        (
            "docker run -v ${env.MODELS}:/models llama.cpp:server -m /models/x --mmproj /models/p",
            "--model /data/x --mmproj /data/p",
        ),
    ],
)
def test_commands(command: str, expected: str) -> None:
    assert argv(command) == expected.replace("{home}", str(Path.home()))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("llama-server -m x --host 0.0.0.0 --port 1", "--host, --port: the router sets them"),
        ("llama-server -m x --api-key hush", "--api-key-file"),
        ("llama-server -m x --alias b", "--alias: "),
        ("llama-server -m x --frobnicate 5 -c 5", "--frobnicate: this llama-server has no such flag"),
        ("llama-server -m x stray", "a word that is no flag"),
        ("llama-server -m x -c 8k", "ctx-size: takes a whole number, not '8k': write 8192"),
        ("llama-server -m x -ctk q9", "cache-type-k: takes bf16"),
        ("llama-server -m x --chat-template-kwargs {a}", "chat-template-kwargs: takes a JSON object"),
        ("llama-server -m x --hf-token hf_hush", "hf-token: a secret is not written"),
        ("llama-server -mu https://u:hush@x/y.gguf -m x", "an address with a password is not written"),
        ("llama-server -m x -c", "-c: it has no value"),
        ("llama-server -m x --grammar 'a\nb'", "several lines"),
        ("llama-server -m x -gan 5", "-gan: llama-server has no such flag any more"),
        ("nice -n 3 llama-server -m x", "nice -n 3: the router starts llama-server itself"),
        ("docker run llama.cpp:server -m /models/x", "/models/x is a path inside the container"),
        ("env HF_TOKEN=hush llama-server -m x", "HF_TOKEN: a secret is not written"),
        ("/opt/llama-server-b9 -m x", "engine = /opt/llama-server-b9 keeps this one"),
        ("env MY_API_KEY=hush llama-server -m x", "MY_API_KEY: a secret is not written"),
        ("env CUDA_VISIBLE_DEVICES=1,0 llama-server -m x", "write device = CUDA1,CUDA0"),
        ("env CUDA_VISIBLE_DEVICES=GPU-5 llama-server -m x", "device = NAME,..."),
        ("env LLAMA_ARG_PORT=5 llama-server -m x", "LLAMA_ARG_PORT: the router sets it"),
        ('llama-server -m x --chat-template-kwargs \'{"k": "${env.API_KEY_1}"}\'', "a secret is not written"),
    ],
)
def test_what_is_left_out_of_a_command_is_told(command: str, words: str) -> None:
    preset, told = one(f"cmd: {json.dumps(command)}")
    assert words in told
    found = made(f"models: {{a: {{cmd: {json.dumps(command)}}}}}")
    for secret in ("hush", "s3cret"):
        assert secret not in told
        assert secret not in found.text
    assert told.splitlines()[0].split(": ")[1] == "a"
    assert "; " + words.split(":")[0] in found.text or words in found.text.replace("\n", " ")
    assert preset.name == "a"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("cmd: vllm serve x", "its command runs vllm, which is not llama-server"),
        ("cmd: llama-server -m ${nope}", "${nope} is not defined"),
        ("cmd: llama-server -m ${env.UNSET}/x", "the variable UNSET is not set"),
        ("cmd: llama-server --port 1", "its command names no model"),
        ("cmd: llama-server --models-dir /x", "is a router of models itself"),
        ("ttl: 5", "it has no cmd"),
        ("cmd: [llama-server]", "it has no cmd"),
        ("cmd: ' '", "it has no cmd"),
    ],
)
def test_what_is_no_model_is_left_out_with_a_line(entry: str, words: str) -> None:
    found = made(f"models:\n  good: {{cmd: llama-server -m x}}\n  bad:\n    {entry}\n  worse: 5\n")
    assert found.models == ("good",)
    presets(found)
    told = [str(note) for note in found.notes]
    assert any(line.startswith("bad: left out: ") and words in line for line in told), told
    assert "worse: left out: its entry is no mapping with a cmd" in told
    assert [note.line for note in found.notes if note.where == "bad"] == [3]


def test_settings_of_a_model() -> None:
    preset, told = one(
        """
        cmd: llama-server -m x
        name: The Model
        description: |
          of two
          lines ${MODEL_ID}
        ttl: 60
        unloadTimeout: 7
        unlisted: true
        aliases: [b, {id: c, name: C}, "${MODEL_ID}:d", 7]
        env: ["FOO=a # b", "BAR=${env.HOME}/x", "PRICE=$5 ${env.HOME}", EMPTY=]
        filters:
          stripParams: "temperature, ${drop}, model, temperature"
          setParams: {top_p: 0.9, "max_tokens?": 5, chat_template_kwargs.enable_thinking: false, stream: true}
          setParamsByID:
            ${MODEL_ID}: {reasoning_effort: low}
            "${MODEL_ID}:high": {reasoning_effort: high, chat_template_kwargs: {a: "${n}"}}
          other: 1
        macros: {drop: top_k, n: 3}
        proxy: http://127.0.0.1:8999
        checkEndpoint: none
        cmdStop: docker stop ${MODEL_ID}
        useModelName: z
        metadata: {a: 1}
        capabilities: {in: [text]}
        concurrencyLimit: 3
        sendLoadingState: true
        timeouts: {connect: 5}
        unheard: 5
        """
    )
    assert preset.description == "The Model: of two lines a"
    assert (preset.ttl, preset.stop_timeout, preset.unlisted) == (60, 7, True)
    assert preset.aliases == ("b", "c", "a:d", "7", "a:high")
    assert dict(preset.env) == {"FOO": "a # b", "BAR": "/home/me/x", "PRICE": "$5 /home/me", "EMPTY": ""}
    assert preset.strip_params == ("temperature", "top_k")
    assert dict(preset.set_params) == {"top_p": "0.9", "chat_template_kwargs": '{"enable_thinking": false}'}
    assert dict(preset.default_params) == {"max_tokens": "5"}
    assert dict(preset.set_params_by_name) == {
        "a": (("reasoning_effort", '"low"'),),
        "a:high": (("reasoning_effort", '"high"'), ("chat_template_kwargs", '{"a": 3}')),
    }
    for key in ("proxy", "checkEndpoint", "cmdStop", "useModelName", "metadata", "capabilities", "concurrencyLimit"):
        assert f"a: {key}: " in told
    for words in (
        "sendLoadingState: ",
        "timeouts: ",
        "unheard: ",
        "filters.other: ",
        "stripParams: model stays",
        "setParams: stream",
    ):
        assert words in told


def test_settings_of_all() -> None:
    found = made(
        """
        healthCheckTimeout: 500
        globalTTL: 300
        unloadTimeout: 20
        logLevel: debug
        startPort: 10001
        includeAliasesInList: false
        apiKeys: [sk-hush, "${env.API_KEY_1}"]
        macros:
          server: llama-server --port ${PORT}
          ctx: 4096
          args: -c ${ctx}
        models:
          a: {cmd: "${server} -m a ${args}", macros: {ctx: 5}}
          b: {cmd: "${server} -m b ${args}", ttl: 0, aliases: [beta]}
          c: {cmd: "${server} -m c", ttl: -1}
          d: {cmd: "${server} -m d"}
        groups:
          fixed: {swap: false, exclusive: false, persistent: true, members: [a, nobody]}
          small: {persistent: true, members: [c, d]}
          rest: {members: [b]}
        matrix: {vars: {x: a}, evict_costs: {x: 5}, sets: {s: x}}
        routing: {scheduler: {settings: {fifo: {priority: {b: 7, d: high}}}}}
        hooks: {on_startup: {preload: [beta, nobody]}, on_end: {}}
        profiles: {p: {pins: {a: b}}}
        peers:
          far: {proxy: "http://u:hush@far", apiKey: hush, models: [z]}
        unheard: 5
        """
    )
    file = presets(found)
    a, b, c, d = file.presets
    assert file.defaults.ttl == 300
    assert [preset.ttl for preset in (a, b, c, d)] == [300, 0, 300, 300]
    assert [preset.stop_timeout for preset in (a, b, c, d)] == [20] * 4
    assert [preset.pin for preset in (a, b, c, d)] == [True, False, False, False]
    assert [preset.priority for preset in (a, b, c, d)] == [0, 7, 0, 0]
    assert [preset.load_on_startup for preset in (a, b, c, d)] == [False, True, False, False]
    assert [render(preset.args)[-1] for preset in (a, b)] == ["5", "4096"]
    told = {note.line: [] for note in found.notes}  # type: dict[int, list[str]]
    for note in found.notes:
        told[note.line].append(str(note))
    assert told[2] == ["healthCheckTimeout: give the router --models-load-timeout 500"]
    assert "2 keys are not written" in told[8][0]
    assert any("its models are pinned" in line for line in told[19])
    assert "pin: there is no model 'nobody' here" in told[19]
    assert "write pin = on" in told[20][0]
    assert "--models-max" in told[21][0]
    assert "min-loaded" in told[22][0]
    assert "the priority of d is no whole number" in told[23][0]
    assert "load-on-startup: there is no model 'nobody' here" in told[24]
    assert told[27] == ["peers.far: this router has only models of its own machine"]
    assert told[28] == ["unheard: the router has nothing for it"]
    assert "hush" not in found.text + str(found.notes)
    assert "s3cret" not in found.text


def test_names_mean_one_model() -> None:
    found = made(
        """
        models:
          a: {cmd: llama-server -m x, aliases: [b, one, "x]y"]}
          b: {cmd: llama-server -m x, aliases: [one, two]}
          "c]d": {cmd: llama-server -m x}
          "*": {cmd: llama-server -m x}
          " e": {cmd: llama-server -m x}
          user/repo:Q4_K_M: {cmd: llama-server -m x}
          7: {cmd: llama-server -m x}
        """
    )
    by_name = {preset.name: preset.aliases for preset in presets(found).presets}
    assert by_name == {"a": ("one", "x]y"), "b": ("two",), "user/repo:Q4_K_M": (), "7": ()}
    assert sum("cannot stand between [ and ]" in note.message for note in found.notes) == 3
    assert sum("is a name of another model" in note.message for note in found.notes) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1", "it has no models"),
        ("models:", "it has no models"),
        ("models: [a]", "it has no models"),
        ("services: {a: {image: x}}", "it has no models"),
    ],
)
def test_what_is_no_configuration(text: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        made(text)


def test_variables_in_names_and_texts() -> None:
    found = made(
        """
        models:
          "m-${env.TTL}": {cmd: llama-server -m x, description: "${env.API_KEY_1}", env: [TOKENIZERS_PARALLELISM=false]}
          "n-${env.UNSET}": {cmd: llama-server -m x}
          o: {cmd: "${env.MODELS}/vllm x", ttl: "${env.TTL}"}
        """
    )
    (preset,) = presets(found).presets
    assert (preset.name, preset.description) == ("m-90", "")
    assert dict(preset.env) == {"TOKENIZERS_PARALLELISM": "false"}
    told = [str(note) for note in found.notes]
    assert "m-90: description: a secret is not written" in told
    assert any("the variable UNSET is not set" in line for line in told)
    assert not any(mark in found.text + "".join(told) for mark in ("s3cret", "\ufdd0", "\ufdd1"))


def test_a_secret_of_the_environment_stays_a_reference() -> None:
    found = made(
        """
        models:
          a: {cmd: "llama-server -hf u/r --hf-token ${env.API_KEY_1}", env: ["OPENAI_API_KEY=${env.API_KEY_1}"]}
        """
    )
    assert "hf-token = ${API_KEY_1}" in found.text
    assert "env.OPENAI_API_KEY = ${API_KEY_1}" in found.text
    assert "s3cret" not in found.text
    (preset,) = presets(found).presets
    assert dict(preset.env) == {"OPENAI_API_KEY": "s3cret"}


FLAGS = [
    "-m",
    "-c",
    "--jinja",
    "--no-mmap",
    "-fa",
    "--port",
    "--lora",
    "--chat-template",
    "--alias",
    "env",
    "docker",
    "run",
]
ODD = [
    "x.gguf",
    "8k",
    "on",
    "'a b'",
    "${PORT}",
    "${x}",
    "$",
    "${env.HOME}",
    "#",
    ";",
    "=",
    "[",
    "]",
    "é",
    "-1",
    "{{a}}",
]
WORDS = st.sampled_from([*FLAGS, *ODD, "~/m", "A=1", "${", "\\", "\\\n", "'"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["setParams", "stripParams", "setParamsByID", "x", "id"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["ttl", "aliases", "env", "filters", "macros", "name", "unlisted"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (r'aliases: ["b\n[*]\nengine = /x"]', "alias: its value has several lines"),
        (r'filters: {stripParams: ["b\nengine = /x"]}', "strip-params: its value has several lines"),
        (r'filters: {setParamsByID: {"b\nengine = /x": {seed: 1}}}', "alias: its value has several lines"),
    ],
)
def test_no_value_can_add_a_line_of_its_own(entry: str, words: str) -> None:
    found = made(f"models:\n  a:\n    cmd: llama-server -m x\n    {entry}\n")
    file = presets(found)
    assert (file.defaults.engine, [preset.engine for preset in file.presets]) == ("", [""])
    assert words in "\n".join(map(str, found.notes))


@given(st.lists(WORDS, max_size=12), st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_is_imported_has_no_mistakes(words: list[str], more: dict[str, object]) -> None:
    """What is read is sound for the router, and the rest is told."""
    entry = {"cmd": " ".join(["llama-server -m y", *words]), **more}
    try:
        found = made(json.dumps({"models": {"a": entry}}))
    except Unreadable:
        return
    presets(found)
    assert found.models or found.notes


def test_each_flag_of_a_fork_has_a_line() -> None:  # B-F4
    preset, said = one('cmd: "llama-server -m x -fmoe -rtr -mla 3 -amb 512 --fork-flag -1 -c 5"')
    assert render(preset.args) == ["--model", "x", "--ctx-size", "5"]
    for name in ("-fmoe", "-rtr", "-mla", "-amb", "--fork-flag"):
        assert f"{name}: this llama-server has no such flag" in said


@pytest.mark.parametrize("flag", ["--lora-scaled", "--control-vector-scaled"])
def test_a_scale_that_was_a_word_of_its_own(flag: str) -> None:  # B-F4
    assert (
        argv(f"llama-server -m x {flag} a.gguf 0.5 {flag} b.gguf:2") == f"--model x {flag} a.gguf:0.5 {flag} b.gguf:2"
    )


@pytest.mark.parametrize("name", [r"\0a.gguf", r"'a\nb.gguf'", "' a.gguf'"])
def test_a_model_that_no_line_can_name_is_left_out(name: str) -> None:  # B-F4
    found = made(f'models:\n  a: {{cmd: "llama-server -m {name} -c 5"}}\n  b: {{cmd: "llama-server -m b"}}')
    assert found.models == ("b",)
    assert "[a]" not in found.text
    presets(found)
    assert [str(note) for note in found.notes if "left out" in str(note)] == ["a: left out: no model is left in it"]
