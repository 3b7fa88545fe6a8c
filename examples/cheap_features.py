"""Cheap features first: early exits without a network.

A table of scikit-learn's own (the digits, as 64 columns) goes through three fitted
transformers: scaled columns, their discriminant directions, and a kernel map that
costs a hundred times as much. Samples that the cheap features are sure of never
reach it. Costs are measured in seconds, and so is the saving.
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from story import choose, show, sweep, time_ratio

from sk_e2cm import E2CMClassifier, PipelineExtractor


def main() -> None:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
    X, X_tune, y, y_tune = train_test_split(X, y, test_size=0.3, random_state=0)
    transformers = make_pipeline(
        StandardScaler(),
        LinearDiscriminantAnalysis(n_components=9),
        Nystroem(gamma=0.05, n_components=400, random_state=0),
    ).fit(X, y)
    costs = [1e9 * seconds for seconds in seconds_each(transformers, X_tune)]
    for (name, _), cost in zip(transformers.steps, costs, strict=True):
        print(f"{name:28}{cost:9.0f} ns for each sample")

    last = LogisticRegression(C=10, max_iter=1000)
    extractor = PipelineExtractor(transformers, costs=costs)
    clf = E2CMClassifier(extractor, final=last, batch_size=1024).fit(X, y)
    chosen = choose(sweep(clf, X_tune, y_tune), max_drop=0.0)
    rows = sweep(clf, X_test, y_test)
    show("Digits as a table, costs in seconds", rows, chosen)

    clf.set_params(threshold=chosen)
    full = make_pipeline(*(step for _, step in transformers.steps), last)
    full[-1].fit(transformers.transform(X), y)
    for size, n_batches in ((1, 50), (len(X_test), 1)):
        ratio = time_ratio(
            clf.predict, full.predict, X_test, size=size, n_batches=n_batches
        )
        print(f"Time of {size} at once: {ratio:.2f} of the whole pipeline's.")


def seconds_each(pipeline, X, repeats: int = 20) -> list[float]:
    """Return the median time that each step takes for one row of X."""
    medians = []
    for _, step in pipeline.steps:
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            transformed = step.transform(X)
            times.append(time.perf_counter() - started)
        medians.append(np.median(times) / len(X))
        X = transformed
    return medians


if __name__ == "__main__":
    main()
