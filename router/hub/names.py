"""PURE: names on the Hugging Face hub, `user/repo[:quant][@revision]`.

Two ideas. A name is checked here before it touches the disk or the network, so no name can lead out of the cache's
folder. And names compare as names, not as text: the hub's host may stand in front, and a quant may be written in any
case and with the prefix that its file has (`UD-Q4_K_XL`). Called wherever a client, a preset or the command line names
a model on the hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from router.errors import InvalidRequest

MAIN = "main"

# Hub id syntax: `-` and `.` only between word characters, which also rules out `..` and hidden folders.
_PART = r"(?=[^/:@]{1,96}(?:[/:@]|$))\w+(?:[.-]\w+)*"
_REVISION = r"(?=.{1,96}$)\w+(?:[./-]\w+)*"
NAME = re.compile(rf"(?P<repo>{_PART}/{_PART})(?::(?P<quant>{_PART}))?(?:@(?P<revision>{_REVISION}))?", re.ASCII)
REVISION = re.compile(_REVISION, re.ASCII)
COMMIT = re.compile(r"[0-9a-fA-F]{40}")
MAX_NAME_CHARACTERS = 400
# The hub's host as people copy it, and as Ollama's clients write it.
_HOST = re.compile(r"(?:https?://)?(?:hf\.co|(?:www\.)?huggingface\.co)/", re.IGNORECASE)
_HOSTS_OF_OLLAMA = re.compile(r"(?:https?://)?(?:registry\.ollama\.ai|(?:www\.)?ollama\.com)/", re.IGNORECASE)
_LATEST = "latest"  # the tag that Ollama's clients add to names without one
_LAST_WORD = re.compile(r"\w+$", re.ASCII)
OLLAMA_NAME = re.compile(rf"{_PART}(?::{_PART})?", re.ASCII)
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
        """The host of the hub may stand in front. Raises InvalidRequest for other text. Touches neither disk nor
        network."""
        match = NAME.fullmatch(without_host(text)) if len(text) <= MAX_NAME_CHARACTERS else None
        if match is None:
            shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
            raise InvalidRequest(
                f"{shown!r} is not the name of a model on the hub: write user/repo, user/repo:QUANT or "
                "user/repo:QUANT@REVISION, each part up to 96 letters, digits, _ and, between them, - or ."
                f"{_search_hint(text)}"
            )
        quant = match["quant"]
        return cls(match["repo"], None if quant and quant.lower() == _LATEST else quant, match["revision"] or MAIN)

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
    """The name without the hub's host in front: `hf.co/`, `huggingface.co/`, or the address of a repository's page."""
    host = _HOST.match(name)
    if host is None:
        return name
    rest = name[host.end() :]
    return rest.removesuffix("/") if "://" in host[0] else rest


def canonical_quant(quant: str) -> str:
    """The quant as llama.cpp lists it: its last word in upper case, so `UD-Q4_K_XL` and `q4_k_xl` are the same."""
    last = _LAST_WORD.search(quant)
    return (last[0] if last else quant).upper()


def canonical(name: str) -> str:
    """The name under which the cache would list the model; text that is no name on the hub stays as it is.

    llama.cpp does this with the names of a preset file's sections.
    """
    parsed = name_or_none(name)
    if parsed is None:
        return name
    return str(replace(parsed, quant=parsed.quant and canonical_quant(parsed.quant)))


def ollama_library_name(name: str) -> str | None:
    """The name in Ollama's own library that this is, such as `llama3.2:1b`; None for other names."""
    host = _HOSTS_OF_OLLAMA.match(name)
    name = name[host.end() if host else 0 :].removeprefix("library/")
    return name if OLLAMA_NAME.fullmatch(name) else None


def search_page(library_name: str) -> str:
    """The page of the hub that lists repositories with GGUF files for a name of Ollama's library."""
    return f"https://huggingface.co/models?library=gguf&search={library_name.partition(':')[0]}"


def _search_hint(text: str) -> str:
    """Where to look, as the end of an error, for a name without an owner."""
    library_name = ollama_library_name(text)
    if library_name is None or len(library_name) > SHOWN_CHARACTERS:
        return ""
    return f"; {search_page(library_name)} lists repositories"
