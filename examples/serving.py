"""A web service with early exits: one picture for each request, many at once.

The network of the quickstart is cut, fitted and tuned, and served on this machine
only. Threads then ask for the digits of the test set, and compare the answers with
``predict_all``. With --onnx the same application serves a file instead, and needs
neither torch nor scikit-learn. Half a minute. To serve a model of your own on and on:
``uvicorn.run(make_app(model), host=..., port=...)``.
"""

import argparse
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import torch
import uvicorn
from digits_network import split_digits, train
from serving_app import Model, make_app, model_of_onnx
from starlette.applications import Starlette

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

N_CLIENTS = 16


def main(arguments=None) -> None:
    """Train, fit, choose, serve, ask."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--onnx", action="store_true", help="serve an ONNX file")
    parser.add_argument(
        "--epochs",
        type=int,
        default=8,
        help="of the training; with few of them all leave at once",
    )
    args = parser.parse_args(arguments)

    train_set, (X, y), (X_test, _) = split_digits()
    network = train(*train_set, epochs=args.epochs)
    # Digits are easy: with whitened exits all would leave at the first.
    clf = E2CMClassifier(TorchExtractor(network, exits=7), metric="euclidean")
    search = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)
    expected = search.predict_all(X_test)

    # Where each request is one picture, several requests make better use of the cores
    # than several threads for one of them, which would get into each other's way.
    torch.set_num_threads(1)
    model = model_in_onnx(search) if args.onnx else model_of(search, X_test[:1])
    with served(make_app(model, n_threads=os.cpu_count() or 1)) as url:
        started = time.perf_counter()
        answers = ask(url, X_test)
        seconds = time.perf_counter() - started
        report = httpx.get(f"{url}/exits").json()

    print(f"{len(answers) / seconds:.0f} requests per second, {N_CLIENTS} at once.")
    for name, count in report["exits"].items():
        print(f"{name:12} {count:4} left")
    print(f"Cost {report['mean_cost']:.2f} of the network's multiply-adds.")
    as_expected = [
        a["label"] == b for a, b in zip(answers, expected.label, strict=True)
    ]
    print(f"{np.mean(as_expected):.1%} of the answers are those of predict_all.")


def model_of(search: TunedExitsCV, X: np.ndarray) -> Model:
    """Return a fitted estimator as a model, ready for the first request."""
    fitted = search.prepare(X).estimator_
    return Model(search.predict_all, fitted.input_shape_, fitted.network_.stage_names)


def model_in_onnx(search: TunedExitsCV) -> Model:
    """Write a fitted estimator as a file, and return the model in it."""
    from sk_e2cm import to_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "digits.onnx")
        to_onnx(search, path)
        return model_of_onnx(path)


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Serve an application from a thread, on a port that is free; yield its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("The server has not started.")
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def ask(url: str, pictures: np.ndarray) -> list[dict]:
    """Return the answer for each picture; many are asked for at once."""
    with httpx.Client(base_url=url) as client, ThreadPoolExecutor(N_CLIENTS) as pool:

        def answer(picture: np.ndarray) -> dict:
            response = client.post("/predict", content=as_bytes(picture))
            return response.raise_for_status().json()

        return [*pool.map(answer, pictures)]


def as_bytes(picture: np.ndarray) -> bytes:
    """Return what ``numpy.save`` writes of a picture."""
    file = io.BytesIO()
    np.save(file, picture)
    return file.getvalue()


if __name__ == "__main__":
    main()
