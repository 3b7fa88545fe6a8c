import numpy as np
import pytest

from sk_e2cm import E2CMClassifier
from sk_e2cm._extractors._independence import check_independence, some_samples, verify
from sk_e2cm.testing import CountingExtractor, ToyExtractor

X = np.random.default_rng(0).normal(size=(200, 6))
Y = np.arange(200) % 2


class Broken(ToyExtractor):
    """Computes something else than the samples' own features in its second stage."""

    def __init__(self, spoil, stage=1):
        super().__init__()
        self.spoil, self.stage = spoil, stage
        self.n_calls = 0

    def advance(self, state, stage):
        state, output = super().advance(state, stage)
        self.n_calls += 1
        return state, self.spoil(self, output) if stage == self.stage else output


SPOILT = {
    "mean": lambda self, f: f - f.mean(axis=0),
    "largest": lambda self, f: f / np.abs(f).max(),
    "rank": lambda self, f: f + f.argsort(axis=0).argsort(axis=0),
    "order": lambda self, f: f + 0.1 * np.arange(len(f))[:, None],
    "neighbour": lambda self, f: np.roll(f, 1, axis=0),
    "number": lambda self, f: f / len(f),
    "draws": lambda self, f: f + np.random.default_rng().normal(size=f.shape),
    "counter": lambda self, f: f + self.n_calls,
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_extractor_whose_samples_are_not_independent_is_refused(name, stage):
    extractor = Broken(SPOILT[name], stage)
    with pytest.raises(ValueError, match=f"'part{stage + 1}' gives a sample other"):
        E2CMClassifier(extractor).fit(X, Y)


def test_rows_that_keep_mixes_up_are_refused():
    class Keeps(ToyExtractor):
        def keep(self, state, rows):
            return state[np.sort(rows)]

    with pytest.raises(ValueError, match=r"'part2' .*in another order"):
        verify(Keeps(), X)


def test_an_advance_through_that_computes_something_else_is_refused():
    class Skips(ToyExtractor):
        def advance_through(self, state, first, last):
            return state, 2 * state

    with pytest.raises(ValueError, match=r"'part3' .*advance_through"):
        verify(Skips(), X)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 64, 65, 1000])
@pytest.mark.parametrize("n_stages", [1, 3, 9])
def test_an_extractor_whose_samples_are_independent_is_not_refused(n, n_stages):
    assert verify(ToyExtractor(n_stages), np.resize(X, (n, 6))) is None


def test_samples_are_taken_from_everywhere():
    n = 10_000
    samples = some_samples(np.arange(n))
    assert len(samples) == 64
    assert (samples[0], samples[-1]) == (0, n - 1)
    assert np.ptp(np.diff(samples)) <= 1


def test_the_check_takes_little_of_a_pass_over_ten_thousand():
    counting = CountingExtractor(ToyExtractor(n_stages=1))
    check_independence(counting, some_samples(np.resize(X, (10_000, 6))))
    assert counting.rows.sum() <= 0.03 * 10_000


def test_the_samples_are_not_written_to():
    samples = X[:64].copy()
    check_independence(ToyExtractor(), samples)
    np.testing.assert_array_equal(samples, X[:64])


@pytest.mark.parametrize("join", ["in another order", "lost", "none"])
def test_a_join_that_is_wrong_is_refused(join):
    class Joins(ToyExtractor):
        def join(self, states):
            if join == "none":
                return None
            order = states[::-1] if join == "in another order" else states[:1]
            return super().join(order)

    X = np.random.default_rng(0).normal(size=(40, 6))
    with pytest.raises(ValueError, match=r"Joins.join returned a state|states of two"):
        verify(Joins(3), X)
