"""Files that earlier versions have written load."""

import numpy as np
import pytest

from sk_e2cm import load

from .kept import FOLDER, kept_network

FILES = sorted(FOLDER.glob("*.safetensors"))


def test_there_are_files():
    assert {path.stem for path in FILES} >= {"classifier_1", "clusterer_1", "tuned_1"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_an_earlier_version_answers_as_it_did(path):
    loaded = load(path, kept_network(seed=1))
    expected = np.load(path.with_suffix(".npz"))
    X = expected["X"]
    np.testing.assert_array_equal(loaded.predict(X), expected["predict"])
    np.testing.assert_array_equal(loaded.predict_exit(X), expected["predict_exit"])
    np.testing.assert_allclose(loaded.stage_cost_, expected["stage_cost"], rtol=1e-12)
    # Machines and versions of torch round otherwise.
    found = loaded.exit_proba(X) if hasattr(loaded, "exit_proba") else None
    np.testing.assert_allclose(found, expected["exit_proba"], rtol=1e-3, atol=1e-5)
