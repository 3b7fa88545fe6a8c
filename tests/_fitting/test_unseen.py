"""Scores of samples held out, in blocks that fit into memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._fitting._calibration import fit_inverse_temperature
from sk_e2cm._fitting._cross_fitting import HeadSpec, fit_class_means
from sk_e2cm._fitting._kept import CHUNK
from sk_e2cm._fitting._unseen import held_out_blocks

from ..samples import N_CLASSES, make_samples, make_statistics
from .held_out import proba_of

# Of so little memory that blocks are as small as they may be.
LITTLE = 1e-3
N = 3 * CHUNK + 17


def make_many(n=N, seed=0):
    samples = make_samples(n=n, seed=seed)
    return samples, make_statistics(samples)


def fit(statistics, calibration="temperature", metric="euclidean"):
    (head,) = fit_class_means(statistics, HeadSpec(metric, 0.3, calibration))
    return head


def test_what_fits_into_memory_is_one_block():
    _, statistics = make_many()
    (places,) = held_out_blocks(statistics, N_CLASSES)
    assert_array_equal(places, np.arange(len(statistics.held_out)))


def test_blocks_share_out_all_samples_the_smallest_hashes_first():
    _, statistics = make_many()
    with sklearn.config_context(working_memory=LITTLE):
        blocks = held_out_blocks(statistics, N_CLASSES)
    n = len(statistics.held_out)
    assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(n))
    assert max(map(len, blocks)) == CHUNK
    hashes = statistics.hashes[statistics.held_out]
    assert hashes[blocks[0]].max() < hashes[np.concatenate(blocks[1:])].min()
    folds = statistics.folds[statistics.held_out]
    assert (np.diff(folds[np.concatenate(blocks[1:])]) >= 0).all()


def test_equal_rows_are_in_the_first_block_together():
    _, statistics = make_many()
    hashes = np.sort(statistics.hashes)
    hashes[CHUNK - 5 : CHUNK + 5] = hashes[CHUNK]
    statistics = replace(statistics, hashes=hashes, folds=np.zeros(N, dtype=np.intp))
    with sklearn.config_context(working_memory=LITTLE):
        first, *_ = held_out_blocks(statistics, N_CLASSES)
    assert_array_equal(np.sort(first), np.arange(CHUNK + 5))


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_blocks_have_the_scores_that_all_samples_have_together(metric):
    _, statistics = make_many()
    expected = proba_of(fit(statistics, None, metric))
    with sklearn.config_context(working_memory=LITTLE):
        found = proba_of(fit(statistics, None, metric))
    assert_allclose(found, expected, rtol=1e-12)


def test_the_temperature_is_that_of_the_first_block():
    samples, statistics = make_many()
    scores = np.log(proba_of(fit(statistics, None)))
    with sklearn.config_context(working_memory=LITTLE):
        first, *_ = held_out_blocks(statistics, N_CLASSES)
        found = fit(statistics).temperature
    rows = statistics.held_out[first]
    beta = fit_inverse_temperature(
        scores[first], samples[2][rows], samples[3][rows], CHUNK
    )
    assert found == pytest.approx(1 / beta, rel=1e-6)


def test_a_dirichlet_calibration_has_not_seen_the_sample_that_it_is_asked_about():
    _, statistics = make_many()
    with sklearn.config_context(working_memory=LITTLE):
        first, second, *_ = held_out_blocks(statistics, N_CLASSES)
        before = proba_of(fit(statistics, "dirichlet"))
        for place, others_change in ((first[3], True), (second[3], False)):
            codes = statistics.codes.copy()
            row = statistics.held_out[place]
            codes[row] = (codes[row] + 1) % N_CLASSES
            after = proba_of(fit(replace(statistics, codes=codes), "dirichlet"))
            assert_array_equal(after[place], before[place])
            assert (after != before).any() == others_change


def test_thousands_of_classes_take_a_few_times_the_working_memory():
    n, n_classes = 6000, 1000
    rng = np.random.default_rng(0)
    codes = rng.permutation(n) % n_classes
    features = rng.normal(size=(n, 4)) + rng.normal(size=(n_classes, 4))[codes]
    samples = features, rng.integers(5, size=n), codes, np.ones(n)
    statistics = make_statistics(
        samples, hashes=rng.integers(2**63, size=n).astype(np.uint64)
    )
    with sklearn.config_context(working_memory=16):
        tracemalloc.start()
        head = fit(statistics)
        for places, proba in head.out_of_fold():
            assert proba.shape == (len(places), n_classes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # All scores are 48 MB, and several arrays as large are made of them.
    assert peak < 64 * 2**20
