"""PURE: the engines' own metrics, `llamacpp:...`, of several models as one text.

Each model's text is read as that of a stranger: what is not well formed, too much, or not the engine's own name is left
out, sample by sample. So a child can spoil nothing but its own figures, and never those of the router. Families are put
together, since each may stand only once, and each sample gets the label `model`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from router.metrics.exposition import Format, escaped, head

MAX_BYTES = 64 << 10  # of one model's text; a llama-server's has some three thousand
MAX_LINES = 1000
MAX_SAMPLES = 500
MAX_HELP = 200  # characters
MAX_VALUE = 128  # characters of a label's value
MAX_LABELS = 8
UNTYPED = "unknown"

_NAME = re.compile(r"llamacpp:[a-zA-Z0-9_:]{1,100}")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]{0,60})="((?:[^"\\]|\\["\\n])*)"')
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?Inf|NaN", re.ASCII)
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(slots=True)
class _Family:
    kind: str = UNTYPED
    help: str = ""
    samples: dict[str, str] = field(default_factory=dict)  # values by labels


def merged(texts: Mapping[str, bytes], form: Format) -> bytes:
    """The metrics of these models; `texts` has what each model's engine has answered, by the model's label. Without a
    label, the samples stay as they are."""
    together: dict[str, _Family] = {}
    for model, text in texts.items():
        label = f'model="{escaped(model)}"' if model else ""
        for name, own in _families(text).items():
            family = together.setdefault(name, _Family(own.kind, own.help))
            if family.kind != own.kind:  # one of them is wrong, and nobody knows which
                family.kind = UNTYPED
            for labels, value in own.samples.items():
                family.samples[",".join(filter(None, (label, labels)))] = value
    return b"".join(_written(together, form))


def _written(families: Mapping[str, _Family], form: Format) -> Iterator[bytes]:
    for name, family in families.items():
        if not family.samples:
            continue
        base = name.removesuffix("_total")
        # OpenMetrics has counters end in `_total`, and wants what stands before that for nothing else.
        is_counter = family.kind == "counter" and base != name and not {base, f"{base}_created"} & families.keys()
        kind = UNTYPED if family.kind == "counter" and not is_counter else family.kind
        yield head(form, base if is_counter else name, kind, family.help)
        for labels, value in family.samples.items():
            yield f"{name}{f'{{{labels}}}' if labels else ''} {value}\n".encode()


def _families(text: bytes) -> dict[str, _Family]:
    """What is well formed in a text of the older format, by name."""
    families: dict[str, _Family] = {}
    samples = 0
    for line in text[:MAX_BYTES].decode(errors="replace").split("\n", MAX_LINES)[:MAX_LINES]:
        if line.startswith("# "):
            _, _, rest = line.partition(" ")
            word, name, more = (*rest.split(" ", 2), "", "")[:3]
            if _NAME.fullmatch(name):
                family = families.setdefault(name, _Family())
                if word == "TYPE" and not family.samples:
                    family.kind = more if more in ("counter", "gauge") else UNTYPED
                elif word == "HELP":
                    family.help = _plain(more)
        elif samples < MAX_SAMPLES and (found := _NAME.match(line)):
            sample = _sample(line[found.end() :])
            if sample is None:
                continue
            family = families.setdefault(found[0], _Family())
            if family.kind != "counter" or _is_count(sample[1]):
                family.samples.setdefault(*sample)
                samples += 1
    return families


def _sample(rest: str) -> tuple[str, str] | None:
    """Labels and value of a sample, from what follows its name; None if it is none."""
    labels: dict[str, str] = {}
    at = 0
    if rest.startswith("{"):
        at = 1
        while found := _LABEL.match(rest, at):
            name, value = found.groups()
            is_ours = name == "model" or name.startswith("__")
            if name in labels or is_ours or len(value) > MAX_VALUE or len(labels) >= MAX_LABELS:
                return None
            labels[name] = _UNSEEN.sub("?", value)
            at = found.end()
            if not rest.startswith(",", at):
                break
            at += 1
        if not rest.startswith("}", at):
            return None
        at += 1
    value, *_ = (*rest[at:].split(), "")
    if not rest[at : at + 1].isspace() or not _is_number(value):
        return None
    return ",".join(f'{name}="{labels[name]}"' for name in sorted(labels)), value


def _is_number(value: str) -> bool:
    """Whether Prometheus can read it. A number that is too large for it would cost the whole scrape."""
    return _NUMBER.fullmatch(value) is not None and (math.isfinite(float(value)) or value[-1] in "fN")


def _is_count(value: str) -> bool:
    """Whether a counter can have this value."""
    return not value.startswith("-") and value != "NaN"


def _plain(text: str) -> str:
    return _UNSEEN.sub(" ", text[:MAX_HELP]).replace("\\", "/").replace('"', "'").rstrip(".") or "-"
