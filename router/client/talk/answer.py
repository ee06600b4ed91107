"""An answer as it comes: pieces of thoughts and of text, and the figures at its end."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.client.failures import Failed, NotReached
from router.client.session import Session, message_of
from router.client.stream import events

PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    is_thought: bool = False


@dataclass(slots=True)
class Answer:
    """What came so far. `pieces` goes through it once; `is_whole` says whether it has ended by itself."""

    text: str = ""
    thoughts: str = ""
    finish: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)

    def pieces(self, session: Session, body: Mapping[str, Any]) -> Generator[Piece, None, None]:
        """Raises one of `failures`, also for an error in the middle. Closing the iterator ends the request."""
        with session.open("POST", PATH, body=body) as response:
            for event in events(response.iter_bytes()):
                if message := message_of(event):
                    raise Failed(message)
                yield from self._read(event)
            if self.finish is None:
                raise NotReached("the answer was cut off")

    def _read(self, event: Mapping[str, Any]) -> Iterator[Piece]:
        self.usage = _mapping(event, "usage") or self.usage
        self.timings = _mapping(event, "timings") or self.timings
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        if isinstance(choice.get("finish_reason"), str):
            self.finish = choice["finish_reason"]
        delta = _mapping(choice, "delta")
        if isinstance(thought := delta.get("reasoning_content"), str) and thought:
            self.thoughts += thought
            yield Piece(thought, is_thought=True)
        if isinstance(text := delta.get("content"), str) and text:
            self.text += text
            yield Piece(text)

    def as_json(self, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "content": self.text,
            "reasoning_content": self.thoughts or None,
            "finish_reason": self.finish,
            "usage": self.usage or None,
            "timings": self.timings or None,
        }

    def figures(self, first: float, seconds: float) -> str:
        """Tokens and speed for people, by the engine's figures if it gave some."""
        timings, usage = self.timings, self.usage
        made = _number(timings, "predicted_n") or _number(usage, "completion_tokens")
        measured = made / (seconds - first) if made and seconds > first else 0.0
        speed = _number(timings, "predicted_per_second") or measured
        prompt, cached = _number(timings, "prompt_n") or _number(usage, "prompt_tokens"), _number(timings, "cache_n")
        parts = [f"prompt {prompt:.0f} tokens" + (f" and {cached:.0f} from the cache" if cached else "")]
        parts += [f"answer {made:.0f} tokens, {speed:.1f} tokens/s", f"first after {first:.1f} s, all {seconds:.1f} s"]
        return "; ".join(parts)


def _mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = fields.get(name)
    return found if isinstance(found, dict) else {}


def _number(fields: Mapping[str, Any], name: str) -> float:
    found = fields.get(name)
    return float(found) if isinstance(found, int | float) and 0 <= found < 1e15 else 0.0
