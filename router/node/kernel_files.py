"""Small text files of the kernel: proc, sysfs, control groups.

`host_memory`, `amd` and `nvidia` read them. They are read without a thread: the kernel answers from memory.
"""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """The whole text, without blanks around it. Raises OSError, or ValueError for bytes beyond ASCII."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def read_fields(path: Path) -> dict[str, int]:
    """The numbers of a file with lines `name: 123 kB` or `name 123`, by name.

    Raises OSError, ValueError or IndexError.
    """
    lines = (line.split() for line in read_text(path).splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
