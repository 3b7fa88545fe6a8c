"""Early exits against the plain network, in seconds: ``make bench-speed``.

All take NumPy arrays and return labels, in one process and in turn. *Efficiency* is
the ideal time over the measured one. The ideal is the time that each stage of the
plain network takes for a sample in a full batch, times the share of the samples that
reach it: exits that cost nothing, and survivors that are computed as quickly as in full
batches.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import is_clusterer
from torch import nn

from sk_e2cm import TorchExtractor, TunedExitsCV

from .speed_picture import draw
from .speed_subjects import SUBJECTS, Subject
from .tables import spread, write_table

MAX_COST = 0.4
MAX_DROP = 0.01
# Medians are of so many rounds; of fewer where one batch takes over a second.
N_ROUNDS, N_SLOW_ROUNDS = 5, 3
# The plain network runs for about so many seconds in a round, since machines are not
# quiet, and through so many batches at least, since later stages are filled up.
ROUND, FEWEST_BATCHES, MOST_BATCHES = 0.2, 2, 200
# Points of the frontier at which the predicted time is compared with the clock.
N_POINTS = 5
# Of samples to choose thresholds by, if they are run one by one.
N_ALONE = 600

HEADER = [
    "network",
    "exits",
    "images at once",
    "setting",
    "open exits",
    "MACs",
    "time",
    "time / folded",
    "efficiency",
    "efficiency / folded",
    "predicted time",
    "two threads",
]


class Setting(NamedTuple):
    """An estimator with thresholds, under a name, and the search that chose them."""

    name: str
    estimator: Any
    search: Any = None


def settings_of(subject: Subject, size: int, device: str) -> list[Setting]:
    by_macs = copy(subject.estimator).set_params(batch_size=size, device=device)
    by_time = copy(by_macs).set_params(cost_unit="seconds")
    by_time.measure_seconds(subject.X_tune[: max(4 * size, 64)])
    print(by_time.seconds_, flush=True)
    settings = [
        Setting("nobody leaves", copy(by_macs).set_params(threshold=1.5)),
        Setting("all closed, measured", copy(by_time).set_params(threshold=np.inf)),
    ]
    if subject.thresholds is not None:
        for name, each in (("counted", by_macs), ("measured", by_time)):
            fixed = copy(each).set_params(threshold=subject.thresholds)
            settings.append(Setting(f"given thresholds, {name}", fixed))
    goals = {f"cost {MAX_COST}": {"max_cost": MAX_COST}}
    units = [("MACs", by_macs), ("time", by_time)]
    if subject.thresholds is not None:
        goals, units = {}, units[1:]
    goals[f"drop {MAX_DROP}"] = {"max_drop": MAX_DROP}
    for goal, params in goals.items():
        for name, each in units:
            search = tuned(each, subject, size, **params)
            if search is not None:
                best = search.estimator_
                settings.append(Setting(f"{goal} by {name}", best, search))
    return settings


def tuned(estimator: Any, subject: Subject, size: int, **goal: float) -> Any:
    """Return the search for the thresholds of a goal, None if there are none."""
    search = TunedExitsCV(estimator, cv="prefit", random_state=0, **goal)
    n = N_ALONE if size == 1 else len(subject.X_tune)
    try:
        return search.fit(subject.X_tune[:n], subject.y_tune[:n])
    except ValueError as error:
        print(error)
        return None


def predict(
    network: nn.Module, answer: Callable, device: str, size: int, X: np.ndarray
) -> np.ndarray:
    """Predict as anybody would without this package."""
    dtype = next(network.parameters()).dtype
    labels = []
    with torch.inference_mode():
        for start in range(0, len(X), size):
            batch = torch.from_numpy(X[start : start + size]).to(device, dtype)
            labels.append(answer(network(batch)))
    return np.concatenate(labels)


def most_probable(output: torch.Tensor) -> np.ndarray:
    return output.argmax(dim=1).cpu().numpy()


def nearest(clusterer: Any, output: torch.Tensor) -> np.ndarray:
    return clusterer.predict(output.cpu().numpy().astype(np.float64))


def predict_folded(
    extractor: TorchExtractor, answer: Callable, size: int, X: np.ndarray
) -> np.ndarray:
    """Run the frozen network whole, BatchNorm folded, without exits."""
    last = len(extractor.stage_names) - 1
    labels = []
    for start in range(0, len(X), size):
        begun = extractor.begin(X[start : start + size])
        _, output = extractor.advance_through(begun, 0, last)
        labels.append(answer(output))
    return np.concatenate(labels)


def one_by_one(run: Callable, X: np.ndarray) -> None:
    for i in range(len(X)):
        run(X[i : i + 1])


def in_two_threads(run: Callable, X: np.ndarray) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, np.array_split(X, 2)))


def seconds(run: Callable, X: np.ndarray) -> float:
    started = time.perf_counter()
    run(X)
    return time.perf_counter() - started


def stage_seconds(extractor: TorchExtractor, size: int, X: np.ndarray) -> np.ndarray:
    """Return the time of each stage over full batches; the first converts the input."""
    is_gpu = extractor.device.type == "cuda"
    wait = partial(torch.cuda.synchronize, extractor.device) if is_gpu else lambda: None
    spent = np.zeros(len(extractor.stage_names))
    for start in range(0, len(X), size):
        for stage in range(len(spent)):
            started = time.perf_counter()
            if stage == 0:
                state = extractor.begin(X[start : start + size])
            state, _ = extractor.advance(state, stage)
            wait()
            spent[stage] += time.perf_counter() - started
    return spent


def time_all(subject: Subject, size: int, settings: list[Setting], device: str):
    """Return the seconds of every contestant in every round, and who reaches what."""
    estimator = settings[1].estimator
    folded = estimator.extractor_.to(device)
    unfolded = TorchExtractor(
        subject.plain, folded.exits, output=folded.output, fold=False
    ).to(device)
    answer = most_probable
    if is_clusterer(estimator):
        answer = partial(nearest, estimator.clusterer_)
    plain = partial(predict, subject.plain.to(device), answer, device, size)
    whole = partial(predict_folded, folded, answer, size)
    runs: dict[str, Callable] = {"plain": plain, "folded": whole}
    for name, each, _ in settings:
        runs[name] = each.predict
    wrap = partial(partial, one_by_one) if size == 1 else lambda run: run
    runs = {name: wrap(run) for name, run in runs.items()}
    last = settings[-1]
    runs["two threads"] = partial(in_two_threads, runs[last.name])

    X = subject.X
    runs["plain"](X[:size])  # a warm-up
    one = seconds(runs["plain"], X[:size])
    n_batches = int(np.clip(ROUND / one, FEWEST_BATCHES, MOST_BATCHES))
    n = min(n_batches * size, len(X) // size * size)
    spent: dict[str, list] = {name: [] for name in [*runs, "stages", "folded stages"]}
    used = []
    n_rounds = N_ROUNDS if one < 1 else N_SLOW_ROUNDS
    for i in range(n_rounds + 1):
        rows = (np.arange(n) + i * n) % (len(X) // size * size)
        now = X[rows]
        for name, run in runs.items():
            spent[name].append(seconds(run, now))
        spent["stages"].append(stage_seconds(unfolded, size, now))
        spent["folded stages"].append(stage_seconds(folded, size, now))
        used.append(rows)
    # The first round warms up.
    return {name: np.array(taken[1:]) for name, taken in spent.items()}, used[1:]


def rows_of(
    subject: Subject, size: int, settings: list[Setting], device: str
) -> list[list[str]]:
    spent, used = time_all(subject, size, settings, device)
    where = [subject.name, subject.exits, str(size)]
    both = spent["plain"], spent["folded"]
    blank = [""] * (len(HEADER) - 7)
    lines = [[*where, "plain, folded", "", "", spread(both[1] / both[0]), *blank]]
    for name, estimator, _ in settings:
        early = spent[name]
        stage = estimator.predict_exit(subject.X)
        reach = np.array(
            [
                [(stage[rows] >= s).mean() for s in range(spent["stages"].shape[1])]
                for rows in used
            ]
        )
        ideal = (spent["stages"] * reach).sum(axis=1)
        ideal_folded = (spent["folded stages"] * reach).sum(axis=1)
        thresholds = estimator.network_.thresholds(estimator.threshold)
        is_timed = estimator.network_.costs.unit == "time"
        counted = subject.estimator.network_.costs.cumulative(thresholds)[stage].mean()
        predicted = f"{estimator.stage_cost_[stage].mean():.2f}" if is_timed else ""
        threads = ""
        if name == settings[-1].name:
            threads = spread(early / spent["two threads"])
        lines.append(
            [
                *where,
                name,
                str(int(np.isfinite(thresholds).any(axis=1).sum())),
                f"{counted:.3f}",
                spread(early / both[0]),
                spread(early / both[1]),
                spread(ideal / early),
                spread(ideal_folded / early),
                predicted,
                threads,
            ]
        )
    return lines


def frontier(
    subject: Subject, size: int, last: Setting, device: str
) -> list[list[str]]:
    """Compare what is predicted with the clock, from the cheapest to all closed."""
    estimator, found = last.estimator, last.search.frontier_["threshold"]
    points = np.linspace(0, len(found) - 1, N_POINTS).round().astype(int)
    estimators = [copy(estimator).set_params(threshold=found[p]) for p in points]
    settings = [Setting(str(i), each) for i, each in enumerate(estimators)]
    settings.insert(1, Setting("closed", copy(estimator).set_params(threshold=np.inf)))
    spent, _ = time_all(subject, size, settings, device)
    lines = []
    for name, each, _ in settings:
        taken = np.median(spent[name] / spent["plain"])
        predicted = each.cost(subject.X)
        cells = f"{predicted:.3f}", f"{taken:.3f}", f"{predicted / taken:.2f}"
        lines.append([subject.name, subject.exits, str(size), *cells])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", default=list(SUBJECTS), metavar="|".join(SUBJECTS)
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", default="speed", help="docs/benchmarks/TABLE.csv")
    options = parser.parse_args()
    lines, points = [], []
    print(f"{options.device}, {torch.get_num_threads()} threads")
    for name in options.names:
        for subject in SUBJECTS[name]():
            for size in subject.batch_sizes:
                settings = settings_of(subject, size, options.device)
                found = rows_of(subject, size, settings, options.device)
                for line in found:
                    print(*line, sep=" | ", flush=True)
                lines += found
                if subject.thresholds is None and subject.exits == "whitened":
                    points += frontier(subject, size, settings[-1], options.device)
                    for line in points[-N_POINTS - 1 :]:
                        print(*line, sep=" | ", flush=True)
                # At once, so that an interrupt loses nothing.
                write_table(options.table, [HEADER, *lines])
                header = [*HEADER[:3], "predicted", "measured", "ratio"]
                write_table(f"{options.table}_frontier", [header, *points])
    draw(options.table)


if __name__ == "__main__":
    main()
