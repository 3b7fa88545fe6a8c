"""Random weights and data that are the same in every run."""

import pytest
import torch

from .helpers import at_seed
from .networks import ResidualNetwork, lived_in


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def residual():
    return at_seed(0, lambda: lived_in(ResidualNetwork()).eval())


@pytest.fixture(scope="session")
def images():
    return at_seed(1, lambda: torch.randn(8, 3, 32, 32))


@pytest.fixture(scope="session", params=["resnet18", "mobilenet_v3_small"])
def large(request):
    """Return one of torchvision's networks, random but with lived-in BatchNorm."""
    models = pytest.importorskip("torchvision.models")
    make = getattr(models, request.param)
    return at_seed(0, lambda: lived_in(make(num_classes=10)).eval())
