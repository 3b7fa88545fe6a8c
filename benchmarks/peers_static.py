"""Smaller networks without exits, trained as long as the large one, by its recipe."""

from collections.abc import Collection, Iterator
from time import process_time

import numpy as np
import torch

from sk_e2cm import TorchExtractor

from .peers_subjects import Subject
from .resnet20 import WIDTHS
from .train_resnet20 import RECIPES, answers, train


def scaled(width: int) -> tuple[int, ...]:
    return tuple(width * each // WIDTHS[0] for each in WIDTHS)


METHODS = {
    "ResNet-20, 6 channels": scaled(6),
    "ResNet-8, 16 channels": (16, 16, 32, 64),
    "ResNet-20, 11 channels": scaled(11),
}


def sizes(
    subject: Subject, todo: Collection[tuple[str, int]]
) -> Iterator[tuple[str, int, float, float, float, int]]:
    """Yield name and seed, then accuracy, multiply-adds, seconds and bytes."""
    recipe = RECIPES[subject.name]
    for name, seed in todo:
        torch.manual_seed(seed)
        started = process_time()
        network = train(*subject.train, recipe, METHODS[name])
        seconds = process_time() - started
        right = answers(network, subject.test.X) == subject.test.y
        macs = TorchExtractor(network, ["stem"]).macs(subject.train.X.shape[1:])[-1]
        n_bytes = sum(parameter.nbytes for parameter in network.parameters())
        cost = float(macs / subject.macs[-1])
        yield name, seed, float(np.mean(right)), cost, seconds, n_bytes
