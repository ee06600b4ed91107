"""The flags of the embedded engine: one row each, with the reader of its text and the setter of its value.

The rows are those of llama-server (llama.cpp common/arg.cpp, build 11434) that this engine can serve. A test compares
them with `engine/flags.tsv`. A new flag is a new row here; `arguments` walks over the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.engine.embedded import readers as read
from router.engine.embedded import setters as put
from router.engine.embedded.readers import Reader
from router.engine.embedded.setters import Setter

DRAFT = "speculative.draft"
BUFFERS, DRAFT_BUFFERS = "tensor_buft_overrides", f"{DRAFT}.tensor_buft_overrides"
# Patterns of the names of tensors: those of experts, and those of dense feed-forward networks.
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
DENSE = r"\.ffn_(up|down|gate)\."


@dataclass(frozen=True, slots=True)
class Flag:
    """`env` is "" where llama-server has no variable for the flag."""

    spellings: tuple[str, ...]
    negatives: tuple[str, ...]
    env: str
    reader: Reader
    setter: Setter

    @property
    def arity(self) -> int:
        """How many values the flag takes: a switch takes none."""
        return 0 if self.reader in (read.switch, read.inverted_switch) else 1


def flag(spellings: str, env: str, reader: Reader, setter: Setter | str) -> Flag:
    """One row of the table.

    `spellings` has the negative ones behind a slash.
    `env` is the variable without `LLAMA_ARG_`, or behind a dollar the whole variable.
    `setter` may be the path of an attribute of CommonParams.
    """
    positive, _, negative = spellings.partition(" / ")
    variable = env.removeprefix("$") if env.startswith("$") or not env else f"LLAMA_ARG_{env}"
    setter = put.attribute(setter) if isinstance(setter, str) else setter
    return Flag(tuple(positive.split()), tuple(negative.split()), variable, reader, setter)


# fmt: off
FLAGS: tuple[Flag, ...] = (
    # model
    flag("-m --model", "MODEL", str, "model.path"),
    flag("-hf -hfr --hf-repo", "HF_REPO", str, "model.hf_repo"),
    flag("-hff --hf-file", "HF_FILE", str, "model.hf_file"),
    flag("-hft --hf-token", "$HF_TOKEN", str, "hf_token"),
    flag("--offline", "OFFLINE", read.switch, "offline"),
    flag("-a --alias", "ALIAS", read.names, put.extend("model_alias")),
    flag("--tags", "TAGS", read.names, put.extend("model_tags")),
    flag("--lora", "", read.adapters, put.extend("lora_adapters")),
    flag("--lora-scaled", "", read.scaled_adapters, put.extend("lora_adapters")),
    flag("--lora-init-without-apply", "", read.switch, "lora_init_without_apply"),
    flag("--check-tensors", "", read.switch, "check_tensors"),
    # context and batches
    flag("-c --ctx-size", "CTX_SIZE", int, put.context_size),
    flag("-n --predict --n-predict", "N_PREDICT", int, "n_predict"),
    flag("-b --batch-size", "BATCH", int, "n_batch"),
    flag("-ub --ubatch-size", "UBATCH", int, "n_ubatch"),
    flag("--keep", "", int, "n_keep"),
    flag("-np --parallel", "N_PARALLEL", read.nonzero(int), "n_parallel"),
    flag("-cb --cont-batching / -nocb --no-cont-batching", "CONT_BATCHING", read.switch, "cont_batching"),
    flag("-kvu --kv-unified / -no-kvu --no-kv-unified", "KV_UNIFIED", read.switch, "kv_unified"),
    flag("--kv-unified-per-slot", "KV_UNIFIED_PER_SLOT", int, "kv_unified_per_slot"),
    flag("-ctk --cache-type-k", "CACHE_TYPE_K", read.cache_type, "cache_type_k"),
    flag("-ctv --cache-type-v", "CACHE_TYPE_V", read.cache_type, "cache_type_v"),
    flag("-fa --flash-attn", "FLASH_ATTN", read.flash_attention, "flash_attn_type"),
    flag("--swa-full", "SWA_FULL", read.switch, "swa_full"),
    flag("-ctxcp --ctx-checkpoints --swa-checkpoints", "CTX_CHECKPOINTS", int, "n_ctx_checkpoints"),
    flag("-cms --checkpoint-min-step", "CHECKPOINT_MIN_SPACING_NT", read.integer(0), "checkpoint_min_step"),
    flag("--context-shift / --no-context-shift", "CONTEXT_SHIFT", read.switch, "ctx_shift"),
    flag("-cram --cache-ram", "CACHE_RAM", int, "cache_ram_mib"),
    flag("--cache-idle-slots / --no-cache-idle-slots", "CACHE_IDLE_SLOTS", read.switch, "cache_idle_slots"),
    flag("--cache-prompt / --no-cache-prompt", "CACHE_PROMPT", read.switch, "cache_prompt"),
    flag("--cache-reuse", "CACHE_REUSE", int, "n_cache_reuse"),
    flag("-sps --slot-prompt-similarity", "", float, "slot_prompt_similarity"),
    flag("--slot-save-path", "", read.existing_folder, "slot_save_path"),
    flag("--rope-scaling", "ROPE_SCALING_TYPE", read.rope_scaling, "rope_scaling_type"),
    flag("--rope-scale", "ROPE_SCALE", read.reciprocal, "rope_freq_scale"),
    flag("--rope-freq-base", "ROPE_FREQ_BASE", float, "rope_freq_base"),
    flag("--rope-freq-scale", "ROPE_FREQ_SCALE", float, "rope_freq_scale"),
    flag("--yarn-orig-ctx", "YARN_ORIG_CTX", int, "yarn_orig_ctx"),
    flag("--yarn-ext-factor", "YARN_EXT_FACTOR", float, "yarn_ext_factor"),
    flag("--yarn-attn-factor", "YARN_ATTN_FACTOR", float, "yarn_attn_factor"),
    flag("--yarn-beta-slow", "YARN_BETA_SLOW", float, "yarn_beta_slow"),
    flag("--yarn-beta-fast", "YARN_BETA_FAST", float, "yarn_beta_fast"),
    # memory and devices
    flag("-ngl --gpu-layers --n-gpu-layers", "N_GPU_LAYERS", read.layer_count, "n_gpu_layers"),
    flag("-dev --device", "DEVICE", str, put.device),
    flag("-sm --split-mode", "SPLIT_MODE", read.split_mode, "split_mode"),
    flag("-ts --tensor-split", "TENSOR_SPLIT", read.floats, put.tensor_split),
    flag("-mg --main-gpu", "MAIN_GPU", int, "main_gpu"),
    flag("-fit --fit", "FIT", read.boolean, "fit_params"),
    flag("-fitt --fit-target", "FIT_TARGET", read.floats, put.fit_target),
    flag("-fitc --fit-ctx", "FIT_CTX", int, "fit_params_min_ctx"),
    flag("-lm --load-mode", "LOAD_MODE", read.load_mode, "load_mode"),
    flag("-lzm --lazy-mode", "LAZY_MODE", read.lazy_mode, "lazy_mode"),
    flag("--numa", "NUMA", read.numa, "numa"),
    flag("-ot --override-tensor", "OVERRIDE_TENSOR", str, put.extend_rules(BUFFERS)),
    flag("-cmoe --cpu-moe", "CPU_MOE", read.switch, put.extend_rules(BUFFERS, f"{EXPERTS}=CPU")),
    flag("-ncmoe --n-cpu-moe", "N_CPU_MOE", read.first_layers_on_cpu(EXPERTS), put.extend_rules(BUFFERS)),
    flag("-ncffn --n-cpu-ffn", "N_CPU_FFN", read.first_layers_on_cpu(DENSE), put.extend_rules(BUFFERS)),
    flag("-kvo --kv-offload / -nkvo --no-kv-offload", "KV_OFFLOAD", read.inverted_switch, "no_kv_offload"),
    flag("--op-offload / --no-op-offload", "", read.inverted_switch, "no_op_offload"),
    flag("--repack / -nr --no-repack", "REPACK", read.inverted_switch, "no_extra_bufts"),
    flag("--no-host", "NO_HOST", read.switch, "no_host"),
    flag("--warmup / --no-warmup", "", read.switch, "warmup"),
    flag("--perf / --no-perf", "PERF", read.switch, put.performance_timings),
    # CPU
    flag("-t --threads", "THREADS", read.thread_count, "cpuparams.n_threads"),
    flag("-C --cpu-mask", "", read.cpu_mask, put.affinity("cpuparams")),
    flag("-Cr --cpu-range", "", read.cpu_range, put.affinity("cpuparams")),
    flag("--cpu-strict", "", read.zero_or_one, "cpuparams.strict_cpu"),
    flag("--prio", "", read.integer(-1, 3), "cpuparams.priority"),
    flag("--poll", "", int, "cpuparams.poll"),
    flag("-tb --threads-batch", "", read.thread_count, "cpuparams_batch.n_threads"),
    flag("-Cb --cpu-mask-batch", "", read.cpu_mask, put.affinity("cpuparams_batch")),
    flag("-Crb --cpu-range-batch", "", read.cpu_range, put.affinity("cpuparams_batch")),
    flag("--cpu-strict-batch", "", read.zero_or_one, "cpuparams_batch.strict_cpu"),
    flag("--prio-batch", "", read.integer(0, 3), "cpuparams_batch.priority"),
    flag("--poll-batch", "", int, "cpuparams_batch.poll"),
    flag("-td --threads-draft --spec-draft-threads", "", read.thread_count, f"{DRAFT}.cpuparams.n_threads"),
    flag("-Cd --cpu-mask-draft --spec-draft-cpu-mask", "", read.cpu_mask, put.affinity(f"{DRAFT}.cpuparams")),
    flag("-Crd --cpu-range-draft --spec-draft-cpu-range", "", read.cpu_range, put.affinity(f"{DRAFT}.cpuparams")),
    flag("--cpu-strict-draft --spec-draft-cpu-strict", "", read.zero_or_one, f"{DRAFT}.cpuparams.strict_cpu"),
    flag("--prio-draft --spec-draft-prio", "", read.integer(0, 3), f"{DRAFT}.cpuparams.priority"),
    flag("--poll-draft --spec-draft-poll", "", int, f"{DRAFT}.cpuparams.poll"),
    flag("-tbd --threads-batch-draft --spec-draft-threads-batch",
         "", read.thread_count, f"{DRAFT}.cpuparams_batch.n_threads"),
    flag("-Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch",
         "", read.cpu_mask, put.affinity(f"{DRAFT}.cpuparams_batch")),
    flag("--cpu-strict-batch-draft --spec-draft-cpu-strict-batch",
         "", read.zero_or_one, f"{DRAFT}.cpuparams_batch.strict_cpu"),
    flag("--prio-batch-draft --spec-draft-prio-batch", "", read.integer(0, 3), f"{DRAFT}.cpuparams_batch.priority"),
    flag("--poll-batch-draft --spec-draft-poll-batch", "", int, f"{DRAFT}.cpuparams_batch.poll"),
    # sampling
    flag("-s --seed", "", read.seed, "sampling.seed"),
    flag("--samplers", "", str, "sampling.samplers"),
    flag("--sampler-seq --sampling-seq", "", read.sampler_names, "sampling.samplers"),
    flag("--ignore-eos", "", read.switch, "sampling.ignore_eos"),
    flag("--temp --temperature", "TEMPERATURE", read.temperature, "sampling.temp"),
    flag("--top-k", "TOP_K", int, "sampling.top_k"),
    flag("--top-p", "TOP_P", float, "sampling.top_p"),
    flag("--min-p", "MIN_P", float, "sampling.min_p"),
    flag("--xtc-probability", "", float, "sampling.xtc_probability"),
    flag("--xtc-threshold", "", float, "sampling.xtc_threshold"),
    flag("--typical --typical-p", "", float, "sampling.typ_p"),
    flag("--repeat-last-n", "", read.integer(0), put.repeat_last_n),
    flag("--repeat-penalty", "REPEAT_PENALTY", read.positive, "sampling.penalty_repeat"),
    flag("--presence-penalty", "PRESENCE_PENALTY", float, "sampling.penalty_present"),
    flag("--frequency-penalty", "FREQUENCY_PENALTY", float, "sampling.penalty_freq"),
    flag("--dry-multiplier", "", float, "sampling.dry_multiplier"),
    flag("--dry-base", "", float, put.dry_base),
    flag("--dry-allowed-length", "", int, "sampling.dry_allowed_length"),
    flag("--dry-penalty-last-n", "", read.integer(0), "sampling.dry_penalty_last_n"),
    flag("--adaptive-target", "", float, "sampling.adaptive_target"),
    flag("--adaptive-decay", "", float, "sampling.adaptive_decay"),
    flag("--dynatemp-range", "", float, "sampling.dynatemp_range"),
    flag("--dynatemp-exp", "", float, "sampling.dynatemp_exponent"),
    flag("--mirostat", "", int, "sampling.mirostat"),
    flag("--mirostat-lr", "", float, "sampling.mirostat_eta"),
    flag("--mirostat-ent", "", float, "sampling.mirostat_tau"),
    flag("--grammar", "", read.grammar, "sampling.grammar"),
    flag("--grammar-file", "", read.converted(read.file_text, read.grammar), "sampling.grammar"),
    flag("-j --json-schema", "", read.json_schema, "sampling.grammar"),
    flag("-jf --json-schema-file", "", read.converted(read.file_text, read.json_schema), "sampling.grammar"),
    flag("-bs --backend-sampling", "BACKEND_SAMPLING", read.switch, "sampling.backend_sampling"),
    flag("-sp --special", "", read.switch, "special"),
    flag("-r --reverse-prompt", "", read.list_of_one, put.extend("antiprompt")),
    flag("-e --escape / --no-escape", "", read.switch, "escape"),
    # chat
    flag("--jinja / --no-jinja", "JINJA", read.switch, "use_jinja"),
    flag("--chat-template", "CHAT_TEMPLATE", str, "chat_template"),
    flag("--chat-template-file", "CHAT_TEMPLATE_FILE", read.file_text, "chat_template"),
    flag("--chat-template-kwargs", "CHAT_TEMPLATE_KWARGS", read.template_values, put.template_values),
    flag("--skip-chat-parsing / --no-skip-chat-parsing", "SKIP_CHAT_PARSING", read.switch, "force_pure_content_parser"),
    flag("--prefill-assistant / --no-prefill-assistant", "PREFILL_ASSISTANT", read.switch, "prefill_assistant"),
    flag("--reasoning-format", "THINK", read.reasoning_format, "reasoning_format"),
    flag("-rea --reasoning", "REASONING", read.switch_or_auto, put.reasoning),
    flag("--reasoning-effort", "REASONING_EFFORT", str, put.reasoning_effort),
    flag("--reasoning-budget", "THINK_BUDGET", read.integer(-1), "sampling.reasoning_budget_tokens"),
    flag("--reasoning-budget-message", "THINK_BUDGET_MESSAGE", str, "sampling.reasoning_budget_message"),
    flag("--reasoning-preserve / --no-reasoning-preserve", "REASONING_PRESERVE", read.switch, put.preserve_reasoning),
    # embeddings, images, video
    flag("--embedding --embeddings", "EMBEDDINGS", read.switch, "embedding"),
    flag("--rerank --reranking", "RERANKING", read.switch, put.reranking),
    flag("--pooling", "POOLING", read.pooling, "pooling_type"),
    flag("--embd-normalize", "", int, "embd_normalize"),
    flag("-mm --mmproj", "MMPROJ", str, "mmproj.path"),
    flag("--mmproj-auto / --no-mmproj --no-mmproj-auto", "MMPROJ_AUTO", read.inverted_switch, "no_mmproj"),
    flag("--mmproj-offload / --no-mmproj-offload", "MMPROJ_OFFLOAD", read.switch, "mmproj_use_gpu"),
    flag("-mmdev --mmproj-device", "$MTMD_BACKEND_DEVICE", str, put.mmproj_device),
    flag("--image-min-tokens", "IMAGE_MIN_TOKENS", int, "image_min_tokens"),
    flag("--image-max-tokens", "IMAGE_MAX_TOKENS", int, "image_max_tokens"),
    flag("--mtmd-batch-max-tokens", "MTMD_BATCH_MAX_TOKENS", int, "mtmd_batch_max_tokens"),
    flag("--video-fps", "VIDEO_FPS", float, "video_fps"),
    flag("--video-timestamp-interval", "VIDEO_TIMESTAMP_INTERVAL", int, "video_timestamp_interval_ms"),
    flag("--video-ffmpeg-dir", "VIDEO_FFMPEG_DIR", str, "video_ffmpeg_bin_dir"),
    flag("--media-path", "", read.existing_folder, "media_path"),
    # speculative decoding
    flag("--spec-type",
         "SPEC_TYPE", read.speculative_types, put.extend("speculative.types")),
    flag("--spec-default", "", read.switch, put.default_speculation),
    flag("-md --model-draft --spec-draft-model",
         "SPEC_DRAFT_MODEL", str, put.attributes(f"{DRAFT}.mparams.path", f"{DRAFT}.mparams.hf_file")),
    flag("--spec-draft-hf -hfd -hfrd --hf-repo-draft", "SPEC_DRAFT_HF_REPO", str, f"{DRAFT}.mparams.hf_repo"),
    flag("-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl",
         "N_GPU_LAYERS_DRAFT", read.layer_count, f"{DRAFT}.n_gpu_layers"),
    flag("-devd --device-draft --spec-draft-device", "", str, f"{DRAFT}.devices"),
    flag("-ctkd --cache-type-k-draft --spec-draft-type-k",
         "SPEC_DRAFT_CACHE_TYPE_K", read.cache_type, f"{DRAFT}.cache_type_k"),
    flag("-ctvd --cache-type-v-draft --spec-draft-type-v",
         "SPEC_DRAFT_CACHE_TYPE_V", read.cache_type, f"{DRAFT}.cache_type_v"),
    flag("-otd --override-tensor-draft --spec-draft-override-tensor", "", str, put.extend_rules(DRAFT_BUFFERS)),
    flag("-cmoed --cpu-moe-draft --spec-draft-cpu-moe",
         "SPEC_DRAFT_CPU_MOE", read.switch, put.extend_rules(DRAFT_BUFFERS, f"{EXPERTS}=CPU")),
    flag("-ncmoed --n-cpu-moe-draft --spec-draft-ncmoe --spec-draft-n-cpu-moe",
         "SPEC_DRAFT_N_CPU_MOE", read.first_layers_on_cpu(EXPERTS), put.extend_rules(DRAFT_BUFFERS)),
    flag("--spec-draft-n-max", "SPEC_DRAFT_N_MAX", read.integer(0), f"{DRAFT}.n_max"),
    flag("--spec-draft-n-min", "SPEC_DRAFT_N_MIN", int, f"{DRAFT}.n_min"),
    flag("--draft-p-split --spec-draft-p-split", "SPEC_DRAFT_P_SPLIT", float, f"{DRAFT}.p_split"),
    flag("--draft-p-min --spec-draft-p-min", "SPEC_DRAFT_P_MIN", float, f"{DRAFT}.p_min"),
    flag("--spec-draft-sampling", "SPEC_DRAFT_SAMPLING", read.is_probabilistic, f"{DRAFT}.probabilistic"),
    flag("--spec-draft-backend-sampling / --no-spec-draft-backend-sampling",
         "SPEC_DRAFT_BACKEND_SAMPLING", read.switch, f"{DRAFT}.backend_sampling"),
    flag("--spec-synth-len", "SPEC_SYNTH_LEN", float, "speculative.synth_len"),
    flag("--spec-synth-rates", "SPEC_SYNTH_RATES", read.floats, "speculative.synth_rates"),
    flag("-lcs --lookup-cache-static", "", str, "speculative.ngram_cache.lookup_cache_static"),
    flag("-lcd --lookup-cache-dynamic", "", str, "speculative.ngram_cache.lookup_cache_dynamic"),
    flag("--spec-ngram-mod-n-min", "", read.integer(0, 1024), "speculative.ngram_mod.n_min"),
    flag("--spec-ngram-mod-n-max", "", read.integer(0, 1024), "speculative.ngram_mod.n_max"),
    flag("--spec-ngram-mod-n-match", "", read.integer(1, 1024), "speculative.ngram_mod.n_match"),
    flag("--spec-ngram-simple-size-n", "", read.integer(1, 1024), "speculative.ngram_simple.size_n"),
    flag("--spec-ngram-simple-size-m", "", read.integer(1, 1024), "speculative.ngram_simple.size_m"),
    flag("--spec-ngram-simple-min-hits", "", read.integer(1), "speculative.ngram_simple.min_hits"),
    flag("--spec-ngram-map-k-size-n", "", read.integer(1, 1024), "speculative.ngram_map_k.size_n"),
    flag("--spec-ngram-map-k-size-m", "", read.integer(1, 1024), "speculative.ngram_map_k.size_m"),
    flag("--spec-ngram-map-k-min-hits", "", read.integer(1), "speculative.ngram_map_k.min_hits"),
    flag("--spec-ngram-map-k4v-size-n", "", read.integer(1, 1024), "speculative.ngram_map_k4v.size_n"),
    flag("--spec-ngram-map-k4v-size-m", "", read.integer(1, 1024), "speculative.ngram_map_k4v.size_m"),
    flag("--spec-ngram-map-k4v-min-hits", "", read.integer(1), "speculative.ngram_map_k4v.min_hits"),
    # server
    flag("--host", "HOST", read.names, "hostnames"),
    flag("--port", "PORT", read.integer(0, 65535), "port"),
    flag("--reuse-port", "REUSE_PORT", read.switch, "reuse_port"),
    flag("--api-key", "$LLAMA_API_KEY", read.names, put.extend("api_keys")),
    flag("--api-key-file", "API_KEY_FILE", read.keys_of_file, put.extend("api_keys")),
    flag("--api-prefix", "API_PREFIX", str, "api_prefix"),
    flag("--path", "STATIC_PATH", str, "public_path"),
    flag("-to --timeout", "TIMEOUT", int, put.attributes("timeout_read", "timeout_write")),
    flag("--sse-ping-interval", "SSE_PING_INTERVAL", int, "sse_ping_interval"),
    flag("--threads-http", "THREADS_HTTP", int, "n_threads_http"),
    flag("--metrics", "ENDPOINT_METRICS", read.switch, "endpoint_metrics"),
    flag("--props", "ENDPOINT_PROPS", read.switch, "endpoint_props"),
    flag("--slots / --no-slots", "ENDPOINT_SLOTS", read.switch, "endpoint_slots"),
    flag("--sleep-idle-seconds", "", read.nonzero(read.integer(-1)), "sleep_idle_seconds"),
    flag("--cors-origins", "CORS_ORIGINS", str, put.cors_origins),
    flag("--cors-methods", "CORS_METHODS", str, "cors_methods"),
    flag("--cors-headers", "CORS_HEADERS", str, "cors_headers"),
    flag("--cors-credentials / --no-cors-credentials", "CORS_CREDENTIALS", read.switch, "cors_credentials"),
    flag("--ui --webui / --no-ui --no-webui", "UI", read.switch, "ui"),
    flag("--ui-config --webui-config", "UI_CONFIG", str, "ui_config_json"),
    flag("--ui-config-file --webui-config-file", "UI_CONFIG_FILE", read.file_text, "ui_config_json"),
    flag("--ui-mcp-proxy --webui-mcp-proxy / --no-ui-mcp-proxy --no-webui-mcp-proxy",
         "UI_MCP_PROXY", read.switch, "ui_mcp_proxy"),
    flag("--tools", "TOOLS", read.csv_fields, "server_tools"),
    flag("--mcp-servers-config", "MCP_SERVERS_CONFIG", str, "mcp_servers_config"),
    flag("--mcp-servers-json", "MCP_SERVERS_JSON", str, "mcp_servers_json"),
    flag("-ag --agent / -no-ag --no-agent", "AGENT", read.switch, put.agent),
    # log
    flag("-v --verbose --log-verbose", "", read.switch, put.verbose),
    flag("-lv --verbosity --log-verbosity", "LOG_VERBOSITY", int, "verbosity"),
    flag("--log-prompts-dir", "", read.created_folder, "path_prompts_log_dir"),
    flag("--log-file", "LOG_FILE", str, put.nothing),
    flag("--log-colors", "LOG_COLORS", str, put.nothing),
    flag("--log-jsonl / --no-log-jsonl", "LOG_JSONL", read.switch, put.nothing),
    flag("--log-prefix / --no-log-prefix", "LOG_PREFIX", read.switch, put.nothing),
    flag("--log-timestamps / --no-log-timestamps", "LOG_TIMESTAMPS", read.switch, put.nothing),
    flag("--log-disable", "", read.switch, put.nothing),
    flag("-dt --defrag-thold", "DEFRAG_THOLD", str, put.nothing),
)
# fmt: on


def usage() -> str:
    """The flags in the form of llama-server's own `--help`, which the router reads (`flags.parse_help`)."""
    return "\n".join(
        ", ".join(flag.spellings + flag.negatives)
        + (" VALUE" if flag.arity else "")
        + (f"\n{'':40}(env: {flag.env})" if flag.env else "")
        for flag in FLAGS
    )
