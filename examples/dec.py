"""Deep embedded clustering, so that there is a network to cut.

The layers, the two phases and the loss are those of DEC (Xie, Girshick, Farhadi, ICML
2016, arXiv 1511.06335): an autoencoder learns an embedding, then centers and embedding
are refined together, towards sharper assignments. In both phases images are shifted and
turned a little, as in DEC-DA (Guo, Zhu, Liu, Yin, ACML 2018); no label is seen.
"""

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

WIDTHS = [500, 500, 2000, 10]
EXITS = ["relu1", "relu2", "relu3"]
BATCH_SIZE = 256


class Bytes(nn.Module):
    """Images of bytes as rows of numbers from 0 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) / 255


def make_encoder(n_pixels: int) -> nn.Sequential:
    layers = OrderedDict(bytes=Bytes())
    layers.update(chain([n_pixels, *WIDTHS]))
    return nn.Sequential(layers)


def chain(widths: list[int]) -> OrderedDict[str, nn.Module]:
    """Return fully connected layers, with a ReLU after each but the last."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = len(widths) - 1
    for i in range(1, last + 1):
        layers[f"linear{i}"] = nn.Linear(widths[i - 1], widths[i])
        if i < last:
            layers[f"relu{i}"] = nn.ReLU()
    return layers


def load_or_train(
    folder: Path,
    name: str,
    X: np.ndarray,
    n_clusters: int,
    *,
    seed: int = 0,
    n_pretraining: int = 20,
    n_refinement: int = 10,
) -> nn.Module:
    """Return the encoder that was saved there, or train and save it.

    It takes images of bytes, shape (n, 1, side, side). `n_pretraining` and
    `n_refinement` are epochs.
    """
    path = folder / f"{name}-{seed}-{n_pretraining}-{n_refinement}.pt"
    if not path.exists():
        encoder = train(X, n_clusters, seed, n_pretraining, n_refinement)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(encoder.state_dict(), path)
    encoder = make_encoder(X[0].size)
    encoder.load_state_dict(torch.load(path, weights_only=True))
    return encoder.eval()


def train(
    X: np.ndarray, n_clusters: int, seed: int, n_pretraining: int, n_refinement: int
) -> nn.Module:
    torch.manual_seed(seed)
    images = torch.from_numpy(np.ascontiguousarray(X))
    encoder = make_encoder(X[0].size)
    decoder = nn.Sequential(chain([*reversed(WIDTHS), X[0].size]))
    pretrain(encoder, decoder, images, n_pretraining)
    centers = first_centers(encoder, images, n_clusters, seed)
    refine(encoder, images, centers, n_refinement)
    return encoder


def pretrain(
    encoder: nn.Module, decoder: nn.Module, images: Tensor, n_epochs: int
) -> None:
    """Learn to reconstruct images from their embedding."""
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(weights)
    n_steps = n_epochs * math.ceil(len(images) / BATCH_SIZE)
    # It sets the rate and the momentum at each step.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=n_steps
    )
    for rows in batches(len(images), n_epochs, "autoencoder"):
        x = varied(images[rows])
        loss = F.mse_loss(decoder(encoder(x)), x.flatten(1) / 255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def refine(encoder: nn.Module, images: Tensor, centers: Tensor, n_epochs: int) -> None:
    """Sharpen the assignments to the centers, which move along."""
    centers = nn.Parameter(centers)
    optimizer = torch.optim.SGD([*encoder.parameters(), centers], 0.01, momentum=0.9)
    for step, rows in enumerate(batches(len(images), n_epochs, "clusters")):
        if step % math.ceil(len(images) / BATCH_SIZE) == 0:
            target = sharpened(assignments(embed(encoder, images), centers.detach()))
        q = assignments(encoder(varied(images[rows])), centers)
        loss = F.kl_div(q.log(), target[rows], reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def batches(n: int, n_epochs: int, name: str):
    for _ in tqdm(range(n_epochs), name):
        yield from torch.randperm(n).split(BATCH_SIZE)


def varied(images: Tensor) -> Tensor:
    """Shift images by up to a tenth of their side, turn them by up to 10 degrees."""
    n = len(images)
    angle = math.radians(10) * (2 * torch.rand(n) - 1)
    shift = 0.2 * (2 * torch.rand(n, 2) - 1)  # the side is from -1 to 1
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    affine = torch.cat([turned.view(n, 2, 2), shift[:, :, None]], dim=2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


def first_centers(
    encoder: nn.Module, images: Tensor, n_clusters: int, seed: int
) -> Tensor:
    kmeans = KMeans(n_clusters, n_init=20, random_state=seed)
    kmeans.fit(embed(encoder, images).numpy())
    return torch.from_numpy(kmeans.cluster_centers_)


@torch.no_grad()
def embed(encoder: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([encoder(batch) for batch in images.split(2048)])


def assignments(embedded: Tensor, centers: Tensor) -> Tensor:
    """Return the soft assignments q of DEC, equation 1, with one degree of freedom."""
    q = 1 / (1 + torch.cdist(embedded, centers) ** 2)
    return q / q.sum(dim=1, keepdim=True)


def sharpened(q: Tensor) -> Tensor:
    """Return the target distribution p of DEC, equation 3."""
    p = q**2 / q.sum(dim=0)
    return p / p.sum(dim=1, keepdim=True)


def clustering_accuracy(y: np.ndarray, labels: np.ndarray) -> float:
    """Return the share that is right when clusters are matched with classes.

    One class for each cluster, in the best way there is: the accuracy of Xie et al.,
    equation 10.
    """
    counts = contingency_matrix(y, labels)
    return counts[linear_sum_assignment(counts, maximize=True)].sum() / len(y)


@torch.inference_mode()
def cluster(encoder, kmeans, batch: np.ndarray) -> np.ndarray:
    """Return the clusters of images by the full, uncut network."""
    return kmeans.predict(encoder(torch.from_numpy(batch)).numpy())
