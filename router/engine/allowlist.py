"""What may be set from outside: one list of llama-server's flags, and what their values may be.

The list guards everything that the operator did not write: `extra_args` of a load request, presets of strangers, and
the parameters of Ollama's create. On it is what computes and what answers. A flag that reads or writes files, opens
connections, runs programs, holds a secret, opens routes, logs, or takes from other models is not on it; nor is one that
the list does not know.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from router.engine.flags import Arg, Flag, default_table

LONGEST_VALUE = 2**16  # bytes; a process takes 128 KiB at most as one argument

SAFE = frozenset(
    f"--{name}"
    for name in re.findall(
        r"\S+",
        """
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
    """,
    )
)

# Names that llama-server has for templates of its own (`llama-server --help`, b11434).
TEMPLATES = frozenset(
    re.findall(
        r"\S+",
        """
    bailing bailing-think bailing2 chatglm3 chatglm4 chatml command-r deepseek deepseek-ocr deepseek2 deepseek3
    exaone-moe exaone3 exaone4 falcon3 gemma gigachat glmedge gpt-oss granite granite-4.0 granite-4.1 grok-2
    hunyuan-dense hunyuan-moe hunyuan-vl kimi-k2 llama2 llama2-sys llama2-sys-bos llama2-sys-strip llama3 llama4
    megrez minicpm mistral-v1 mistral-v3 mistral-v3-tekken mistral-v7 mistral-v7-tekken monarch openchat orion
    pangu-embedded phi3 phi4 rwkv-world seed_oss smolvlm solar-open vicuna vicuna-orca yandex zephyr
    """,
    )
)

# More threads than these only take time from other models.
_THREADS = max(16, 2 * (os.cpu_count() or 1))


def _flags(text: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in text.split())


# Values of these are words, texts or lists.
_WORDS = _flags("""
    flash-attn cache-type-k cache-type-v cache-type-k-draft cache-type-v-draft n-gpu-layers n-gpu-layers-draft
    load-mode lazy-mode fit rope-scaling samplers sampling-seq dry-sequence-breaker logit-bias grammar json-schema
    spec-type spec-draft-sampling chat-template chat-template-kwargs reasoning reasoning-format reasoning-effort
    reasoning-budget-message reverse-prompt pooling
""")
# Values of these are numbers with a fraction. All others are whole ones, in digits alone: the engine reads `99999999x`
# as far as there are digits, and the memory plan would not see it.
_FRACTIONS = _flags("""
    rope-scale rope-freq-base rope-freq-scale yarn-ext-factor yarn-attn-factor yarn-beta-slow yarn-beta-fast
    temperature top-p min-p top-n-sigma xtc-probability xtc-threshold typical-p repeat-penalty presence-penalty
    frequency-penalty dry-multiplier dry-base adaptive-target adaptive-decay dynatemp-range dynatemp-exp mirostat-lr
    mirostat-ent slot-prompt-similarity spec-draft-p-min spec-draft-p-split
""")

# The lowest and the highest; of these a process takes as much of the machine as it is told.
_WHOLE = (-1, 2**31 - 1)
_BOUNDS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("--threads", "--threads-batch", "--spec-draft-threads"), (-1, _THREADS)),
    "--spec-draft-threads-batch": (-1, _THREADS),
    "--parallel": (-1, 256),  # LLAMA_MAX_SEQ
    "--cache-ram": (0, 8192),  # MiB beside what is booked for the model; the engine's default, whose -1 is no limit
    "--ctx-checkpoints": (0, 128),
    **dict.fromkeys(("--batch-size", "--ubatch-size"), (1, 2**16)),
    **dict.fromkeys(("--image-min-tokens", "--image-max-tokens", "--mtmd-batch-max-tokens"), (-1, 2**16)),
    **dict.fromkeys(("--repeat-last-n", "--dry-penalty-last-n"), (-1, 2**20)),  # each slot keeps so many
    # It makes a pattern for each, whether the model has so many layers or not.
    **dict.fromkeys(("--n-cpu-moe", "--n-cpu-ffn", "--spec-draft-n-cpu-moe"), (0, 1024)),
    "--n-predict": (-2, 2**31 - 1),
    "--seed": (-1, 2**32 - 1),
    **dict.fromkeys((name for name in SAFE if re.match(r"--(spec-ngram|spec-draft-n-m|draft-)", name)), (0, 2**16)),
}


def is_safe(flag: Flag) -> bool:
    """Whether it is on the list, by what it is called in any build, and takes no more values than is known of it."""
    known = {found.name: found for name in (*flag.spellings, *flag.negatives) if (found := default_table().find(name))}
    return bool(known) and known.keys() <= SAFE and all(flag.arity <= one.arity for one in known.values())


def fault(arg: Arg) -> str | None:
    """What is wrong with the values of a flag on the list, as the end of a sentence; None where nothing is."""
    name = next(found.name for word in arg.flag.spellings if (found := default_table().find(word)))
    for value in arg.values:
        if len(value.encode()) > LONGEST_VALUE:
            return f"takes at most {LONGEST_VALUE} bytes"
        if name in _FRACTIONS:
            if not re.fullmatch(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?", value):
                return "takes a number"
        elif name not in _WORDS and (wrong := count_fault(name, value)):
            return wrong
        if wrong := _CHECKS.get(name, _nothing)(value):
            return wrong
    return None


def count_fault(name: str, value: str) -> str | None:
    """What is wrong with a value of a flag that takes a whole number."""
    low, high = _BOUNDS.get(name, _WHOLE)
    if re.fullmatch(r"-?[0-9]{1,10}", value) and low <= int(value) <= high:
        return None
    return f"takes a whole number from {low} to {high}"


def is_jinja(template: str) -> bool:
    return "{" in template or "\n" in template


def is_like_a_path(word: str) -> bool:
    """A file, a folder or an address; no name of a built-in template is like that."""
    return bool(re.search(r"^@|[/\\:~]|\.\.|\.(jinja2?|j2|tmpl|txt|json)$", word, re.IGNORECASE))


def _nothing(value: str) -> str | None:
    return None


def _template(value: str) -> str | None:
    if is_jinja(value) or value in TEMPLATES:
        return None
    return "takes Jinja text or the name of a built-in template, no file"


def _schema(value: str) -> str | None:
    """A schema that names another one by its address."""
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


def _object(value: str) -> str | None:
    try:
        is_object = isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        is_object = False
    return None if is_object else "takes a JSON object"


_CHECKS: Mapping[str, Callable[[str], str | None]] = {
    "--chat-template": _template,
    "--chat-template-kwargs": _object,
    "--json-schema": _schema,
}
