"""A network on two machines: what leaves early on the first is never sent.

The first stages of a network run where the pictures are, a camera say, the others in
another process, from files of ONNX. Over a pair of sockets go only the live tensors of
the pictures that stay; of machines, `multiprocessing.connection` has `Listener` and
`Client`, which send the same bytes. What is run here comes with the files, and needs
onnxruntime and NumPy alone: see `onnx_exits.py` among them. Half a minute.
"""

import argparse
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from sk_e2cm.onnx_exits import OnnxExits, Predictions

BATCH_SIZE = 16
THRESHOLD = 0.95


def main(arguments=None) -> None:
    """Train, fit, write, run on two machines, count bytes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=2, help="on the first machine")
    parser.add_argument("--epochs", type=int, default=8, help="of the training")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "stages"
        X = write(folder, args.epochs)
        whole = OnnxExits(folder)
        first = OnnxExits(folder, range(args.stages))
        rest = range(args.stages, len(whole.stages))
        with elsewhere(folder, rest) as connection:
            found, sent = run(first, connection, X)
        expected = whole.run(X)
        nobody_leaves = np.full((len(whole.stages) - 1, 1), np.inf)
        _, live = first.leave(first.begin(X), nobody_leaves)

    stay = found.exit >= args.stages
    print(
        f"{len(X)} pictures: {(~stay).sum()} have left in the first {args.stages} of "
        f"{len(whole.stages)} stages, {stay.sum()} went on elsewhere."
    )
    for what, size in {
        "the live tensors of those that stayed": sent,
        "the live tensors of all": len(as_bytes(live)),
        "the pictures, as the network takes them": X.nbytes,
        "the pictures, as bytes": X.size,
    }.items():
        print(f"{size / 1000:8.0f} kB for {what}")
    same = (found.exit == expected.exit) & (found.label == expected.label)
    print(f"{same.mean():.1%} leave where they do on one machine, with the same label.")


def write(folder: Path, epochs: int) -> np.ndarray:
    """Train and fit the network of the quickstart, write it, return new pictures."""
    from digits_network import split_digits, train

    from sk_e2cm import E2CMClassifier, TorchExtractor, to_onnx

    train_set, (X, y), (X_test, _) = split_digits()
    network = train(*train_set, epochs=epochs)
    # Digits are easy: with whitened exits nearly all would leave at once.
    clf = E2CMClassifier(
        TorchExtractor(network, exits=7), metric="euclidean", threshold=THRESHOLD
    )
    to_onnx(clf.fit(X, y), folder, single_file=False)
    return X_test


def run(
    first: OnnxExits, connection: Connection, X: np.ndarray
) -> tuple[Predictions, int]:
    """Predict pictures on both machines; return the bytes that were sent, too."""
    found, sent = [], 0
    for start in range(0, len(X), BATCH_SIZE):
        here, live = first.leave(first.begin(X[start : start + BATCH_SIZE]))
        if live:
            message = as_bytes(live)
            connection.send_bytes(message)
            sent += len(message)
            stay = here.exit < 0
            there = from_bytes(connection.recv_bytes())
            for name, values in here._asdict().items():
                values[stay] = there[name]
        found.append(here)
    return Predictions(*map(np.concatenate, zip(*found, strict=True))), sent


@contextmanager
def elsewhere(folder: Path, stages: range) -> Iterator[Connection]:
    """Start a process that runs these stages; connect with it."""
    # Spawned, so that it shares nothing with this process.
    context = get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=serve, args=(folder, stages, other))
    process.start()
    # Of this end there is one left: if the process ends, receiving fails.
    other.close()
    with own:
        yield own
    process.join()


def serve(folder: Path, stages: range, connection: Connection) -> None:
    """Answer with the predictions for live tensors, until the other side is gone."""
    exits = OnnxExits(folder, stages)
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        found, _ = exits.leave(from_bytes(message))
        connection.send_bytes(as_bytes(found._asdict()))


def as_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as ``numpy.savez`` writes them."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def from_bytes(message: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a message, which runs no code."""
    with np.load(io.BytesIO(message), allow_pickle=False) as file:
        return dict(file)


if __name__ == "__main__":
    main()
