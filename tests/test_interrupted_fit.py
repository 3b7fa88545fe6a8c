"""A fit that is interrupted leaves what was there: the old, or all of the new."""

import numpy as np
import pandas as pd
import pytest

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

rng = np.random.default_rng(0)
OLD = pd.DataFrame(rng.normal(size=(60, 4)), columns=list("abcd"))
NEW = rng.normal(size=(80, 6)) + 5
OLD_Y = np.where(OLD["a"] > 0, "yes", "no")
NEW_Y = np.digitize(NEW[:, 0], [4.5, 5.5])


def interruptible(estimator_class):
    """Make a class whose objects are interrupted before or after they are changed."""

    class Interruptible(estimator_class):
        def __setattr__(self, name, value):
            wait = vars(self).get("wait_", np.inf)
            if wait == 0:
                raise KeyboardInterrupt
            vars(self)["wait_"] = wait - 1
            super().__setattr__(name, value)

    return Interruptible


ESTIMATORS = {
    "classifier": lambda: interruptible(E2CMClassifier)(ToyExtractor(2)),
    "clusterer": lambda: interruptible(E2CMClusterer)(
        ToyExtractor(2), 2, random_state=0
    ),
    "tuned": lambda: interruptible(TunedExitsCV)(
        E2CMClassifier(ToyExtractor(2)), max_drop=0.1, random_state=0
    ),
}


def fitted_state(estimator):
    names = {name for name in vars(estimator) if name.endswith("_")} - {"wait_"}
    return {name: vars(estimator)[name] for name in names}


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS)
def test_all_that_is_fitted_changes_at_once(make):
    estimator = make().fit(OLD, OLD_Y)
    old, answers = fitted_state(estimator), estimator.predict(OLD)
    vars(estimator)["wait_"] = 0
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(NEW, NEW_Y)
    after = fitted_state(estimator)
    assert after.keys() == old.keys()
    assert all(after[name] is old[name] for name in old)
    np.testing.assert_array_equal(estimator.predict(OLD), answers)

    vars(estimator)["wait_"] = 1  # a second change would be refused
    estimator.fit(NEW, NEW_Y)
    expected = make().fit(NEW, NEW_Y)
    assert fitted_state(estimator).keys() == fitted_state(expected).keys()
    np.testing.assert_array_equal(estimator.predict(NEW), expected.predict(NEW))
    assert estimator.n_features_in_ == 6
    assert not hasattr(estimator, "feature_names_in_")


def test_what_others_have_noted_on_an_estimator_stays():
    clf = E2CMClassifier(ToyExtractor(2)).fit(OLD, OLD_Y)
    clf.note = "mine"
    assert clf.fit(NEW, NEW_Y).note == "mine"


def test_chosen_thresholds_share_no_memory_with_the_estimators():
    search = TunedExitsCV(
        E2CMClassifier(ToyExtractor(3)), max_drop=0.1, random_state=0
    ).fit(NEW, NEW_Y)
    frontier = search.frontier_["threshold"].copy()
    inside = search.estimator_.threshold.copy()
    search.best_threshold_[:] = 7.0
    np.testing.assert_array_equal(search.estimator_.threshold, inside)
    search.estimator_.threshold[:] = 8.0
    np.testing.assert_array_equal(search.best_threshold_, np.full(2, 7.0))
    np.testing.assert_array_equal(search.frontier_["threshold"], frontier)
