"""Whatever kind of data is passed, it is taken for what it is, or refused by name."""

import warnings
from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import nn

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

X = np.random.default_rng(0).integers(-8, 9, size=(60, 4)) / np.float32(4)
y = (X[:, 0] + X[:, 1] > 0).astype(int)
WEIGHT = np.tile([1.0, 2.0, 0.5], 20)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


EXTRACTORS = {
    "torch": TorchExtractor(mlp(), ["1"]),
    "toy": ToyExtractor(),
    "none": None,
}
MODELS = {
    "classifier": E2CMClassifier,
    "clusterer": lambda extractor: E2CMClusterer(extractor, 2, random_state=0),
    "tuned": lambda extractor: TunedExitsCV(E2CMClassifier(extractor), max_drop=0.1),
}
every_extractor = pytest.mark.parametrize(
    "extractor", EXTRACTORS.values(), ids=EXTRACTORS
)
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def each(cases):
    return pytest.mark.parametrize("given", cases.values(), ids=cases)


def tensor(values, dtype=torch.float32):
    return torch.from_numpy(np.asarray(values)).to(dtype)


def quietly(make, *args, **kwargs):
    """Make a tensor of a kind that torch warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args, **kwargs)


def quantised(values, step, zero):
    make = torch.quantize_per_tensor
    return quietly(make, tensor(values), step, zero, torch.quint8)


# X, all of whose numbers float8 and steps of a quarter can hold

SAME_X = {
    "longdouble": X.astype(np.longdouble),
    "half": X.astype(np.float16),
    "objects": X.astype(object),
    "frame": pd.DataFrame(X),
    "frame of objects": pd.DataFrame(X).astype(object),
    "frame of nullable numbers": pd.DataFrame(X).astype("Float32"),
    "frame of categories": pd.DataFrame(X).astype("category"),
    "with gradients": tensor(X).requires_grad_(),
    "negative view": torch._neg_view(tensor(-X)),
    "bfloat16": tensor(X, torch.bfloat16),
    "float8": tensor(X, torch.float8_e4m3fn),
    "quantised": quantised(X, 0.25, 128),
    "list of tensors with gradients": [tensor(x).requires_grad_() for x in X],
    "list of bfloat16": [tensor(x, torch.bfloat16) for x in X],
    "tuple of samples": tuple(X),
}


@every_extractor
@each(SAME_X)
def test_the_same_numbers_give_the_same_answers(extractor, given):
    # The paper's, whose folds do not depend on the kind of numbers.
    clf = E2CMClassifier(extractor, metric="euclidean", calibration=None).fit(X, y)
    expected = clf.predict_proba(X)
    np.testing.assert_allclose(clf.predict_proba(given), expected, atol=1e-6)
    np.testing.assert_allclose(clf.fit(given, y).predict_proba(X), expected, atol=1e-6)


@each(SAME_X)
def test_an_extractor_takes_them_too(given):
    extractor = EXTRACTORS["torch"]
    expected = list(extractor.staged_transform(X))
    for output, wanted in zip(extractor.staged_transform(given), expected, strict=True):
        np.testing.assert_allclose(np.asarray(output), wanted, atol=1e-6)


NO_NUMBERS = {
    "dates": (X.astype("datetime64[s]"), "X has values of type datetime64"),
    "spans of time": (X.astype("timedelta64[s]"), "X has values of type timedelta64"),
    "frame of dates": (
        pd.DataFrame(X.astype("datetime64[s]")),
        "X has values of type datetime64",
    ),
    "text": (X.astype(str), "X has values of type <U"),
    "bytes": (X.astype("S8"), r"X has values of type \|S8"),
    "sentences": (["a sentence"] * 60, "X has values of type <U10"),
    "fields": (np.zeros(60, dtype=[("a", "f4")]), "X has values of type"),
    "complex": (X.astype(complex), "Complex data not supported: X .* complex128"),
    "complex tensor": (tensor(X, torch.complex64), "Complex data not supported: X"),
    "objects of text": (np.full((60, 4), "a", object), "X must hold numbers: .*'a'"),
    "frame with text": (
        pd.DataFrame(X).astype(object).replace(X[0, 0], "a"),
        "X must hold numbers: .*'a'",
    ),
    "missing": (np.full((60, 4), None), "Input X contains NaN"),
    "NA": (
        pd.DataFrame(X).astype("Float32").mask(X > 1),
        "X must hold numbers: .*NAType",
    ),
    "masked": (np.ma.array(X, mask=X > 1), "X has masked values"),
    "sparse array": (sparse.csr_array(X), r"X is sparse.*X\.toarray\(\)"),
    "sparse dict": (sparse.dok_array(X), r"X is sparse.*X\.toarray\(\)"),
    "sparse tensor": (tensor(X).to_sparse(), r"X is a sparse tensor.*to_dense\(\)"),
    "sparse rows": (
        quietly(tensor(X).to_sparse_csr),
        r"X is a sparse tensor.*to_dense",
    ),
    "meta": (torch.zeros(60, 4, device="meta"), "X is a tensor on the device 'meta'"),
    "nested": (
        quietly(torch.nested.nested_tensor, [torch.zeros(4)] * 60),
        "X is a nested tensor.*padded",
    ),
    "jagged": (
        quietly(
            torch.nested.nested_tensor, [torch.zeros(2, 4)] * 60, layout=torch.jagged
        ),
        "X is a nested tensor.*padded",
    ),
    "nothing": (None, "X must be an array or a tensor of all samples, got a NoneType"),
    "a number": (3, "X must be an array .*, got a int"),
    "a path": ("images/", "X must be an array .*, got a str"),
    "a generator": ((x for x in X), "X must be an array .*, got a generator"),
    "a network": (mlp(), "X must hold numbers: .*Linear"),
    "dict": ({"x": X}, r"X must be one array or tensor, got a dict of \['x'\]"),
    "batch of tokens": (
        UserDict(input_ids=X, attention_mask=X),
        "got a UserDict of .*'input_ids', 'attention_mask'.* wrap it in a module",
    ),
    "unlike inputs": ((X, y), "different shapes.* wrap it in a module"),
    "list of dicts": ([{"x": 1}] * 60, "X must hold numbers: .*'dict'"),
}
refused = pytest.mark.parametrize(
    ("given", "message"), NO_NUMBERS.values(), ids=NO_NUMBERS
)


@every_model
@refused
def test_what_is_no_array_of_numbers_is_refused_at_fit(make, given, message):
    for extractor in EXTRACTORS.values():
        with pytest.raises((ValueError, TypeError), match=message):
            make(extractor).fit(given, y)


@pytest.mark.parametrize(
    "fitted",
    [E2CMClassifier(extractor).fit(X, y) for extractor in EXTRACTORS.values()],
    ids=EXTRACTORS,
)
@refused
def test_what_is_no_array_of_numbers_is_refused_at_predict(fitted, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fitted.predict(given)


def test_several_inputs_in_a_tuple_are_to_be_wrapped():
    clf = E2CMClassifier(EXTRACTORS["torch"])
    with pytest.raises(
        ValueError, match=r"X is a tuple of 2 samples, but y has 60.* wrap it"
    ):
        clf.fit((tensor(X), tensor(X)), y)
    with pytest.raises(ValueError, match=r"shape \(60, 4\).* wrap it in a module"):
        clf.fit(X, y).predict((tensor(X), tensor(X)))


@pytest.mark.parametrize(
    ("given", "is_single"),
    [((1, 2, 2), True), ((40, 1, 4, 1), False), ((40, 2, 2), False), ((4,), False)],
    ids=str,
)
def test_a_single_sample_is_suspected_only_where_it_has_the_shape(given, is_single):
    clf = E2CMClassifier(ToyExtractor()).fit(X.reshape(60, 1, 2, 2), y)
    with pytest.raises(ValueError, match="fitted on samples of shape") as error:
        clf.predict(np.zeros(given))
    assert ("x[None]" in str(error.value)) == is_single


# Labels

NAMES = np.array(["no", "yes"])[y]
SAME_Y = {
    "with gradients": tensor(y).requires_grad_(),
    "bfloat16": tensor(y, torch.bfloat16),
    "quantised": quantised(y, 1.0, 0),
    "objects": y.astype(object),
    "truth values": y.astype(bool).astype(object),
    "nullable": pd.Series(y, dtype="Int64"),
    "list of tensors": [tensor(label) for label in y],
    "list of tensors with gradients": [tensor(label).requires_grad_() for label in y],
    "longdouble": y.astype(np.longdouble),
}


@every_extractor
@each(SAME_Y)
def test_labels_are_taken_from_whatever_holds_them(extractor, given):
    expected = E2CMClassifier(extractor).fit(X, y)
    clf = E2CMClassifier(extractor).fit(X, given)
    np.testing.assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))
    assert clf.score(X, given) == expected.score(X, y)
    search = TunedExitsCV(expected, max_drop=0.1, cv="prefit", random_state=0)
    assert search.fit(X, given).best_score_ == search.fit(X, y).best_score_


BAD_Y = {
    "none": (np.where(y, None, "a"), "y contains NaN, None or NA"),
    "none among numbers": (np.where(y, None, 1), "y contains NaN, None or NA"),
    "a list with none": ([None, "a"] * 30, "30 of 60 labels are missing, .* number 0"),
    "a list with nan": (["a", np.nan] * 30, "30 of 60 labels are missing, .* number 1"),
    "nan": (np.where(y, np.nan, 1.0), "y contains NaN"),
    "nan among objects": (np.where(y, np.nan, NAMES.astype(object)), "y contains NaN"),
    "NA": (np.where(y, pd.NA, 1), "y contains NaN, None or NA"),
    "NA of numbers": (pd.Series(y).astype("Int64").mask(y == 1), "y contains NaN"),
    "NA of text": (pd.Series(NAMES, dtype="string").mask(y == 1), "y contains NaN"),
    "NA of categories": (
        pd.Series(NAMES).mask(y == 1).astype("category"),
        "y contains NaN",
    ),
    "no date": (np.where(y, "NaT", "2020").astype("datetime64[s]"), "y contains NaN"),
    "text and numbers": ([1, "a"] * 30, r"y mixes text .*\[1, 'a', 1, 'a', 1, ...\]"),
    "one column for each class": (np.eye(2)[y], r"y must have one label .*\(60, 2\)"),
    "pairs": ([(1, 2)] * 60, r"y must have one label .*\(60, 2\)"),
    "a number": (1, r"y must have one label .*\(\)"),
    "a name": ("target", r"y must have one label .*\(\)"),
    "meta": (torch.zeros(60, device="meta"), "y is a tensor on the device 'meta'"),
    "sparse": (tensor(y).to_sparse(), "y is a sparse tensor"),
    "measurements": (
        np.linspace(0, 1, 60),
        r"Unknown label type: continuous|none of those known",
    ),
}


@pytest.mark.parametrize(("labels", "message"), BAD_Y.values(), ids=BAD_Y)
def test_what_are_no_labels_is_refused(labels, message):
    clf = E2CMClassifier(ToyExtractor()).fit(X, y)
    named = E2CMClassifier(ToyExtractor()).fit(X, NAMES)
    uses = [
        E2CMClassifier(ToyExtractor()).fit,
        TunedExitsCV(clf, max_drop=0.1).fit,
        TunedExitsCV(clf, max_drop=0.1, cv="prefit").fit,
        clf.score,
        named.score,
    ]
    for use in uses:
        with pytest.raises((ValueError, TypeError), match=message):
            use(X, labels)


def test_labels_of_another_kind_have_no_score():
    clf = E2CMClassifier(ToyExtractor()).fit(X, y)
    with pytest.raises(ValueError, match=r"labels \['no', 'yes'\] .* known: \[0, 1\]"):
        clf.score(X, NAMES)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        clf.score(X, y[:-1])


def test_a_label_that_was_not_fitted_counts_as_wrong():
    clf = E2CMClassifier(ToyExtractor()).fit(X, y)
    assert clf.score(X, np.full(60, 7)) == 0


# Weights


@every_model
@each(
    {
        "with gradients": tensor(WEIGHT).requires_grad_(),
        "bfloat16": tensor(WEIGHT, torch.bfloat16),
        "objects": WEIGHT.astype(object),
        "list of tensors": [tensor(weight).requires_grad_() for weight in WEIGHT],
    }
)
def test_weights_are_taken_from_whatever_holds_them(make, given):
    expected = make(ToyExtractor()).fit(X, y, WEIGHT)
    fitted = make(ToyExtractor()).fit(X, y, given)
    np.testing.assert_array_equal(fitted.predict(X), expected.predict(X))


@every_model
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(60, device="meta"), "sample_weight is a tensor on .*'meta'"),
        (torch.ones(60).to_sparse(), "sample_weight is a sparse tensor"),
        (["a"] * 60, "sample_weight has values of type <U1"),
        ("balanced", "sample_weight has values of type <U8"),
        ({0: 1, 1: 2}, "sample_weight must hold numbers: .*'dict'"),
        (np.ones(60, "datetime64[s]"), "sample_weight has values of type datetime64"),
        (np.ones(60, complex), "Complex data not supported: sample_weight"),
        ([None] * 60, "sample_weight contains NaN"),
        (np.full(60, 1e308), "sample_weight is so large that its sum is infinite"),
    ],
    ids=str,
)
def test_what_are_no_weights_is_refused(make, weight, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(ToyExtractor()).fit(X, y, weight)
    with pytest.raises((ValueError, TypeError), match=message):
        E2CMClassifier().fit(X, y).score(X, y, weight)
