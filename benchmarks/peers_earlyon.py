"""earlyon 0.3.0, an early-exit toolkit for torch from PyPI.

Its own exits (averages over the map, 128 hidden units, dropout) and its own training of
them on the frozen network, for four epochs as in its README. Its thresholds are not its
own but chosen as everybody's are here, so that only exits are compared.
"""

import importlib.util
from collections.abc import Collection, Iterator
from copy import deepcopy
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import nn

from .peers_feeds import batches
from .peers_subjects import EXITS, Answers, Subject
from .peers_trained import costs_of
from .resnet20 import load_trained

METHODS = ["earlyon, 4 epochs"]
EPOCHS = 4


class Loader:
    """Batches of varied images, in another order each time."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.subject.augmented()


def answers(
    subject: Subject, todo: Collection[tuple[str, int]]
) -> Iterator[tuple[str, int, Answers]]:
    if importlib.util.find_spec("earlyon") is None:
        print("earlyon is left out: it is not installed", flush=True)
        return
    for name, seed in todo:
        yield name, seed, trained(subject, seed)


def trained(subject: Subject, seed: int) -> Answers:
    from earlyon.models import custom_ee
    from earlyon.training.two_stage_trainer import stage2_train_exits

    torch.manual_seed(seed)
    shape = (1, *subject.train.X.shape[1:])
    network = deepcopy(load_trained(subject.name))
    wrapper = custom_ee(network, EXITS, subject.n_classes, input_shape=shape)
    started = process_time()
    stage2_train_exits(wrapper, Loader(subject), epochs=EPOCHS)
    seconds = process_time() - started
    wrapper.eval()
    exits = list(wrapper.exit_heads.values())
    return Answers(
        proba_of(wrapper, subject.tune.X),
        proba_of(wrapper, subject.test.X),
        costs_of(subject.macs, np.array([macs_of(head) for head in exits])),
        seconds,
        sum(p.nbytes for head in exits for p in head.parameters()),
    )


@torch.inference_mode()
def proba_of(wrapper: Any, X: np.ndarray) -> np.ndarray:
    """Return the probabilities of all stages: `mode` says that nobody leaves."""
    found = []
    for batch in batches(X):
        logits = wrapper(torch.from_numpy(batch).float(), mode="training")
        found.append(torch.stack(logits, dim=1).double().softmax(dim=2))
    return torch.cat(found).numpy()


def macs_of(head: nn.Module) -> int:
    layers = [part for part in head.modules() if isinstance(part, nn.Linear)]
    return sum(layer.weight.numel() for layer in layers)
