"""Files whose names xllamacpp cannot take: it wants UTF-8, and the name of a file may be any bytes.

Such a file is opened here, and the engine gets the name that the kernel has for the open file. `arguments` calls this
for each value of a flag.
"""

from __future__ import annotations

import os

OPEN_FILES = "/proc/self/fd"  # Linux; elsewhere such a file cannot be given to the engine


def with_name_in_utf8(text: str) -> str:
    """The text, or if it is the path of a file and no UTF-8, another path of the file. It stays good until the process
    ends. Raises OSError if the file cannot be opened."""
    if text.isascii() or _is_utf8(text) or not os.path.exists(text) or not os.path.isdir(OPEN_FILES):
        return text
    folder, name = os.path.split(text)
    if _is_utf8(name):  # the shards of a split model lie beside it
        return f"{OPEN_FILES}/{os.open(folder, os.O_RDONLY)}/{name}"
    return f"{OPEN_FILES}/{os.open(text, os.O_RDONLY)}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
