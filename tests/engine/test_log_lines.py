"""Lines of an engine's log: how bad they are, and how they are shown. B-P11"""

from __future__ import annotations

import logging
import re

import pytest

from router.engine.log_lines import level_of, shown
from tests.test_logs import FORBIDDEN

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

# As llama-server b11434 writes them with --log-prefix, --log-timestamps, --log-colors and --log-jsonl in turn.
LINES = {
    "0.00.015.302 E srv    load_model: failed to load model, '/nonexist.gguf'": ERROR,
    "12.34.015.302 W n_ctx_seq (4096) < n_ctx_train (32768)": WARNING,
    "0.00.015.303 I srv    operator(): cleaning up before exit, no error": INFO,
    "0.00.015.303 D slot   update_slots: failed to find a slot, trying again": DEBUG,
    "E srv    load_model: it is bad": ERROR,
    "W srv    load_model: it may be bad": WARNING,
    "I srv    load_model: 0 failed": INFO,
    '{"type":"log","time":4492,"level":"error","msg":"llama_model_load_from_file_impl: broken\\n"}': ERROR,
    '{"type":"log","time":4492,"level":"warn","msg":"a long context\\n"}': WARNING,
    '{"type":"log","time":4492,"level":"info","msg":"no error\\n"}': INFO,
    "": INFO,
    "srv  llama_server: model loaded": INFO,
    "srv  llama_server: exiting due to model loading error": ERROR,
    "/src/ggml.c:1234: GGML_ASSERT(n_dims <= 4) failed": ERROR,
    "CUDA error: out of memory": ERROR,
    "terminate called after throwing an instance of 'std::runtime_error'": ERROR,
    "Segmentation fault (core dumped)": ERROR,
    "warning: this flag is old": WARNING,
    "common_init: --foo is deprecated": WARNING,
    "In the beginning": INFO,  # the letters are followed by a space, and by what a line of the log has
    "Errors are counted: none": INFO,
}


@pytest.mark.parametrize(("line", "level"), LINES.items())
def test_how_bad_a_line_is(line: str, level: int) -> None:  # B-O5
    assert level_of(line) == level
    for style in ("\x1b[31m{}\x1b[0m", "\x1b[34m{}\x1b[0m\x1b[0;1m"):
        [plain] = shown([style.format(line).encode()])
        assert (plain, level_of(plain)) == (line, level)


HOSTILE = {
    b"\x1b[31mred\x1b[0m \x1b[38;5;12mblue\x1b[m": "red blue",
    b"\x1b[2J\x1b]0;title\x07\x1b[1;1H": r"\x1b[2J\x1b]0;title\x07\x1b[1;1H",
    b"half of \xff\xfe a letter \xc3": "half of \ufffd\ufffd a letter \ufffd",
    b"tab\there\r": "tab    here",
    b"over\rwritten": r"over\rwritten",
    b"null \x00 bell \x07 del \x7f": r"null \x00 bell \x07 del \x7f",
    "C1 \x9b31m, next line \x85, \u2028 and \u202egpj".encode(): r"C1 \x9b31m, next line \x85, \u2028 and \u202egpj",
    "Grüße, мир, 世界 👩‍👩‍👧".encode(): "Grüße, мир, 世界 👩‍👩‍👧",
    b"proxy http://user:pass@host/x": "proxy http://***@host/x",
    b"": "",
}


def test_hostile_bytes_are_shown_as_text() -> None:  # B-P11 B-T7
    for line, expected in HOSTILE.items():
        assert shown([line]) == [expected]
    together = shown(list(HOSTILE))
    assert together == list(HOSTILE.values())
    assert not re.search(FORBIDDEN, "\n".join(together))
