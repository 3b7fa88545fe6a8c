"""At home in scikit-learn."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpydoc.validate import validate
from sklearn.base import clone, is_classifier
from sklearn.datasets import make_classification
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_param_validation,
    parametrize_with_checks,
)

import sk_e2cm
from sk_e2cm import (
    E2CMClassifier,
    E2CMClusterer,
    Extractor,
    TorchExtractor,
    TunedExitsCV,
)
from sk_e2cm.metrics import accuracy_cost_scorer, best_within_cost
from sk_e2cm.testing import ToyExtractor


def expected_failures(estimator):
    """Return the checks that are not passed, and why."""
    weights = "check_sample_weight_equivalence_on_dense_data"
    in_parts = "check_fit_score_takes_y"
    match estimator:
        case E2CMClusterer():  # nor by scikit-learn's KMeans
            return {weights: "k-means draws its first centers from rows"}
        case E2CMClassifier() | TunedExitsCV(estimator=E2CMClassifier()):
            return {in_parts: "it calls partial_fit after fit, which keeps no sums"}
    return {}


def test_fit_and_score_take_y():
    X, y = make_classification(random_state=0)
    assert E2CMClassifier().fit(X, y=y).score(X, y=y) > 0.5
    assert E2CMClassifier().partial_fit(X, y=y, classes=[0, 1]).score(X, y=y) > 0.5
    search = TunedExitsCV(E2CMClassifier(), max_drop=0.1)
    assert search.partial_fit(X, y=y, classes=[0, 1]).score(X, y=y) > 0.5


# As KMeans itself warns of some of these data.
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
# Of the data of scikit-learn 1.7, which have four samples of some class.
@pytest.mark.filterwarnings("ignore:The least populated class in y has only 4")
@pytest.mark.filterwarnings("ignore:The thresholds chosen close every exit")
@parametrize_with_checks(
    [
        E2CMClassifier(),
        E2CMClassifier(ToyExtractor()),
        E2CMClassifier(metric="mahalanobis", calibration="dirichlet"),
        E2CMClassifier(metric="mahalanobis", pooling="second_order"),
        E2CMClusterer(),
        E2CMClusterer(ToyExtractor()),
        E2CMClusterer(ToyExtractor(), metric="mahalanobis", calibration="dirichlet"),
        TunedExitsCV(E2CMClassifier(), max_drop=0.01, random_state=0),
        TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.05, random_state=0),
        TunedExitsCV(
            # Of clusters of single samples no fold could be held out.
            E2CMClusterer(ToyExtractor(), n_clusters=2, random_state=0),
            max_drop=0.1,
            random_state=0,
        ),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("extractor", [None, ToyExtractor()], ids=repr)
def test_two_dimensional_checks_are_switched_on(extractor):
    assert E2CMClassifier(extractor).__sklearn_tags__().input_tags.two_d_array


def test_parameters_are_validated():
    clf = E2CMClassifier()
    check_param_validation("E2CMClassifier", clf)
    assert set(clf._parameter_constraints) == set(clf.get_params())


def test_parameters_of_a_choice_are_validated():
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.5)
    check_param_validation("TunedExitsCV", search)
    assert set(search._parameter_constraints) == set(search.get_params(deep=False))


def public_objects():
    for name in sk_e2cm.__all__:
        if not isinstance(getattr(sk_e2cm, name), type):
            continue
        yield f"sk_e2cm.{name}"
        for member, value in vars(getattr(sk_e2cm, name)).items():
            is_method = callable(getattr(value, "__func__", value))
            # What the protocol says of its members need not be said again.
            inherits = value.__doc__ is None and hasattr(Extractor, member)
            if is_method and not inherits and not member.startswith("_"):
                yield f"sk_e2cm.{name}.{member}"
    for method in ("predict", "predict_exit", "staged_predict", "exit_proba", "cost"):
        yield f"sk_e2cm.E2CMClassifier.{method}"
        yield f"sk_e2cm.TunedExitsCV.{method}"
    for method in ("predict_proba", "staged_predict_proba", "score"):
        yield f"sk_e2cm.TunedExitsCV.{method}"
    for method in ("partial_fit", "merge", "for_sharing", "finalize", "prepare"):
        yield f"sk_e2cm.E2CMClassifier.{method}"
        yield f"sk_e2cm.TunedExitsCV.{method}"
    for display in ("TradeoffDisplay", "ExitDisplay"):
        for method in ("from_estimator", "from_predictions", "plot"):
            yield f"sk_e2cm.inspection.{display}.{method}"
    for module in ("inspection", "metrics", "testing"):
        for name in getattr(sk_e2cm, module).__all__:
            yield f"sk_e2cm.{module}.{name}"


@pytest.mark.parametrize("name", list(public_objects()))
def test_docstrings_follow_numpydoc(name):
    # No "extended summary", "see also" or example is asked of every single method.
    optional = {"ES01", "SA01", "EX01", "SA04", "GL01", "RT03", "YD01"}
    errors = [e for e in validate(name)["errors"] if e[0] not in optional]
    assert not errors


def test_what_is_public_is_sorted():
    assert sk_e2cm.__all__ == sorted(sk_e2cm.__all__)


@pytest.fixture
def clf(network):
    return E2CMClassifier(TorchExtractor(network, ["stem", "down"]))


def test_a_clone_shares_the_network(clf, digits):
    X, y = digits
    clf.fit(X[:200], y[:200])
    assert clone(clf).extractor is clf.extractor
    assert not hasattr(clone(clf), "classes_")


def test_a_pickled_estimator_predicts_the_same_in_another_process(
    clf, digits, tmp_path, request
):
    X, y = digits
    clf.fit(X[:200], y[:200])
    (tmp_path / "clf.pkl").write_bytes(pickle.dumps(clf))
    np.save(tmp_path / "X.npy", X[200:260])
    script = (
        "import pickle, numpy as np;"
        "clf = pickle.load(open('clf.pkl', 'rb'));"
        "np.save('out.npy', clf.predict_proba(np.load('X.npy')))"
    )
    env = {"PYTHONPATH": str(request.config.rootpath)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True)
    expected = clf.predict_proba(X[200:260])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)


def test_a_search_ranges_over_threshold_pooling_and_extractor(clf, network, digits):
    X, y = digits
    grid = {
        "threshold": [0.5, 0.9],
        "pooling": [1, 2],
        "extractor": [TorchExtractor(network, e) for e in (["stem"], ["stem", "down"])],
    }
    search = GridSearchCV(clf, grid, cv=2, n_jobs=2, error_score="raise")
    search.fit(X[:300], y[:300])
    assert len(search.cv_results_["params"]) == 8
    assert search.best_estimator_.extractor in grid["extractor"]
    assert search.best_score_ > 0.5


def test_a_search_with_a_callable_refit_finds_an_estimator_within_the_cost(clf, digits):
    X, y = digits
    search = GridSearchCV(
        clf,
        {"threshold": [0.3, 0.6, 0.9, 1.0]},
        scoring=accuracy_cost_scorer,
        refit=best_within_cost(0.9),
        cv=2,
    )
    search.fit(X[:400], y[:400])
    results = search.cv_results_
    chosen = search.best_index_
    within = results["mean_test_cost"] <= 0.9
    assert within[chosen]
    best = results["mean_test_accuracy"][within].max()
    assert results["mean_test_accuracy"][chosen] == best
    assert not hasattr(search, "best_score_")
    assert search.best_estimator_.score(X[400:], y[400:]) > 0.5


def test_a_pipeline_scales_before_the_extractor():
    X, y = np.random.default_rng(0).normal(size=(60, 4)) * 1000, np.arange(60) % 3
    X[:, 0] += 2000 * y
    pipe = make_pipeline(StandardScaler(), E2CMClassifier(ToyExtractor()))
    pipe.fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    direct = E2CMClassifier(ToyExtractor()).fit(scaled, y)
    np.testing.assert_array_equal(pipe.predict(X), direct.predict(scaled))


def test_sample_weight_is_routed_through_a_search():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 2)), np.arange(80) % 2
    weight = rng.integers(0, 3, size=80).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        clf = E2CMClassifier().set_fit_request(sample_weight=True)
        # scikit-learn below 1.8 routes no weights to the score of a pipeline.
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        grid = {"e2cmclassifier__pooling": [1]}
        search = GridSearchCV(make_pipeline(clf), grid, scoring=scorer, cv=2)
        search.fit(X, y, sample_weight=weight)
    routed = search.best_estimator_[-1].class_means_[0]
    weighted = E2CMClassifier().fit(X, y, sample_weight=weight).class_means_[0]
    np.testing.assert_allclose(routed, weighted)
    assert not np.allclose(routed, E2CMClassifier().fit(X, y).class_means_[0])


def test_feature_names_are_kept_and_checked():
    X = pd.DataFrame({"a": [0.0, 1, 8, 9], "b": [1.0, 0, 1, 0]})
    clf = E2CMClassifier().fit(X, [0, 0, 1, 1])
    assert clf.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(X[["b", "a"]])


def test_the_html_repr_has_a_readable_line_for_the_extractor(clf):
    html = clf._repr_html_()
    assert "TorchExtractor(DigitsNetwork, exits=[" in html
    assert "object at 0x" not in html


@pytest.mark.parametrize("n_axes", [2, 3, 4])
def test_samples_may_have_any_number_of_axes(n_axes):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 3, 4, 5)[:n_axes]) + y.reshape(-1, *[1] * (n_axes - 1))
    clf = E2CMClassifier(ToyExtractor()).fit(X, y)
    assert clf.input_shape_ == X.shape[1:]
    assert clf.predict_proba(X).shape == (40, 2)


# The choice of thresholds


@pytest.fixture(scope="module")
def data():
    return make_classification(
        n_samples=200,
        n_features=12,
        n_informative=8,
        n_classes=3,
        class_sep=1.5,
        random_state=0,
    )


def tuned(**params):
    clf = E2CMClassifier(ToyExtractor())
    return TunedExitsCV(clf, **{"max_drop": 0.05, "random_state": 0} | params)


def test_a_choice_is_a_classifier_like_its_estimator():
    search = tuned()
    assert is_classifier(search)
    assert search.__sklearn_tags__().input_tags == get_tags(search.estimator).input_tags


def test_a_search_ranges_over_a_choice_and_its_estimator(data):
    X, y = data
    grid = {"estimator__metric": ["euclidean", "mahalanobis"], "max_drop": [0.02, 0.2]}
    search = GridSearchCV(tuned(), grid, cv=2, error_score="raise").fit(X, y)
    best = search.best_params_
    expected = tuned(max_drop=best["max_drop"])
    expected.set_params(estimator__metric=best["estimator__metric"]).fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert best["estimator__metric"] == "mahalanobis"
    np.testing.assert_array_equal(search.predict(X), expected.predict(X))


def test_a_pipeline_scales_before_thresholds_are_chosen(data):
    X, y = data
    pipe = make_pipeline(StandardScaler(), tuned()).fit(X * 1000, y)
    scaled = StandardScaler().fit_transform(X * 1000)
    direct = tuned().fit(scaled, y)
    np.testing.assert_array_equal(pipe.predict(X * 1000), direct.predict(scaled))
    np.testing.assert_array_equal(pipe[-1].best_threshold_, direct.best_threshold_)


@pytest.mark.parametrize("cv", [5, 0.3, "prefit"])
@pytest.mark.parametrize(
    ("as_X", "as_y"),
    [
        (np.ndarray.tolist, np.ndarray.tolist),
        (pd.DataFrame, pd.Series),
        (torch.from_numpy, torch.from_numpy),
        (np.asfortranarray, lambda y: y.astype(float)),
        (lambda X: X.reshape(200, 1, 3, 4), np.array),
    ],
    ids=["lists", "frames", "tensors", "other arrays", "images"],
)
def test_samples_and_labels_may_be_in_any_container(data, as_X, as_y, cv):
    X, y = data
    expected, search = tuned(cv=cv), tuned(cv=cv)
    if cv == "prefit":
        expected.estimator.fit(X, y)
        search.estimator.fit(as_X(X), as_y(y))
    expected.fit(X, y)
    search.fit(as_X(X), as_y(y))
    np.testing.assert_allclose(search.best_threshold_, expected.best_threshold_)
    predicted = search.predict(as_X(X))
    assert predicted.tolist() == expected.predict(X).tolist()


@pytest.mark.parametrize("as_y", [np.array, list, pd.Series, pd.Categorical])
def test_labels_of_a_choice_may_be_text(data, as_y):
    X, y = data
    names = np.array(["bird", "cat", "dog"])
    search = tuned().fit(X, as_y(names[y]))
    assert search.classes_.tolist() == names.tolist()
    expected = tuned().fit(X, y)
    assert search.predict(X).tolist() == names[expected.predict(X)].tolist()


def test_feature_names_are_kept_and_checked_by_a_choice(data):
    X = pd.DataFrame(data[0], columns=[f"x{i}" for i in range(12)])
    search = tuned().fit(X, data[1])
    assert search.feature_names_in_.tolist() == X.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        search.predict(X[X.columns[::-1]])


def test_sample_weight_is_routed_to_a_choice(data):
    X, y = data
    weight = np.random.default_rng(0).uniform(size=200)
    with sklearn.config_context(enable_metadata_routing=True):
        search = tuned().set_fit_request(sample_weight=True)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False))
        pipe.steps.append(("search", search))
        pipe.fit(X, y, sample_weight=weight)
    scaled = StandardScaler().fit_transform(X)
    weighted = tuned().fit(scaled, y, sample_weight=weight)
    np.testing.assert_array_equal(pipe[-1].best_threshold_, weighted.best_threshold_)
    assert pipe[-1].full_score_ != tuned().fit(scaled, y).full_score_


def test_the_html_repr_shows_the_estimator_inside(data):
    html = tuned().fit(*data)._repr_html_()
    assert "TunedExitsCV" in html
    assert "E2CMClassifier" in html
    assert "object at 0x" not in html
