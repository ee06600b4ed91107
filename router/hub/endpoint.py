"""PURE: where the hub is: Hugging Face, or a mirror that the environment names.

llama.cpp reads MODEL_ENDPOINT before HF_ENDPOINT; here a value that is empty or blank counts as not set.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.redaction import without_credentials

DEFAULT_ENDPOINT = "https://huggingface.co"
VARIABLES = ("MODEL_ENDPOINT", "HF_ENDPOINT")


def address(environ: Mapping[str, str]) -> str:
    """The hub's address, maybe with credentials, without a slash at its end."""
    values = (environ.get(name, "").strip() for name in VARIABLES)
    return next(filter(None, values), DEFAULT_ENDPOINT).rstrip("/")


def endpoint(environ: Mapping[str, str]) -> str:
    """The hub's address, as people may see it: without its credentials."""
    return without_credentials(address(environ))
