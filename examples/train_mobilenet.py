"""Train a MobileNetV3-Small, as "your own network" for bench_your_own.py.

    python examples/train_mobilenet.py --data torchvision:FashionMNIST

On two CPU cores an epoch of Fashion-MNIST takes a few minutes.
"""

import argparse
from pathlib import Path

import datasets
import numpy as np
import torch
from networks import Prepared, save
from torch import nn
from torchvision.models import mobilenet_v3_small
from tqdm import tqdm


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="torchvision:FashionMNIST")
    parser.add_argument("--side", type=int, default=56, help="of the scaled images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--peak-rate", type=float, default=3e-3)
    parser.add_argument("--out", default="build/mobilenet_v3_small.pt")
    args = parser.parse_args(arguments)

    data = datasets.load(args.data, side=args.side)
    classes, codes = np.unique(data.y_train, return_inverse=True)
    n_classes = len(classes)
    torch.manual_seed(0)
    network = Prepared(mobilenet_v3_small(num_classes=n_classes), side=args.side)
    train(network, data.X_train, codes, args)
    right = classes[answers(network, data.X_test)] == data.y_test
    print(f"{right.mean():.4f} right on the test images")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    save(network, args.out)
    print(f"Saved: {args.out}")


def train(network: nn.Module, X, y, args: argparse.Namespace) -> None:
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    n_steps = args.epochs * -(-len(X) // args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=args.peak_rate, total_steps=n_steps
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(args.epochs):
        bar = tqdm(torch.randperm(len(X)).split(args.batch_size))
        for rows in map(np.asarray, bar):
            images, labels = torch.from_numpy(X[rows]), torch.from_numpy(y[rows])
            loss = loss_of(network(flipped(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_description(f"epoch {epoch + 1}, loss {loss.item():.3f}")


def flipped(images: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images."""
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


@torch.no_grad()
def answers(network: nn.Module, X) -> np.ndarray:
    network.eval()
    batches = (np.array(X[start : start + 512]) for start in range(0, len(X), 512))
    return np.concatenate(
        [network(torch.from_numpy(batch)).argmax(dim=1).numpy() for batch in batches]
    )


if __name__ == "__main__":
    main()
