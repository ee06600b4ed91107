"""Model files, chat templates and preset files that were tampered with, read as the router reads them.

Each ends with a result or with an error of ours, within SECONDS; the list of models stays JSON. A case that hangs or
takes too much memory ends the process: run it as a child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import math
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from router import demo
from router.api.details import details
from router.engine import flags
from router.errors import RouterError
from router.memory.demand import predict, projector_size
from router.models import gguf, presets, template
from router.models.describe import describe
from router.models.spec import ModelSpec
from tests.security.fuzz import Found, dice, numbers

SECONDS = 10.0  # for one case, on a busy machine too
TABLE = flags.default_table()
ARGS = [
    [],
    ["--ctx-size", "4096"],
    ["--parallel", "3", "--flash-attn", "off"],
    ["--embedding"],
    ["--spec-type", "draft-mtp"],
    ["--cpu-moe", "--cache-type-k", "q8_0"],
]
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    32,
    255,
    511,
    512,
    513,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
ARCHITECTURES = (
    *(
        "llama",
        "bert",
        "mamba",
        "rwkv7",
        "gemma3",
        "gemma3n",
        "gpt-oss",
        "deepseek2",
        "qwen3next",
        "jamba",
        "falcon-h1",
    ),
    *(
        "nemotron_h",
        "lfm2",
        "minimax-01",
        "kimi-linear",
        "glm-dsa",
        "llama4",
        "exaone4",
        "minimax-m3",
        "hy_v4",
        "x" * 99,
    ),
)
KEYS = """
    block_count context_length embedding_length feed_forward_length attention.head_count
    attention.head_count_kv attention.key_length attention.value_length attention.sliding_window
    attention.sliding_window_pattern attention.key_length_mla attention.value_length_mla
    attention.shared_kv_layers attention.kv_lora_rank attention.indexer.key_length attention.indexer.types
    expert_used_count expert_feed_forward_length rope.dimension_count ssm.inner_size ssm.state_size
    ssm.conv_kernel ssm.group_count ssm.time_step_rank wkv.head_size token_shift_count shortconv.l_cache
    kda.head_dim nextn_predict_layers num_loops full_attention_interval attention.recurrent_layers
    pooling_type vocab_size leading_dense_block_count
""".split()  # noqa: SIM905


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _value(rng: random.Random) -> bytes:
    """A type and a value, which does not always fit it."""
    kind = rng.choice([4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 13, 200])
    number = rng.choice(NUMBERS)
    match kind:
        case 8:
            return struct.pack("<I", 8) + _text(
                rng.choice([b"", b"\xff\xfe", b"x" * 9, b"\0\x1b[2J\n", "\ud800".encode("utf-8", "surrogatepass")])
            )
        case 9:
            count = rng.choice([0, 1, 2, 4, 512, 1024, 1025, 70, 2**32, 2**64 - 1])
            of = rng.choice([4, 5, 6, 7, 8, 9, 12])
            size = {4: 4, 5: 4, 6: 4, 7: 1, 8: 8, 9: 12, 12: 8}[of]
            return struct.pack("<IIQ", 9, of, count) + rng.choice([b"\0", b"\1", b"\xff"]) * size * min(count, 2000)
        case 5:
            return struct.pack("<Ii", 5, rng.choice([-1, -3, 0, 5, -(2**31)]))
        case 6:
            return struct.pack("<If", 6, rng.choice([math.nan, math.inf, -math.inf, -0.0, 1.5]))
        case 7:
            return struct.pack("<IB", 7, rng.choice([0, 1, 2, 255]))
        case 10:
            return struct.pack("<IQ", 10, number)
        case 11:
            return struct.pack("<Iq", 11, rng.choice([-1, -(2**63), 2**63 - 1]))
        case 12:
            return struct.pack("<Id", 12, rng.choice([math.nan, math.inf, 1e308]))
        case _:
            return struct.pack("<II", kind, number & 0xFFFFFFFF)


def _written(rng: random.Random) -> bytes:
    """A header of fields that the estimate reads, with odd values, and tensors of odd shapes."""
    arch = rng.choice(ARCHITECTURES)
    fields = [_text(b"general.architecture") + struct.pack("<I", 8) + _text(arch.encode())]
    layers = rng.choice([0, 1, 2, 4, 20, 64, 512])
    fields.append(_text(f"{arch}.block_count".encode()) + struct.pack("<II", 4, layers))
    for key in rng.sample(KEYS[1:], rng.randint(0, len(KEYS) - 1)):
        value = _value(rng) if rng.random() < 0.6 else struct.pack("<II", 4, rng.choice([0, 1, 4, 64, 2048]))
        fields.append(_text(f"{arch}.{key}".encode()) + value)
    for key in rng.sample(["general.file_type", "general.alignment", "split.count", "tokenizer.ggml.tokens"], 2):
        if rng.random() < 0.3:
            fields.append(_text(key.encode()) + _value(rng))
    fields.append(_text(b"tokenizer.chat_template") + struct.pack("<I", 8) + _text(_template(rng).encode()))
    tensors = []
    for n in range(rng.choice([0, 1, 3, 9])):
        name = rng.choice(
            [
                b"blk.%d.ffn_up.weight" % n,
                b"output.weight",
                b"token_embd.weight",
                b"blk.\xb2.x",
                b"blk." + b"9" * 5000 + b".x",
            ]
        )
        shape = [rng.choice([0, 1, 32, 256, 2**32, 2**63, 2**64 - 1]) for _ in range(rng.randint(0, 5))]
        kind, offset = rng.choice([0, 1, 2, 12, 39, 99, 2**32 - 1]), rng.choice([0, 0, 32, 2**63, 2**64 - 1])
        tensors.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
    counts = [len(tensors), len(fields)]
    if rng.random() < 0.1:
        counts[rng.randrange(2)] = rng.choice(NUMBERS)
    return (
        b"GGUF"
        + struct.pack("<IQQ", 3, *counts)
        + b"".join(fields)
        + b"".join(tensors)
        + bytes(rng.choice([0, 64, 4096]))
    )


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """Changes, removes or repeats some bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(min(len(changed), 2000)) if rng.random() < 0.5 else rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                changed[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
            case 3:
                del changed[at : at + rng.choice([1, 4, 8, 100])]
            case 4:
                changed[at:at] = changed[at : at + rng.choice([1, 8, 1000])]
            case _:
                del changed[max(at, 1) :]
        changed = changed or bytearray(b"G")
    return bytes(changed)


_NAMES = (
    "a",
    "b",
    "messages",
    "tools",
    "enable_thinking",
    "thinking",
    "reasoning_effort",
    "ns",
    "loop",
    "true",
    "none",
)

REPEATED = (
    *("{%", "{{", "{#", "(", "[", "-", "not ", "a.", "a|", "'", "{% if a %}", "{% for a in a %}", "{% raw %}", "1."),
    *("{% set a = [a, a] %}", "{% set a = a ~ a %}", "{% set a = a + a %}", "{% set a = (a, a, a) %}", " \n"),
    *("{% if a %}{% set b = [b, a] %}{% endif %}", "{% set ns.a = [ns.a, ns.a] %}", "{% macro a(b) %}{% endmacro %}"),
)


def _expression(rng: random.Random, depth: int = 0) -> str:
    def more() -> str:
        return _expression(rng, depth + 1)

    if depth > 6 or rng.random() < 0.25:
        return rng.choice([*_NAMES, "'low'", "'high'", "1", "1.5", "'\\x'", "[]", "{}", "9" * 50, "1e999", "'\u00df'"])
    make: Callable[[], str] = rng.choice(
        [
            lambda: f"[{more()}, {more()}]",
            lambda: f"({more()}, {more()})",
            lambda: f"{{{more()}: {more()}}}",
            lambda: (
                f"{more()} {rng.choice(['==', '!=', '<', 'in', 'not in', 'and', 'or', '+', '~', '%', '**'])} {more()}"
            ),
            lambda: f"not {more()}",
            lambda: f"-({more()})",
            lambda: f"({more()}) is {rng.choice(['defined', 'none', 'string', 'odd', 'in [1]', 'nothing'])}",
            lambda: (
                f"({more()})|{rng.choice(['lower', 'upper', 'trim', 'tojson', 'default(a)', 'd(1, true)', 'nothing'])}"
            ),
            lambda: f"a.b[{more()}]",
            lambda: f"f({more()}, k={more()})",
            lambda: f"{more()} if {more()} else {more()}",
            lambda: f"a[{more()}:{more()}]",
        ]
    )
    return f"({make()})"


def _template(rng: random.Random) -> str:
    way = rng.random()
    if way < 0.15:  # one thing very often
        each = rng.choice(REPEATED)
        begin, end = rng.choice([("", ""), ("{{ ", " }}"), ("{% set a = [] %}", "{{ a }}{% if a == a %}x{% endif %}")])
        return begin + each * (rng.choice([10, 100, 1000, 70_000]) // len(each) + 1) + end
    parts = []
    for _ in range(rng.choice([1, 5, 20, 100])):
        name, other, value = rng.choice(_NAMES[:9]), rng.choice(_NAMES), _expression(rng)
        parts.append(
            rng.choice(
                [
                    f"{{{{ {value} }}}}",
                    f"{{% set {name} = {value} %}}",
                    f"{{% set ns = namespace({name}={value}) %}}{{% set ns.{name} = {other} %}}",
                    f"{{% if {value} %}}<think>{{% set {name} = {other} %}}{{% elif {other} %}}b{{% endif %}}",
                    f"{{% for {name}, x in {value} %}}{{{{ {other} }}}}{{% else %}}{{% endfor %}}",
                    f"{{% macro {name}(x={other}) %}}{{{{ {value} }}}}{{% endmacro %}}",
                    f"{{% set {name} %}}{{{{ {value} }}}}{{% endset %}}",
                    f"{{% call {name}(x) %}}{{{{ {value} }}}}{{% endcall %}}",
                    "{% generation %}x{% endgeneration %}{% break %}{% include 'x' %}{% extends x %}",
                    "\0\ufeff\u2028",
                ]
            )
        )
    text = "".join(parts)
    return _mutated(text.encode(), rng).decode(errors="replace") if way < 0.4 else text


def _ini(rng: random.Random) -> bytes:
    keys = [flag.name.lstrip("-") for flag in TABLE.flags]
    values = [
        "1",
        "on",
        "",
        "-1",
        "1e999",
        "nan",
        "9" * 5000,
        "{" * 5000,
        "[" * 100_000,
        "a;b",
        "\\#x",
        "\u2028",
        "\x1b[2J",
    ]
    lines = []
    for _ in range(rng.choice([1, 5, 50, 3000])):
        key = rng.choice(
            [*keys, "ttl", "priority", "pin", "tags", "set-params", "strip-params", "env.A", "x" * 200, "=", "alias"]
        )
        lines.append(
            rng.choice(
                [
                    f"[{rng.choice(['a', 'b', '*', '', ']', '[' * 99, 'x' * 9999])}]",
                    f"{key} = {rng.choice(values)}",
                    f"{key}={rng.choice(values)} ; c",
                    "[",
                    "\0",
                    "=" * 100,
                    ";",
                ]
            )
        )
    text = rng.choice(["\n", "\r\n", "\r"]).join(lines).encode()
    begin = rng.choice([b"", b"\xef\xbb\xbf", b"\xff\xfe"])
    return begin + (_mutated(text, rng) if rng.random() < 0.5 else text)


def _look(path: Path, rng: random.Random) -> None:
    args = flags.parse(rng.choice(ARGS), TABLE)
    spec = describe(ModelSpec("m", "models_dir", tuple(args), model_path=path))
    json.loads(json.dumps([asdict(spec.info), details(spec.info)], allow_nan=False))
    try:
        header = gguf.read_model(path)
    except RouterError:
        assert spec.info.problem
        return
    for gpus in (0, 2):
        demand = predict(args, header, gpus=gpus, projector=projector_size(args, header)).demand
        json.dumps([demand.split, demand.fixed, demand.host, demand.total], allow_nan=False)


def one_case(folder: Path, model: bytes, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            path = folder / "m.gguf"
            path.write_bytes(_mutated(model, rng))
            _look(path, rng)
        case 1:
            path = folder / "w.gguf"
            written = _written(rng)
            path.write_bytes(_mutated(written, rng) if rng.random() < 0.3 else written)
            _look(path, rng)
        case 2:
            template.analyse(_template(rng))
        case _:
            ini = folder / "p.ini"
            ini.write_bytes(_ini(rng))
            with contextlib.suppress(RouterError):
                presets.read(ini, TABLE, foreign=rng.random() < 0.3)


def run(seed: int, seconds: float, cases: int = 10**9, only: int | None = None) -> int:
    """Returns how many cases there were. Raises Found."""
    done = 0
    logging.getLogger("router").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = demo.write_tiny(folder / "tiny.gguf").read_bytes()[:40_000]
        for number in numbers(seconds, cases, only):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                one_case(folder, model + bytes(600_000) * (number % 2), dice(seed, number))
            except Exception as exc:
                raise Found("files", seed, number, repr(exc)[:500], exc.__traceback__) from exc
            finally:
                faulthandler.cancel_dump_traceback_later()
            done += 1
    return done
