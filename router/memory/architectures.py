"""PURE: what is special about each model architecture, as tables. A new architecture is entered here.

Names are those of `general.architecture` in the header. The facts were read in llama.cpp b11434: `create_memory` in
llama-model.cpp, llama-hparams.cpp, llama-kv-cache*.cpp and src/models. Read by `layers`, `kv`, `compute` and `weights`.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---- attention

# These attend over the whole batch at once and keep no cache. The embedders among them have no words to put out either.
EMBEDDERS = _names("""
    bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert modern-bert gemma-embedding
    wavtokenizer-dec clef
""")
ENCODERS = EMBEDDERS | _names("dream llada llada-moe rnd1")

# Some layers of these see a window only, if the file names its width.
ENCODERS_WITH_WINDOWS = frozenset(("modern-bert", "gemma-embedding"))

# Sliding windows, unless the file says which layers have one: every n-th layer attends to everything, the others to a
# window. With 0 all layers have a window.
WINDOW_PERIODS = {"lfm2": 0, "gemma2": 2, "gpt-oss": 2, "gemma3n": 5, "gemma3": 6, "plamo3": 8} | dict.fromkeys(
    _names("""
        cohere2 cohere2moe exaone4 exaone-moe llama4 olmo2 smallthinker afmoe mellum laguna muse-glimmer
    """),
    4,
)
# The layer that attends to everything is the first of each period, not the last.
FULL_LAYER_FIRST = _names("cohere2moe smallthinker laguna")
# Only the file says which layers have a window.
WINDOWS_IN_FILE = _names("gemma4 gemma4-assistant granite_swa maple mimo2 spark2_5 step35 dflash dots3note")
# The width of the window if the file has none, and the width that counts whatever the file says.
DEFAULT_WINDOW_TOKENS = {"gemma2": 4096, "exaone4": 4096, "llama4": 8192}
FIXED_WINDOW_TOKENS = {"llama4": 8192, "smallthinker": 4096}

# These choose by an index what to attend to. It keeps one row for each cell: of one head, or of several side by side.
INDEX_ROWS = {"deepseek32": 1, "glm-dsa": 1, "hy_v4": 1, "dots3note": 1, "minimax-m3": 1, "qwen4exp": 2, "glm5-next": 3}

# Attention and network are computed from the same input.
PARALLEL = frozenset(("command-r", "cohere2", "cohere2moe", "falcon", "gptj", "gptneox", "phi2", "plamo"))

# The engine switches flash attention off.
WITHOUT_FLASH = frozenset(("grok",))
# Each token is computed in several versions side by side (altup), which takes so many more rows of the model's width.
SEVERAL_VERSIONS = {"gemma3n": 10}
MAX_STACKED = 64  # inputs of further layers that come with a picture (deepstack); no model has more

# ---- recurrence

RECURRENT = _names("mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7")
RWKV = frozenset(("rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
# Each layer attends and recurs.
ATTENDS_AND_RECURS = _names("falcon-h1")
# A layer without key and value heads is recurrent.
RECURS_WITHOUT_HEADS = _names("""
    jamba granitehybrid plamo2 lfm2 lfm2moe kimi-linear kimi-k3 bailingmoe3 glm5-next nemotron_h nemotron_h_moe
""")
# A layer is one of three: attention, recurrence, or a feed-forward network.
ONE_BLOCK_A_LAYER = _names("nemotron_h nemotron_h_moe")
# Unless the file says which layers recur: every n-th layer attends, the others recur.
ATTENTION_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
# The gated delta net.
LINEAR_ATTENTION = frozenset(("qwen3next", "qwen35", "qwen35moe", "qwen4exp"))
# The engine can take them back to an earlier state (llm_arch_supports_rs_rollback).
ROLLBACK = _names("""
    kimi-k3 qwen35 qwen35moe qwen4exp deepseek4 glm5-next nemotron_h nemotron_h_moe lfm2 lfm2moe bailingmoe3
""")

# ---- output

# They compute no logits when they embed.
NO_LOGITS_WHEN_EMBEDDING = frozenset(("lfm2", "lfm2moe"))
# A model without a tensor for the output uses the token embeddings once more. These put out no words, so they do not.
NO_OUTPUT_WEIGHTS = EMBEDDERS - {"gemma-embedding"}
