"""Thresholds for the answers of `peers.py`, its runs on disk, and its tables."""

import csv
import pickle
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from sklearn.utils import check_random_state

from sk_e2cm._tuning._beyond_luck import beyond_luck
from sk_e2cm._tuning._predictions import StagePredictions
from sk_e2cm._tuning._problem import ThresholdProblem
from sk_e2cm._tuning._search import Points, pareto, search
from sk_e2cm._tuning._soft import distinct_samples, soft_targets

from .peers_subjects import CACHE, Answers, Subject
from .tables import FOLDER, write_table

BUDGETS = [0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.60, 0.75]
FULL = "full"  # nobody leaves
ONE_SIZE = "static"  # a network without exits
FIELDS = ["subject", "method", "seed", "budget", "accuracy", "cost", "passes", "bytes"]
ROUNDING = 1e-9


def problem_of(answers: Answers, proba: np.ndarray, y: np.ndarray) -> ThresholdProblem:
    plain = ThresholdProblem.from_proba(y, proba, np.zeros(proba.shape[1]))
    return replace(plain, costs=answers.costs)


def frontier(answers: Answers, y: np.ndarray, seed: int) -> Points:
    """Return the thresholds that `TunedExitsCV` would choose among, in its way."""
    n_samples, _, n_classes = answers.tune.shape
    predictions = StagePredictions.from_proba(answers.tune, y)
    distinct = distinct_samples(np.arange(n_samples, dtype=np.uint64), y)
    ones = np.ones(n_samples), np.ones(n_classes)
    targets = soft_targets(predictions, y, *ones, distinct)
    loss = targets.losses(predictions.label)
    problem = replace(problem_of(answers, answers.tune, y), loss=loss)
    found = search(problem, [], check_random_state(seed))
    return pareto(beyond_luck(problem, found, distinct))


def within(found: Points, budget: float) -> np.ndarray | None:
    """Return the thresholds of the best point of at most that cost."""
    affordable = np.flatnonzero(found.cost <= budget + ROUNDING)
    if not len(affordable):
        return None
    return found.thresholds[affordable[found.loss[affordable].argmin()]]


def points(answers: Answers, subject: Subject, seed: int) -> dict[str, tuple]:
    """Return accuracy and cost on the test images for every budget, and in full."""
    found = frontier(answers, subject.tune.y, seed)
    test = problem_of(answers, answers.test, subject.test.y)
    chosen = {str(budget): within(found, budget) for budget in BUDGETS}
    chosen[FULL] = np.full((test.n_exits, 1), np.inf)
    totals = {
        name: test.totals(thresholds)
        for name, thresholds in chosen.items()
        if thresholds is not None
    }
    return {name: (1 - loss, cost) for name, (loss, cost) in totals.items()}


def keep(run: tuple[str, str, int], answers: Answers) -> None:
    """Keep answers in the cache, so that thresholds can be chosen in another way."""
    path = kept_at(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(answers))


def kept(run: tuple[str, str, int]) -> Answers | None:
    path = kept_at(run)
    return pickle.loads(path.read_bytes()) if path.exists() else None


def kept_at(run: tuple[str, str, int]) -> Path:
    return CACHE / "answers" / f"{', '.join(map(str, run))}.pickle"


class Store:
    """A file of runs, to which each is added as it comes."""

    def __init__(self, path: Path = FOLDER / "peers_runs.csv") -> None:
        self.path = path

    def lines(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def done(self) -> set[tuple[str, str, int]]:
        return {(r["subject"], r["method"], int(r["seed"])) for r in self.lines()}

    def add(
        self,
        run: tuple[str, str, int],
        found: dict[str, tuple],
        passes: float,
        n_bytes: int,
    ) -> None:
        """Add a run in one go, so that an interrupt leaves no part of it."""
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            cells = f"{passes:.2f}", n_bytes
            writer.writerows(
                ([FIELDS] if is_new else [])
                + [
                    [*run, budget, f"{accuracy:.4f}", f"{cost:.4f}", *cells]
                    for budget, (accuracy, cost) in found.items()
                ]
            )

    def forget(self, run: tuple[str, str, int]) -> None:
        """Drop a run, so that it is made anew."""
        keys = "subject", "method", "seed"
        others = [
            line
            for line in self.lines()
            if tuple(line[key] for key in keys) != tuple(map(str, run))
        ]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(others)


def summary(store: Store) -> list[list[str]]:
    """Return a line for each subject and method: means and spreads over the seeds."""
    header = ["network", "method", "seeds", *map(str, BUDGETS), FULL]
    lines = [[*header, "fit, passes", "exits, kB"]]
    runs = [r for r in store.lines() if r["budget"] != ONE_SIZE]
    runs.sort(key=lambda r: r["subject"], reverse=True)  # in the order they came
    for subject, of_subject in groupby(runs, key=lambda r: r["subject"]):
        rows = list(of_subject)
        for method in dict.fromkeys(row["method"] for row in rows):
            here = [row for row in rows if row["method"] == method]
            cells = [spread(here, "accuracy", b) for b in [*map(str, BUDGETS), FULL]]
            n_seeds = len({row["seed"] for row in here})
            passes = np.mean([float(row["passes"]) for row in here])
            size = float(here[0]["bytes"]) / 1000
            last = f"{passes:.1f}", f"{size:.0f}"
            lines.append([subject, method, str(n_seeds), *cells, *last])
    return lines


def spread(rows: list[dict[str, str]], field: str, budget: str) -> str:
    """Return the mean of some runs, and half of the way from the least to the most.

    Of a single run there is no such way.
    """
    values = [float(row[field]) for row in rows if row["budget"] == budget]
    if not values:
        return ""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.ptp(values) / 2:.3f}"


def static(store: Store) -> list[list[str]]:
    """Return a line for each network without exits."""
    lines = [["network", "static", "seeds", "multiply-adds", "accuracy", "fit, passes"]]
    runs = [row for row in store.lines() if row["budget"] == ONE_SIZE]
    keys = dict.fromkeys((row["subject"], row["method"]) for row in runs)
    for subject, method in keys:
        here = [r for r in runs if (r["subject"], r["method"]) == (subject, method)]
        passes = np.mean([float(row["passes"]) for row in here])
        size = float(here[0]["cost"])
        accuracy = spread(here, "accuracy", ONE_SIZE)
        cells = str(len(here)), f"{size:.3f}", accuracy, f"{passes:.0f}"
        lines.append([subject, method, *cells])
    return lines


def write_tables(store: Store) -> None:
    write_table("peers", summary(store))
    write_table("peers_static", static(store))
