"""PURE: a conversation: its messages and settings, and the request that they make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.errors import FlagError
from router.near import nearest

DEFAULT = "default"
_FLOATS = (
    *("temperature", "top_p", "min_p", "typical_p", "top_n_sigma", "repeat_penalty", "presence_penalty"),
    *("frequency_penalty", "dry_multiplier", "xtc_probability", "xtc_threshold"),
)
_WHOLE = ("top_k", "seed", "max_tokens", "repeat_last_n")
_KINDS: Mapping[str, Callable[[str], Any]] = {**dict.fromkeys(_FLOATS, float), **dict.fromkeys(_WHOLE, int)}
PARAMETERS = (*_FLOATS, *_WHOLE, "stop")
_OTHER_NAMES = {"num_predict": "max_tokens", "n_predict": "max_tokens", "repetition_penalty": "repeat_penalty"}
_OF_THE_PROCESS = {"num_ctx", "ctx_size", "num_gpu", "n_parallel", "cache_type_k", "cache_type_v"}
LEVELS = ("on", "off", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(slots=True)
class Conversation:
    """`system` is its own field, so that it can change in the middle.

    ::

        talk = Conversation("coder")
        talk.ask("Hello")
        body = talk.request()  # for /v1/chat/completions
        talk.answer("Hi!")
    """

    model: str
    system: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    think: str = ""
    turns: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, text: str, pictures: Sequence[str] = ()) -> None:
        """`pictures` are data URLs."""
        content: Any = text
        if pictures:
            parts = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
            content = [*parts, {"type": "text", "text": text}]
        self.turns.append({"role": "user", "content": content})

    def answer(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})

    def forget_question(self) -> None:
        """The last question got no answer: it is as if it had not been asked."""
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def clear(self) -> None:
        self.turns.clear()

    def set_parameter(self, name: str, words: Sequence[str]) -> None:
        """Raises FlagError."""
        name = _OTHER_NAMES.get(name, name).replace("-", "_")
        if name in _OF_THE_PROCESS:
            raise FlagError(f"{name} is a setting of the model's process: llama-router load MODEL --ctx-size N")
        if name not in PARAMETERS:
            near = nearest(name, PARAMETERS)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(PARAMETERS)}"
            raise FlagError(f"there is no parameter {name[:80]!r}{hint}")
        if not words:
            raise FlagError(f"{name} needs a value, or {DEFAULT}")
        if list(words) == [DEFAULT]:
            self.parameters.pop(name, None)
        elif name == "stop":
            self.parameters[name] = [_unescaped(word) for word in words]
        else:
            self.parameters[name] = _number(name, words)

    def set_think(self, level: str) -> None:
        """Raises FlagError."""
        if level not in (*LEVELS, DEFAULT):
            raise FlagError(f"think takes {', '.join(LEVELS)} or {DEFAULT}, not {level[:80]!r}")
        self.think = "" if level == DEFAULT else level

    def request(self) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {"model": self.model, "messages": [*system, *self.turns], **self.parameters}
        if self.think in ("on", "off"):
            body["enable_thinking"] = self.think == "on"
        elif self.think:
            body["reasoning_effort"] = self.think
        return {**body, "stream": True, "stream_options": {"include_usage": True}}

    def settings(self) -> list[str]:
        """What `/show` tells of it."""
        lines = [f"system: {self.system}"] if self.system else []
        lines += [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in self.parameters.items()]
        lines += [f"think: {self.think}"] if self.think else []
        return [*lines, f"messages so far: {len(self.turns)}"]


def _number(name: str, words: Sequence[str]) -> Any:
    try:
        (word,) = words
        number = _KINDS[name](word)
    except ValueError:
        kind = "a whole number" if name in _WHOLE else "a number"
        raise FlagError(f"{name} takes {kind}, not {' '.join(words)[:80]!r}") from None
    if not -1e15 < number < 1e15:
        raise FlagError(f"{name} takes a number that is not so large")
    return number


def _unescaped(word: str) -> str:
    r"""`\n` and `\t` as people type them."""
    return word.replace("\\n", "\n").replace("\\t", "\t")
