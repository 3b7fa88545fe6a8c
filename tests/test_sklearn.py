"""At home in scikit-learn."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpydoc.validate import validate
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_param_validation,
    parametrize_with_checks,
)

import sk_e2cm
from sk_e2cm import E2CMClassifier, Extractor, TorchExtractor
from sk_e2cm.metrics import accuracy_cost_scorer, best_within_cost
from sk_e2cm.testing import ToyExtractor


@parametrize_with_checks([E2CMClassifier(), E2CMClassifier(ToyExtractor())])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("extractor", [None, ToyExtractor()], ids=repr)
def test_two_dimensional_checks_are_switched_on(extractor):
    assert E2CMClassifier(extractor).__sklearn_tags__().input_tags.two_d_array


def test_parameters_are_validated():
    clf = E2CMClassifier()
    check_param_validation("E2CMClassifier", clf)
    assert set(clf._parameter_constraints) == set(clf.get_params())


def public_objects():
    for name in ("E2CMClassifier", "TorchExtractor", "PipelineExtractor", "Extractor"):
        yield f"sk_e2cm.{name}"
        for member, value in vars(getattr(sk_e2cm, name)).items():
            is_method = callable(getattr(value, "__func__", value))
            # What the protocol says of its members need not be said again.
            inherits = value.__doc__ is None and hasattr(Extractor, member)
            if is_method and not inherits and not member.startswith("_"):
                yield f"sk_e2cm.{name}.{member}"
    for method in ("predict", "predict_exit", "staged_predict", "exit_proba", "cost"):
        yield f"sk_e2cm.E2CMClassifier.{method}"
    for module in ("metrics", "testing"):
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
        {"threshold": [0.3, 0.6, 0.9, np.inf]},
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
        clf.set_score_request(sample_weight=True)
        grid = {"e2cmclassifier__pooling": [1]}
        search = GridSearchCV(make_pipeline(clf), grid, cv=2)
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
