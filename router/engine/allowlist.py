"""Which flags of llama-server may be set from outside, and which values they may have.

One list guards everything that the operator did not write: `extra_args` of a load request, presets from the hub, and
the parameters of Ollama's create. Flags of computing and answering are on the list. Not on the list are flags that read
or write files, open connections, run programs, hold a secret, open routes, log, or take memory from other models. A
flag that this module has never heard of is not on the list either.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from router.engine.flags import Arg, Flag, default_table

# What a load request may set by `extra_args`: flags of the allowlist, all flags that the router does not own, or none.
LoadArgs = Literal["safe", "any", "none"]

MAX_VALUE_BYTES = 2**16  # a process takes 128 KiB at most as one argument


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _flags(names: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in names.split())


SAFE = _flags("""
    ctx-size n-predict keep batch-size ubatch-size parallel kv-unified kv-unified-per-slot cont-batching swa-full
    flash-attn cache-type-k cache-type-v kv-offload ctx-checkpoints checkpoint-min-step cache-ram cache-prompt
    cache-reuse cache-idle-slots context-shift slot-prompt-similarity threads threads-batch
    n-gpu-layers cpu-moe n-cpu-moe n-cpu-ffn load-mode lazy-mode repack op-offload fit fit-ctx warmup check-tensors
    rope-scaling rope-scale rope-freq-base rope-freq-scale yarn-orig-ctx yarn-ext-factor yarn-attn-factor
    yarn-beta-slow yarn-beta-fast
    samplers sampling-seq seed ignore-eos temperature top-k top-p min-p top-n-sigma xtc-probability xtc-threshold
    typical-p repeat-last-n repeat-penalty presence-penalty frequency-penalty dry-multiplier dry-base
    dry-allowed-length dry-penalty-last-n dry-sequence-breaker adaptive-target adaptive-decay dynatemp-range
    dynatemp-exp mirostat mirostat-lr mirostat-ent logit-bias backend-sampling grammar json-schema
    spec-default spec-type spec-draft-n-max spec-draft-n-min spec-draft-p-min spec-draft-p-split spec-draft-sampling
    spec-draft-backend-sampling spec-draft-cpu-moe spec-draft-n-cpu-moe n-gpu-layers-draft cache-type-k-draft
    cache-type-v-draft spec-draft-threads spec-draft-threads-batch draft-max draft-n-min
    spec-ngram-mod-n-min spec-ngram-mod-n-max spec-ngram-mod-n-match
    spec-ngram-simple-size-n spec-ngram-simple-size-m spec-ngram-simple-min-hits
    spec-ngram-map-k-size-n spec-ngram-map-k-size-m spec-ngram-map-k-min-hits
    spec-ngram-map-k4v-size-n spec-ngram-map-k4v-size-m spec-ngram-map-k4v-min-hits
    jinja chat-template chat-template-kwargs reasoning reasoning-format reasoning-effort reasoning-budget
    reasoning-budget-message reasoning-preserve prefill-assistant skip-chat-parsing special reverse-prompt escape
    embeddings embd-normalize pooling reranking spm-infill
    mmproj-auto mmproj-offload image-min-tokens image-max-tokens mtmd-batch-max-tokens
""")

# The names of llama-server's built-in templates (`llama-server --help`, b11434).
TEMPLATES = _words("""
    bailing bailing-think bailing2 chatglm3 chatglm4 chatml command-r deepseek deepseek-ocr deepseek2 deepseek3
    exaone-moe exaone3 exaone4 falcon3 gemma gigachat glmedge gpt-oss granite granite-4.0 granite-4.1 grok-2
    hunyuan-dense hunyuan-moe hunyuan-vl kimi-k2 llama2 llama2-sys llama2-sys-bos llama2-sys-strip llama3 llama4
    megrez minicpm mistral-v1 mistral-v3 mistral-v3-tekken mistral-v7 mistral-v7-tekken monarch openchat orion
    pangu-embedded phi3 phi4 rwkv-world seed_oss smolvlm solar-open vicuna vicuna-orca yandex zephyr
""")

MAX_THREADS = max(16, 2 * (os.cpu_count() or 1))  # more threads would only take time from other models

# Flags whose values are words, texts or lists.
TEXT_FLAGS = _flags("""
    flash-attn cache-type-k cache-type-v cache-type-k-draft cache-type-v-draft n-gpu-layers n-gpu-layers-draft
    load-mode lazy-mode fit rope-scaling samplers sampling-seq dry-sequence-breaker logit-bias grammar json-schema
    spec-type spec-draft-sampling chat-template chat-template-kwargs reasoning reasoning-format reasoning-effort
    reasoning-budget-message reverse-prompt pooling
""")
# Flags whose values are numbers with a fraction. The values of all other flags are whole numbers, in digits alone: of
# `99999999x` the engine reads the digits, and the memory plan would not see that number.
FRACTION_FLAGS = _flags("""
    rope-scale rope-freq-base rope-freq-scale yarn-ext-factor yarn-attn-factor yarn-beta-slow yarn-beta-fast
    temperature top-p min-p top-n-sigma xtc-probability xtc-threshold typical-p repeat-penalty presence-penalty
    frequency-penalty dry-multiplier dry-base adaptive-target adaptive-decay dynatemp-range dynatemp-exp mirostat-lr
    mirostat-ent slot-prompt-similarity spec-draft-p-min spec-draft-p-split
""")

# The lowest and the highest value of a whole number. Flags with bounds of their own decide how much of the machine a
# process takes.
DEFAULT_BOUNDS = (-1, 2**31 - 1)
BOUNDS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("--threads", "--threads-batch", "--spec-draft-threads"), (-1, MAX_THREADS)),
    "--spec-draft-threads-batch": (-1, MAX_THREADS),
    "--parallel": (-1, 256),  # LLAMA_MAX_SEQ
    "--cache-ram": (
        0,
        8192,
    ),  # MiB beside the memory booked for the model; up to the default, -1 is no limit
    "--ctx-checkpoints": (0, 128),
    **dict.fromkeys(("--batch-size", "--ubatch-size"), (1, 2**16)),
    **dict.fromkeys(("--image-min-tokens", "--image-max-tokens", "--mtmd-batch-max-tokens"), (-1, 2**16)),
    **dict.fromkeys(("--repeat-last-n", "--dry-penalty-last-n"), (-1, 2**20)),  # each slot keeps so many tokens
    # The engine makes a pattern for each layer, whether the model has so many layers or not.
    **dict.fromkeys(("--n-cpu-moe", "--n-cpu-ffn", "--spec-draft-n-cpu-moe"), (0, 1024)),
    "--n-predict": (-2, 2**31 - 1),
    "--seed": (-1, 2**32 - 1),
    **dict.fromkeys((name for name in SAFE if re.match(r"--(spec-ngram|spec-draft-n-m|draft-)", name)), (0, 2**16)),
}


def is_safe(flag: Flag) -> bool:
    """Whether a flag of any build is on the list: by every name that b11434 knows, with no more values than there."""
    known = {found.name: found for name in (*flag.spellings, *flag.negatives) if (found := default_table().find(name))}
    return bool(known) and known.keys() <= SAFE and all(flag.arity <= one.arity for one in known.values())


def fault(arg: Arg) -> str | None:
    """What is wrong with the values of a flag on the list, as the end of a sentence; None if they are right."""
    name = next(found.name for word in arg.flag.spellings if (found := default_table().find(word)))
    for value in arg.values:
        if len(value.encode()) > MAX_VALUE_BYTES:
            return f"takes at most {MAX_VALUE_BYTES} bytes"
        if name in FRACTION_FLAGS:
            if not re.fullmatch(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?", value):
                return "takes a number"
        elif name not in TEXT_FLAGS and (wrong := whole_number_fault(name, value)):
            return wrong
        check = VALUE_CHECKS.get(name)
        if check and (wrong := check(value)):
            return wrong
    return None


def whole_number_fault(name: str, value: str) -> str | None:
    """What is wrong with a value of a flag that takes a whole number."""
    low, high = BOUNDS.get(name, DEFAULT_BOUNDS)
    if re.fullmatch(r"-?[0-9]{1,10}", value) and low <= int(value) <= high:
        return None
    return f"takes a whole number from {low} to {high}"


def is_jinja(template: str) -> bool:
    """Whether it is the text of a template; else it is the name of one."""
    return "{" in template or "\n" in template


def is_like_a_path(word: str) -> bool:
    """Whether a word looks like a file, a folder or an address; no name of a built-in template does."""
    return bool(re.search(r"^@|[/\\:~]|\.\.|\.(jinja2?|j2|tmpl|txt|json)$", word, re.IGNORECASE))


def _template_fault(value: str) -> str | None:
    if is_jinja(value) or value in TEMPLATES:
        return None
    return "takes Jinja text or the name of a built-in template, no file"


def _schema_fault(value: str) -> str | None:
    """A schema must not name another one by its address."""
    try:
        schema = json.loads(value)
        refers = any(not (isinstance(name, str) and name.startswith("#")) for name in _references(schema))
    except (ValueError, RecursionError):
        return "takes a JSON schema"
    return "takes a schema that refers to nothing outside itself" if refers else None


def _references(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and not isinstance(inner, dict):
                yield inner
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _object_fault(value: str) -> str | None:
    try:
        is_object = isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        is_object = False
    return None if is_object else "takes a JSON object"


VALUE_CHECKS: Mapping[str, Callable[[str], str | None]] = {
    "--chat-template": _template_fault,
    "--chat-template-kwargs": _object_fault,
    "--json-schema": _schema_fault,
}
