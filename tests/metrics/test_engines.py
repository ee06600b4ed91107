"""The engines' own metrics, of children that may write anything."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.metrics import engines
from router.metrics.engines import MAX_SAMPLES, merged
from router.metrics.exposition import OPENMETRICS, TEXT, Format
from tests.metrics.scrapes import Sample, check_with_promtool, find, needs_promtool, read

# As a llama-server writes it.
GOOD = b"""# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 25
# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 28
# HELP llamacpp:predicted_tokens_seconds Average generation throughput in tokens/s
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds 531.067
# HELP llamacpp:spec_decode_num_accepted_tokens_per_pos_total Accepted tokens per draft position
# TYPE llamacpp:spec_decode_num_accepted_tokens_per_pos_total counter
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 3
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 2
"""


def samples_of(texts: dict[str, bytes], form: Format) -> list[Sample]:
    text = merged(texts, form) + form.end
    return read(text.decode(), form)


@pytest.mark.parametrize("form", Format)
def test_models_stand_together_with_their_label(form: Format) -> None:
    samples = samples_of({"a": GOOD, 'b"\n': GOOD}, form)
    assert find(samples, "llamacpp:prompt_tokens_total", model="a") == 25
    assert find(samples, "llamacpp:prompt_tokens_total", model='b"\n') == 25
    assert find(samples, "llamacpp:n_tokens_max", model="a") == 28
    per_position = "llamacpp:spec_decode_num_accepted_tokens_per_pos_total"
    assert find(samples, per_position, model="a", position="1") == 2
    assert len(samples) == 10


@pytest.mark.parametrize("form", Format)
def test_a_lone_model_has_no_label(form: Format) -> None:
    assert {tuple(each.labels) for each in samples_of({"": GOOD}, form)} == {(), ("position",)}


HOSTILE = {
    "names of the router": b"llama_router_requests_total 1\nprocess_cpu_seconds_total 1\nup 1\n",
    "a label that is ours": b'llamacpp:x{model="other"} 1\nllamacpp:x{__name__="up"} 1\n',
    "a value that breaks out": b'llamacpp:x{a="\\"} 1\nllamacpp:x{a="b"c"} 1\nllamacpp:x{a="b} 1\n',
    "an escape that is none": b'llamacpp:x{a="\\q"} 1\n',
    "labels twice": b'llamacpp:x{a="1",a="2"} 1\n',
    "no value": b"llamacpp:x\nllamacpp:x{} \nllamacpp:x one\nllamacpp:x 1_000\nllamacpp:x 0x1\nllamacpp:x infinity\n",
    "numbers that are too large": b"llamacpp:x 1e999\nllamacpp:x -1e309\nllamacpp:x 1" + 400 * b"0" + b"\n",
    "labels of Prometheus": b'llamacpp:x{__type__="counter"} 1\nllamacpp:x{__address__="a"} 1\n',
    "negative counts": b"# TYPE llamacpp:x_total counter\nllamacpp:x_total -1\nllamacpp:x_total NaN\n",
    "too long": b"llamacpp:" + 200 * b"x" + b' 1\nllamacpp:x{a="' + 5000 * b"b" + b'"} 1\n',
    "no text": bytes(range(256)) * 20,
    "nothing": b"",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", Format)
def test_what_is_not_well_formed_costs_only_itself(text: bytes, form: Format) -> None:
    good = samples_of({"good": GOOD}, form)
    assert samples_of({"bad": text, "good": GOOD}, form) == good
    assert samples_of({"good": GOOD, "bad": text}, form) == good
    assert samples_of({"bad": text + GOOD}, form) == samples_of({"bad": GOOD}, form)


ODD = {
    "the same series twice": b'llamacpp:x{a="1",b="2"} 1\nllamacpp:x{b="2",a="1"} 2\nllamacpp:x{a="1",b="2",} 3\n',
    "another type": b"# TYPE llamacpp:prompt_tokens_total gauge\nllamacpp:prompt_tokens_total 3\n",
    "a type after the samples": b"llamacpp:x_total -1\n# TYPE llamacpp:x_total counter\nllamacpp:x_total 2\n",
    "a type twice": b"# TYPE llamacpp:x gauge\n# TYPE llamacpp:x counter\nllamacpp:x 1\n",
    "families in pieces": b"llamacpp:x 1\nllamacpp:y 1\nllamacpp:x 2\nllamacpp:y 2\n",
    "clashes with a counter": (
        b"# TYPE llamacpp:y_total counter\n# TYPE llamacpp:z_total counter\n"
        b"llamacpp:y 1\nllamacpp:y_total 3\nllamacpp:z_total 1\nllamacpp:z_created 2\n"
    ),
    "clashes of names": b"llamacpp:prompt_tokens 1\nllamacpp:prompt_tokens_created 2\nllamacpp:prompt_tokens_total 3\n",
    "a histogram": b'# TYPE llamacpp:h histogram\nllamacpp:h_bucket{le="1"} 1\nllamacpp:h_sum 2\nllamacpp:h_count 1\n',
    "help": b'# HELP llamacpp:x \\ "\x1b[31m\\n\\\n# TYPE llamacpp:x gauge\nllamacpp:x 1 1700000000000\n',
    "separators of lines": 'llamacpp:x{a="1\u20282\x853\x0b4\r5"} 1\n'.encode(),
    "no unicode": b'llamacpp:x{a="\xff\xfe"} 1\n',
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
@pytest.mark.parametrize("form", Format)
def test_what_is_odd_is_made_well_formed(text: bytes, form: Format) -> None:
    for texts in ({"bad": text, "good": GOOD}, {"good": GOOD, "bad": text}):
        found = samples_of(texts, form)
        assert any(each.labels["model"] == "bad" for each in found)
        assert find(found, "llamacpp:prompt_tokens_total", model="good") == 25


def test_where_models_disagree_nobody_knows_the_type() -> None:
    text = merged({"bad": ODD["another type"], "good": GOOD}, TEXT).decode()
    assert "# TYPE llamacpp:prompt_tokens_total untyped\n" in text
    assert "# TYPE llamacpp:prompt_tokens_total counter\n" in merged({"good": GOOD}, TEXT).decode()
    assert "# TYPE llamacpp:prompt_tokens counter\n" in merged({"good": GOOD}, OPENMETRICS).decode()


def test_no_control_character_of_a_child_comes_through() -> None:
    texts = {str(number): text for number, text in enumerate([*HOSTILE.values(), *ODD.values()])}
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", merged(texts, TEXT).decode())


def test_the_first_of_two_samples_counts() -> None:
    (sample,) = samples_of({"a": ODD["the same series twice"]}, TEXT)
    assert sample.value == 1


def test_one_child_cannot_make_a_scrape_large() -> None:
    many = b"".join(b'llamacpp:x{n="%d"} 1\n' % number for number in range(200_000))
    names = b"".join(b"llamacpp:x%d 1\n" % number for number in range(200_000))
    heads = b"".join(b"# TYPE llamacpp:x%d gauge\n" % number for number in range(200_000))
    for text in (many, names, heads):
        assert len(samples_of({"bad": text}, TEXT)) <= MAX_SAMPLES
        assert len(merged({"bad": text}, TEXT)) < 200_000
    assert len(many[: engines.MAX_BYTES]) < len(many)


lines = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda *parts: b"".join(parts),
        st.sampled_from([b"", b"# TYPE ", b"# HELP ", b"#", b"# EOF\n"]),
        st.sampled_from([b"llamacpp:a", b"llamacpp:a_total", b"llamacpp:a_created", b"llamacpp:b_bucket", b"x"]),
        st.sampled_from([b"", b"{", b'{a="1"}', b'{a="\\"",b="\\\\"}', b'{le="1"}', b"{}", b'{a="\\']),
        st.sampled_from([b" ", b"", b"\t", b"\r"]),
        st.sampled_from([b"1", b"-1", b"1e5", b"NaN", b"+Inf", b"counter", b"gauge", b"info", b"1 2", b'"', b"\\"]),
    ),
)


@given(st.lists(lines, max_size=12), st.lists(lines, max_size=12))
def test_whatever_they_write_the_scrape_is_well_formed(one: list[bytes], other: list[bytes]) -> None:  # B-O4
    texts = {"a": b"\n".join(one), "b": b"\n".join(other), "good": GOOD}
    for form in Format:
        samples = samples_of(texts, form)
        assert find(samples, "llamacpp:predicted_tokens_seconds", model="good") == 531.067
        assert all(each.name.startswith("llamacpp:") for each in samples)


@needs_promtool
def test_promtool_has_nothing_against_it() -> None:
    check_with_promtool(merged({"bad": b"\n".join([*HOSTILE.values(), *ODD.values()]), "good": GOOD}, TEXT).decode())
    assert merged({}, OPENMETRICS) == b""
