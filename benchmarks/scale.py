"""Time and memory of fits against the size of the data: ``python -m benchmarks.scale``.

Each job of `scale_jobs` runs in a process of its own, in interleaved rounds; those that
are in the table of the docs already are not run again. ``--only`` names some of them.
"""

import argparse
import json
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from .scale_jobs import call
from .scale_picture import draw
from .tables import read_table, write_table

RUNS, TABLE = "scale_runs", "scale"
N_ROUNDS = 3
N_SAMPLES = [1_000, 10_000, 60_000, 200_000, 600_000]
N_CLASSES = [10, 100, 1_000, 5_000]
WIDTHS = [64, 256, 1_024, 4_096]
# Working memory in MiB, or an array of all images.
KEPT = ["all", "1024", "256", "64"]
WORKERS = ["one", "one, two threads", "two of loky", "two of Dask"]
# So many rounds of what takes long.
ONCE = {
    ("samples", "200000"),
    ("samples", "600000"),
    ("tuning", "60000"),
    ("machines", ""),
    *(("kept", memory) for memory in KEPT),
}


def jobs() -> list[tuple[str, str]]:
    return [
        *(("samples", str(n)) for n in N_SAMPLES),
        *(("classes", str(k)) for k in N_CLASSES),
        *(("width", str(d)) for d in WIDTHS),
        *(("workers", kind) for kind in WORKERS),
        ("tuning", "60000"),
        *(("kept", memory) for memory in KEPT),
        ("machines", ""),
    ]


def run(only: list[str]) -> None:
    """Run what is not yet in the table of runs, and add it there."""
    runs = read_table(RUNS)
    done = {(each["job"], each["of"], each["round"]) for each in runs}
    for round_ in range(N_ROUNDS):
        # They are compared with one another.
        of_round = {("workers", kind, str(round_)) for kind in WORKERS}
        if not of_round <= done:
            done -= of_round
    with TemporaryDirectory() as folder:
        for round_ in range(N_ROUNDS):
            for name, of in jobs():
                skipped = only and name not in only
                if skipped or (name, of, str(round_)) in done:
                    continue
                if round_ and (name, of) in ONCE:
                    continue
                extra = [folder] if name == "workers" else []
                measured = call(name, *([of] if of else []), *extra)
                if name == "workers":
                    measured |= against_one(folder, of)
                print(name, of, measured, flush=True)
                parts = {"job": name, "of": of, "round": str(round_)}
                runs.append(parts | {"measured": json.dumps(measured)})
                header = [*parts, "measured"]
                write_table(RUNS, [header, *([r[h] for h in header] for r in runs)])


def against_one(folder: str, kind: str) -> dict[str, float]:
    """Compare a fit by workers with that of one process, which ran before."""
    one, found = (np.load(f"{folder}/{name}.npz") for name in (WORKERS[0], kind))
    means = [name for name in one.files if name.startswith("arr_")]
    scale = max(float(np.abs(one[name]).max()) for name in means)
    differ = max(float(np.abs(one[name] - found[name]).max()) for name in means)
    proba = one["proba"], found["proba"]
    thresholds = one["threshold"], found["threshold"]
    return {
        "means differ by, of their largest": differ / scale,
        "probabilities differ by": float(np.abs(proba[0] - proba[1]).max()),
        "thresholds differ by": largest_difference(*thresholds),
    }


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest of differences; those of exits that are both closed are 0."""
    open_ = one != other
    return float(np.abs(one[open_] - other[open_]).max(initial=0.0))


def summed_up() -> list[list[str]]:
    """Return medians over the rounds, and their range, as lines of a table."""
    found: dict[tuple[str, str, str], list] = {}
    for each in read_table(RUNS):
        for what, value in json.loads(each["measured"]).items():
            found.setdefault((each["job"], each["of"], what), []).append(value)
    lines = [["job", "of", "what", "median", "least", "most"]]
    for (job, of, what), values in found.items():
        if isinstance(values[0], str):
            lines.append([job, of, what, values[0], "", ""])
            continue
        three = median(values), min(values), max(values)
        lines.append([job, of, what, *(f"{value:.4g}" for value in three)])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    run(parser.parse_args().only)
    write_table(TABLE, summed_up())
    draw(read_table(TABLE))


if __name__ == "__main__":
    main()
