"""PURE: what the values of llama-server's flags may be: numbers and their bounds, words, JSON, paths.

The operator's own values are meant here; what strangers may set is the matter of `allowlist`, whose bounds are
narrower. `fault` says what is wrong with one argument. A build that is newer may take more words, so those that its own
help names are right too (`FlagTable.choices`). Called by `check` of preset files, and by the import of other programs'
files. By common/arg.cpp of b11434.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping

from router.engine.allowlist import FRACTION_FLAGS, TEMPLATES, is_jinja
from router.engine.flags import Arg, Flag, boolean, default_table

SHOWN_CHARACTERS = 80  # of a wrong value, in its sentence


def _flags(names: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in names.split())


# Paths of files that are read: a missing one ends the start. Several are separated by commas.
READ_FILES = _flags("""
    model mmproj spec-draft-model lora lora-scaled control-vector control-vector-scaled grammar-file json-schema-file
    chat-template-file mcp-servers-config lookup-cache-static webui-config-file
""")
READ_FOLDERS = _flags("media-path slot-save-path path video-ffmpeg-dir")
# Files that are made; their folder must be there.
WRITTEN_FILES = _flags("log-file lookup-cache-dynamic")
PATHS = READ_FILES | READ_FOLDERS | WRITTEN_FILES | _flags("log-prompts-dir")
# Several paths with commas between; and those with a number behind each, as in `x.gguf:0.5`.
PATH_LISTS = _flags("lora lora-scaled control-vector control-vector-scaled")
SCALED_PATHS = _flags("lora-scaled control-vector-scaled")

# Text of people, templates, grammars, JSON and regular expressions: quotes, `$` and `~` are part of it.
TEXTS = _flags("""
    chat-template chat-template-kwargs json-schema grammar reverse-prompt dry-sequence-breaker
    reasoning-budget-message override-tensor spec-draft-override-tensor mcp-servers-json webui-config logit-bias
    samplers
""")
JSON_OBJECTS = _flags("chat-template-kwargs json-schema mcp-servers-json webui-config")

_KV_TYPES = "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1"
CHOICES: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for names, words in (
        ("--cache-type-k --cache-type-v --cache-type-k-draft --cache-type-v-draft", _KV_TYPES),
        ("--rope-scaling", "none linear yarn"),
        ("--split-mode", "none layer row tensor"),
        ("--numa", "distribute isolate numactl"),
        ("--pooling", "none mean cls last rank"),
        ("--load-mode", "auto none mmap mlock mmap+mlock dio"),
        ("--lazy-mode", "auto on off"),
        ("--reasoning-format", "none deepseek deepseek-legacy auto"),
        ("--spec-draft-sampling", "greedy probabilistic"),
        (
            "--spec-type",
            "none draft-simple draft-eagle3 draft-mtp draft-dflash draft-dspark ngram-simple ngram-map-k "
            "ngram-map-k4v ngram-mod ngram-cache",
        ),
    )
    for name in names.split()
}
LISTS = _flags("spec-type")  # several words with commas between
# `on`, `off` and their other words; and `auto`, where it is the third.
SWITCH_WORDS = _flags("flash-attn fit reasoning log-colors")
AUTO_SWITCHES = SWITCH_WORDS - {"--fit"}
LAYERS = _flags("n-gpu-layers n-gpu-layers-draft")  # a number, auto or all

FRACTIONS = FRACTION_FLAGS | _flags("defrag-thold spec-synth-len video-fps")
_ANY = (-(2**31), 2**31 - 1)
_COUNT = (0, 2**31 - 1)
_MINUS_ONE = (-1, 2**31 - 1)
_POSITIVE = (1, 2**31 - 1)
WHOLE: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(_flags("threads threads-batch spec-draft-threads spec-draft-threads-batch threads-http"), _ANY),
    **dict.fromkeys(
        _flags("""
            ctx-size yarn-orig-ctx n-cpu-moe n-cpu-ffn spec-draft-n-cpu-moe main-gpu fit-ctx cache-reuse
            ctx-checkpoints checkpoint-min-step spec-draft-n-max spec-draft-n-min top-k dry-allowed-length
            kv-unified-per-slot spec-ngram-mod-n-min spec-ngram-mod-n-max spec-ngram-mod-n-match
            spec-ngram-simple-size-n spec-ngram-simple-size-m spec-ngram-simple-min-hits
            spec-ngram-map-k-size-n spec-ngram-map-k-size-m spec-ngram-map-k-min-hits
            spec-ngram-map-k4v-size-n spec-ngram-map-k4v-size-m spec-ngram-map-k4v-min-hits
            video-timestamp-interval
        """),
        _COUNT,
    ),
    **dict.fromkeys(_flags("batch-size ubatch-size timeout"), _POSITIVE),
    **dict.fromkeys(
        _flags("""
            cache-ram parallel repeat-last-n dry-penalty-last-n keep reasoning-budget sse-ping-interval
            sleep-idle-seconds image-min-tokens image-max-tokens mtmd-batch-max-tokens embd-normalize
        """),
        _MINUS_ONE,
    ),
    "--n-predict": (-2, 2**31 - 1),
    "--seed": (-1, 2**32 - 1),
    "--mirostat": (0, 2),
    "--poll": (0, 100),
    "--prio": (-1, 3),
    "--prio-batch": (0, 3),
    "--log-verbosity": _ANY,
    **dict.fromkeys(_flags("cpu-strict cpu-strict-batch poll-batch"), (0, 1)),
}
# The shape of other values, and how a sentence names it. The engine ends for all that do not match.
_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_SCALED = rf"[^,]*:{_NUMBER}(,[^,]*:{_NUMBER})*"
_BUFFERS = r"[^,=]+=[^,]+(,[^,=]+=[^,]+)*"
SHAPES: Mapping[str, tuple[re.Pattern[str], str]] = {
    name: (re.compile(pattern, re.IGNORECASE), what)
    for names, pattern, what in (
        ("lora-scaled control-vector-scaled", _SCALED, "FILE:SCALE, such as x.gguf:0.5"),
        ("override-tensor spec-draft-override-tensor", _BUFFERS, "PATTERN=BUFFER, such as exps=CPU"),
        ("logit-bias", rf"\s*[0-9]+\s*[+-]\s*({_NUMBER}|inf).*", "TOKEN+BIAS or TOKEN-BIAS, such as 15043-1"),
        ("fit-target", r"\s*[0-9]+\s*([,/]+\s*[0-9]+\s*)*[,/]*", "MiB for each device, such as 1024,2048"),
        ("cpu-mask cpu-mask-batch", r"(0x)?[0-9a-f]+", "hexadecimal digits"),
        ("cpu-range cpu-range-batch", r"[0-9]*-[0-9]*", "a range such as 0-3"),
    )
    for name in _flags(names)
}
MAX_OVERRIDE_CHARACTERS = 127  # of a key, and of a text
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}
_SECONDS = _flags("timeout sleep-idle-seconds sse-ping-interval")
_DURATIONS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def known_name(flag: Flag) -> str:
    """The name in b11434 of a flag of any build; its own name if b11434 does not have it."""
    for word in flag.spellings:
        if found := default_table().find(word):
            return found.name
    return flag.name


def fault(arg: Arg, choices: Mapping[str, frozenset[str]] | None = None) -> str | None:
    """What is wrong with the values of an argument, as the end of a sentence; None if nothing is known to be.

    `choices` are words that the engine's own help names, by flag."""
    name = known_name(arg.flag)
    for value in arg.values:
        if wrong := _fault(name, value, (choices or {}).get(arg.flag.name, frozenset())):
            return wrong
    return None


def _fault(name: str, value: str, own: frozenset[str]) -> str | None:
    if name in WHOLE:
        return _whole_fault(name, value)
    if name in FRACTIONS:
        return None if re.fullmatch(_NUMBER, value) else f"takes a number, {_not(value)}"
    if name in LAYERS:
        is_right = value in ("auto", "all") or re.fullmatch(r"-?[0-9]+", value)
        return None if is_right else f"takes a number of layers, auto or all, {_not(value)}"
    if name in SWITCH_WORDS:
        words = ("on, off or auto", ("auto", "-1")) if name in AUTO_SWITCHES else ("on or off", ())
        return (
            None
            if boolean(value) is not None or value in words[1] or value in own
            else f"takes {words[0]}, {_not(value)}"
        )
    if name in CHOICES:
        allowed = CHOICES[name] | own
        for word in value.split(",") if name in LISTS else [value]:
            if word.strip() not in allowed:
                return f"takes {_listed(allowed)}, {_not(word.strip())}"
    if name in JSON_OBJECTS:
        return _object_fault(value)
    if name in SHAPES and not SHAPES[name][0].fullmatch(value):
        return f"takes {SHAPES[name][1]}, {_not(value)}"
    if name == "--override-kv":
        return _override_fault(value)
    if name == "--chat-template" and not is_jinja(value) and value not in TEMPLATES | own:
        return (
            f"takes the name of a built-in template or Jinja text, {_not(value)}; a file is named by chat-template-file"
        )
    if name == "--tensor-split" and not re.fullmatch(r"\s*[0-9.]+(\s*[,/]\s*[0-9.]+)*\s*", value):
        return f"takes proportions such as 3,1, {_not(value)}"
    return None


def _whole_fault(name: str, value: str) -> str | None:
    low, high = WHOLE[name]
    if name == "--parallel" and re.fullmatch(r"[+-]?0+", value):
        return f"takes 1 or more slots, or -1 for the engine's choice, {_not(value)}"
    if re.fullmatch(r"[+-]?[0-9]{1,20}", value):
        number = int(value)
        if low <= number <= high:
            return None
        return (
            f"takes a whole number of {low} or more, {_not(value)}"
            if number < low
            else f"takes at most {high}, {_not(value)}"
        )
    return f"takes a whole number, {_not(value)}{_meant(name, value)}"


def _meant(name: str, value: str) -> str:
    """The number that a value with a unit or separators stands for."""
    if found := re.fullmatch(r"([0-9]+)([._, ][0-9]{3})+", value):
        return f": write {re.sub(r'[^0-9]', '', found[0])}"
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)", value)
    if not found:
        return ""
    unit = found[2].lower()
    if name in _SECONDS:
        factor = _DURATIONS.get(unit)
    elif name == "--cache-ram":  # in MiB
        factor = {"m": 1, "mib": 1, "mb": 1, "g": 1024, "gib": 1024, "gb": 1024}.get(unit)
    else:
        factor = _UNITS.get(unit)
    return f": write {round(float(found[1]) * factor)}" if factor and len(found[1]) < 12 else ""


def _override_fault(value: str) -> str | None:
    """What is wrong with `KEY=TYPE:VALUE,...`. Within quotes a comma is part of a value."""
    try:
        items = next(csv.reader([value], escapechar="\\", doublequote=False), []) or [""]
    except csv.Error as error:
        return f"takes KEY=TYPE:VALUE,...: {error}"
    for item in items:
        key, _, typed = item.partition("=")
        kind, colon, text = typed.partition(":")
        if len(key) > MAX_OVERRIDE_CHARACTERS or (kind == "str" and len(text.encode()) > MAX_OVERRIDE_CHARACTERS):
            return f"takes keys and texts of at most {MAX_OVERRIDE_CHARACTERS} characters, {_not(item)}"
        if not colon or kind not in ("int", "float", "bool", "str"):
            return f"takes KEY=TYPE:VALUE with int, float, bool or str for TYPE, {_not(item)}"
        if kind == "bool" and text not in ("true", "false"):
            return f"takes true or false for a bool, {_not(item)}"
        if kind in ("int", "float") and not re.fullmatch(_NUMBER if kind == "float" else r"[+-]?[0-9]+", text.strip()):
            return f"takes a number for {kind}, {_not(item)}"
    return None


def _object_fault(value: str) -> str | None:
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        return f"takes a JSON object: {error}"
    return None if isinstance(parsed, dict) else f"takes a JSON object, {_not(value)}"


def paths_of(arg: Arg) -> tuple[str, ...]:
    """The paths that an argument names; none if its flag takes no path."""
    name = known_name(arg.flag)
    if name not in PATHS or not arg.values:
        return ()
    value = arg.values[0]
    words = value.split(",") if name in PATH_LISTS else [value]
    if name in SCALED_PATHS:
        words = [re.sub(f":{_NUMBER}$", "", word) for word in words]
    return tuple(word for word in map(str.strip, words) if word)


def quotes_fault(arg: Arg) -> str | None:
    """What is wrong with quotes around a whole value, as the end of a sentence. They reach the engine."""
    name = known_name(arg.flag)
    if name in TEXTS and name not in JSON_OBJECTS | {"--chat-template", "--samplers"}:
        return None
    is_quoted = any(len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" for value in arg.values)
    return "has quotes around its value, which would be part of it: delete them" if is_quoted else None


def _listed(words: frozenset[str]) -> str:
    *most, last = sorted(words)
    return f"{', '.join(most)} or {last}" if most else last


def _not(value: str) -> str:
    return f"not {value[:SHOWN_CHARACTERS]!r}"
