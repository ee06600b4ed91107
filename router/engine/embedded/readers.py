"""What the text of a flag becomes: one reader for each kind of value.

A reader takes the text and returns the value. It raises ValueError for text that it cannot use, and OSError for a file
that it cannot read. `table` names a reader in each row; `arguments` calls it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from router.engine.embedded.library import xllamacpp

Reader = Callable[[str], Any]

# fmt: off
SAMPLERS = {
    "e": "penalties", "d": "dry", "s": "top_n_sigma", "k": "top_k", "y": "typ_p", "p": "top_p", "m": "min_p",
    "x": "xtc", "t": "temperature", "i": "infill", "a": "adaptive_p",
}
# fmt: on
BOOLEANS = {
    **dict.fromkeys(("on", "enabled", "true", "1"), True),
    **dict.fromkeys(("off", "disabled", "false", "0"), False),
}


# Words


def choice(values: Mapping[str, Any]) -> Reader:
    """One of these words; each stands for a value."""

    def read(text: str) -> Any:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return values[text]

    return read


def converted(read: Reader, convert: Callable[[Any], Any]) -> Reader:
    """What `read` returns, passed through `convert`."""
    return lambda text: convert(read(text))


# Flags that take no value have one of these two readers; their text is always `on` or `off` (see `table.Flag.arity`).
switch = choice(BOOLEANS)
inverted_switch = converted(switch, lambda value: not value)

# Of flags that take a value.
boolean = choice(BOOLEANS)
zero_or_one = converted(int, bool)
is_probabilistic = choice({"greedy": False, "probabilistic": True})


def switch_or_auto(text: str) -> bool | None:
    """None for `auto`."""
    return None if text in ("auto", "-1") else boolean(text)


def member(enum: str, words: str, **names: str) -> Reader:
    """A member of an enum of xllamacpp, by one of these words.

    The members' names are the enum's name and the word, in capitals. `names` has the words whose member is called
    otherwise.
    """

    def read(text: str) -> Any:
        name = choice({word: names.get(word, re.sub(r"\W", "_", word)) for word in words.split()})(text)
        return getattr(xllamacpp, enum)[f"{enum}_{name}".upper()]

    return read


rope_scaling = member("llama_rope_scaling_type", "none linear yarn")
split_mode = member("llama_split_mode", "none layer row tensor")
load_mode = member("llama_load_mode", "auto none mmap mlock mmap+mlock dio", dio="direct_io")
lazy_mode = member("llama_lazy_mode", "on auto off")
numa = member("ggml_numa_strategy", "distribute isolate numactl")
reasoning_format = member("common_reasoning_format", "none auto deepseek deepseek-legacy")
pooling = member("llama_pooling_type", "none mean cls last rank")
cache_type = member("ggml_type", "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
flash_attention = member("llama_flash_attn_type", "on off auto", on="enabled", off="disabled")
speculative_type = member(
    "common_speculative_type",
    "none draft-simple draft-eagle3 draft-mtp draft-dflash draft-dspark"
    " ngram-simple ngram-map-k ngram-map-k4v ngram-mod ngram-cache",
)


# Numbers


def integer(low: int, high: int | None = None) -> Reader:
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

    return converted(read, check)


def positive(text: str) -> float:
    if not 0.0 < float(text) < float("inf"):
        raise ValueError("must be greater than 0")
    return float(text)


def thread_count(text: str) -> int:
    """As many as the machine has CPUs, for 0 and below."""
    return int(text) if int(text) > 0 else os.cpu_count() or 1


def layer_count(text: str) -> int:
    return {"auto": -1, "all": -2}.get(text) or int(text)


seed = converted(int, lambda value: value & 0xFFFFFFFF)
temperature = converted(float, lambda value: max(0.0, value))
reciprocal = converted(float, lambda value: 1.0 / value)


def cpu_mask(text: str) -> set[int]:
    """The CPUs whose bits are set in a hexadecimal number."""
    bits = int(text, 16)
    return {cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1}


def cpu_range(text: str) -> set[int]:
    """The CPUs `first-last`; either number may be left out."""
    first, last = text.split("-")
    return set(range(int(first or 0), int(last or xllamacpp.GGML_MAX_N_THREADS - 1) + 1))


# Lists


def csv_fields(text: str) -> list[str]:
    """Fields between commas; a field may be in double quotes, as in CSV."""
    fields = re.findall(r'(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))', text)
    return [quoted.replace('""', '"') or plain for quoted, plain in fields]


def names(text: str) -> list[str]:
    """Fields between commas, without those that are empty."""
    return [name.strip() for name in csv_fields(text) if name.strip()]


def list_of_one(text: str) -> list[str]:
    return [text]


def floats(text: str) -> list[float]:
    """Numbers between commas or slashes."""
    return [float(number) for number in re.split("[,/]+", text)]


def sampler_names(letters: str) -> str:
    """The samplers that these letters stand for, as `--samplers` takes them."""
    return ";".join(SAMPLERS[letter] for letter in letters if letter in SAMPLERS)


speculative_types = converted(names, lambda words: [speculative_type(word) for word in words])


def first_layers_on_cpu(pattern: str) -> Reader:
    """Tensors that match `pattern` in the first N layers stay in host memory."""
    return lambda text: ",".join(rf"blk\.{layer}{pattern}=CPU" for layer in range(integer(0)(text)))


# Files and folders


def file_text(text: str) -> str:
    return Path(text).read_text(encoding="utf-8")


def existing_folder(text: str) -> str:
    """The folder's path, with a separator at its end, as the C++ side wants it."""
    if not Path(text).is_dir():
        raise ValueError("is not a directory")
    return os.path.join(text, "")


def created_folder(text: str) -> str:
    Path(text).mkdir(parents=True, exist_ok=True)
    return text


def keys_of_file(text: str) -> list[str]:
    """The lines of a file, without empty ones and comments."""
    return [line for line in file_text(text).splitlines() if line and not line.startswith("#")]


# Values that have classes of their own in xllamacpp, or are JSON


def adapters(text: str) -> list[Any]:
    """LoRA adapters, by their paths."""
    return [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in csv_fields(text)]


def scaled_adapters(text: str) -> list[Any]:
    """LoRA adapters as `path:scale`."""
    pairs = [item.rpartition(":") for item in csv_fields(text)]
    return [xllamacpp.CommonAdapterLoraInfo(path, float(scale)) for path, _, scale in pairs]


def grammar(text: str) -> Any:
    return xllamacpp.CommonGrammar(xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER, text)


def json_schema(text: str) -> Any:
    """The grammar of a JSON schema."""
    kind = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_OUTPUT_FORMAT
    return xllamacpp.CommonGrammar(kind, xllamacpp.json_schema_to_grammar(text))


def template_values(text: str) -> dict[str, str]:
    """A JSON object, each value as JSON text again."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("must be a JSON object")
    return {key: json.dumps(value, ensure_ascii=False, separators=(",", ":")) for key, value in values.items()}
