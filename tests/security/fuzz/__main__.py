"""`python -m tests.security.fuzz [wire|child|files ...] --seconds 3600 --seed 1`"""

from __future__ import annotations

import argparse
import random

from tests.security.fuzz import child, files, wire

PARTS = {"wire": wire.run, "child": child.run, "files": files.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="wire, child, files; all if none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each part")
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", type=int, help="the number of one case")
    said = parser.parse_args()
    print(f"--seed {said.seed}", flush=True)
    for part in said.parts or PARTS:
        done = PARTS[part](said.seed, said.seconds, said.cases, said.only)
        print(f"{part}: {done} cases", flush=True)


if __name__ == "__main__":
    main()
