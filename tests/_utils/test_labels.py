"""Labels, and which class each stands for."""

import numpy as np
import pytest

from sk_e2cm._utils._labels import codes_of


def test_codes_are_the_positions_of_the_labels():
    labels = np.array(["bird", "cat", "dog"])
    assert codes_of(np.array(["dog", "bird", "dog"]), labels).tolist() == [2, 0, 2]


def test_labels_that_the_estimator_does_not_know_are_named():
    with pytest.raises(
        ValueError, match=r"labels \[7, 9\] that are none of those known"
    ):
        codes_of(np.array([0, 9, 7, 1]), np.array([0, 1, 8]))
