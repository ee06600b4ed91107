"""PURE: flags that llama-server had once, and what is written for them now.

Old command lines and preset files still have them. The nearest name that exists would be a wrong hint: `--mlock` is
like `--lora`, and means `--load-mode mlock`. Called by whoever meets a flag that no table has: `flags`, presets, and
the import of other programs' files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Now(NamedTuple):
    """`key` is the flag that replaces an old one, without dashes; None if nothing does. `value` is what it is set to;
    None if the old value stays. `why` explains one that is gone."""

    key: str | None
    value: str | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.key is None:
            return self.why
        return f"it is now {self.key}" if self.value is None else f"write {self.key} = {self.value}"

    @property
    def as_flag(self) -> str:
        """As on a command line."""
        if self.key is None:
            return self.why.replace("delete it", "leave it out").replace("write the text as", "in a preset file, write")
        return f"it is now --{self.key}" if self.value is None else f"write --{self.key} {self.value}"


_SHARED_CONTEXT = "the draft model has the context of its model: delete it"
_GONE = "llama-server has no such flag any more: delete it"

# By llama.cpp's history of common/arg.cpp, and by the texts of flags that it lists as removed (b11434).
RENAMED: Mapping[str, Now] = {
    "mmap": Now("load-mode", "mmap"),
    "no-mmap": Now("load-mode", "none"),
    "mlock": Now("load-mode", "mlock"),
    "direct-io": Now("load-mode", "dio"),
    "dio": Now("load-mode", "dio"),
    "no-direct-io": Now("load-mode", "mmap"),
    "ndio": Now("load-mode", "mmap"),
    "draft": Now("spec-draft-n-max"),
    "draft-n": Now("spec-draft-n-max"),
    "draft-max": Now("spec-draft-n-max"),
    "draft-min": Now("spec-draft-n-min"),
    "draft-n-min": Now("spec-draft-n-min"),
    "spec-ngram-size-n": Now("spec-ngram-simple-size-n"),
    "spec-ngram-size-m": Now("spec-ngram-simple-size-m"),
    "spec-ngram-min-hits": Now("spec-ngram-simple-min-hits"),
    "ctx-size-draft": Now(None, why=_SHARED_CONTEXT),
    "cd": Now(None, why=_SHARED_CONTEXT),
    "spec-draft-ctx-size": Now(None, why=_SHARED_CONTEXT),
    "slots-endpoint-disable": Now("slots", "off"),
    "gqa": Now(None, why=_GONE),
    "mul-mat-q": Now(None, why=_GONE),
    "no-mul-mat-q": Now(None, why=_GONE),
    "nommq": Now(None, why=_GONE),
    "grp-attn-w": Now(None, why=_GONE),
    "gaw": Now(None, why=_GONE),
    "log-enable": Now(None, why=_GONE),
    "log-new": Now(None, why=_GONE),
    "log-append": Now(None, why=_GONE),
    "grp-attn-n": Now(None, why=_GONE),
    "gan": Now(None, why=_GONE),
    "system-prompt-file": Now(None, why="write the text as system-prefix = TEXT"),
    "spf": Now(None, why="write the text as system-prefix = TEXT"),
    "logdir": Now("log-file"),
    "num-ctx": Now("ctx-size"),
    "n-ctx": Now("ctx-size"),
    "lora-base": Now(None, why=_GONE),
}


def now(word: str) -> Now | None:
    """What replaces a flag, by any spelling: with dashes or without, in any case, with `_` for `-`."""
    return RENAMED.get(bare(word))


def bare(word: str) -> str:
    """A spelling as it stands in preset files."""
    return word.lstrip("-").replace("_", "-").lower()
