"""`${NAME}` and `~` in values, and the texts in which they are nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.models.presets import Preset, parse
from tests.models.rig import TABLE

HOME = str(Path.home())
ENVIRON = {"D": "/data", "EMPTY": "", "N": "4096", "ON": "on", "LINES": "a\nb", "LONG": "x" * 40_000, "SELF": "${SELF}"}


def preset(line: str) -> Preset:
    file, problems = parse(f"[a]\n{line}\n", TABLE, environ=ENVIRON)
    assert not problems
    return file.presets[0]


def value(line: str) -> str:
    (arg,) = preset(line).args
    return " ".join(arg.values)


# B-F8
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("model = ${D}/x.gguf", "/data/x.gguf"),
        ("model = ${D}/${N}/x", "/data/4096/x"),
        ("model = ${NONE:-/srv}/x", "/srv/x"),
        ("model = ${EMPTY:-/srv}/x", "/srv/x"),
        ("model = ${EMPTY}/x", "/x"),
        ("model = ${NONE:-}/x", "/x"),
        ("model = ${NONE:-a:b-c}", "a:b-c"),
        ("model = $${D}/${N}", "${D}/4096"),
        ("model = ${SELF}", "${SELF}"),  # once
        ("model = $D/x", "$D/x"),
        ("model = a$$b", "a$$b"),
        ("model = ~/x", f"{HOME}/x"),
        ("model = ~", HOME),
        ("model = ${NONE:-~}/x", f"{HOME}/x"),
        ("model = a~/x", "a~/x"),
        ("model = ~nobody-here/x", "~nobody-here/x"),
        ("lora = ~/a,b,~/c", f"{HOME}/a,b,{HOME}/c"),
        ("lora-scaled = ~/a:0.5", f"{HOME}/a:0.5"),
        ("ctx-size = ${N}", "4096"),
        ("LLAMA_ARG_CTX_SIZE = ${N}", "4096"),
        ("hf-repo = ${NONE:-user/repo}", "user/repo"),
        ("log-file = ~/log", f"{HOME}/log"),
        # Text of other languages.
        ("chat-template = {{ '${D}' }}", "{{ '${D}' }}"),
        ('chat-template-kwargs = {"a": "${D} ~ $$"}', '{"a": "${D} ~ $$"}'),
        ("grammar = root ::= ${D}", "root ::= ${D}"),
        ("override-tensor = x${2}$=CPU", "x${2}$=CPU"),
        ("reverse-prompt = ${D} ~/", "${D} ~/"),
        ("jinja-x = 1", ""),
    ][:-1],
)
def test_values(line: str, expected: str) -> None:
    assert value(line) == expected


def test_keys_of_the_router() -> None:
    found = preset(
        "ttl = ${N}\npin = ${ON}\nalias = b-${N}\nenv.A = ${D}:${NONE:-x}\nenv.B = $${D} ${N}\ndescription = ${D}\n"
        'set-params = {"a": "${D}"}\nsystem-prefix = costs ${D}'
    )
    assert (found.ttl, found.pin, found.aliases) == (4096, True, ("b-4096",))
    assert dict(found.env) == {"A": "/data:x", "B": "${D} 4096"}
    assert (found.description, dict(found.set_params)) == ("${D}", {"a": '"${D}"'})
    assert found.system_prefix == "costs ${D}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model = ${NONE}/x", "the variable NONE is not set: set it, or write ${NONE:-value}"),
        ("model = ${D", "a variable is written ${NAME} or ${NAME:-value}; model has another"),
        ("model = ${}", "a variable is written"),
        ("model = ${1a}", "a variable is written"),
        ("model = ${D:?no}", "a variable is written"),
        ("model = ${A:-${B}}", "a variable is written"),
        ("model = ${LINES}", "would have several lines"),
        ("model = ${LONG}${LONG}", "longer than"),
        ("ctx-size = ${EMPTY}", "needs a value"),
        ("pin = ${D}", "is a switch"),
    ],
)
def test_mistakes(line: str, words: str) -> None:
    _, problems = parse(f"[b]\nmodel = x\n[a]\n{line}\n", TABLE, environ=ENVIRON)
    (problem,) = problems
    assert words in problem.message
    assert problem.line == 4
    assert len(problem.message) < 200


@given(st.text(st.sampled_from("${}~DN:-/ a"), max_size=20))
def test_any_value_is_read_or_a_mistake(text: str) -> None:
    file, problems = parse(f"[a]\nmodel = {text}\n", TABLE, environ=ENVIRON)
    if not problems and "${" not in text and "~" not in text:
        assert file.presets[0].args[0].values == (text.strip(),)
