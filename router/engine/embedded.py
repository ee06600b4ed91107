"""A child program, `python -m router.engine.embedded`: llama.cpp's own C++ server, from the extension xllamacpp.

It takes llama-server's flags and environment, and behaves as its child when LLAMA_SERVER_ROUTER_PORT is set: state
lines on stdout (the C++ side writes them), `cmd_router_to_child:exit` or the end of input on stdin. Without that mark
it is a lone server until SIGTERM or SIGINT. Exit codes: 0 asked to end, 1 could not serve or lost its parent, 2 a flag
that it does not know or a value that it cannot use.

Facts of the flags: llama.cpp common/arg.cpp, build 11434; of the protocol: tools/server/server-models.cpp.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import xllamacpp
except ImportError:
    xllamacpp = None

CHILD_MARK = "LLAMA_SERVER_ROUTER_PORT"
EXIT_COMMAND = b"cmd_router_to_child:exit"
SECRETS = ("LLAMA_API_KEY", "HF_TOKEN")

DRAFT = "speculative.draft"
BUFFERS, DRAFT_BUFFERS = "tensor_buft_overrides", f"{DRAFT}.tensor_buft_overrides"
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
DENSE = r"\.ffn_(up|down|gate)\."
# fmt: off
SAMPLERS = {
    "e": "penalties", "d": "dry", "s": "top_n_sigma", "k": "top_k", "y": "typ_p", "p": "top_p", "m": "min_p",
    "x": "xtc", "t": "temperature", "i": "infill", "a": "adaptive_p",
}
# fmt: on

Params = Any  # xllamacpp.CommonParams, which has no stubs
Reader = Callable[[str], Any]
Setter = Callable[[Params, Any], None]


class Refusal(Exception):
    """A sentence for stderr, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


# Readers: text to value, or ValueError; OSError where a file cannot be read.


def among(values: Mapping[str, Any]) -> Reader:
    def read(text: str) -> Any:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return values[text]

    return read


def after(read: Reader, convert: Callable[[Any], Any]) -> Reader:
    return lambda text: convert(read(text))


TRUTH = {
    **dict.fromkeys(("on", "enabled", "true", "1"), True),
    **dict.fromkeys(("off", "disabled", "false", "0"), False),
}
on = among(TRUTH)  # of flags that take no value, like `off`
off = after(on, lambda value: not value)
switched = among(TRUTH)
zero_or_one = after(int, bool)
draft_sampling = among({"greedy": False, "probabilistic": True})


def one_of(enum: str, words: str, **spelled: str) -> Reader:
    """A member of an enum of xllamacpp: their names are the enum's name and the word, in capitals."""

    def read(text: str) -> Any:
        word = among({word: spelled.get(word, re.sub(r"\W", "_", word)) for word in words.split()})(text)
        return getattr(xllamacpp, enum)[f"{enum}_{word}".upper()]

    return read


rope_scaling = one_of("llama_rope_scaling_type", "none linear yarn")
split_mode = one_of("llama_split_mode", "none layer row tensor")
load_mode = one_of("llama_load_mode", "auto none mmap mlock mmap+mlock dio", dio="direct_io")
lazy_mode = one_of("llama_lazy_mode", "on auto off")
numa = one_of("ggml_numa_strategy", "distribute isolate numactl")
reasoning_format = one_of("common_reasoning_format", "none auto deepseek deepseek-legacy")
pooling = one_of("llama_pooling_type", "none mean cls last rank")
cache_type = one_of("ggml_type", "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
flash = one_of("llama_flash_attn_type", "on off auto", on="enabled", off="disabled")
speculative = one_of(
    "common_speculative_type",
    "none draft-simple draft-eagle3 draft-mtp draft-dflash draft-dspark"
    " ngram-simple ngram-map-k ngram-map-k4v ngram-mod ngram-cache",
)


def whole(low: int, high: int | None = None) -> Reader:
    def read(text: str) -> int:
        if int(text) < low or (high is not None and int(text) > high):
            raise ValueError(f"must be at least {low}" if high is None else f"must be from {low} to {high}")
        return int(text)

    return read


def nonzero(read: Reader) -> Reader:
    def check(value: int) -> int:
        if value == 0:
            raise ValueError("must not be 0")
        return value

    return after(read, check)


def positive(text: str) -> float:
    if not 0.0 < float(text) < float("inf"):
        raise ValueError("must be greater than 0")
    return float(text)


def threads(text: str) -> int:
    return int(text) if int(text) > 0 else os.cpu_count() or 1


def layers(text: str) -> int:
    return {"auto": -1, "all": -2}.get(text) or int(text)


seed = after(int, lambda value: value & 0xFFFFFFFF)
temperature = after(float, lambda value: max(0.0, value))
inverse = after(float, lambda value: 1.0 / value)


def row(text: str) -> list[str]:
    """Fields between commas; a field may be in double quotes, as in CSV."""
    fields = re.findall(r'(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))', text)
    return [quoted.replace('""', '"') or plain for quoted, plain in fields]


def names(text: str) -> list[str]:
    return [name.strip() for name in row(text) if name.strip()]


def single(text: str) -> list[str]:
    return [text]


def shares(text: str) -> list[float]:
    return [float(share) for share in re.split("[,/]+", text)]


def sampler_letters(text: str) -> str:
    return ";".join(SAMPLERS[letter] for letter in text if letter in SAMPLERS)


def mask(text: str) -> set[int]:
    bits = int(text, 16)
    return {cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1}


def cpus(text: str) -> set[int]:
    first, last = text.split("-")
    return set(range(int(first or 0), int(last or xllamacpp.GGML_MAX_N_THREADS - 1) + 1))


def first_layers(pattern: str) -> Reader:
    """Tensors that match `pattern` in the first N layers stay in host memory."""
    return lambda text: ",".join(rf"blk\.{layer}{pattern}=CPU" for layer in range(whole(0)(text)))


def content(text: str) -> str:
    return Path(text).read_text(encoding="utf-8")


def folder(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError("is not a directory")
    return os.path.join(text, "")


def made_folder(text: str) -> str:
    Path(text).mkdir(parents=True, exist_ok=True)
    return text


def key_lines(text: str) -> list[str]:
    return [line for line in content(text).splitlines() if line and not line.startswith("#")]


def adapters(text: str) -> list[Any]:
    return [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in row(text)]


def scaled_adapters(text: str) -> list[Any]:
    pairs = [item.rpartition(":") for item in row(text)]
    return [xllamacpp.CommonAdapterLoraInfo(path, float(scale)) for path, _, scale in pairs]


def grammar(text: str) -> Any:
    return xllamacpp.CommonGrammar(xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER, text)


def schema(text: str) -> Any:
    kind = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_OUTPUT_FORMAT
    return xllamacpp.CommonGrammar(kind, xllamacpp.json_schema_to_grammar(text))


def template_values(text: str) -> dict[str, str]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("must be a JSON object")
    return {key: json.dumps(value, ensure_ascii=False, separators=(",", ":")) for key, value in values.items()}


def thinking(text: str) -> bool | None:
    return None if text in ("auto", "-1") else switched(text)


# Setters: where the value is more than one attribute.


def resolve(params: Params, path: str) -> tuple[Any, str]:
    *owners, name = path.split(".")
    for owner in owners:
        params = getattr(params, owner)
    return params, name


def attribute(path: str) -> Setter:
    def put(params: Params, value: Any) -> None:
        owner, name = resolve(params, path)
        setattr(owner, name, value)
        if path.startswith("sampling."):  # marks it as the user's, so that the model's own default does not replace it
            marks = xllamacpp.common_params_sampling_config.__members__
            owner.user_sampling_config |= marks.get(f"COMMON_PARAMS_SAMPLING_CONFIG_{name.upper()}", 0)

    return put


def attributes(*paths: str) -> Setter:
    def put(params: Params, value: Any) -> None:
        for path in paths:
            attribute(path)(params, value)

    return put


def extend(path: str) -> Setter:
    def put(params: Params, values: Iterable[Any]) -> None:
        present = getattr(*resolve(params, path))
        attribute(path)(params, type(present)([*present, *values]))

    return put


def override(path: str, fixed: str = "") -> Setter:
    """More rules `tensor pattern=buffer type`: `fixed` ones for a flag without a value."""

    def put(params: Params, rules: Any) -> None:
        if rules:
            present = getattr(*resolve(params, path))
            attribute(path)(params, ",".join(filter(None, (present, fixed or rules))))

    return put


def affinity(path: str) -> Setter:
    def put(params: Params, chosen: set[int]) -> None:
        cpu = getattr(*resolve(params, path))
        cpu.cpumask = [present or index in chosen for index, present in enumerate(cpu.cpumask)]
        cpu.mask_valid = True

    return put


def context(params: Params, size: int) -> None:
    params.n_ctx = size
    if size == 0:  # the whole trained context is asked for: the fit must not shrink it
        params.fit_params_min_ctx = -1


def tensor_split(params: Params, given: list[float]) -> None:
    params.tensor_split = given + [0.0] * (len(params.tensor_split) - len(given))


def fit_target(params: Params, given: list[float]) -> None:
    """MiB to leave free on each device; one value stands for all."""
    present = params.fit_params_target
    margins = [int(margin) << 20 for margin in given] * (len(present) if len(given) == 1 else 1)
    params.fit_params_target = margins + present[len(margins) :]


def device(params: Params, name: str) -> None:
    if name != "none":
        raise ValueError("the embedded engine takes only none; choose devices by CUDA_VISIBLE_DEVICES or the like")
    params.n_gpu_layers, params.no_op_offload, params.mmproj_use_gpu = 0, True, False


def mmproj_device(params: Params, name: str) -> None:
    params.mmproj_use_gpu = name != "none"
    if params.mmproj_use_gpu:
        params.mmproj_device = name


def repeat_last(params: Params, size: int) -> None:
    attribute("sampling.penalty_last_n")(params, size)
    params.sampling.n_prev = max(params.sampling.n_prev, size)


def dry_base(params: Params, base: float) -> None:
    if base >= 1.0:
        params.sampling.dry_base = base


def rerank(params: Params, wanted: bool) -> None:
    if wanted:
        params.embedding, params.pooling_type = True, pooling("rank")


def spec_default(params: Params, wanted: bool) -> None:
    if wanted:
        extend("speculative.types")(params, [speculative("ngram-mod")])
        mod = params.speculative.ngram_mod
        mod.n_match, mod.n_min, mod.n_max = 24, 48, 64


def perf(params: Params, wanted: bool) -> None:
    params.no_perf = params.sampling.no_perf = not wanted


def verbose(params: Params, wanted: bool) -> None:
    if wanted:
        params.verbosity = 0x7FFFFFFF


def agent(params: Params, wanted: bool) -> None:
    params.server_tools, params.ui_mcp_proxy = ["all"] if wanted else [], wanted


def origins(params: Params, text: str) -> None:
    params.cors_origins, params.cors_origins_explicit = text, True


def template(params: Params, values: Mapping[str, str]) -> None:
    params.default_template_kwargs = {**params.default_template_kwargs, **values}


def reasoning(params: Params, wanted: bool | None) -> None:
    params.enable_reasoning = -1 if wanted is None else int(wanted)
    if wanted is not None:
        template(params, {"enable_thinking": json.dumps(wanted)})


def effort(params: Params, level: str) -> None:
    values = {key: value for key, value in params.default_template_kwargs.items() if key != "reasoning_effort"}
    params.default_template_kwargs = values if level == "default" else {**values, "reasoning_effort": json.dumps(level)}


def preserve(params: Params, wanted: bool) -> None:
    template(params, {"preserve_reasoning": json.dumps(wanted)})
    params.preserve_reasoning_specified = True


def ignored(params: Params, value: Any) -> None:
    """Accepted, so that one preset fits both engines; it changes no more than the look of the log."""


@dataclass(frozen=True, slots=True)
class Flag:
    """`env` is "" where llama-server has no variable for it."""

    spellings: tuple[str, ...]
    negatives: tuple[str, ...]
    env: str
    read: Reader
    put: Setter

    @property
    def arity(self) -> int:
        return 0 if self.read in (on, off) else 1


def flag(spellings: str, env: str, read: Reader, put: Setter | str) -> Flag:
    """`spellings` has the negative ones behind a slash; `env` lacks LLAMA_ARG_, or is whole behind a dollar; `put` may
    be the path of an attribute of CommonParams."""
    positive, _, negative = spellings.partition(" / ")
    variable = env.removeprefix("$") if env.startswith("$") or not env else f"LLAMA_ARG_{env}"
    setter = attribute(put) if isinstance(put, str) else put
    return Flag(tuple(positive.split()), tuple(negative.split()), variable, read, setter)


# fmt: off
FLAGS: tuple[Flag, ...] = (
    # model
    flag("-m --model", "MODEL", str, "model.path"),
    flag("-hf -hfr --hf-repo", "HF_REPO", str, "model.hf_repo"),
    flag("-hff --hf-file", "HF_FILE", str, "model.hf_file"),
    flag("-hft --hf-token", "$HF_TOKEN", str, "hf_token"),
    flag("--offline", "OFFLINE", on, "offline"),
    flag("-a --alias", "ALIAS", names, extend("model_alias")),
    flag("--tags", "TAGS", names, extend("model_tags")),
    flag("--lora", "", adapters, extend("lora_adapters")),
    flag("--lora-scaled", "", scaled_adapters, extend("lora_adapters")),
    flag("--lora-init-without-apply", "", on, "lora_init_without_apply"),
    flag("--check-tensors", "", on, "check_tensors"),
    # context and batches
    flag("-c --ctx-size", "CTX_SIZE", int, context),
    flag("-n --predict --n-predict", "N_PREDICT", int, "n_predict"),
    flag("-b --batch-size", "BATCH", int, "n_batch"),
    flag("-ub --ubatch-size", "UBATCH", int, "n_ubatch"),
    flag("--keep", "", int, "n_keep"),
    flag("-np --parallel", "N_PARALLEL", nonzero(int), "n_parallel"),
    flag("-cb --cont-batching / -nocb --no-cont-batching", "CONT_BATCHING", on, "cont_batching"),
    flag("-kvu --kv-unified / -no-kvu --no-kv-unified", "KV_UNIFIED", on, "kv_unified"),
    flag("--kv-unified-per-slot", "KV_UNIFIED_PER_SLOT", int, "kv_unified_per_slot"),
    flag("-ctk --cache-type-k", "CACHE_TYPE_K", cache_type, "cache_type_k"),
    flag("-ctv --cache-type-v", "CACHE_TYPE_V", cache_type, "cache_type_v"),
    flag("-fa --flash-attn", "FLASH_ATTN", flash, "flash_attn_type"),
    flag("--swa-full", "SWA_FULL", on, "swa_full"),
    flag("-ctxcp --ctx-checkpoints --swa-checkpoints", "CTX_CHECKPOINTS", int, "n_ctx_checkpoints"),
    flag("-cms --checkpoint-min-step", "CHECKPOINT_MIN_SPACING_NT", whole(0), "checkpoint_min_step"),
    flag("--context-shift / --no-context-shift", "CONTEXT_SHIFT", on, "ctx_shift"),
    flag("-cram --cache-ram", "CACHE_RAM", int, "cache_ram_mib"),
    flag("--cache-idle-slots / --no-cache-idle-slots", "CACHE_IDLE_SLOTS", on, "cache_idle_slots"),
    flag("--cache-prompt / --no-cache-prompt", "CACHE_PROMPT", on, "cache_prompt"),
    flag("--cache-reuse", "CACHE_REUSE", int, "n_cache_reuse"),
    flag("-sps --slot-prompt-similarity", "", float, "slot_prompt_similarity"),
    flag("--slot-save-path", "", folder, "slot_save_path"),
    flag("--rope-scaling", "ROPE_SCALING_TYPE", rope_scaling, "rope_scaling_type"),
    flag("--rope-scale", "ROPE_SCALE", inverse, "rope_freq_scale"),
    flag("--rope-freq-base", "ROPE_FREQ_BASE", float, "rope_freq_base"),
    flag("--rope-freq-scale", "ROPE_FREQ_SCALE", float, "rope_freq_scale"),
    flag("--yarn-orig-ctx", "YARN_ORIG_CTX", int, "yarn_orig_ctx"),
    flag("--yarn-ext-factor", "YARN_EXT_FACTOR", float, "yarn_ext_factor"),
    flag("--yarn-attn-factor", "YARN_ATTN_FACTOR", float, "yarn_attn_factor"),
    flag("--yarn-beta-slow", "YARN_BETA_SLOW", float, "yarn_beta_slow"),
    flag("--yarn-beta-fast", "YARN_BETA_FAST", float, "yarn_beta_fast"),
    # memory and devices
    flag("-ngl --gpu-layers --n-gpu-layers", "N_GPU_LAYERS", layers, "n_gpu_layers"),
    flag("-dev --device", "DEVICE", str, device),
    flag("-sm --split-mode", "SPLIT_MODE", split_mode, "split_mode"),
    flag("-ts --tensor-split", "TENSOR_SPLIT", shares, tensor_split),
    flag("-mg --main-gpu", "MAIN_GPU", int, "main_gpu"),
    flag("-fit --fit", "FIT", switched, "fit_params"),
    flag("-fitt --fit-target", "FIT_TARGET", shares, fit_target),
    flag("-fitc --fit-ctx", "FIT_CTX", int, "fit_params_min_ctx"),
    flag("-lm --load-mode", "LOAD_MODE", load_mode, "load_mode"),
    flag("-lzm --lazy-mode", "LAZY_MODE", lazy_mode, "lazy_mode"),
    flag("--numa", "NUMA", numa, "numa"),
    flag("-ot --override-tensor", "OVERRIDE_TENSOR", str, override(BUFFERS)),
    flag("-cmoe --cpu-moe", "CPU_MOE", on, override(BUFFERS, f"{EXPERTS}=CPU")),
    flag("-ncmoe --n-cpu-moe", "N_CPU_MOE", first_layers(EXPERTS), override(BUFFERS)),
    flag("-ncffn --n-cpu-ffn", "N_CPU_FFN", first_layers(DENSE), override(BUFFERS)),
    flag("-kvo --kv-offload / -nkvo --no-kv-offload", "KV_OFFLOAD", off, "no_kv_offload"),
    flag("--op-offload / --no-op-offload", "", off, "no_op_offload"),
    flag("--repack / -nr --no-repack", "REPACK", off, "no_extra_bufts"),
    flag("--no-host", "NO_HOST", on, "no_host"),
    flag("--warmup / --no-warmup", "", on, "warmup"),
    flag("--perf / --no-perf", "PERF", on, perf),
    # CPU
    flag("-t --threads", "THREADS", threads, "cpuparams.n_threads"),
    flag("-C --cpu-mask", "", mask, affinity("cpuparams")),
    flag("-Cr --cpu-range", "", cpus, affinity("cpuparams")),
    flag("--cpu-strict", "", zero_or_one, "cpuparams.strict_cpu"),
    flag("--prio", "", whole(-1, 3), "cpuparams.priority"),
    flag("--poll", "", int, "cpuparams.poll"),
    flag("-tb --threads-batch", "", threads, "cpuparams_batch.n_threads"),
    flag("-Cb --cpu-mask-batch", "", mask, affinity("cpuparams_batch")),
    flag("-Crb --cpu-range-batch", "", cpus, affinity("cpuparams_batch")),
    flag("--cpu-strict-batch", "", zero_or_one, "cpuparams_batch.strict_cpu"),
    flag("--prio-batch", "", whole(0, 3), "cpuparams_batch.priority"),
    flag("--poll-batch", "", int, "cpuparams_batch.poll"),
    flag("-td --threads-draft --spec-draft-threads", "", threads, f"{DRAFT}.cpuparams.n_threads"),
    flag("-Cd --cpu-mask-draft --spec-draft-cpu-mask", "", mask, affinity(f"{DRAFT}.cpuparams")),
    flag("-Crd --cpu-range-draft --spec-draft-cpu-range", "", cpus, affinity(f"{DRAFT}.cpuparams")),
    flag("--cpu-strict-draft --spec-draft-cpu-strict", "", zero_or_one, f"{DRAFT}.cpuparams.strict_cpu"),
    flag("--prio-draft --spec-draft-prio", "", whole(0, 3), f"{DRAFT}.cpuparams.priority"),
    flag("--poll-draft --spec-draft-poll", "", int, f"{DRAFT}.cpuparams.poll"),
    flag("-tbd --threads-batch-draft --spec-draft-threads-batch", "", threads, f"{DRAFT}.cpuparams_batch.n_threads"),
    flag("-Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch", "", mask, affinity(f"{DRAFT}.cpuparams_batch")),
    flag("--cpu-strict-batch-draft --spec-draft-cpu-strict-batch",
         "", zero_or_one, f"{DRAFT}.cpuparams_batch.strict_cpu"),
    flag("--prio-batch-draft --spec-draft-prio-batch", "", whole(0, 3), f"{DRAFT}.cpuparams_batch.priority"),
    flag("--poll-batch-draft --spec-draft-poll-batch", "", int, f"{DRAFT}.cpuparams_batch.poll"),
    # sampling
    flag("-s --seed", "", seed, "sampling.seed"),
    flag("--samplers", "", str, "sampling.samplers"),
    flag("--sampler-seq --sampling-seq", "", sampler_letters, "sampling.samplers"),
    flag("--ignore-eos", "", on, "sampling.ignore_eos"),
    flag("--temp --temperature", "TEMPERATURE", temperature, "sampling.temp"),
    flag("--top-k", "TOP_K", int, "sampling.top_k"),
    flag("--top-p", "TOP_P", float, "sampling.top_p"),
    flag("--min-p", "MIN_P", float, "sampling.min_p"),
    flag("--xtc-probability", "", float, "sampling.xtc_probability"),
    flag("--xtc-threshold", "", float, "sampling.xtc_threshold"),
    flag("--typical --typical-p", "", float, "sampling.typ_p"),
    flag("--repeat-last-n", "", whole(0), repeat_last),
    flag("--repeat-penalty", "REPEAT_PENALTY", positive, "sampling.penalty_repeat"),
    flag("--presence-penalty", "PRESENCE_PENALTY", float, "sampling.penalty_present"),
    flag("--frequency-penalty", "FREQUENCY_PENALTY", float, "sampling.penalty_freq"),
    flag("--dry-multiplier", "", float, "sampling.dry_multiplier"),
    flag("--dry-base", "", float, dry_base),
    flag("--dry-allowed-length", "", int, "sampling.dry_allowed_length"),
    flag("--dry-penalty-last-n", "", whole(0), "sampling.dry_penalty_last_n"),
    flag("--adaptive-target", "", float, "sampling.adaptive_target"),
    flag("--adaptive-decay", "", float, "sampling.adaptive_decay"),
    flag("--dynatemp-range", "", float, "sampling.dynatemp_range"),
    flag("--dynatemp-exp", "", float, "sampling.dynatemp_exponent"),
    flag("--mirostat", "", int, "sampling.mirostat"),
    flag("--mirostat-lr", "", float, "sampling.mirostat_eta"),
    flag("--mirostat-ent", "", float, "sampling.mirostat_tau"),
    flag("--grammar", "", grammar, "sampling.grammar"),
    flag("--grammar-file", "", after(content, grammar), "sampling.grammar"),
    flag("-j --json-schema", "", schema, "sampling.grammar"),
    flag("-jf --json-schema-file", "", after(content, schema), "sampling.grammar"),
    flag("-bs --backend-sampling", "BACKEND_SAMPLING", on, "sampling.backend_sampling"),
    flag("-sp --special", "", on, "special"),
    flag("-r --reverse-prompt", "", single, extend("antiprompt")),
    flag("-e --escape / --no-escape", "", on, "escape"),
    # chat
    flag("--jinja / --no-jinja", "JINJA", on, "use_jinja"),
    flag("--chat-template", "CHAT_TEMPLATE", str, "chat_template"),
    flag("--chat-template-file", "CHAT_TEMPLATE_FILE", content, "chat_template"),
    flag("--chat-template-kwargs", "CHAT_TEMPLATE_KWARGS", template_values, template),
    flag("--skip-chat-parsing / --no-skip-chat-parsing", "SKIP_CHAT_PARSING", on, "force_pure_content_parser"),
    flag("--prefill-assistant / --no-prefill-assistant", "PREFILL_ASSISTANT", on, "prefill_assistant"),
    flag("--reasoning-format", "THINK", reasoning_format, "reasoning_format"),
    flag("-rea --reasoning", "REASONING", thinking, reasoning),
    flag("--reasoning-effort", "REASONING_EFFORT", str, effort),
    flag("--reasoning-budget", "THINK_BUDGET", whole(-1), "sampling.reasoning_budget_tokens"),
    flag("--reasoning-budget-message", "THINK_BUDGET_MESSAGE", str, "sampling.reasoning_budget_message"),
    flag("--reasoning-preserve / --no-reasoning-preserve", "REASONING_PRESERVE", on, preserve),
    # embeddings, images, video
    flag("--embedding --embeddings", "EMBEDDINGS", on, "embedding"),
    flag("--rerank --reranking", "RERANKING", on, rerank),
    flag("--pooling", "POOLING", pooling, "pooling_type"),
    flag("--embd-normalize", "", int, "embd_normalize"),
    flag("-mm --mmproj", "MMPROJ", str, "mmproj.path"),
    flag("--mmproj-auto / --no-mmproj --no-mmproj-auto", "MMPROJ_AUTO", off, "no_mmproj"),
    flag("--mmproj-offload / --no-mmproj-offload", "MMPROJ_OFFLOAD", on, "mmproj_use_gpu"),
    flag("-mmdev --mmproj-device", "$MTMD_BACKEND_DEVICE", str, mmproj_device),
    flag("--image-min-tokens", "IMAGE_MIN_TOKENS", int, "image_min_tokens"),
    flag("--image-max-tokens", "IMAGE_MAX_TOKENS", int, "image_max_tokens"),
    flag("--mtmd-batch-max-tokens", "MTMD_BATCH_MAX_TOKENS", int, "mtmd_batch_max_tokens"),
    flag("--video-fps", "VIDEO_FPS", float, "video_fps"),
    flag("--video-timestamp-interval", "VIDEO_TIMESTAMP_INTERVAL", int, "video_timestamp_interval_ms"),
    flag("--video-ffmpeg-dir", "VIDEO_FFMPEG_DIR", str, "video_ffmpeg_bin_dir"),
    flag("--media-path", "", folder, "media_path"),
    # speculative decoding
    flag("--spec-type",
         "SPEC_TYPE", after(names, lambda words: [speculative(word) for word in words]), extend("speculative.types")),
    flag("--spec-default", "", on, spec_default),
    flag("-md --model-draft --spec-draft-model",
         "SPEC_DRAFT_MODEL", str, attributes(f"{DRAFT}.mparams.path", f"{DRAFT}.mparams.hf_file")),
    flag("--spec-draft-hf -hfd -hfrd --hf-repo-draft", "SPEC_DRAFT_HF_REPO", str, f"{DRAFT}.mparams.hf_repo"),
    flag("-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl",
         "N_GPU_LAYERS_DRAFT", layers, f"{DRAFT}.n_gpu_layers"),
    flag("-devd --device-draft --spec-draft-device", "", str, f"{DRAFT}.devices"),
    flag("-ctkd --cache-type-k-draft --spec-draft-type-k",
         "SPEC_DRAFT_CACHE_TYPE_K", cache_type, f"{DRAFT}.cache_type_k"),
    flag("-ctvd --cache-type-v-draft --spec-draft-type-v",
         "SPEC_DRAFT_CACHE_TYPE_V", cache_type, f"{DRAFT}.cache_type_v"),
    flag("-otd --override-tensor-draft --spec-draft-override-tensor", "", str, override(DRAFT_BUFFERS)),
    flag("-cmoed --cpu-moe-draft --spec-draft-cpu-moe",
         "SPEC_DRAFT_CPU_MOE", on, override(DRAFT_BUFFERS, f"{EXPERTS}=CPU")),
    flag("-ncmoed --n-cpu-moe-draft --spec-draft-ncmoe --spec-draft-n-cpu-moe",
         "SPEC_DRAFT_N_CPU_MOE", first_layers(EXPERTS), override(DRAFT_BUFFERS)),
    flag("--spec-draft-n-max", "SPEC_DRAFT_N_MAX", whole(0), f"{DRAFT}.n_max"),
    flag("--spec-draft-n-min", "SPEC_DRAFT_N_MIN", int, f"{DRAFT}.n_min"),
    flag("--draft-p-split --spec-draft-p-split", "SPEC_DRAFT_P_SPLIT", float, f"{DRAFT}.p_split"),
    flag("--draft-p-min --spec-draft-p-min", "SPEC_DRAFT_P_MIN", float, f"{DRAFT}.p_min"),
    flag("--spec-draft-sampling", "SPEC_DRAFT_SAMPLING", draft_sampling, f"{DRAFT}.probabilistic"),
    flag("--spec-draft-backend-sampling / --no-spec-draft-backend-sampling",
         "SPEC_DRAFT_BACKEND_SAMPLING", on, f"{DRAFT}.backend_sampling"),
    flag("--spec-synth-len", "SPEC_SYNTH_LEN", float, "speculative.synth_len"),
    flag("--spec-synth-rates", "SPEC_SYNTH_RATES", shares, "speculative.synth_rates"),
    flag("-lcs --lookup-cache-static", "", str, "speculative.ngram_cache.lookup_cache_static"),
    flag("-lcd --lookup-cache-dynamic", "", str, "speculative.ngram_cache.lookup_cache_dynamic"),
    flag("--spec-ngram-mod-n-min", "", whole(0, 1024), "speculative.ngram_mod.n_min"),
    flag("--spec-ngram-mod-n-max", "", whole(0, 1024), "speculative.ngram_mod.n_max"),
    flag("--spec-ngram-mod-n-match", "", whole(1, 1024), "speculative.ngram_mod.n_match"),
    flag("--spec-ngram-simple-size-n", "", whole(1, 1024), "speculative.ngram_simple.size_n"),
    flag("--spec-ngram-simple-size-m", "", whole(1, 1024), "speculative.ngram_simple.size_m"),
    flag("--spec-ngram-simple-min-hits", "", whole(1), "speculative.ngram_simple.min_hits"),
    flag("--spec-ngram-map-k-size-n", "", whole(1, 1024), "speculative.ngram_map_k.size_n"),
    flag("--spec-ngram-map-k-size-m", "", whole(1, 1024), "speculative.ngram_map_k.size_m"),
    flag("--spec-ngram-map-k-min-hits", "", whole(1), "speculative.ngram_map_k.min_hits"),
    flag("--spec-ngram-map-k4v-size-n", "", whole(1, 1024), "speculative.ngram_map_k4v.size_n"),
    flag("--spec-ngram-map-k4v-size-m", "", whole(1, 1024), "speculative.ngram_map_k4v.size_m"),
    flag("--spec-ngram-map-k4v-min-hits", "", whole(1), "speculative.ngram_map_k4v.min_hits"),
    # server
    flag("--host", "HOST", names, "hostnames"),
    flag("--port", "PORT", whole(0, 65535), "port"),
    flag("--reuse-port", "REUSE_PORT", on, "reuse_port"),
    flag("--api-key", "$LLAMA_API_KEY", names, extend("api_keys")),
    flag("--api-key-file", "API_KEY_FILE", key_lines, extend("api_keys")),
    flag("--api-prefix", "API_PREFIX", str, "api_prefix"),
    flag("--path", "STATIC_PATH", str, "public_path"),
    flag("-to --timeout", "TIMEOUT", int, attributes("timeout_read", "timeout_write")),
    flag("--sse-ping-interval", "SSE_PING_INTERVAL", int, "sse_ping_interval"),
    flag("--threads-http", "THREADS_HTTP", int, "n_threads_http"),
    flag("--metrics", "ENDPOINT_METRICS", on, "endpoint_metrics"),
    flag("--props", "ENDPOINT_PROPS", on, "endpoint_props"),
    flag("--slots / --no-slots", "ENDPOINT_SLOTS", on, "endpoint_slots"),
    flag("--sleep-idle-seconds", "", nonzero(whole(-1)), "sleep_idle_seconds"),
    flag("--cors-origins", "CORS_ORIGINS", str, origins),
    flag("--cors-methods", "CORS_METHODS", str, "cors_methods"),
    flag("--cors-headers", "CORS_HEADERS", str, "cors_headers"),
    flag("--cors-credentials / --no-cors-credentials", "CORS_CREDENTIALS", on, "cors_credentials"),
    flag("--ui --webui / --no-ui --no-webui", "UI", on, "ui"),
    flag("--ui-config --webui-config", "UI_CONFIG", str, "ui_config_json"),
    flag("--ui-config-file --webui-config-file", "UI_CONFIG_FILE", content, "ui_config_json"),
    flag("--ui-mcp-proxy --webui-mcp-proxy / --no-ui-mcp-proxy --no-webui-mcp-proxy",
         "UI_MCP_PROXY", on, "ui_mcp_proxy"),
    flag("--tools", "TOOLS", row, "server_tools"),
    flag("--mcp-servers-config", "MCP_SERVERS_CONFIG", str, "mcp_servers_config"),
    flag("--mcp-servers-json", "MCP_SERVERS_JSON", str, "mcp_servers_json"),
    flag("-ag --agent / -no-ag --no-agent", "AGENT", on, agent),
    # log
    flag("-v --verbose --log-verbose", "", on, verbose),
    flag("-lv --verbosity --log-verbosity", "LOG_VERBOSITY", int, "verbosity"),
    flag("--log-prompts-dir", "", made_folder, "path_prompts_log_dir"),
    flag("--log-file", "LOG_FILE", str, ignored),
    flag("--log-colors", "LOG_COLORS", str, ignored),
    flag("--log-jsonl / --no-log-jsonl", "LOG_JSONL", on, ignored),
    flag("--log-prefix / --no-log-prefix", "LOG_PREFIX", on, ignored),
    flag("--log-timestamps / --no-log-timestamps", "LOG_TIMESTAMPS", on, ignored),
    flag("--log-disable", "", on, ignored),
    flag("-dt --defrag-thold", "DEFRAG_THOLD", str, ignored),
)
# fmt: on


def given(argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[tuple[Flag, str, str]]:
    """Each setting as (flag, what the user calls it, text): the environment first, so that the command line wins."""
    for flag in FLAGS:
        negated = flag.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")
        if flag.negatives and negated in environ:  # whatever its value
            yield flag, negated, "off"
        elif flag.env in environ:
            yield flag, flag.env, environ[flag.env]
    known = {spelling: (flag, "on") for flag in FLAGS for spelling in flag.spellings}
    known |= {spelling: (flag, "off") for flag in FLAGS for spelling in flag.negatives}
    words = iter(argv)
    for word in words:
        spelling = word.replace("_", "-") if word.startswith("--") else word
        if spelling not in known:
            raise Refusal(f"{word} is not known to the embedded engine; a llama-server may know it (--engine PATH)", 2)
        flag, text = known[spelling]
        if flag.arity:
            try:
                text = next(words)
            except StopIteration:
                raise Refusal(f"{word} needs a value", 2) from None
        yield flag, word, text


def apply(params: Params, flag: Flag, name: str, text: str) -> None:
    try:
        flag.put(params, flag.read(text))
    except OSError as error:
        raise Refusal(f"{name}: {text} cannot be read ({error.strerror})", 1) from error
    except AttributeError as error:
        raise Refusal(f"{name} needs a newer xllamacpp ({error})", 2) from error
    except (ValueError, ArithmeticError, AssertionError) as error:
        value = "its value" if flag.env in SECRETS else text
        raise Refusal(f"{name}: {value} cannot be used ({error})", 2) from error


def configure(argv: Sequence[str], environ: Mapping[str, str]) -> Params:
    """The CommonParams that llama-server would have. Raises Refusal."""
    params = xllamacpp.CommonParams()
    params.port = 8080
    params.n_parallel = -1  # the server chooses: four slots that share one KV buffer
    template(params, {"preserve_reasoning": "true"})
    for flag, name, text in given(argv, environ):
        apply(params, flag, name, text)
    if not params.model.path and not params.model.hf_repo:
        raise Refusal("there is no model to serve: give --model FILE", 2)
    # The C++ side wants a path even where it is about to find one in the Hugging Face cache.
    params.model.path = params.model.path or params.model.hf_repo
    if params.escape:
        params.antiprompt = [unescaped(text) for text in params.antiprompt]
    is_dangerous = params.server_tools or params.mcp_servers_config or params.mcp_servers_json
    if is_dangerous and not params.cors_origins_explicit:
        params.cors_origins = "localhost"
    return params


def unescaped(text: str) -> str:
    letters = {"n": "\n", "r": "\r", "t": "\t"}
    return re.sub(r"\\([nrt'\"\\])", lambda found: letters.get(found[1], found[1]), text)


def sockets(params: Params) -> list[Path]:
    return [Path(host) for host in params.hostnames if host.endswith(".sock")]


def remove_stale(path: Path) -> None:
    """A socket that nobody answers on is a leftover; one that answers stays, and binding it will fail."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)):
                path.unlink()


def leave(params: Params, code: int) -> NoReturn:
    """At once: the C++ side's own ending waits for streams up to 30 s, and locks the interpreter meanwhile."""
    for path in sockets(params):
        path.unlink(missing_ok=True)
    os._exit(code)


def take_stdin() -> int:
    """The parent's pipe, for us alone: the C++ side, which would read it too, gets one on which nothing ever comes."""
    commands = os.dup(0)
    silent, _ = os.pipe()
    os.dup2(silent, 0)
    return commands


def end_on_input(commands: int) -> bool:
    """Let the kernel end us (SIGTERM) as soon as anything happens on the parent's pipe; Linux only.

    xllamacpp locks the interpreter while it loads, so no thread of ours could read the pipe. Whatever the parent does
    in that time, ask for the exit or die, means the end; so does what it does within the instant between the C++ side's
    `ready` and our `read_again`. Returns whether it has happened already: of that the kernel tells nothing.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return False
    fcntl.fcntl(commands, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(commands, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(commands, fcntl.F_SETFL, fcntl.fcntl(commands, fcntl.F_GETFL) | os.O_ASYNC)
    return bool(select.select([commands], [], [], 0)[0])


def read_again(commands: int) -> None:
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(commands, fcntl.F_SETFL, fcntl.fcntl(commands, fcntl.F_GETFL) & ~os.O_ASYNC)


def obey(commands: int) -> int:
    """Wait for the parent's word. Returns the exit code: 0 asked to end, 1 the parent is gone."""
    with open(commands, "rb", buffering=0) as lines:
        return 0 if any(EXIT_COMMAND in line for line in lines) else 1


def serve(params: Params, *, is_child: bool) -> NoReturn:
    """Load, then serve until told to end. While loading, SIGTERM and SIGINT end the process as they do by default."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for path in sockets(params):
        remove_stale(path)
    commands = take_stdin() if is_child else -1
    if is_child and end_on_input(commands):
        leave(params, obey(commands))
    try:
        _server = xllamacpp.Server(params)  # speaks on stdout itself where CHILD_MARK is set
    except (RuntimeError, ValueError) as error:
        time.sleep(0.1)  # llama.cpp's log is written by a thread of its own, which the end of the process would cut off
        raise Refusal(f"{params.model.path} cannot be served; the lines above say why", 1) from error
    if is_child:
        read_again(commands)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave(params, 0))
    if is_child:
        leave(params, obey(commands))
    while True:
        time.sleep(3600)


def usage() -> str:
    """In the form of llama-server's own, which the router reads."""
    return "\n".join(
        ", ".join(flag.spellings + flag.negatives)
        + (" VALUE" if flag.arity else "")
        + (f"\n{'':40}(env: {flag.env})" if flag.env else "")
        for flag in FLAGS
    )


def devices() -> str:
    """What llama-server prints of every device that is not the CPU."""
    kinds = xllamacpp.ggml_backend_dev_type
    found = [d for d in xllamacpp.get_device_info() if d["type"] != kinds.GGML_BACKEND_DEVICE_TYPE_CPU]
    lines = [
        f"  {d['name']}: {d['description']} ({d['memory_total'] >> 20} MiB, {d['memory_free'] >> 20} MiB free)"
        for d in found
    ]
    return "\n".join(["Available devices:", *(lines or ["  (none)"])])


def main() -> NoReturn:
    if {"-h", "--help", "--usage"} & set(sys.argv[1:]):
        print(usage())
        sys.exit(0)
    try:
        if xllamacpp is None:
            raise Refusal("the embedded engine is not installed: pip install 'llama-router[embedded]'", 1)
        if "--list-devices" in sys.argv[1:]:
            print(devices())
            sys.exit(0)
        serve(configure(sys.argv[1:], os.environ), is_child=CHILD_MARK in os.environ)
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        sys.exit(refusal.code)


if __name__ == "__main__":
    main()
