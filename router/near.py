"""PURE: the known names that are most like a wrong one, for "did you mean ...".

The one idea: the work is bounded, so that a client cannot make it slow. A search takes less than a millisecond among
5,000 names. Called by the catalog for models, and for flags, keys and commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from rapidfuzz import fuzz, process

MAX_CHARACTERS = 200  # longer names are like nothing
MAX_NAMES = 5000  # that a name is compared with
MIN_SIMILARITY = 60  # per cent of the characters of two names that are in both, in the same order


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """At most `most` names, the most similar first; empty if no name is similar enough."""
    if len(name) > MAX_CHARACTERS:
        return []
    found = process.extract(
        name, list(islice(known, MAX_NAMES)), scorer=fuzz.ratio, score_cutoff=MIN_SIMILARITY, limit=most
    )
    return [choice for choice, _, _ in found]
