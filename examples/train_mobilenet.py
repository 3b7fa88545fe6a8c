"""Train a MobileNetV3-Small, as "your own network" for bench_your_own.py.

    python examples/train_mobilenet.py --data npz:fashion_mnist

On two CPU cores an epoch of Fashion-MNIST takes a few minutes.
"""

import argparse
from pathlib import Path

import datasets
import torch
from networks import Prepared, save
from torch import nn
from torchvision.models import mobilenet_v3_small
from tqdm import tqdm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="npz:fashion_mnist")
    parser.add_argument("--side", type=int, default=56, help="of the scaled images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--peak-rate", type=float, default=3e-3)
    parser.add_argument("--out", default="build/mobilenet_v3_small.pt")
    args = parser.parse_args()

    data = datasets.load(args.data)
    n_classes = len(set(data.y_train.tolist()))
    torch.manual_seed(0)
    network = Prepared(mobilenet_v3_small(num_classes=n_classes), side=args.side)
    train(network, data, args)
    print(f"{accuracy(network, data.X_test, data.y_test):.4f} right on the test images")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    save(network, "torchvision:mobilenet_v3_small", args.out)
    print(f"Saved: {args.out}")


def train(network: nn.Module, data: datasets.DataSet, args: argparse.Namespace) -> None:
    images, labels = torch.from_numpy(data.X_train), torch.from_numpy(data.y_train)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    n_steps = args.epochs * -(-len(images) // args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=args.peak_rate, total_steps=n_steps
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(args.epochs):
        bar = tqdm(torch.randperm(len(images)).split(args.batch_size))
        for rows in bar:
            loss = loss_of(network(flipped(images[rows])), labels[rows])
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
def accuracy(network: nn.Module, X, y) -> float:
    network.eval()
    right = 0
    for start in range(0, len(X), 512):
        logits = network(torch.from_numpy(X[start : start + 512]))
        right += int((logits.argmax(dim=1).numpy() == y[start : start + 512]).sum())
    return right / len(X)


if __name__ == "__main__":
    main()
