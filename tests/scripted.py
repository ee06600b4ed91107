"""What the fake engine answers to chats, said by a test, and what it was sent.

For clients that a tiny model cannot serve: no tiny model calls a tool or thinks. The router in front is the real one,
and so are the models' files and templates; what reaches the engine is seen in `Script.sent`.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any, TypedDict

import gguf

# Templates of three kinds of models, cut down to what the router reads in them.
TURNS = "{%- for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
TOOLS = "{%- if tools %}{{ tools | tojson }}{% endif %}{%- if message.tool_calls %}{{ message.tool_calls }}{% endif %}"
# As in the Qwen 3.5 family: system messages stand first, or it raises. Thinks by default, can be turned off.
STRICT = (
    "{%- for message in messages %}{%- if message.role == 'system' and not loop.first %}"
    "{{- raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{{ message.role }}: {{ message.content }} {% endfor %}" + TOOLS + "{%- if add_generation_prompt %}assistant:"
    "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% else %}<think>{% endif %}"
    "{%- endif %}"
)
# Thinks only if it is asked to.
OPT_IN = (
    TURNS
    + TOOLS
    + "{%- if add_generation_prompt %}assistant:"
    + "{%- if not (enable_thinking is defined and enable_thinking) %}<think></think>{% endif %}{% endif %}"
)
# Nothing turns its thinking off.
ALWAYS = TURNS + TOOLS + "{%- if add_generation_prompt %}assistant:<think>{% endif %}"
# Has levels, and always thinks a little, as gpt-oss does.
LEVELS = (
    "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'medium' %}{% endif %}"
    "{{- 'Reasoning: ' + reasoning_effort + ' ' }}"
    f"{TURNS}{TOOLS}{{%- if add_generation_prompt %}}assistant:{{% endif %}}"
)
TEMPLATES = {"strict": STRICT, "opt-in": OPT_IN, "always": ALWAYS}

# As llama-server says it (b11434, server-context.cpp).
TOO_LONG: dict[str, Any] = {
    "code": 400,
    "message": "request (4097 tokens) exceeds the available context size (2048 tokens), try increasing it",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 4097,
    "n_ctx": 2048,
}


class Rule(TypedDict, total=False):
    """An answer, and the chats that it fits: all conditions hold; a rule without conditions fits all."""

    after: str  # the role of the last message; messages of the system do not count
    contains: str  # in the text of the last message
    tool: str  # that is offered
    reasoning: str
    text: str
    calls: list[dict[str, Any]]  # `{"name", "arguments"}`
    finish: str  # else "tool_calls" with calls, "stop" without
    error: dict[str, Any]
    status: int  # of the error; default 400


class Script:
    """The rules of a fake engine in a file, and the chats that it was sent in another.

    script = Script(folder)
    router = start(folder, "--engine", FAKE, ..., **script.environ)
    script.play({"after": "tool", "text": "It rains."}, {"calls": [{"name": "rain", "arguments": {}}]})
    ...
    assert script.sent()[-1]["messages"][-1]["role"] == "tool"
    """

    def __init__(self, folder: Path) -> None:
        self._rules, self._sent = folder / "script.json", folder / "sent.jsonl"
        self.environ = {"FAKE_SCRIPT": str(self._rules), "FAKE_SENT": str(self._sent)}
        self.play({"text": "Hello."})

    def __repr__(self) -> str:
        return f"<Script {self._rules}: {len(self.sent())} sent>"

    def play(self, *rules: Rule) -> None:
        """From the next chat on. What was sent before is forgotten."""
        self._rules.write_text(json.dumps(rules))
        self._sent.write_text("")

    def sent(self) -> list[dict[str, Any]]:
        """The fields of each chat since the rules were set."""
        return [json.loads(line) for line in self._sent.read_text().splitlines()]


def text_of(message: dict[str, Any]) -> str:
    """The text of a message as the engine gets it, whole or in parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def presets(model: Path) -> str:
    """Sections over one model's file: one for each template, `levels`, and `seeing`, which takes images."""
    eyes = write_eyes(model.with_name("eyes.gguf"))
    sections = {name: f"model = {model}\nchat-template = {text}\n" for name, text in TEMPLATES.items()}
    sections["levels"] = f"model = {model}\nchat-template = {LEVELS}\n"
    sections["seeing"] = sections["opt-in"] + f"mmproj = {eyes}\n"
    return "\n".join(f"[{name}]\n{keys}" for name, keys in sections.items())


def write_eyes(path: Path) -> Path:
    """The header of a projector for images. No engine but the fake one loads it."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_uint32("clip.vision.projection_dim", 64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def red(size: int = 8) -> bytes:
    """A red picture, as a PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\xff\0\0" * size) * size)
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
