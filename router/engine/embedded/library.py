"""The extension xllamacpp, or None where it is not installed: `--help` works without it.

All modules of this package take the extension from here, and the error that ends the program.
"""

from __future__ import annotations

from typing import Any

try:
    import xllamacpp
except ImportError:
    xllamacpp = None

__all__ = ["Params", "StartError", "xllamacpp"]

Params = Any  # xllamacpp.CommonParams, which has no stubs


class StartError(Exception):
    """The program cannot start: a sentence for stderr, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
