"""PURE: names on the Hugging Face hub, `user/repo[:quant][@revision]`.

The one idea: a name is checked here before it touches the disk or the network, so no name can lead out of the cache's
folder. Called wherever a client, a preset or the command line names a model on the hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from router.errors import InvalidRequest

MAIN = "main"

# Hub id syntax: `-` and `.` only between word characters, which also rules out `..` and hidden folders.
_PART = r"(?=[^/:@]{1,96}(?:[/:@]|$))\w+(?:[.-]\w+)*"
_REVISION = r"(?=.{1,96}$)\w+(?:[./-]\w+)*"
NAME = re.compile(rf"(?P<repo>{_PART}/{_PART})(?::(?P<quant>{_PART}))?(?:@(?P<revision>{_REVISION}))?", re.ASCII)
REVISION = re.compile(_REVISION, re.ASCII)
COMMIT = re.compile(r"[0-9a-fA-F]{40}")
MAX_NAME_CHARACTERS = 400
SHOWN_CHARACTERS = 60  # of a wrong name, in its error


@dataclass(frozen=True, slots=True)
class Name:
    """`user/repo[:quant][@revision]`; a revision is a branch, a tag, or a commit.

    ::

        name = Name.parse("user/repo:Q8_0")
        name.repo, name.quant, name.revision  # "user/repo", "Q8_0", "main"
    """

    repo: str
    quant: str | None = None
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> Name:
        """Raises InvalidRequest for text that is not such a name. Touches neither disk nor network."""
        match = NAME.fullmatch(text) if len(text) <= MAX_NAME_CHARACTERS else None
        if match is None:
            shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
            raise InvalidRequest(
                f"{shown!r} is not the name of a model on the hub: write user/repo, user/repo:QUANT or "
                "user/repo:QUANT@REVISION, each part up to 96 letters, digits, _ and, between them, - or ."
            )
        return cls(match["repo"], match["quant"], match["revision"] or MAIN)

    def __str__(self) -> str:
        quant = f":{self.quant}" if self.quant else ""
        return f"{self.repo}{quant}" + (f"@{self.revision}" if self.revision != MAIN else "")


def name_or_none(text: str) -> Name | None:
    """The name that a text is; None if it is not a name on the hub."""
    try:
        return Name.parse(text)
    except InvalidRequest:
        return None


def without_host(name: str) -> str:
    """The name without the host that Ollama's clients put before names on the hub."""
    return name.removeprefix("hf.co/").removeprefix("huggingface.co/")
