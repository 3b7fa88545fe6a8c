"""The exits of this package, as `peers.py` compares them with others."""

import pickle
from collections.abc import Collection, Iterator
from time import process_time
from typing import Any

from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from sk_e2cm import E2CMClassifier
from sk_e2cm._multi_exit._heads import Head, takes_arrays

from .peers_subjects import CACHE, Answers, Subject

BEST = {
    "metric": "mahalanobis",
    "pooling": "second_order",
    "calibration": "dirichlet",
}
REMEMBERING = {**BEST, "carry": 1}


def methods(seed: int) -> dict[str, dict[str, Any]]:
    """Return the parameters of every method of ours."""
    perceptron = MLPClassifier((256,), early_stopping=True, random_state=seed)
    return {
        "E2CM, the paper's": {"metric": "euclidean", "calibration": None},
        "E2CM, default": {},
        "E2CM, second order, Dirichlet": BEST,
        "E2CM, carry=1": REMEMBERING,
        "E2CM, carry=2": {**BEST, "carry": 2},
        "E2CM, carry=1, logistic regression": {
            **REMEMBERING,
            "head": LogisticRegression(max_iter=50),
        },
        "E2CM, perceptron": {**BEST, "head": perceptron},
        "E2CM, means and perceptron": {
            **BEST,
            "head": ["class_means", perceptron],
        },
        "E2CM, carry=1, perceptron": {**REMEMBERING, "head": perceptron},
        "E2CM, carry=1, means and perceptron": {
            **REMEMBERING,
            "head": ["class_means", perceptron],
        },
    }


METHODS = list(methods(0))
IS_RANDOM = {name for name in METHODS if name.endswith("perceptron")}


def answers(
    subject: Subject, todo: Collection[tuple[str, int]]
) -> Iterator[tuple[str, int, Answers]]:
    """Fit what is to be done; a fit without random numbers serves all seeds."""
    known: dict[str, Answers] = {}
    for name, seed in todo:
        if name not in known or name in IS_RANDOM:
            known[name] = fitted(subject, name, seed)
        found = known[name]
        yield name, seed, found


def fitted(subject: Subject, name: str, seed: int) -> Answers:
    clf = E2CMClassifier(
        subject.extractor,
        **methods(seed)[name],
        final=subject.final,
        batch_size=64,
    )
    started = process_time()
    clf.fit(*subject.train)
    seconds = process_time() - started
    save(clf, subject.name, name, seed)
    proba = [clf.exit_proba(images.X) for images in (subject.tune, subject.test)]
    exits = clf.network_.heads[:-1]
    return Answers(*proba, clf.network_.costs, seconds, sum(map(n_bytes, exits)))


def n_bytes(head: Head) -> int:
    """Return the size of what a head has learned."""
    if takes_arrays(head):
        return len(pickle.dumps(head))
    return sum(tensor.nbytes for tensor in head.state_dict().values())


def save(clf: E2CMClassifier, subject: str, name: str, seed: int) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with saved_at(subject, name, seed).open("wb") as file:
        pickle.dump(clf, file)


def saved_at(subject: str, name: str, seed: int):
    return CACHE / f"{subject}, {name}, {seed}.pickle"
