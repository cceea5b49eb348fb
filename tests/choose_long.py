"""Chooses the tests that `make test` leaves to `make test-all`, by what they took.

    python -m pytest -n 2 --durations=0 -q > durations.txt
    python tests/choose_long.py durations.txt > tests/long_tests.txt

A line of the result is the node id of a test that takes more than `LONGEST` seconds. Where every
case of a parametrized test takes longer, the quickest stays in `make test`, unless it alone takes
more than `NEVER` seconds. Tests that share a slow fixture carry the mark themselves.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

LONGEST = 1.0
NEVER = 8.0
_LINE = re.compile(r"^\s*([\d.]+)s (call|setup|teardown)\s+(tests/\S.*)$")


def long_tests(durations: str) -> list[str]:
    """Node ids in order.

    Args:
        durations: what pytest printed with ``--durations=0``.
    """
    seconds: dict[str, float] = defaultdict(float)
    for line in durations.splitlines():
        if found := _LINE.match(line):
            seconds[found[3]] += float(found[1]) if found[2] == "call" else 0.0
    cases = defaultdict(list)
    for node, taken in seconds.items():
        cases[node.partition("[")[0]].append((taken, node))
    out = []
    for own in cases.values():
        own.sort()
        slow = [node for taken, node in own if taken > LONGEST]
        if len(slow) == len(own) > 1 and own[0][0] <= NEVER:
            slow.remove(own[0][1])
        out += slow
    return sorted(out)


if __name__ == "__main__":
    print("\n".join(long_tests(Path(sys.argv[1]).read_text())))
