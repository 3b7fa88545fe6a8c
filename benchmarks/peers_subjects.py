"""What the methods of `peers.py` get, and what they give back."""

from dataclasses import dataclass
from functools import cached_property
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch

from examples import datasets
from sk_e2cm import TorchExtractor
from sk_e2cm._multi_exit._costs import Costs

from .peers_feeds import BATCH_SIZE, Feed, Labelled, LiveFeed, batches
from .resnet20 import BLOCKS, load_trained
from .train_resnet20 import RECIPES, split, varied

EXITS = ["stem", *BLOCKS]
N_TIMED = 10_000
CACHE = datasets.home() / "peers"


class Images(NamedTuple):
    X: np.ndarray
    y: np.ndarray


@dataclass
class Subject:
    """A frozen network, and images to train exits on, to tune and to test.

    `final` is a parameter of `E2CMClassifier`.
    """

    name: str
    extractor: TorchExtractor
    train: Images
    tune: Images
    test: Images
    n_classes: int = 10
    final: Any = "network"

    @cached_property
    def plain_pass(self) -> float:
        """Seconds of the network as it was given over the training images.

        All seconds are those of this process on one thread, since others share the
        machine.
        """
        some = self.train.X[:N_TIMED]
        started = process_time()
        for batch in batches(some):
            self.extractor.uncut(batch)
        return (process_time() - started) * len(self.train.X) / len(some)

    @cached_property
    def macs(self) -> np.ndarray:
        """Multiply-adds of one image up to the end of each stage."""
        return np.asarray(self.extractor.macs(self.train.X.shape[1:]))

    def feed(self) -> Feed:
        """Return what trained exits see of the network."""
        parts = {"train": self.train.X, "tune": self.tune.X, "test": self.test.X}
        return LiveFeed(self.extractor, parts, self.augmented)

    def augmented(self) -> Labelled:
        """Yield batches and labels in random order, as the network was trained."""
        margin = RECIPES[self.name].margin
        images, labels = torch.from_numpy(self.train.X), torch.from_numpy(self.train.y)
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            batch = varied(images[rows].float(), margin)
            yield batch.contiguous(memory_format=torch.channels_last), labels[rows]


class Answers(NamedTuple):
    """What all stages say, nobody leaving, and what that has cost."""

    tune: np.ndarray  # (n, n_stages, n_classes)
    test: np.ndarray
    costs: Costs
    seconds: float  # of the fit
    n_bytes: int  # of the exits


def load_subject(name: str, n_samples: int | None = None) -> Subject:
    """Return a ResNet-20 with its data set, or with so many images of each part."""
    data = datasets.load(f"npz:{name}")
    rows, withheld = split(len(data.X_train))
    some = slice(n_samples)
    return Subject(
        name,
        TorchExtractor(load_trained(name), EXITS),
        Images(data.X_train[rows[some]], data.y_train[rows[some]]),
        Images(data.X_train[withheld[some]], data.y_train[withheld[some]]),
        Images(data.X_test[some], data.y_test[some]),
    )
