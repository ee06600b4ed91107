"""Every behaviour that is promised is the subject of a test that names it, as `# B-S6`."""

from __future__ import annotations

import re
from pathlib import Path

PROMISED = {
    *(f"S{number}" for number in range(1, 17) if number != 13),
    *(f"L{number}" for number in range(1, 15)),
    *(f"P{number}" for number in (*range(1, 10), 13)),
    *(f"C{number}" for number in (*range(1, 7), 14)),
    *(f"T{number}" for number in range(1, 9)),
    *("D2", "D4", "D5", "D6"),
    *(f"H{number}" for number in range(1, 6)),
}


def test_each_behaviour_has_a_test_that_names_it() -> None:
    named: set[str] = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        for comment in re.findall(r"#(.*B-.*)", path.read_text()):
            named |= set(re.findall(r"B-([A-Z]\d+)", comment))
    assert not PROMISED - named
