"""What templates of each family can do; and a hostile template gets an answer too."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.models import template
from router.models.template import MAX_CHARACTERS, Reasoning, TemplateFeatures, analyse
from tests.conftest import Starter

CHATML = """
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
%s{% endif %}"""


def chatml(generation: str = "") -> str:
    return CHATML.replace("%s", generation)


QWEN3 = chatml("{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}")
SMALL = chatml(
    "{% if enable_thinking is defined and enable_thinking is true %}<think>{% else %}<think></think>{% endif %}"
)
GLM = chatml("{{ '<think></think>' if (enable_thinking is defined and not enable_thinking) else '' }}")
DEEPSEEK = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}" + chatml(
    "{% if not thinking %}</think>{% else %}<think>{% endif %}"
)
GPT_OSS = """
{%- macro system() %}Reasoning: {{ reasoning_effort }}
{%- endmacro %}
{%- if reasoning_effort is not defined %}{% set reasoning_effort = "medium" %}{% endif %}
{{- system() }}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"""
DISTILL = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}" + chatml("<think>\n")
LLAMA = """
{%- if tools is not none and tools_in_user_message %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}
{%- for m in messages %}{% if 'tool_calls' in m %}{{ m.tool_calls[0].function.name }}{% endif %}{% endfor %}"""


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        (QWEN3, Reasoning("enable_thinking", True)),
        (SMALL, Reasoning("enable_thinking", False)),
        (GLM, Reasoning("enable_thinking", True)),
        (DEEPSEEK, Reasoning("thinking", False)),
        (GPT_OSS, Reasoning("reasoning_effort", "medium")),
        (DISTILL, Reasoning("always", True)),
        (chatml(), None),
        (LLAMA, None),
        ("", None),
    ],
)
def test_templates_of_each_family_are_understood(text: str, reasoning: Reasoning | None) -> None:  # B-C2
    assert analyse(text) == TemplateFeatures("tools" in text, reasoning)


@pytest.mark.parametrize(
    ("generation", "default"),
    [
        ("{% if enable_thinking %}<think>{% endif %}", False),
        ("{% if not enable_thinking %}</think>{% endif %}", False),
        ("{% if enable_thinking is not false %}<think>{% endif %}", True),
        ("{% if enable_thinking is undefined or enable_thinking %}<think>{% endif %}", True),
        ("{% if enable_thinking | default(true) %}<think>{% endif %}", True),
        ("{% if enable_thinking | default(false) %}<think>{% endif %}", False),
        ("{% if not (enable_thinking | default(none)) %}</think>{% endif %}", False),
        ("{% if enable_thinking | d('', true) %}<think>{% endif %}", False),
        ("{% if enable_thinking == false %}</think>{% endif %}", True),
        ("{% if enable_thinking != false %}<think>{% endif %}", True),
        ("{% if enable_thinking is sameas true %}<think>{% endif %}", False),
        ("{% if enable_thinking in [true, 'on'] %}<think>{% endif %}", False),
        ("{% if messages and loop_depth > 1 and enable_thinking %}<think>{% endif %}", False),
        ("{% if loud or not enable_thinking %}</think>{% endif %}", False),
        ("{% if a %}{% elif enable_thinking is defined and not enable_thinking %}</think>{% endif %}", True),
        ("{% set on = enable_thinking if enable_thinking is defined else true %}{% if on %}<think>{% endif %}", True),
        ("{% set how = '/' ~ 'a' if enable_thinking else 'b' %}{{ how | upper }}", False),
        ("{% set ns = namespace(on=enable_thinking | default(true)) %}{% if ns.on %}<think>{% endif %}", True),
        (
            "{% set ns = namespace(on=0) %}{% set ns.on = enable_thinking or false %}{% if ns.on %}<think>{% endif %}",
            False,
        ),
        (
            "{% set on = enable_thinking is defined and enable_thinking %}{% for m in messages %}{{ on }}{% endfor %}",
            False,
        ),
        ("{% if x %}{% set t = enable_thinking | default(true) %}{% else %}{% set t = true %}{% endif %}{{ t }}", True),
        ("{% with x = 1 %}{% if enable_thinking %}<think>{% endif %}{% endwith %}", False),
        # An unset switch is neither: the model decides, or what was written.
        ("{% if enable_thinking is defined %}{{ '/think' if enable_thinking else '/no_think' }}{% endif %}", None),
        (
            "{% set n = namespace(on=enable_thinking) %}{% for m in mm %}{% set n.on = m %}{% endfor %}{{ n.on }}",
            None,
        ),
    ],
)
def test_default_of_the_switch_is_found(generation: str, default: bool | None) -> None:
    reasoning = analyse(chatml(generation)).reasoning
    assert reasoning == Reasoning("enable_thinking", default)


@pytest.mark.parametrize(
    ("text", "levels", "default"),
    [
        ("{% if reasoning_effort == 'high' %}a{% elif reasoning_effort == 'low' %}b{% endif %}", ("high", "low"), None),
        (
            "{% set e = reasoning_effort | default('low') %}{% if e in ['low', 'max'] %}{{ e }}{% endif %}",
            ("low", "max"),
            "low",
        ),
        ("{% if (reasoning_effort or 'high') | lower == 'low' %}brief{% endif %}", ("low", "high"), "high"),
        (
            "{% if reasoning_effort is defined and reasoning_effort is not none %}{{ reasoning_effort }}{% endif %}",
            (),
            None,
        ),
        ("{{ reasoning_strength if reasoning_strength is defined else 'high' }}", (), "high"),
        ("{% if reasoning_effort is eq('none') %}</think>{% else %}<think>{% endif %}", ("none",), None),
    ],
)
def test_levels_of_effort_are_found(text: str, levels: tuple[str, ...], default: str | None) -> None:
    assert analyse(text).reasoning == Reasoning("reasoning_effort", default, levels)


def test_switch_may_have_levels_too() -> None:
    both = "{% if enable_thinking %}{% if reasoning_effort == 'max' %}hard{% endif %}<think>{% endif %}"
    assert analyse(both).reasoning == Reasoning("enable_thinking", False, ("max",))


def test_switch_that_another_switch_sets_is_found() -> None:
    text = "{% set thinking = thinking if thinking is defined else enable_thinking | default(true) %}"
    assert analyse(text + "{% if thinking %}<think>{% endif %}").reasoning == Reasoning("enable_thinking", True)


@pytest.mark.parametrize("name", sorted(template.PRESERVES))
def test_variables_that_keep_thoughts_are_found(name: str) -> None:
    text = QWEN3 + f"{{% if {name} %}}{{{{ messages[0].reasoning_content }}}}{{% endif %}}"
    assert analyse(text).reasoning == Reasoning("enable_thinking", True, preserve=True)


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ m.thinking }}{% endfor %}",  # a field of a message
        "{% set thinking = messages[0].thoughts %}{{ thinking }}",  # a name of its own
        "{% set a, enable_thinking = messages %}{{ enable_thinking }}",
        "{% set reasoning_effort = enable_thinking %}",  # nothing comes of it
        "{# enable_thinking, <think> and tools #}",
        "{% set tools %}a{% endset %}{{ tools }}",
    ],
)
def test_names_that_are_no_switch_are_ignored(text: str) -> None:
    assert analyse(text) == TemplateFeatures()


def test_tags_of_training_and_loops_are_understood() -> None:
    text = "{% for m in messages %}{% if m %}{% continue %}{% endif %}{% generation %}x{% endgeneration %}{% endfor %}"
    assert analyse(text + QWEN3).reasoning == Reasoning("enable_thinking", True)


@pytest.mark.parametrize(
    "text", ["{% shout %}%s{% endshout %}", "{% if %}%s", "{{ " + "(" * 5000 + "%s", "{{ " + "9" * 5000 + " }}%s"]
)
def test_unparsable_template_is_judged_by_its_words(text: str) -> None:
    unknown = text.replace("%s", "{% if tools and enable_thinking and clear_thinking %}")
    assert analyse(unknown) == TemplateFeatures(True, Reasoning("enable_thinking", None, preserve=True))
    assert analyse(text.replace("%s", "{{ reasoning_effort }}")).reasoning == Reasoning("reasoning_effort", None)
    assert analyse(text.replace("%s", "<think>")).reasoning == Reasoning("always", True)
    assert analyse(text.replace("%s", "")).reasoning is None


def test_too_long_template_is_judged_by_its_words() -> None:
    assert analyse(QWEN3 + " " * MAX_CHARACTERS).reasoning == Reasoning("enable_thinking", None)
    assert analyse(" " * MAX_CHARACTERS + QWEN3).reasoning is None


@pytest.mark.parametrize(
    "piece",
    [
        "{% set a = a ~ a %}",  # would double each time
        "{% set a = [a, a] %}",
        "{% set a %}{{ a }}{{ a }}{% endset %}",
        "{% if a %}{% set a = b %}{% endif %}",
        "{% macro a() %}{{ a() }}{% endmacro %}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ range(10 ** 12) | list }}",
        "{{ a.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_hostile_template_is_not_rendered(piece: str) -> None:
    """An answer comes; the length alone bounds its time and memory."""
    count = (MAX_CHARACTERS - len(QWEN3)) // len(piece)
    assert analyse(piece * count + QWEN3).reasoning == Reasoning("enable_thinking", True)


@pytest.mark.parametrize("text", ["{% if a %}" * 3000 + "{% endif %}" * 3000, "{{ a" + ".a" * 20000 + " }}"])
def test_deep_nesting_is_judged_by_its_words(text: str) -> None:
    assert analyse(text + QWEN3).reasoning == Reasoning("enable_thinking", None)


def test_authors_default_reaches_the_child(engine: str, routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    (tmp_path / "small.jinja").write_text(SMALL)
    (tmp_path / "large.jinja").write_text(QWEN3)
    (tmp_path / "models.ini").write_text(
        f"[*]\nmodel = {tiny_models}/tiny-a.gguf\n"
        f"[small]\nchat-template-file = {tmp_path}/small.jinja\n"
        f"[large]\nchat-template-file = {tmp_path}/large.jinja\n"
        f"[always]\nchat-template-file = {tmp_path}/small.jinja\nreasoning = on\n"
        "[plain]\n"
    )
    router = routers("--engine", engine, "--models-preset", str(tmp_path / "models.ini"))
    listing = router.listing()
    expected = {"control": "enable_thinking", "default": False, "levels": [], "preserve": False}
    assert [listing[name]["reasoning"] for name in ("small", "large", "plain")] == [
        expected,
        {**expected, "default": True},
        None,
    ]
    assert "thinking" in listing["small"]["capabilities"]
    assert "thinking" not in listing["plain"]["capabilities"]

    def prompt(model: str, **kwargs: bool) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": kwargs}
        return str(router.client.post("/apply-template", json=body).raise_for_status().json()["prompt"])

    assert prompt("small").endswith("<think></think>")
    assert prompt("small", enable_thinking=True).endswith("<think>")
    assert prompt("always").endswith("<think>")
    assert prompt("large").endswith("assistant\n")
    assert router.listing()["small"]["reasoning"] == expected
