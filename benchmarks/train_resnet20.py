"""Train the networks of the benchmarks: ``python -m benchmarks.train_resnet20``.

On two CPU cores some ten minutes for Fashion-MNIST, and an hour for CIFAR-10. The
5,000 training images that `split` withholds are not seen.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from examples import datasets

from .resnet20 import WEIGHTS, WIDTHS, ResNet20

N_WITHHELD = 5_000
BATCH_SIZE = 128


class Recipe(NamedTuple):
    epochs: int
    peak_rate: float
    margin: int  # by which images are shifted at most
    label_smoothing: float


RECIPES = {
    "fashion_mnist": Recipe(5, 0.2, margin=0, label_smoothing=0.0),
    "cifar10": Recipe(24, 0.3, margin=4, label_smoothing=0.05),
}


def split(n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that networks are trained on, and those withheld."""
    rows = np.random.default_rng(0).permutation(n_samples)
    return np.sort(rows[N_WITHHELD:]), np.sort(rows[:N_WITHHELD])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES))
    for name in parser.parse_args().names:
        data = datasets.load(f"npz:{name}")
        rows, _ = split(len(data.X_train))
        torch.manual_seed(0)
        network = train(data.X_train[rows], data.y_train[rows], RECIPES[name])
        torch.save(network.state_dict(), WEIGHTS / f"{name}.pt")
        right = answers(network, data.X_test) == data.y_test
        print(f"{name}: {right.mean():.4f} right on the test images", flush=True)


def train(
    X: np.ndarray, y: np.ndarray, recipe: Recipe, widths: Sequence[int] = WIDTHS
) -> ResNet20:
    network = ResNet20(X.shape[1], widths=widths)
    network = network.to(memory_format=torch.channels_last)
    network.mean[:, 0, 0] = torch.from_numpy(X.mean(axis=(0, 2, 3)))
    network.std[:, 0, 0] = torch.from_numpy(X.std(axis=(0, 2, 3)))
    images, labels = torch.from_numpy(X), torch.from_numpy(y)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    # It sets the rate and the momentum at each step.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.peak_rate,
        total_steps=recipe.epochs * -(-len(X) // BATCH_SIZE),
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    for epoch in range(recipe.epochs):
        for rows in tqdm(torch.randperm(len(X)).split(BATCH_SIZE), f"epoch {epoch}"):
            batch = varied(images[rows].float(), recipe.margin)
            loss = loss_of(
                network(batch.contiguous(memory_format=torch.channels_last)),
                labels[rows],
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


def varied(images: Tensor, margin: int) -> Tensor:
    """Mirror half of the images, and shift each by up to `margin` pixels."""
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    if margin == 0:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    top, left = torch.randint(2 * margin + 1, (2, len(images)))
    return torch.stack(
        [
            image[:, t : t + height, x : x + width]
            for image, t, x in zip(padded, top.tolist(), left.tolist(), strict=True)
        ]
    )


@torch.no_grad()
def answers(network: nn.Module, X: np.ndarray) -> np.ndarray:
    network.eval()
    return np.concatenate(
        [network(batch).argmax(dim=1) for batch in torch.from_numpy(X).split(128)]
    )


if __name__ == "__main__":
    main()
