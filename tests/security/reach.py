"""What each flag of llama-server can reach besides the model, as read from `--help` and common/arg.cpp of b11434.

The tests fail until a new flag is listed here.
"""

from __future__ import annotations

# The flag changes how the model computes or answers, and nothing else.
NOTHING = "nothing"

_TABLE = {
    NOTHING: """
        ctx-size n-predict keep batch-size ubatch-size parallel kv-unified kv-unified-per-slot cont-batching swa-full
        flash-attn cache-type-k cache-type-v kv-offload ctx-checkpoints checkpoint-min-step cache-ram cache-prompt
        cache-reuse cache-idle-slots context-shift slot-prompt-similarity threads threads-batch n-gpu-layers cpu-moe
        n-cpu-moe n-cpu-ffn load-mode lazy-mode repack op-offload fit fit-ctx warmup check-tensors rope-scaling
        rope-scale rope-freq-base rope-freq-scale yarn-orig-ctx yarn-ext-factor yarn-attn-factor yarn-beta-slow
        yarn-beta-fast samplers sampling-seq seed ignore-eos temperature top-k top-p min-p top-n-sigma xtc-probability
        xtc-threshold typical-p repeat-last-n repeat-penalty presence-penalty frequency-penalty dry-multiplier dry-base
        dry-allowed-length dry-penalty-last-n dry-sequence-breaker adaptive-target adaptive-decay dynatemp-range
        dynatemp-exp mirostat mirostat-lr mirostat-ent logit-bias backend-sampling grammar json-schema spec-default
        spec-type spec-draft-n-max spec-draft-n-min spec-draft-p-min spec-draft-p-split spec-draft-sampling
        spec-draft-backend-sampling spec-draft-cpu-moe spec-draft-n-cpu-moe n-gpu-layers-draft cache-type-k-draft
        cache-type-v-draft spec-draft-threads spec-draft-threads-batch draft-max draft-n-min spec-ngram-mod-n-min
        spec-ngram-mod-n-max spec-ngram-mod-n-match spec-ngram-simple-size-n spec-ngram-simple-size-m
        spec-ngram-simple-min-hits spec-ngram-map-k-size-n spec-ngram-map-k-size-m spec-ngram-map-k-min-hits
        spec-ngram-map-k4v-size-n spec-ngram-map-k4v-size-m spec-ngram-map-k4v-min-hits jinja chat-template
        chat-template-kwargs reasoning reasoning-format reasoning-effort reasoning-budget reasoning-budget-message
        reasoning-preserve prefill-assistant skip-chat-parsing special reverse-prompt escape embeddings embd-normalize
        pooling reranking spm-infill mmproj-auto mmproj-offload image-min-tokens image-max-tokens mtmd-batch-max-tokens
    """,
    "files": """
        model mmproj spec-draft-model lora lora-scaled control-vector control-vector-scaled chat-template-file
        grammar-file json-schema-file lookup-cache-static lookup-cache-dynamic log-file api-key-file ssl-key-file
        ssl-cert-file webui-config-file mcp-servers-config models-preset slot-save-path media-path path models-dir
        log-prompts-dir cache-list
    """,
    "programs": "tools tools-runtime mcp-servers-json agent webui-mcp-proxy video-ffmpeg-dir",
    "the network": """
        model-url mmproj-url rpc docker-repo hf-repo hf-file spec-draft-hf offline embd-gemma-default
        fim-qwen-1.5b-default fim-qwen-3b-default fim-qwen-7b-default fim-qwen-7b-spec fim-qwen-14b-spec
        fim-qwen-30b-default gpt-oss-20b-default gpt-oss-120b-default vision-gemma-4b-default vision-gemma-12b-default
    """,
    "secrets": "api-key hf-token",
    "the routes, and who may use them": """
        host port reuse-port api-prefix cors-origins cors-methods cors-headers cors-credentials webui webui-config
        metrics props slots alias tags models-max models-autoload timeout sse-ping-interval threads-http
        sleep-idle-seconds
    """,
    "the log": "log-disable log-jsonl log-colors log-verbose log-verbosity log-prefix log-timestamps perf",
    "what other models run on": """
        cpu-mask cpu-range cpu-strict prio poll cpu-mask-batch cpu-range-batch cpu-strict-batch prio-batch poll-batch
        spec-draft-cpu-mask spec-draft-cpu-range spec-draft-cpu-strict spec-draft-prio spec-draft-poll
        spec-draft-cpu-mask-batch spec-draft-cpu-strict-batch spec-draft-prio-batch spec-draft-poll-batch numa device
        main-gpu split-mode tensor-split override-tensor no-host fit-target spec-draft-device
        spec-draft-override-tensor mmproj-device video-fps video-timestamp-interval
    """,
    # They print something and end, are gone, or are for benchmarks or for one of the above.
    "nothing that a model needs": """
        usage version completion-bash list-devices defrag-thold override-kv control-vector-layer-range
        lora-init-without-apply spec-ngram-size-n spec-ngram-size-m spec-ngram-min-hits spec-synth-len
        spec-synth-rates
    """,
}

REACH = {f"--{name}": reach for reach, names in _TABLE.items() for name in names.split()}
COUNT = sum(len(names.split()) for names in _TABLE.values())
