"""Stages with BatchNorm folded, against the network, in which it is not."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode

from sk_e2cm import TorchExtractor

from .helpers import assert_close, assert_right, at_seed, uncut
from .networks import ResidualNetwork, lived_in


class CountNorms(TorchFunctionMode):
    """Counts the calls of batch_norm."""

    n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n += func is F.batch_norm
        return func(*args, **(kwargs or {}))


def norms_run(extractor, X):
    extractor.begin(X)
    with CountNorms() as count:
        list(extractor.staged_transform(X))
    return count.n


def made(make):
    return at_seed(0, lambda: lived_in(make()).eval())


class Net(nn.Module):
    """A convolution, a norm and a head, joined as subclasses say."""

    def __init__(self, **options):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, **options)
        self.norm = nn.BatchNorm2d(6)
        self.again = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu())


class Functional(Net):
    def forward(self, x):
        conv, norm = self.conv, self.norm
        x = F.conv2d(x, conv.weight, conv.bias, padding=1)
        x = F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False
        )
        return self.head(x.relu())


class ByKeyword(Net):
    """As timm's norms do, it looks at the number of axes."""

    def forward(self, x):
        x = torch.conv2d(x, weight=self.conv.weight, stride=2)
        assert x.ndim == 4
        return self.head(self.norm(x).relu())


class InTraining(Net):
    def forward(self, x):
        norm = self.norm
        x = F.batch_norm(
            self.conv(x), None, None, norm.weight, norm.bias, training=True
        )
        return self.head(x.relu())


class Skip(Net):
    def forward(self, x):
        x = self.conv(x)
        return self.head(self.norm(x) + x)


class CalledTwice(Net):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(6, 6, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.norm(self.inner(self.conv(x))).relu()
        x = self.again(self.inner(x)).relu()
        return self.head(self.inner(x))


class WritesBetween(Net):
    """Writes to the layer's input before the norm is reached."""

    def forward(self, x):
        x = x + 1
        y = self.conv(x)
        x.mul_(0)
        return self.head(self.norm(y) + x.mean())


class ScaledWeight(Net):
    def forward(self, x):
        x = F.conv2d(x, self.conv.weight * 2, self.conv.bias)
        return self.head(self.norm(x).relu())


def layers(layer, norm):
    return lambda: nn.Sequential(layer(), norm(), nn.ReLU(), nn.Flatten())


IMAGES = (3, 9, 9)
FOLDED = {
    "without bias": (lambda: Net(bias=False), IMAGES),
    "with bias": (Net, IMAGES),
    "strides and groups": (lambda: Net(stride=2, padding=1, groups=3), IMAGES),
    "reflecting": (lambda: Net(padding=1, padding_mode="reflect"), IMAGES),
    "functional": (Functional, IMAGES),
    "by keyword": (ByKeyword, IMAGES),
    "called twice": (CalledTwice, IMAGES),
    "writes between": (WritesBetween, IMAGES),
    "1d": (layers(lambda: nn.Conv1d(3, 5, 3), lambda: nn.BatchNorm1d(5)), (3, 8)),
    "3d": (layers(lambda: nn.Conv3d(2, 3, 2), lambda: nn.BatchNorm3d(3)), (2, 4, 4, 4)),
    "transposed": (
        layers(lambda: nn.ConvTranspose2d(3, 5, 3, 2), lambda: nn.BatchNorm2d(5)),
        IMAGES,
    ),
    "linear": (layers(lambda: nn.Linear(4, 6), lambda: nn.BatchNorm1d(6)), (4,)),
    "linear without bias": (
        layers(lambda: nn.Linear(4, 6, bias=False), lambda: nn.BatchNorm1d(6)),
        (4,),
    ),
}

# With the number of norms that are left.
NOT_FOLDED = {
    "used twice": (Skip, IMAGES),
    "of a weight that is computed": (ScaledWeight, IMAGES),
    "before its layer": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)),
        IMAGES,
    ),
    "of positions, as many as there are channels": (
        layers(lambda: nn.Linear(5, 6), lambda: nn.BatchNorm1d(6)),
        (6, 5),
    ),
    "of positions, fewer than there are channels": (
        layers(lambda: nn.Linear(5, 7), lambda: nn.BatchNorm1d(6)),
        (6, 5),
    ),
    "of transposed groups": (
        layers(
            lambda: nn.ConvTranspose2d(4, 4, 3, groups=2), lambda: nn.BatchNorm2d(4)
        ),
        (4, 5, 5),
    ),
}


def cases(networks):
    return pytest.mark.parametrize(
        ("make", "shape"), list(networks.values()), ids=list(networks)
    )


@cases(FOLDED)
@pytest.mark.parametrize("n", [1, 5])
def test_no_norm_is_run_where_the_layer_does_its_work(make, shape, n):
    network = made(make)
    extractor, X = TorchExtractor(network, []), torch.randn(n, *shape)
    assert_right(extractor, network, X)
    assert norms_run(extractor, X) == 0


@cases(FOLDED)
def test_all_norms_are_run_if_asked_for(make, shape):
    network, X = made(make), torch.randn(5, *shape)
    extractor = TorchExtractor(network, [], fold=False)
    with CountNorms() as count:
        expected = network(X)
    assert norms_run(extractor, X) == count.n > 0
    assert torch.equal(next(extractor.staged_transform(X)), expected)


@cases(NOT_FOLDED)
def test_a_norm_that_the_layer_cannot_stand_for_is_run(make, shape):
    network, X = made(make), torch.randn(5, *shape)
    extractor = TorchExtractor(network, [])
    assert torch.equal(next(extractor.staged_transform(X)), network(X))
    assert norms_run(extractor, X) == 1


def test_norms_without_weights_are_folded():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
    network(torch.randn(20, 3, 8, 8) * 3 + 1)
    network.eval()
    extractor, X = TorchExtractor(network, []), torch.randn(5, 3, 8, 8)
    assert_right(extractor, network, X)
    assert norms_run(extractor, X) == 0


class WithoutStatistics(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)


@pytest.mark.parametrize("make", [InTraining, WithoutStatistics])
def test_norms_of_the_batch_are_not_folded(make):
    assert TorchExtractor(make(), [])._runner.folded is None


@pytest.mark.parametrize(
    ("exits", "left"), [(["conv"], 1), (["norm"], 0), (["conv", "norm"], 1)]
)
def test_nothing_is_folded_across_an_exit(exits, left):
    network, X = made(Net), torch.randn(5, *IMAGES)
    extractor = TorchExtractor(network, exits)
    assert_right(extractor, network, X)
    assert norms_run(extractor, X) == left


def test_what_comes_after_the_output_stays_out_of_it():
    network, X = made(Net), torch.randn(5, *IMAGES)
    extractor = TorchExtractor(network, [], output="conv")
    assert_close(next(extractor.staged_transform(X)), uncut(network, ["conv"], X)[0])


def test_a_residual_network_is_folded_around_its_exits(residual, images):
    extractor = TorchExtractor(residual, ["block1.conv1", "block2", "block3.bn2"])
    assert_right(extractor, residual, images)
    assert norms_run(extractor, images) == 1


def test_large_networks_are_folded(large):
    extractor, X = TorchExtractor(large, 3), torch.randn(6, 3, 64, 64)
    assert_right(extractor, large, X)
    assert norms_run(extractor, X) == 0


def test_the_network_that_was_passed_is_left_as_it_was():
    network, X = made(CalledTwice), torch.randn(5, *IMAGES)
    expected = network(X)
    list(TorchExtractor(network, ["norm"]).staged_transform(X))
    assert torch.equal(network(X), expected)


@pytest.mark.parametrize("make", [Net, Functional, lambda: Net(groups=3)])
def test_weights_in_channels_last_format_stay_so(make):
    network = made(make).to(memory_format=torch.channels_last)
    extractor = TorchExtractor(network, [])
    X = torch.randn(5, *IMAGES).to(memory_format=torch.channels_last)
    assert_right(extractor, network, X)
    folded = extractor._runner.folded
    weights = [p for p in folded.root.parameters() if p.dim() == 4]
    assert len(weights) == 3
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_folded_weights_are_rounded_once():
    network = made(Net)
    weight, bias = network.conv.weight.double(), network.conv.bias.double()
    norm = network.norm.double()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = TorchExtractor(made(Net), [])._runner.folded.root.folded_0
    assert torch.equal(folded.weight, (weight * scale.view(-1, 1, 1, 1)).float())
    expected = (bias - norm.running_mean) * scale + norm.bias
    torch.testing.assert_close(folded.bias.double(), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_run_as_it_is(dtype):
    network, X = made(Net).to(dtype), torch.randn(5, *IMAGES, dtype=dtype)
    extractor = TorchExtractor(network, [])
    assert torch.equal(next(extractor.staged_transform(X)), network(X))
    assert extractor == TorchExtractor(network, [], fold=False)


def test_double_precision_is_folded():
    network, X = made(Net).double(), torch.randn(5, *IMAGES).double()
    extractor = TorchExtractor(network, [])
    assert_close(next(extractor.staged_transform(X)), network(X), 1e-14)
    assert norms_run(extractor, X) == 0


class OfSomeShapes(nn.Module):
    """A norm of the channels for samples of one axis, and of positions for others."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.norm(self.linear(x)).relu()


def test_each_shape_of_samples_is_decided_for_itself():
    network = made(OfSomeShapes)
    extractor = TorchExtractor(network, [])
    for shape, left in (((4,), 0), ((6, 4), 1), ((4,), 0)):
        X = torch.randn(5, *shape)
        assert_right(extractor, network, X)
        assert norms_run(extractor, X) == left


def test_a_state_goes_on_with_the_stages_that_it_began_with():
    network, X = made(ResidualNetwork), torch.randn(5, 3, 8, 8)
    extractor = TorchExtractor(network, ["block1", "block2"])
    states = [extractor.begin(X)]
    extractor._runner.folded.rules[X.shape[1:]] = ()
    states.append(extractor.begin(X))
    counts = []
    for state in states:
        with CountNorms() as count:
            for stage in range(3):
                state, output = extractor.advance(state, stage)
                state = extractor.keep(state, np.arange(len(output))[::-1])
        assert_close(output, uncut(network, [], X)[0])
        counts.append(count.n)
    assert counts == [0, 6]


class Unlike(nn.Module):
    """Overflows for large numbers where the norm is not folded."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        nn.init.constant_(self.norm.running_var, 1e20)
        nn.init.constant_(self.linear.weight, 1.0)

    def forward(self, x):
        return self.norm(self.linear(x))


def test_real_samples_are_compared_too():
    extractor = TorchExtractor(at_seed(0, Unlike).eval(), [])
    X = torch.randn(8, 4)
    assert norms_run(extractor, X) == 0
    extractor.verify(np.full((8, 4), 3e38, np.float32))
    assert norms_run(extractor, X) == 1


def test_what_is_known_of_shapes_is_handed_on():
    network, X = made(OfSomeShapes), torch.randn(5, 6, 4)
    extractor = TorchExtractor(network, [])
    for shape in ((4,), (6, 4)):
        extractor.begin(torch.randn(5, *shape))
    loaded = pickle.loads(pickle.dumps(extractor))
    loaded.findings = pickle.loads(pickle.dumps(extractor.findings))
    assert loaded.findings == extractor.findings
    assert norms_run(loaded, X) == 1
    assert norms_run(loaded, X[:, 0]) == 0


@pytest.mark.parametrize("fold", [True, False])
def test_pickles_compute_the_same_bits(fold):
    network, X = made(ResidualNetwork), torch.randn(5, 3, 8, 8)
    extractor = TorchExtractor(network, 2, fold=fold)
    loaded = pickle.loads(pickle.dumps(extractor))
    assert loaded == extractor
    assert norms_run(loaded, X) == norms_run(extractor, X)
    outputs = zip(
        loaded.staged_transform(X), extractor.staged_transform(X), strict=True
    )
    assert all(torch.equal(*pair) for pair in outputs)


def test_folded_features_are_not_taken_for_others():
    network = made(ResidualNetwork)
    assert TorchExtractor(network, 2) != TorchExtractor(network, 2, fold=False)


def test_where_nothing_can_be_folded_it_makes_no_difference():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert TorchExtractor(network, 1) == TorchExtractor(network, 1, fold=False)


def test_multiply_adds_are_those_of_the_network():
    network = made(ResidualNetwork)
    macs = [
        TorchExtractor(network, 2, fold=fold).macs((3, 8, 8)) for fold in (True, False)
    ]
    np.testing.assert_array_equal(*macs)


def test_the_repr_tells_what_is_not_folded():
    assert (
        repr(TorchExtractor(Net(), ["conv"])) == "TorchExtractor(Net, exits=['conv'])"
    )
    said = repr(TorchExtractor(Net(), ["conv"], fold=False))
    assert said == "TorchExtractor(Net, exits=['conv'], fold=False)"


def test_threads_may_share_a_folded_extractor():
    network = made(ResidualNetwork)
    extractor = TorchExtractor(network, 2)
    batches = [torch.randn(4, 3, side, side) for side in (8, 10, 8, 12)] * 2
    with ThreadPoolExecutor(4) as pool:
        outputs = pool.map(lambda X: list(extractor.staged_transform(X)), batches)
        for X, own in zip(batches, outputs, strict=True):
            expected = uncut(network, extractor.exits, X)
            for output, value in zip(own, expected, strict=True):
                assert_close(output, value)


def test_layers_with_hooks_are_run_as_they_are():
    network = made(Net)
    prune.l1_unstructured(network.conv, "weight", 0.5)
    X = torch.randn(5, *IMAGES)
    extractor = TorchExtractor(network, [])
    assert torch.equal(next(extractor.staged_transform(X)), network(X))


def test_an_extractor_may_be_made_in_inference_mode():
    network, X = made(Net), torch.randn(5, *IMAGES)
    with torch.inference_mode():
        extractor = TorchExtractor(network, [])
    assert norms_run(extractor, X) == 0
    assert_right(extractor, network, X)
