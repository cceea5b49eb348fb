"""Random formulas over random tables: none ends in a raw exception, in NaN or after a minute.

The cases are those of ``tests/contract_random_formulas.py``, whose seed makes formula, family,
table, priors and options. Every one that is not fitted is listed with its seed, so that

    python benchmarks/random_formulas.py --cases 1 --start SEED --verbose

does it again.

    python benchmarks/random_formulas.py --cases 200 [--start 0] [--limit 60] [--only WORD]
"""

import argparse
import faulthandler
import gc
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
from machine import describe

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import contract_random_formulas as contract

WORDS = ("fitted", "refused", "raw", "nonfinite", "slow")
# Cases after which compiled programs are forgotten: thousands of them fill the memory.
FORGET = 10
# Seconds on the wall after which a case that takes no processor time waits without end. The run
# ends there, since nothing interrupts what waits outside of Python.
WAITING = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--limit", type=float, default=contract.LIMIT, help="processor seconds")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--wall", type=float, default=float("inf"), help="stop after so many s")
    parser.add_argument("--verbose", action="store_true", help="each case, and where it failed")
    options = parser.parse_args()
    began = time.perf_counter()
    counts: Counter[tuple[str, str]] = Counter()
    words: Counter[str] = Counter()
    longest: list[tuple[float, str]] = []
    print("| seed | outcome | s | step | case | said |\n|---|---|---|---|---|---|")
    for tried, seed in enumerate(range(options.start, options.start + options.cases)):
        if time.perf_counter() - began > options.wall:
            break
        case = contract.random_case(seed)
        if options.only not in case.name:
            continue
        if tried % FORGET == 0:
            jax.clear_caches()
            gc.collect()
        print(f"seed {seed}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(WAITING, exit=True)
        with tempfile.TemporaryDirectory() as folder:
            found = contract.outcome(case, Path(folder), options.limit)
        faulthandler.cancel_dump_traceback_later()
        words[found.word] += 1
        longest.append((found.seconds, case.name))
        for kind in case.kinds:
            counts[kind, found.word] += 1
        if options.verbose or found.word != "fitted":
            said = found.said or f"{found.method}, {found.verdict}"
            cells = (seed, found.word, f"{found.seconds:.0f}", found.step, case.name, said)
            row = " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells)
            print(f"| {row} |", flush=True)
        if options.verbose and not found.holds:
            print(
                found.trace.split("The error occurred")[0],
                {step: round(s, 1) for step, s in found.spent.items()},
                flush=True,
            )
    print(f"\n| kind | {' | '.join(WORDS)} |\n|---|{'---|' * len(WORDS)}")
    for kind in sorted({kind for kind, _ in counts}):
        print(f"| {kind} | {' | '.join(str(counts[kind, word]) for word in WORDS)} |")
    print(f"| all | {' | '.join(str(words[word]) for word in WORDS)} |")
    print("\nThe longest, in seconds of processor time:")
    for seconds, name in sorted(longest, reverse=True)[:5]:
        print(f"- {seconds:.0f}: {name}")
    print(
        f"\n{sum(words.values())} cases in {time.perf_counter() - began:.0f} s; {describe('jax')}"
    )


if __name__ == "__main__":
    main()
