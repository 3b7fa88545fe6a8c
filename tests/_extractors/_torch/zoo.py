"""Architectures that people use, with random weights but the signals of a real run.

``python -m tests._extractors._torch.zoo`` leaves each of them at every place at once,
and writes docs/networks.csv.
"""

from __future__ import annotations

import copy
import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._freeze import frozen_copy
from sk_e2cm._extractors._torch._placement import places
from sk_e2cm._extractors._torch._trace import Trace

from .helpers import at_seed, halving, keeping, uncut

TABLE = Path(__file__).parents[3] / "docs" / "networks.csv"

HEADER = (
    "network",
    "library",
    "cuts",
    "deviation in full",
    "deviation with samples dropped",
    "G multiply-adds",
    "G published",
)

N_TOKENS, PADDING = 50, 0


class Classifier(nn.Module):
    """A transformer encoder over token ids, 0 for padding, from torch's own parts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_TOKENS, 64, padding_idx=PADDING)
        self.positions = nn.Parameter(torch.randn(16, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        # Packed tokens have no values at the padding that could be compared.
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, ids: Tensor) -> Tensor:
        padding = ids == PADDING
        x = self.embedding(ids) + self.positions
        x = self.encoder(x, src_key_padding_mask=padding)
        return self.head(x.masked_fill(padding[..., None], 0.0).mean(1))


def from_torchvision(name: str, **options: bool) -> nn.Module:
    return pytest.importorskip("torchvision.models").get_model(name, **options)


def from_timm(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name)


def wide(n_in: int, n_out: int) -> nn.Linear:
    """Return a layer that keeps the scale of what it is given, as a trained one."""
    layer = nn.Linear(n_in, n_out)
    nn.init.kaiming_normal_(layer.weight)
    return layer


def mlp() -> nn.Sequential:
    layers = [nn.BatchNorm1d(32), wide(32, 128), nn.ReLU()]
    for _ in range(5):
        layers += [wide(128, 128), nn.ReLU()]
    return nn.Sequential(*layers, wide(128, 10))


def pruned() -> nn.Sequential:
    """Return convolutions half of whose weights are masked, the masks still there."""
    widths = [3, 16, 16, 32, 32, 64, 64]
    layers = []
    for i in range(6):
        layer = nn.Conv2d(widths[i], widths[i + 1], 3, stride=1 + i % 2, padding=1)
        prune.l1_unstructured(layer, "weight", amount=0.5)
        layers += [layer, nn.BatchNorm2d(widths[i + 1]), nn.ReLU(inplace=True)]
    head = nn.Linear(64, 10)
    prune.ln_structured(head, "weight", amount=0.3, n=2, dim=1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def dynamically_quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor", UserWarning)
        return torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})


def photographs(n: int, channels: int, height: int, width: int) -> Tensor:
    # Noise alone would have the same averages in every sample.
    coarse = torch.randn(n, channels, 4, 4)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth + 0.3 * torch.randn(n, channels, height, width)


def sentences(n: int, length: int) -> Tensor:
    ids = torch.randint(1, N_TOKENS, (n, length))
    n_words = torch.randint(length // 2, length + 1, (n, 1))
    return ids.where(torch.arange(length) < n_words, PADDING)


@dataclass(frozen=True)
class Entry:
    """A network of the table.

    Parameters
    ----------
    name, library : str
        As in the table.

    make : callable
        Returns the network as its library makes it.

    shape : tuple of int
        Of one sample, as the published cost has it.

    tested : tuple of int, default=None
        Of the samples that the tests run, if smaller.

    slow : bool, default=False
        Whether its tests take more than a few seconds.

    sample : callable
        Draws a batch of samples, given its shape.
    """

    name: str
    library: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 224, 224)
    tested: tuple[int, ...] | None = None
    slow: bool = False
    sample: Callable[..., Tensor] = photographs

    @property
    def published(self) -> float | None:
        """The multiply-adds in G that the library publishes, if it does."""
        if self.library != "torchvision":
            return None
        models = pytest.importorskip("torchvision.models")
        return models.get_model_weights(self.name).DEFAULT.meta["_ops"]

    def batch(self, n: int, seed: int = 1) -> Tensor:
        shape = self.tested or self.shape
        return at_seed(seed, lambda: self.sample(n, *shape))


def _torchvision(name: str, *sizes: int, slow: bool = True, **options: bool) -> Entry:
    shapes = [(3, size, size) for size in sizes]
    make = partial(from_torchvision, name, **options)
    return Entry(name, "torchvision", make, *shapes, slow=slow)


def _timm(name: str, *sizes: int, slow: bool = True) -> Entry:
    shapes = [(3, size, size) for size in sizes]
    return Entry(name, "timm", partial(from_timm, name), *shapes, slow=slow)


# As they are once weights were loaded.
_LOADED = {"aux_logits": True, "transform_input": True, "init_weights": False}

ENTRIES = (
    _torchvision("convnext_tiny", 224, 64),
    _torchvision("densenet121", 224, 128),
    _torchvision("efficientnet_b0", 224, 128),
    _torchvision("googlenet", 224, 128, **_LOADED),
    _torchvision("inception_v3", 299, **_LOADED),
    _torchvision("mnasnet1_0", 224, 128),
    _torchvision("mobilenet_v3_large", 224, 128),
    _torchvision("mobilenet_v3_small", 224, 64, slow=False),
    _torchvision("regnet_y_400mf", 224, 128),
    _torchvision("resnet50", 224, 128),
    _torchvision("shufflenet_v2_x1_0", 224, 64, slow=False),
    _torchvision("swin_t", 224, 112),
    _torchvision("vit_b_16", 224),
    _torchvision("wide_resnet50_2", 224, 128),
    _timm("ghostnet_100", 224, 64, slow=False),
    _timm("mixer_s16_224", 224),
    _timm("mobilevit_xs", 256, 128),
    _timm("tf_efficientnet_lite0", 224, 64, slow=False),
    Entry("MLP", "torch", mlp, (32,), sample=torch.randn),
    Entry("MLP, quantised", "torch", dynamically_quantized, (32,), sample=torch.randn),
    Entry("convolutions, pruned", "torch", pruned, (3, 32, 32)),
    Entry("transformer encoder", "torch", Classifier, (16,), sample=sentences),
)


@cache
def network(entry: Entry) -> nn.Module:
    """Return the network in eval mode, as if it had been trained."""
    return at_seed(0, lambda: trained(entry.make(), entry))


@torch.no_grad()
def trained(network: nn.Module, entry: Entry) -> nn.Module:
    """Give a network weights and statistics that carry signals to its end."""
    for parameter in network.parameters():
        # Zeros, and next to nothing, are where a training starts.
        if parameter.abs().max() < 1e-4:
            nn.init.normal_(parameter, std=0.5 * parameter[0].numel() ** -0.5)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        norm.momentum = None  # an average over all batches
    network.train()
    for seed in range(2 if norms else 0):
        network(entry.batch(8, seed=10 + seed))
    return network.eval()


@cache
def evenly_cut(entry: Entry) -> TorchExtractor:
    return TorchExtractor(network(entry), 4, input_shape=entry.shape)


def row_axes(network: nn.Module, names: Sequence[str], X: Tensor) -> dict[str, int]:
    """Return on which axis each of the named modules has one row per sample.

    Modules that have none are left out.
    """
    two, three = (_shapes(network, names, X[:n]) for n in (2, 3))
    axes = {}
    for name in names:
        a, b = two[name], three[name]
        differ = [
            i for i, sizes in enumerate(zip(a, b, strict=False)) if len({*sizes}) > 1
        ]
        if len(a) == len(b) and [(a[i], b[i]) for i in differ] == [(2, 3)]:
            axes[name] = differ[0]
    return axes


def _shapes(network: nn.Module, names: Sequence[str], X: Tensor) -> dict[str, tuple]:
    """Return the shapes of what the named modules return; () if it is no tensor."""
    network = copy.deepcopy(network)
    shapes = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: shapes.update(
                {name: tuple(getattr(output, "shape", ()))}
            )
        )
    with torch.no_grad():
        network(X)
    return shapes


def all_cuts(network: nn.Module, X: Tensor) -> list[str]:
    """Return all places at which samples can leave `network`, in order."""
    trace = Trace(frozen_copy(network))
    end = trace.node("")
    names = [name for node, name in places(trace).items() if node is not end]
    return [*row_axes(network, names, X)]


def deviations(
    extractor: TorchExtractor, network: nn.Module, X: Tensor
) -> tuple[float, float]:
    """Return how far the stages are at most from what the uncut network computes.

    Relative to the largest number that a module returns: for all samples, and with
    other samples in every stage than in the one before it.
    """
    axes = row_axes(network, extractor.exits, X)
    expected = [
        value.movedim(axis, 0)
        for value, axis in zip(
            uncut(network, extractor.exits, X),
            [*axes.values(), 0],
            strict=True,
        )
    ]
    outputs = extractor.staged_transform(X)
    full = max(map(deviation, outputs, expected))
    dropped = max(
        deviation(output, value[rows])
        for way in (halving, regrouping)
        for (rows, output), value in zip(way(extractor, X), expected, strict=True)
    )
    return full, dropped


def deviation(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max()
    return float(error / expected.double().abs().max())


def regrouping(
    extractor: TorchExtractor, X: Tensor, seed: int = 0
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Shuffle the rows after every stage; repeat two of them, drop these again.

    After `helpers.halving` a single row is left. Here all samples stay to the end, and
    their number changes at every cut.
    """
    rng = np.random.default_rng(seed)

    def choose(stage: int, rows: np.ndarray) -> np.ndarray:
        _, kept = np.unique(rows, return_index=True)
        if stage % 2 == 0:
            kept = np.append(kept, rng.choice(kept, 2, replace=False))
        return rng.permutation(kept)

    return keeping(extractor, X, choose)


def line(entry: Entry) -> list[str]:
    """Return a line of the table."""
    entry = replace(entry, tested=None)
    X = entry.batch(5)
    cuts = all_cuts(network(entry), X)
    # As it is, since folding changes the rounding.
    extractor = TorchExtractor(network(entry), cuts, fold=False)
    full, dropped = deviations(extractor, network(entry), X)
    return [
        entry.name,
        entry.library,
        str(len(cuts)),
        f"{full:.1e}" if full else "0",
        f"{dropped:.1e}" if dropped else "0",
        counted(entry),
        str(entry.published or ""),
    ]


def counted(entry: Entry) -> str:
    """Return the multiply-adds of one sample in G, as the table has them."""
    macs = evenly_cut(entry).macs(entry.shape)[-1]
    return np.format_float_positional(
        macs / 1e9, precision=3, min_digits=3, fractional=False
    )


def write_table() -> None:
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for entry in sorted(ENTRIES, key=lambda entry: entry.name.lower()):
            print(entry.name, flush=True)
            writer.writerow(line(entry))


if __name__ == "__main__":
    write_table()
