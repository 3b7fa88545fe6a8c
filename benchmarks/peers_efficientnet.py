"""EfficientNet-Lite0 with its ImageNet weights, frozen, on CIFAR-10 at 96 px.

One pass takes minutes: the maps of every exit are pooled once and kept on disk, in
half precision, and trained exits see images as they are. Of the training images the
first 20,000 are used. At the last stage a logistic regression answers for everybody.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from examples import datasets, networks
from sk_e2cm import TorchExtractor

from .peers_feeds import BATCH_SIZE, Feed, Pools, batches, through
from .peers_subjects import CACHE, Images, Subject
from .train_resnet20 import split

NAME = "efficientnet"
SIDE, N_EXITS, N_TRAIN = 96, 8, 20_000


class KeptFeed:
    """Pooled maps in files, one for each part and stage, made where none are."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        pools = Pools.of(subject.extractor, subject.train.X)
        self.widths = pools.widths
        spent = folder / "seconds.json"
        if not spent.exists():
            folder.mkdir(parents=True, exist_ok=True)
            spent.write_text(json.dumps(self._make(pools)))
        self.seconds = json.loads(spent.read_text())["train"]
        self.y = torch.from_numpy(subject.train.y)
        self.stages = {part: self._load(part) for part in ("train", "tune", "test")}
        final = subject.final.fit(self.stages["train"][-1], subject.train.y)
        self.weight = torch.from_numpy(final.coef_).double()
        self.bias = torch.from_numpy(final.intercept_).double()

    def varied(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        *exits, _ = self.stages["train"]
        for rows in torch.randperm(len(self.y)).split(BATCH_SIZE):
            yield [torch.from_numpy(e[rows]).float() for e in exits], self.y[rows]

    def plain(self, part: str) -> Iterator[list[Tensor]]:
        *exits, last = self.stages[part]
        for start in range(0, len(last), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            features = torch.from_numpy(last[rows]).double()
            logits = features @ self.weight.T + self.bias
            yield [*(torch.from_numpy(e[rows]).float() for e in exits), logits]

    def _make(self, pools: Pools) -> dict[str, float]:
        """Run the network over all parts; return the seconds that each has taken."""
        spent = {}
        for part in ("train", "tune", "test"):
            started = process_time()
            X = getattr(self.subject, part).X
            passes = [self._halved(pools, batch) for batch in batches(X)]
            for stage, of_stage in enumerate(zip(*passes, strict=True)):
                np.save(self._file(part, stage), torch.cat(of_stage).numpy())
            spent[part] = process_time() - started
        return spent

    def _halved(self, pools: Pools, batch: np.ndarray) -> list[Tensor]:
        *exits, last = through(self.subject.extractor, pools, batch)
        return [*(each.half() for each in exits), last]

    def _load(self, part: str) -> list[np.ndarray]:
        stages = range(len(self.widths) + 1)
        return [np.load(self._file(part, stage)) for stage in stages]

    def _file(self, part: str, stage: int) -> Path:
        return self.folder / f"{part}-{stage}.npy"


@dataclass
class KeptSubject(Subject):
    """A subject whose pooled maps are on disk."""

    def feed(self) -> Feed:
        return KeptFeed(self, CACHE / f"{self.name}-{len(self.train.X)}")


def load(n_samples: int | None = None) -> Subject:
    data = datasets.load("npz:cifar10")
    rows, withheld = split(len(data.X_train))
    rows, some = rows[: n_samples or N_TRAIN], slice(n_samples)
    network = networks.lite0(SIDE)
    extractor = TorchExtractor(
        network,
        N_EXITS,
        output="network._dropout",  # which does nothing: the averages in one row
        input_shape=data.X_train.shape[1:],
    )
    return KeptSubject(
        NAME,
        extractor,
        Images(data.X_train[rows], data.y_train[rows]),
        Images(data.X_train[withheld[some]], data.y_train[withheld[some]]),
        Images(data.X_test[some], data.y_test[some]),
        final=LogisticRegression(C=0.01, max_iter=300),
    )
