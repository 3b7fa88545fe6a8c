"""Files that earlier versions have written: ``python -m tests._saving.kept`` adds one.

They are kept for ever, and every later version has to load them. So neither the
network below nor what a file in ``tests/data`` is called may change.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV, save

FOLDER = Path(__file__).parent.parent / "data"


class Kept(nn.Module):
    """Two convolutions, the second with a norm, a skip, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.down = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * 3 * 3, 3)
        self.slope = 0.1

    def forward(self, x):
        x = nn.functional.leaky_relu(self.stem(x), self.slope)
        x = self.down(x + self.block(x))
        return self.head(x.flatten(1))


def kept_network(seed):
    """Return the network; the weights are of no importance to `load`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Kept()
        network(torch.randn(16, 1, 6, 6))
    return network.eval()


def samples():
    """Return bright spots in one of three corners, and in which."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.normal(size=(90, 1, 6, 6)).astype(np.float32)
    X[y == 1, :, :2, :2] += 1.5
    X[y == 2, :, 4:, 4:] += 1.5
    return X, np.array(["none", "above", "below"])[y]


def estimators():
    """Return what the files are of, by their names."""
    extractor = TorchExtractor(kept_network(seed=0), ["stem", "down"])
    tuned = E2CMClassifier(extractor, head=LogisticRegression(), pooling=2)
    return {
        "classifier": E2CMClassifier(extractor, calibration="dirichlet"),
        "clusterer": E2CMClusterer(extractor, 3, metric="euclidean", random_state=0),
        "tuned": TunedExitsCV(tuned, max_drop=0.2, random_state=0),
    }


def write():
    """Write files in today's format, with what the estimators answer."""
    from sk_e2cm._saving._file import FORMAT

    X, y = samples()
    for name, estimator in estimators().items():
        estimator.fit(X, y)
        path = FOLDER / f"{name}_{FORMAT}.safetensors"
        save(estimator, path)
        np.savez_compressed(
            path.with_suffix(".npz"),
            X=X[:20],
            predict=estimator.predict(X[:20]),
            predict_exit=estimator.predict_exit(X[:20]),
            exit_proba=estimator.exit_proba(X[:20]),
            stage_cost=estimator.stage_cost_,
        )


if __name__ == "__main__":
    write()
