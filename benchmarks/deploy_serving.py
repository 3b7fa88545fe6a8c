"""Requests per second of a web service: ``python -m benchmarks.deploy_serving``.

The application of the examples serves one picture for each request: the plain network
in torch and in onnxruntime, and both with early exits. Another process asks for
pictures, many at once. The four are served in turn, in every round.
"""

import argparse
import os
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from examples.serving import ask, served
from examples.serving_app import Model, Predictions, make_app, model_of_onnx
from sk_e2cm import to_onnx

from .deploy import EARLY, FILE, PLAIN, PLAIN_ONNX, export_plain, options
from .deploy_subjects import Deployed, make
from .tables import spread, write_table

N_ROUNDS = 5
SUBJECTS = {"cifar10": 1000, "resnet18": 100}


def models_of(subject: Deployed, folder: Path) -> dict[str, Model]:
    """Return the four that are served."""
    fitted, plain = subject.fitted.prepare(subject.X[:1]), folder / "plain.onnx"
    shape, names = fitted.input_shape_, fitted.network_.stage_names
    to_onnx(fitted, folder / "early.onnx", only_open=subject.only_open)
    export_plain(subject, plain)
    session = onnxruntime.InferenceSession(plain, options())

    def in_torch(X: np.ndarray) -> Predictions:
        with torch.inference_mode():
            return of_logits(subject.plain(torch.from_numpy(X)).numpy())

    def in_onnx(X: np.ndarray) -> Predictions:
        return of_logits(session.run(None, {"X": X})[0])

    return {
        PLAIN: Model(in_torch, shape, names),
        EARLY: Model(fitted.predict_all, shape, names),
        PLAIN_ONNX: Model(in_onnx, shape, names),
        FILE: model_of_onnx(str(folder / "early.onnx")),
    }


def of_logits(logits: np.ndarray) -> Predictions:
    """Return what a plain network says: all leave at the end, and pay for all of it."""
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    proba /= proba.sum(axis=1, keepdims=True)
    last, all_of_it = np.full(len(proba), -1), np.ones(len(proba))
    return Predictions(proba.argmax(axis=1), proba, last, all_of_it)


def seconds_of_asking(url: str, pictures: np.ndarray) -> float:
    started = time.perf_counter()
    ask(url, pictures)
    return time.perf_counter() - started


def measure(models: dict[str, Model], pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Return requests per second of each in every round."""
    found: dict[str, list[float]] = {name: [] for name in models}
    n_threads = os.cpu_count() or 1
    with get_context("spawn").Pool(1) as asker:
        for _ in range(N_ROUNDS + 1):
            for name, model in models.items():
                with served(make_app(model, n_threads)) as url:
                    taken = asker.apply(seconds_of_asking, (url, pictures))
                found[name].append(len(pictures) / taken)
    # The first round warms up.
    return {name: np.array(values[1:]) for name, values in found.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    torch.set_num_threads(1)
    lines: list[list[Any]] = []
    for name, n_requests in SUBJECTS.items():
        subject = make(name)
        pictures = subject.X[np.arange(n_requests) % len(subject.X)]
        with tempfile.TemporaryDirectory() as folder:
            per_second = measure(models_of(subject, Path(folder)), pictures)
        plain = per_second[PLAIN]
        for each, values in per_second.items():
            median = f"{np.median(values):.0f}"
            range_ = f"{values.min():.0f}-{values.max():.0f}"
            lines.append([subject.name, each, median, range_, spread(values / plain)])
            print(*lines[-1], sep=" | ", flush=True)
    header = ["network", "served by", "requests per second", "range", "over torch"]
    write_table("deploy_serving", [header, *lines])


if __name__ == "__main__":
    main()
