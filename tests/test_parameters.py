"""Parameters of wrong types, at the constructor, at fit, and changed afterwards."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from sk_e2cm import (
    E2CMClassifier,
    E2CMClusterer,
    PipelineExtractor,
    RiskControl,
    TorchExtractor,
    TunedExitsCV,
)
from sk_e2cm._utils._compat import InvalidParameterError
from sk_e2cm.testing import ToyExtractor

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
y = (X[:, 0] > 0).astype(int)
NETWORK = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
ERRORS = (ValueError, TypeError)

PREDICTIONS = [
    "predict",
    "predict_proba",
    "predict_exit",
    "exit_proba",
    "cost",
    "staged_predict",
    "staged_predict_proba",
]
UNUSABLE = [
    ("batch_size", -1),
    ("batch_size", 0),
    ("batch_size", True),
    ("batch_size", 16.0),
    ("batch_size", None),
    ("threshold", "high"),
    ("threshold", None),
    ("device", 1.5),
    ("memory", 5),
    ("verbose", -1),
    ("verbose", "yes"),
    ("verbose", np.zeros(2)),
]


# Changed after fit


@pytest.mark.parametrize("method", PREDICTIONS)
@pytest.mark.parametrize(("name", "value"), UNUSABLE, ids=str)
def test_what_is_read_at_each_call_is_checked_at_each_call(method, name, value):
    clf = E2CMClassifier(TorchExtractor(NETWORK, ["1"])).fit(X, y)
    clf.set_params(**{name: value})
    message = f"The '{name}' parameter of E2CMClassifier must be"
    with pytest.raises(InvalidParameterError, match=message):
        clf.fit(X, y)
    with pytest.raises(InvalidParameterError, match=message):
        list(getattr(clf, method)(X))


@pytest.mark.parametrize(("name", "value"), UNUSABLE, ids=str)
def test_so_it_is_by_those_who_predict_with_it(name, value):
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.1).fit(X, y)
    search.estimator_.set_params(**{name: value})
    clusterer = E2CMClusterer(ToyExtractor(), 2, random_state=0).fit(X)
    clusterer.set_params(**{name: value})
    for use in (search.predict, clusterer.predict, clusterer.transform):
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of"):
            use(X)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", np.int64(7)),
        ("threshold", [0.9]),
        ("threshold", np.float32(0.9)),
        ("threshold", torch.tensor([0.9], requires_grad=True)),
        ("threshold", pd.Series([0.9])),
        ("device", torch.device("cpu")),
        ("verbose", False),
    ],
    ids=str,
)
def test_what_can_be_used_may_be_of_other_types(name, value):
    clf = E2CMClassifier(TorchExtractor(NETWORK, ["1"])).fit(X, y)
    wanted = clf.predict_exit(X)
    clf.set_params(**{name: value})
    np.testing.assert_array_equal(clf.predict_exit(X), wanted)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (["a"], "threshold has values of type <U1"),
        ([0.5, [0.5]], "threshold has parts of different shapes"),
        ([True], "threshold must be a number, got"),
        ({"0": 0.5}, "threshold must hold numbers: .*'dict'"),
        (torch.zeros(1, device="meta"), "threshold is a tensor on the device 'meta'"),
        (np.full(1, 1j), "threshold has numbers of type complex128"),
        ([10**400], "threshold must hold numbers: .*too large"),
    ],
    ids=str,
)
def test_thresholds_that_hold_no_numbers(threshold, message):
    clf = E2CMClassifier(TorchExtractor(NETWORK, ["1"])).fit(X, y)
    clf.set_params(threshold=threshold)
    for use in (clf.fit, lambda X, y: clf.predict(X)):
        with pytest.raises(ERRORS, match=message):
            use(X, y)
    with pytest.raises(ERRORS, match=message):
        _ = clf.stage_cost_


# At fit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pooling", True),
        ("shrinkage", False),
        ("shrinkage", Fraction(1, 2)),
        ("threshold", True),
        ("final", LogisticRegression),
        ("metric", None),
    ],
    ids=str,
)
def test_what_is_like_a_number_or_an_object_but_is_none(name, value):
    clf = E2CMClassifier(ToyExtractor(), **{name: value})
    with pytest.raises(ValueError, match=name):
        clf.fit(X, y)


@pytest.mark.parametrize("value", [True, 2.0, Fraction(2)], ids=str)
def test_a_number_of_clusters_is_a_whole_number(value):
    with pytest.raises(InvalidParameterError, match="'n_clusters' parameter"):
        E2CMClusterer(ToyExtractor(), value).fit(X)


@pytest.mark.parametrize("name", ["max_cost", "max_drop"])
@pytest.mark.parametrize("value", [True, Fraction(1, 2), "1%", np.zeros(2)], ids=str)
def test_a_goal_is_a_number(name, value):
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), **{name: value})
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter"):
        search.fit(X, y)


@pytest.mark.parametrize(
    "cv", [b"abc", [None], ["a"], [1, 2], torch.tensor(0.5), torch.zeros(2, 2)], ids=str
)
def test_folds_that_are_no_pairs(cv):
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.1, cv=cv)
    with pytest.raises(ValueError, match="cv must be a number, a splitter, or pairs"):
        search.fit(X, y)


@pytest.mark.parametrize("rows", [[60], [0.5]])
def test_folds_of_rows_that_are_not_there(rows):
    cv = [(np.arange(60), rows)]
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.1, cv=cv)
    with pytest.raises(ValueError, match="cv gives rows that X, with 60 samples"):
        search.fit(X, y)


def test_a_function_that_is_no_scorer():
    search = TunedExitsCV(
        E2CMClassifier(ToyExtractor()), max_drop=0.1, scoring=lambda labels: 1.0
    )
    with pytest.raises(TypeError, match=r"scoring=.* must be a name, or a scorer"):
        search.fit(X, y)


def test_a_memory_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    clf = E2CMClassifier(ToyExtractor(), memory=tmp_path / "file")
    with pytest.raises(ValueError, match=r"memory=.*file.* is no folder"):
        clf.fit(X, y)


@pytest.mark.parametrize(
    ("head_classes", "message"),
    [
        (torch.zeros(2, device="meta"), "head_classes is a tensor on .*'meta'"),
        ([None, "a"], "head_classes contains NaN, None or NA"),
        ([[0], [0, 1]], "head_classes has parts of different shapes"),
        (np.eye(2), "head_classes must have one label"),
    ],
    ids=str,
)
def test_names_of_the_head_that_are_none(head_classes, message):
    clf = E2CMClassifier(TorchExtractor(NETWORK, ["1"]), head_classes=head_classes)
    with pytest.raises(ValueError, match=message):
        clf.fit(X, y)
    with pytest.raises(ValueError, match=message):
        TunedExitsCV(clf, max_drop=0.1, cv=3).fit(X, y)


def test_names_of_the_head_may_be_a_tensor_with_gradients():
    names = torch.tensor([0.0, 1.0], requires_grad=True)
    clf = E2CMClassifier(TorchExtractor(NETWORK, ["1"]), head_classes=names)
    assert clf.set_params(final="network").fit(X, y).final_ == "network"


# Constructors


@pytest.mark.parametrize(
    "value", [None, "a", [0.1], 1, True, np.nan, 1j, Fraction(1, 2)]
)
@pytest.mark.parametrize("name", ["alpha", "delta", "calibration_size"])
def test_a_share_is_a_number_between_0_and_1(name, value):
    with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, got "):
        RiskControl(**{"alpha": 0.1, name: value})


@pytest.mark.parametrize(
    "exits", [True, 1.5, None, b"1", ["1", 2], {"1"}, torch.tensor(1.0)], ids=str
)
def test_exits_that_are_no_names_and_no_number(exits):
    with pytest.raises(TypeError, match="exits must be names of modules, in order"):
        TorchExtractor(NETWORK, exits)


@pytest.mark.parametrize(
    "output", [False, 0, 1, b"1", ["1"], (), torch.tensor(1.0), np.zeros(2)], ids=str
)
def test_an_output_that_is_no_name(output):
    with pytest.raises(TypeError, match="output must be the name of a module, got"):
        TorchExtractor(NETWORK, ["1"], output=output)


SHAPES = [
    4,
    True,
    1.5,
    "4",
    [None],
    ["4"],
    [4.0],
    [True],
    [-4],
    {4},
    [[4]],
    [[1], [1, 2]],
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_shape_that_is_none(shape):
    extractor = TorchExtractor(NETWORK, ["1"])
    uses = [
        lambda: TorchExtractor(NETWORK, 1, input_shape=shape),
        lambda: TorchExtractor(NETWORK, ["1"], input_shape=shape),
        lambda: extractor.macs(shape),
        lambda: extractor.summary(shape),
    ]
    for use in uses:
        with pytest.raises(TypeError, match="input_shape must be a tuple of whole"):
            use()


@pytest.mark.parametrize("shape", [(4,), [4], np.array([4]), torch.Size([4])], ids=str)
def test_a_shape_of_another_type(shape):
    extractor = TorchExtractor(NETWORK, 1, input_shape=shape)
    assert extractor.macs(shape).tolist() == [32, 48]


@pytest.mark.parametrize("device", [1.5, True, [], "nonsense"], ids=str)
def test_a_device_that_is_none(device):
    with pytest.raises(ValueError, match=r"device .* is not available"):
        TorchExtractor(NETWORK, ["1"]).to(device)


@pytest.mark.parametrize("modules", [None, 3, torch.tensor(1.0), ["1"]], ids=str)
def test_a_chain_of_what_are_no_modules(modules):
    with pytest.raises(TypeError, match=r"modules? must be a "):
        TorchExtractor.from_modules(modules)


@pytest.mark.parametrize(
    "transformers", [None, 3, "scale", torch.tensor(1.0), [None]], ids=str
)
def test_transformers_that_are_none(transformers):
    with pytest.raises(TypeError, match="is no transformer"):
        PipelineExtractor(transformers, costs=[1])


@pytest.mark.parametrize("costs", [None, "a", [1j], [np.nan], [[1]], [1, 2]], ids=str)
def test_costs_that_are_not_one_number_for_each(costs):
    with pytest.raises(ValueError, match=r"costs must have one number|Complex data"):
        PipelineExtractor(StandardScaler().fit(X), costs=costs)


@pytest.mark.parametrize("n_stages", [0, -1, 1.5, None, "3"])
def test_a_number_of_stages_that_is_none(n_stages):
    with pytest.raises(ValueError, match="n_stages must be a number from 1 on, got"):
        ToyExtractor(n_stages)
