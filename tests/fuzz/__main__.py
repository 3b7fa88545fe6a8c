"""Run many cases, in two processes; print a table by kind, and every fault.

python -m tests.fuzz --cases 10000 --seed 0
python -m tests.fuzz --only 1234
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from .run import KINDS, kind_of, run_cases

_AT_ONCE = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument("--only", type=int, help="run this case alone")
    parser.add_argument("--kind", choices=KINDS, help="run cases of this kind alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.only is not None:
        (outcome,) = run_cases([arguments.only])
        print(outcome.kind, outcome.result, outcome.found)
        return int(outcome.result == "fault")

    seeds = range(arguments.seed, arguments.seed + arguments.cases)
    chosen = [s for s in seeds if arguments.kind in (None, kind_of(s))]
    parts = [chosen[i : i + _AT_ONCE] for i in range(0, len(chosen), _AT_ONCE)]
    counts: Counter[tuple[str, str]] = Counter()
    start, last, n_done = time.monotonic(), 0.0, 0
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        running = {pool.submit(run_cases, part): part for part in parts}
        for future in as_completed(running):
            part = running[future]
            if future.exception() is not None:
                print(
                    f"seeds {part[0]} to {part[-1]}: {future.exception()!r}", flush=True
                )
                counts["a process died", "fault"] += 1
                continue
            for outcome in future.result():
                counts[outcome.kind, outcome.result] += 1
                if outcome.result == "fault":
                    print(
                        f"--only {outcome.seed}: {outcome.kind}: {outcome.found}",
                        flush=True,
                    )
            n_done += len(part)
            seconds = time.monotonic() - start
            if seconds - last > 30:
                last = seconds
                print(f"{n_done} of {len(chosen)} cases, {seconds:.0f} s", flush=True)
    _print_table(counts, time.monotonic() - start)
    return int(any(result == "fault" for _, result in counts))


def _print_table(counts: Counter[tuple[str, str]], seconds: float) -> None:
    results = ("answered", "refused", "fault")
    print(f"\n{'kind':22}{'cases':>9}" + "".join(f"{r:>10}" for r in results))
    kinds = sorted({kind for kind, _ in counts})
    for kind in kinds:
        row = [counts[kind, result] for result in results]
        print(f"{kind:22}{sum(row):>9}" + "".join(f"{n:>10}" for n in row))
    row = [sum(counts[kind, result] for kind in kinds) for result in results]
    print(f"{'all':22}{sum(row):>9}" + "".join(f"{n:>10}" for n in row))
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
