"""The names that were probably meant where a name is wrong; within a millisecond, whatever somebody sent."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from rapidfuzz import fuzz, process

LONGEST = 200  # characters of a name that is worth comparing
MOST = 5000  # names that it is compared with
ALIKE = 60  # per cent of two names that stand in both, in order


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The best first; none where nothing is alike."""
    if len(name) > LONGEST:
        return []
    found = process.extract(name, list(islice(known, MOST)), scorer=fuzz.ratio, score_cutoff=ALIKE, limit=most)
    return [choice for choice, _, _ in found]
