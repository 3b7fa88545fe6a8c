"""Token ids that a network does not know are refused by name."""

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from sk_e2cm import E2CMClassifier, TorchExtractor

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Tokens(nn.Module):
    """Looks ids up in one of many ways; ten ids are known, six positions."""

    def __init__(self, look_up):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.places = nn.Embedding(6, 4)
        self.bag = nn.EmbeddingBag(10, 4)
        self.hidden = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.look_up = look_up

    def forward(self, ids):
        return self.last(self.hidden(self.look_up(self, ids).sum(1)))


LOOK_UPS = {
    "module": lambda m, ids: m.table(ids),
    "function": lambda m, ids: F.embedding(ids, weight=m.table.weight),
    "bag": lambda m, ids: m.bag(ids).unsqueeze(1),
    "positions, too": lambda m, ids: (
        m.table(ids) + m.places(torch.ones_like(ids).cumsum(1) - 1)
    ),
    "batch second": lambda m, ids: m.table(ids.t()).transpose(0, 1),
    "a table for each column": lambda m, ids: (
        m.table(ids[:, :2]) + m.places(ids[:, 2:])
    ),
}


def ids_of(n=20):
    X = np.random.default_rng(0).integers(0, 6, (n, 4))
    X[:, :2] += 4
    return X


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("unknown", [-1, 10, 2**40])
@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
def test_the_first_sample_with_an_unknown_id_is_named(look_up, unknown, device):
    extractor = TorchExtractor(Tokens(look_up), ["hidden"]).to(device)
    X = ids_of()
    X[[7, 9], 1] = unknown
    message = rf"token id {unknown} in sample number 7 .* 10 ids, 0 to 9"
    for _ in range(2):  # when the shape is new, and later
        with pytest.raises(ValueError, match=message):
            extractor.begin(X)
        extractor.begin(ids_of())


def test_every_column_has_the_vocabulary_of_its_table():
    look_up = LOOK_UPS["a table for each column"]
    extractor = TorchExtractor(Tokens(look_up), ["hidden"])
    X = ids_of()
    X[5, 3] = 8
    with pytest.raises(ValueError, match=r"id 8 in sample number 5 .* 6 ids, 0 to 5"):
        extractor.begin(X)


@pytest.mark.parametrize(
    "look_up",
    [lambda m, ids: m.table(ids % 10), lambda m, ids: m.table(ids.clamp(0, 9))],
    ids=["hashed", "clamped"],
)
def test_ids_that_the_network_makes_known_by_itself_are_taken(look_up):
    extractor = TorchExtractor(Tokens(look_up), ["hidden"])
    X = ids_of()
    X[3] = [-1, 10, 99, 0]
    assert len(list(extractor.staged_transform(X))) == 2


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    "look_up",
    [lambda m, ids: m.table(ids.int()), lambda m, ids: m.table.weight[ids]],
    ids=["copied", "indexed"],
)
def test_an_unknown_id_on_its_way_through_the_network_is_told(look_up, later):
    extractor = TorchExtractor(Tokens(look_up), ["hidden"])
    X = ids_of()
    if later:
        list(extractor.staged_transform(X))
    X[3, 3] = 10
    with pytest.raises(ValueError, match=r"does not know|does not take samples"):
        list(extractor.staged_transform(X))


@pytest.mark.parametrize("device", DEVICES)
def test_samples_longer_than_the_positions_are_refused(device):
    network = Tokens(LOOK_UPS["positions, too"])
    extractor = TorchExtractor(network, ["hidden"]).to(device)
    extractor.begin(np.ones((3, 6), dtype=int))
    with pytest.raises(ValueError, match=r"shape \(7,\).* 6 up in an embedding of 6"):
        extractor.begin(np.ones((3, 7), dtype=int))


@fx.wrap
def fail(ids):
    raise RuntimeError("no such luck")


def test_what_else_stops_a_network_is_told_as_ever():
    network = Tokens(lambda m, ids: m.table(ids) + fail(ids))
    extractor = TorchExtractor(network, ["hidden"])
    with pytest.raises(ValueError, match=r"does not take samples .* no such luck"):
        extractor.begin(ids_of())


@pytest.mark.parametrize("method", ["predict", "predict_proba", "exit_proba", "cost"])
def test_a_classifier_names_the_sample(method):
    extractor = TorchExtractor(Tokens(LOOK_UPS["module"]), ["hidden"])
    X = ids_of(200)
    clf = E2CMClassifier(extractor, final="class_means", batch_size=150)
    clf.fit(X, X[:, 0] % 2)
    X[163, 0] = 10
    with pytest.raises(ValueError, match="token id 10 in sample number 13 of 50"):
        getattr(clf, method)(X)
    with pytest.raises(ValueError, match="token id 10 in sample number 163 of 200"):
        clf.fit(X, X[:, 0] % 2)
